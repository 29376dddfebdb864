import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { createApiKey, createKvHandler, HttpStore, type HttpStoreOptions, type KvHandler } from "@keyward/http-kv";
import type { KeyvStorageAdapter } from "keyv";
import { onTestFinished } from "vitest";

/** A server of `createKvHandler` on a loopback port. */
export interface HttpServer {
  readonly port: number;
  /** Creates a store over the server, or over a proxy in front of it. */
  client(options?: Partial<HttpStoreOptions>): HttpStore;
}

/** Starts a server over a store. The server is closed when the test is over. */
export async function startHttpServer(store: KeyvStorageAdapter): Promise<HttpServer> {
  const { apiKey, entry } = createApiKey({ tenant: "acme" });
  const handler = createKvHandler({
    store,
    tenants: [entry],
    limits: { requestsPerSecond: Number.POSITIVE_INFINITY },
    log: () => undefined,
  });
  const server = createServer((incoming, outgoing) => {
    // A client that has disconnected gets no answer.
    answer(handler, incoming, outgoing).catch(() => outgoing.destroy());
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(async () => {
    server.close();
    server.closeAllConnections();
    await once(server, "close");
  });
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("No port was given");
  const url = `http://127.0.0.1:${address.port}`;
  return { port: address.port, client: (options = {}) => new HttpStore({ url, apiKey, ...options }) };
}

async function answer(handler: KvHandler, incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of incoming) chunks.push(chunk);
  const headers = new Headers();
  for (const [name, value] of Object.entries(incoming.headers)) headers.set(name, String(value));
  const { method = "GET", url = "/" } = incoming;
  const body = method === "GET" || method === "HEAD" ? null : Buffer.concat(chunks);
  const response = await handler(new Request(new URL(url, "http://127.0.0.1"), { method, headers, body }));
  outgoing.writeHead(response.status, Object.fromEntries(response.headers));
  outgoing.end(Buffer.from(await response.arrayBuffer()));
}
