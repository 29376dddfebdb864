import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MemoryStore } from "@keyward/store-memory";
import { RedisStore } from "@keyward/store-redis";
import { SqliteStore } from "@keyward/store-sqlite";
import { startRedisServer } from "./redis-server.ts";

/** Creates stores of one kind, and removes their files or server. */
export interface Stores {
  readonly make: () => MemoryStore | SqliteStore | RedisStore;
  readonly remove: () => void | Promise<void>;
}

/** Returns a source of memory stores. */
export async function memoryStores(): Promise<Stores> {
  return { make: () => new MemoryStore(), remove: () => {} };
}

/** Returns a source of SQLite stores, each in a file of its own. */
export async function sqliteStores(): Promise<Stores> {
  const folder = mkdtempSync(join(tmpdir(), "keyward-bench-"));
  let made = 0;
  return {
    make: () => new SqliteStore(join(folder, `${made++}.sqlite`)),
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}

/** Starts a Redis server, and returns a source of stores on the server, each with a prefix of its own. */
export async function redisStores(program: string): Promise<Stores> {
  const server = await startRedisServer(program);
  let made = 0;
  return { make: () => new RedisStore(server.url, { prefix: `bench${made++}` }), remove: () => server.stop() };
}
