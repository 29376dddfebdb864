import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  createApiKey,
  HttpStore,
  type HttpStoreOptions,
  type KvHandlerOptions,
  type KvLogEntry,
  type NewApiKey,
} from "@keyward/http-kv";
import { MemoryStore } from "@keyward/store-memory";
import type { KeyvStorageAdapter } from "keyv";
import { onTestFinished } from "vitest";
import { KvServer } from "../src/kv-server.ts";
import { listen, type NodeServer } from "../src/node-server.ts";

/** A server on a loopback port. */
export interface TestServer {
  readonly url: string;
  readonly store: KeyvStorageAdapter;
  /** An API key with all scopes, for the tenant "acme". */
  readonly apiKey: string;
  readonly log: readonly KvLogEntry[];
  client(options?: Partial<HttpStoreOptions>): HttpStore;
  close(): Promise<void>;
}

/** Makes API keys, and their entries for the server. */
export function apiKeys(...wanted: NewApiKey[]): {
  apiKeys: string[];
  entries: ReturnType<typeof createApiKey>["entry"][];
} {
  const made = wanted.map(createApiKey);
  return { apiKeys: made.map(({ apiKey }) => apiKey), entries: made.map(({ entry }) => entry) };
}

/** Starts a server. Default: over a new `MemoryStore`, for the tenant "acme". */
export async function startServer(
  options: Partial<KvHandlerOptions> & {
    readonly port?: number;
    readonly apiKey?: string;
    readonly requestTimeoutMs?: number;
  } = {},
): Promise<TestServer> {
  const made = createApiKey({ tenant: "acme" });
  const { store = new MemoryStore(), port = 0, apiKey = made.apiKey, requestTimeoutMs = 10_000, ...rest } = options;
  const log: KvLogEntry[] = [];
  const kv = new KvServer({
    tenants: [made.entry],
    limits: { requestsPerSecond: Number.POSITIVE_INFINITY },
    log: (entry) => log.push(entry),
    ...rest,
    store,
  });
  const server: NodeServer = await listen(kv, {
    host: "127.0.0.1",
    port,
    headersTimeoutMs: Math.min(5_000, requestTimeoutMs),
    requestTimeoutMs,
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

/** Makes a temporary folder, and a function that removes it. */
export function temporaryFolder(): { readonly path: string; remove(): void } {
  const path = mkdtempSync(join(tmpdir(), "keyward-http-kv-"));
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) };
}

/** Opens a connection on which a test writes raw requests. `received` returns the answers so far. */
export async function openSocket(url: string): Promise<{ readonly socket: Socket; received(): string }> {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  onTestFinished(() => {
    socket.destroy();
  });
  let received = "";
  socket.on("error", () => undefined);
  socket.on("data", (data) => {
    received += data.toString("latin1");
  });
  await once(socket, "connect");
  return { socket, received: () => received };
}
