import { createServer } from "node:http";
import { createApiKey, createKvHandler, HttpStore } from "@keyward/http-kv";
import { MemoryStore } from "@keyward/store-memory";
import { SqliteStore } from "@keyward/store-sqlite";
import { onTestFinished } from "vitest";

// The stores over which hosts of Keyv 5 are tested. The files of this folder import no sources of Keyward, so these tests also
// run on the packed tarballs.

/** Serves the listener on the loopback interface until the test has finished, and returns its address. */
export async function serve(listener: Parameters<typeof createServer>[1]): Promise<string> {
  const server = createServer(listener ?? (() => undefined));
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  onTestFinished(async () => {
    server.closeAllConnections();
    await new Promise((resolve) => {
      server.close(resolve);
    });
  });
  const address = server.address();
  if (typeof address !== "object" || address === null) throw new Error("The server has no port");
  return `http://127.0.0.1:${address.port}`;
}

/** For each store that needs no server, a function that opens an empty store. */
export const stores = {
  MemoryStore: async () => new MemoryStore(),
  SqliteStore: async () => {
    const store = new SqliteStore(":memory:");
    onTestFinished(() => store.disconnect());
    return store;
  },
  HttpStore: async () => {
    const { apiKey, entry } = createApiKey({ tenant: "acme" });
    const limits = { requestsPerSecond: Number.POSITIVE_INFINITY };
    const fetch = createKvHandler({ store: new MemoryStore(), tenants: [entry], limits });
    return new HttpStore({ url: "http://localhost/", apiKey, fetch });
  },
} as const;
