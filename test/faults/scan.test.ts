import { join } from "node:path";
import type { ScannableStore } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { RedisStore } from "@keyward/store-redis";
import type { KeyvStorageAdapter } from "keyv";
import { expect, it, onTestFinished } from "vitest";
import { describeWithRedis, findRedisServers, startRedis } from "../servers/redis.ts";
import { openSqlite, temporaryFolder } from "./sqlite.ts";

const servers = await findRedisServers();

/** Scans a store that is written faster than it is scanned. The scan must still finish. */
async function expectScanEnds(store: KeyvStorageAdapter & ScannableStore): Promise<void> {
  const keys = Array.from({ length: 20 }, (_, index) => `key-${index}`);
  for (const key of keys) await store.set(key, "first");
  let cursor: string | undefined;
  let pages = 0;
  do {
    const page = await store.scan({ limit: 2, ...(cursor === undefined ? {} : { cursor }) });
    cursor = page.cursor;
    pages++;
    for (const key of keys.slice(0, 10)) {
      await store.delete(key);
      await store.set(key, "again");
    }
    if (pages > 200) break;
  } while (cursor !== undefined);
  expect(pages).toBeLessThanOrEqual(200);
}

it("a scan of a memory store ends although other calls delete and write records all the time", async () => {
  await expectScanEnds(new MemoryStore());
});

it("a scan of a SQLite store ends although other calls delete and write records all the time", async () => {
  await expectScanEnds(openSqlite(join(await temporaryFolder(), "records.db")));
});

describeWithRedis(servers, "a Redis server", () => {
  it("a scan of a Redis store ends although other calls delete and write records all the time", async () => {
    const node = await startRedis(servers);
    const store = new RedisStore(node.url);
    onTestFinished(async () => {
      await store.disconnect();
      await node.stop();
    });
    await expectScanEnds(store);
  });
});
