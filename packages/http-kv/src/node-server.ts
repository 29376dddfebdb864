import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { KeywardError } from "@keyward/core";
import { NodeRequest, sendNodeResponse } from "srvx/node";
import type { KvHandler } from "./kv-handler.ts";

/** How a {@link NodeServer} listens. */
export interface NodeServerOptions {
  readonly host: string;
  /** 0 for any that is free. */
  readonly port: number;
  /** How long the headers of a request may take, in ms. */
  readonly headersTimeoutMs: number;
  /** How long a whole request may take to arrive, in ms. */
  readonly requestTimeoutMs: number;
  /** How long a connection may be silent, in either direction, in ms. */
  readonly idleTimeoutMs: number;
  /** How long requests that have begun may take once the server is to stop, in ms. */
  readonly drainMs: number;
}

/** A server that listens. */
export interface NodeServer {
  readonly url: string;
  /** Takes no more connections, waits for the requests that have begun, and resolves when all is closed. */
  close(): Promise<void>;
}

const checkedEveryMs = 500;

/**
 * Serves a handler on Node, and closes on slow clients.
 *
 * @throws KeywardError `STORE_UNAVAILABLE` when the port cannot be had.
 */
export async function listen(handler: KvHandler, options: NodeServerOptions): Promise<NodeServer> {
  const { host, port, headersTimeoutMs, requestTimeoutMs, idleTimeoutMs, drainMs } = options;
  const connections = new Set<Socket>();
  const underWay = new Set<ServerResponse>();
  let closing = false;
  const server = createServer(
    {
      headersTimeout: headersTimeoutMs,
      requestTimeout: requestTimeoutMs,
      keepAliveTimeout: idleTimeoutMs,
      connectionsCheckingInterval: Math.min(checkedEveryMs, headersTimeoutMs, requestTimeoutMs),
    },
    (request, response) => {
      underWay.add(response);
      response.once("close", () => {
        underWay.delete(response);
        if (closing) request.socket.end();
      });
      handler(new NodeRequest({ req: request, res: response }))
        .then((answer) => sendNodeResponse(response, answer))
        .catch(() => response.destroy());
    },
  );
  server.timeout = idleTimeoutMs;
  server.on("connection", (socket) => {
    connections.add(socket);
    socket.once("close", () => connections.delete(socket));
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", (error) => {
      reject(
        new KeywardError("STORE_UNAVAILABLE", `Cannot listen on ${host}:${port}`, {
          hint: "Is another process listening there?",
          cause: error,
        }),
      );
    });
    server.listen(port, host, resolve);
  });
  const address = server.address();
  return {
    url: `http://${isAddress(address) ? urlHost(address) : host}`,
    async close() {
      closing = true;
      const closed = new Promise((resolve) => server.close(resolve));
      const busy = new Set([...underWay].map((response) => response.req.socket));
      for (const socket of connections) if (!busy.has(socket)) socket.destroy();
      for (const response of underWay) if (!response.headersSent) response.shouldKeepAlive = false;
      const late = setTimeout(() => server.closeAllConnections(), drainMs);
      await closed;
      clearTimeout(late);
    },
  };
}

function isAddress(address: AddressInfo | string | null): address is AddressInfo {
  return typeof address === "object" && address !== null;
}

function urlHost({ address, port, family }: AddressInfo): string {
  return `${family === "IPv6" ? `[${address}]` : address}:${port}`;
}
