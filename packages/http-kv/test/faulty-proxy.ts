import { once } from "node:events";
import { connect, createServer, type Socket } from "node:net";

/** A fault that the proxy causes in a request or its answer. */
export type Fault =
  | "none"
  /** The proxy closes the connection, and the server never sees the request. */
  | "cut request"
  /** The server does the request, and the proxy closes the connection instead of passing on the answer. */
  | "lose answer"
  /** The proxy closes the connection before the last bytes of the answer. */
  | "cut answer"
  /** The proxy passes on no answer, and leaves the connection open. */
  | "swallow answer";

/** A TCP proxy between a client and a server, which causes faults. */
export interface FaultyProxy {
  readonly url: string;
  close(): Promise<void>;
}

/** Starts a proxy. `next` returns the fault for each request. */
export async function startProxy(serverUrl: string, next: () => Fault): Promise<FaultyProxy> {
  const { hostname, port } = new URL(serverUrl);
  const sockets = new Set<Socket>();
  const server = createServer((client) => {
    const upstream = connect(Number(port), hostname);
    let fault: Fault = "none";
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.setNoDelay();
      socket.on("error", () => undefined);
      socket.on("close", () => {
        sockets.delete(socket);
        client.destroy();
        upstream.destroy();
      });
    }
    client.on("data", (data) => {
      if (/^[A-Z]+ \//.test(data.toString("latin1", 0, 16))) fault = next();
      if (fault === "cut request") client.resetAndDestroy();
      else upstream.write(data);
    });
    upstream.on("data", (data) => {
      if (fault === "lose answer") client.resetAndDestroy();
      else if (fault === "cut answer") client.end(data.subarray(0, data.length - 5));
      else if (fault === "none") client.write(data);
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  const own = typeof address === "object" && address !== null ? address.port : 0;
  return {
    url: `http://127.0.0.1:${own}`,
    async close() {
      for (const socket of sockets) socket.destroy();
      server.close();
      await once(server, "close");
    },
  };
}
