import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

/** A TCP proxy between clients and one server, which can disturb their connections. */
export interface Proxy {
  readonly port: number;
  /** Resets every connection. The server may have carried out requests that it has received. */
  cut(): void;
  /** Delays the server's answers from now on, in milliseconds. */
  delayReplies(delayMs: number): void;
  /** Connects new connections to another port. Open connections stay as they are. */
  leadTo(targetPort: number): void;
  close(): Promise<void>;
}

/** Starts a proxy to a port on the loopback interface. */
export async function startProxy(targetPort: number): Promise<Proxy> {
  const host = "127.0.0.1";
  const clients = new Set<Socket>();
  let delayMs = 0;
  let port = targetPort;
  const server = createServer((client) => {
    const upstream = connect(port, host);
    clients.add(client);
    for (const socket of [client, upstream]) {
      socket.setNoDelay();
      socket.on("error", () => undefined);
      socket.on("close", () => {
        clients.delete(client);
        client.destroy();
        upstream.destroy();
      });
    }
    // Requests are never delayed: a request that its caller gave up must not arrive after the caller's next one.
    client.on("data", (data) => upstream.write(data));
    let answered = Promise.resolve();
    upstream.on("data", (data) => {
      const heldBackMs = delayMs;
      answered = answered.then(async () => {
        if (heldBackMs > 0) await sleep(heldBackMs);
        if (!client.destroyed) client.write(data);
      });
    });
  });
  server.listen(0, host);
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("No port was given");
  return {
    port: address.port,
    cut() {
      for (const client of clients) client.resetAndDestroy();
    },
    delayReplies(ms) {
      delayMs = ms;
    },
    leadTo(next) {
      port = next;
    },
    async close() {
      for (const client of clients) client.destroy();
      server.close();
      await once(server, "close");
    },
  };
}
