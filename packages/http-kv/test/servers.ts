import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  createApiKey,
  createKvHandler,
  HttpStore,
  type HttpStoreOptions,
  type KvHandlerOptions,
  type KvLogEntry,
  type NewApiKey,
} from "@keyward/http-kv";
import { MemoryStore } from "@keyward/store-memory";
import type { KeyvStorageAdapter } from "keyv";
import { listen, type NodeServer } from "../src/node-server.ts";

/** A server on a loopback port, over a store of its own unless it is given one. */
export interface TestServer {
  readonly url: string;
  readonly store: KeyvStorageAdapter;
  /** An API key that may do everything in the area of the tenant "acme". */
  readonly apiKey: string;
  readonly log: readonly KvLogEntry[];
  client(options?: Partial<HttpStoreOptions>): HttpStore;
  close(): Promise<void>;
}

/** A tenant's name and keys for it, made at run time. */
export function apiKeys(...wanted: NewApiKey[]): {
  apiKeys: string[];
  entries: ReturnType<typeof createApiKey>["entry"][];
} {
  const made = wanted.map(createApiKey);
  return { apiKeys: made.map(({ apiKey }) => apiKey), entries: made.map(({ entry }) => entry) };
}

/** Starts a server with the options given, over a `MemoryStore` and for the tenant "acme" unless they say otherwise. */
export async function startServer(
  options: Partial<KvHandlerOptions> & { readonly port?: number; readonly apiKey?: string } = {},
): Promise<TestServer> {
  const { store = new MemoryStore(), port = 0, ...rest } = options;
  const made = createApiKey({ tenant: "acme" });
  const apiKey = options.apiKey ?? made.apiKey;
  const log: KvLogEntry[] = [];
  const handler = createKvHandler({
    tenants: [made.entry],
    limits: { requestsPerSecond: Number.POSITIVE_INFINITY },
    log: (entry) => log.push(entry),
    ...rest,
    store,
  });
  const server: NodeServer = await listen(handler, {
    host: "127.0.0.1",
    port,
    headersTimeoutMs: 5_000,
    requestTimeoutMs: 10_000,
    idleTimeoutMs: 10_000,
    drainMs: 5_000,
  });
  const url = `${server.url}${rest.basePath ?? ""}`;
  return {
    url,
    store,
    apiKey,
    log,
    client: (client = {}) => new HttpStore({ url, apiKey, ...client }),
    close: () => server.close(),
  };
}

/** A folder of its own, and what removes it. */
export function temporaryFolder(): { readonly path: string; remove(): void } {
  const path = mkdtempSync(join(tmpdir(), "keyward-http-kv-"));
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}
