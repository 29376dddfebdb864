import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { KeywardError, requireAmount } from "@keyward/core";
import { type BodyReading, type Incoming, turnBytes } from "./exchange.ts";
import type { KvServer, ServerAnswer } from "./kv-server.ts";
import type { RequestMemory } from "./memory-budget.ts";
import { invalid } from "./protocol.ts";

/** Options of {@link listen}. */
export interface NodeServerOptions {
  readonly host: string;
  /** The port to listen on. 0 means any free port. */
  readonly port: number;
  /** How long the headers of a request may take to arrive, in milliseconds. */
  readonly headersTimeoutMs: number;
  /** How long a whole request, headers and body, may take to arrive, in milliseconds. */
  readonly requestTimeoutMs: number;
  /** How long a connection may stay open without any transfer, in milliseconds. */
  readonly idleTimeoutMs: number;
  /**
   * How long the requests in progress may take after {@link NodeServer.close}, in milliseconds. After this time, all
   * connections are closed.
   */
  readonly drainMs: number;
}

/** An HTTP server that is listening. */
export interface NodeServer {
  readonly url: string;
  /**
   * Refuses new connections, waits at most `drainMs` for the requests in progress, and resolves when all connections
   * are closed.
   */
  close(): Promise<void>;
}

const checkedEveryMs = 500;
/** Added to the length of each piece of a body, because handling a piece takes as long as processing this many bytes. */
const bytesPerPiece = 64;
/**
 * Limits for reading the rest of a refused body, in milliseconds and in bytes. The server reads this rest so that the
 * client can receive the answer.
 */
const lingerMs = 1_000;
const lingerBytes = 16 * 2 ** 20;

/**
 * Starts an HTTP server with `node:http`, without the overhead of fetch objects. The server closes the connections of
 * slow clients.
 *
 * @throws KeywardError `STORE_UNAVAILABLE` if the server cannot listen on the port; `VALUE_INVALID` for an invalid
 * duration in the options.
 */
export async function listen(kv: KvServer, options: NodeServerOptions): Promise<NodeServer> {
  const { host, port } = options;
  const headersTimeoutMs = requireAmount("headersTimeoutMs", options.headersTimeoutMs, "milliseconds");
  const requestTimeoutMs = requireAmount("requestTimeoutMs", options.requestTimeoutMs, "milliseconds");
  const idleTimeoutMs = requireAmount("idleTimeoutMs", options.idleTimeoutMs, "milliseconds");
  const drainMs = requireAmount("drainMs", options.drainMs, "milliseconds", { least: 0 });
  const connections = new Set<Socket>();
  const inProgress = new Set<ServerResponse>();
  // Connections whose last request is answered. Bytes that follow on them may be a part of the refused body.
  const refused = new WeakSet<Socket>();
  let closing = false;
  const server = createServer(
    {
      headersTimeout: headersTimeoutMs,
      requestTimeout: requestTimeoutMs,
      keepAliveTimeout: idleTimeoutMs,
      connectionsCheckingInterval: Math.min(checkedEveryMs, headersTimeoutMs, requestTimeoutMs),
    },
    (request, response) => {
      if (refused.has(request.socket)) return;
      inProgress.add(response);
      // Released only when the client has received the whole answer, however slow it is.
      let memory: RequestMemory | undefined;
      response.once("close", () => {
        memory?.release();
        inProgress.delete(response);
        if (closing) request.socket.end();
      });
      kv.answer(incomingOf(request))
        .then((answer) => {
          memory = answer.memory;
          if (response.closed) memory?.release();
          // A client that is still sending its body gets an answer, and its connection is then closed.
          const isUnread = !request.complete && hasBody(request);
          if (isUnread) refused.add(request.socket);
          return send(request, response, answer, isUnread);
        })
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
        new KeywardError("STORE_UNAVAILABLE", `The HTTP KV server cannot listen on ${host}:${port}`, {
          hint: "If another process listens on this port, choose another port. Otherwise, check that the address belongs to this machine.",
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
      const busy = new Set([...inProgress].map((response) => response.req.socket));
      for (const socket of connections) if (!busy.has(socket)) socket.destroy();
      for (const response of inProgress) if (!response.headersSent) response.shouldKeepAlive = false;
      const late = setTimeout(() => server.closeAllConnections(), drainMs);
      await closed;
      clearTimeout(late);
    },
  };
}

function incomingOf(request: IncomingMessage): Incoming {
  return {
    method: request.method ?? "",
    url: request.url ?? "",
    header: (name) => {
      const value = request.headers[name];
      return value === undefined ? null : String(value);
    },
    read: (take) => readMessage(request, take),
  };
}

function readMessage(request: IncomingMessage, take: (piece: Uint8Array) => void): BodyReading {
  let sinceTurn = 0;
  let stop = () => {};
  const done = new Promise<void>((resolve, reject) => {
    const onData = (piece: Buffer) => {
      try {
        take(piece);
      } catch (error) {
        stop();
        reject(error);
        return;
      }
      sinceTurn += piece.length + bytesPerPiece;
      if (sinceTurn < turnBytes) return;
      // Node passes on all bytes that have arrived before anything else runs.
      sinceTurn = 0;
      request.pause();
      setImmediate(() => request.resume());
    };
    const onEnd = () => {
      stop();
      resolve();
    };
    const onBroken = () => {
      stop();
      reject(invalid("The connection ended before the end of the body"));
    };
    stop = () => {
      stop = () => {};
      request.off("data", onData).off("end", onEnd).off("close", onBroken).off("error", onBroken);
      request.on("error", ignore);
    };
    request.on("data", onData).on("end", onEnd).on("close", onBroken).on("error", onBroken);
  });
  return { done, stop: () => stop() };
}

function ignore(): void {}

async function send(
  request: IncomingMessage,
  response: ServerResponse,
  { status, headers, body }: ServerAnswer,
  isUnread: boolean,
): Promise<void> {
  if (isUnread) response.shouldKeepAlive = false;
  if (body === undefined || typeof body === "string" || body instanceof Uint8Array) {
    const length = body === undefined ? {} : { "content-length": Buffer.byteLength(body) };
    response.writeHead(status, { ...headers, ...length });
    if (!isUnread) {
      response.end(body);
      return;
    }
    if (body === undefined) response.flushHeaders();
    else response.write(body);
  } else {
    response.writeHead(status, headers);
    for await (const piece of body) {
      // A closed response emits no "drain", so waiting for it would never end.
      if (response.closed) return;
      if (!response.write(piece)) await drained(response);
    }
  }
  if (isUnread) await linger(request);
  response.end();
}

/** Returns whether a request has a body. */
function hasBody({ headers }: IncomingMessage): boolean {
  return headers["transfer-encoding"] !== undefined || Number(headers["content-length"] ?? 0) > 0;
}

async function drained(response: ServerResponse): Promise<void> {
  const ended = new AbortController();
  await Promise.race([
    once(response, "drain", { signal: ended.signal }),
    once(response, "close", { signal: ended.signal }),
  ]).finally(() => ended.abort());
}

/**
 * Reads the rest of a refused body for a short time. If the connection closed at once, the client could not read its
 * answer.
 */
async function linger(request: IncomingMessage): Promise<void> {
  let bytes = 0;
  const { done, stop } = readMessage(request, (piece) => {
    bytes += piece.length;
    if (bytes > lingerBytes) throw new Error("The rest of the refused body is too long");
  });
  request.resume();
  await Promise.race([done.catch(() => undefined), sleep(lingerMs, undefined, { ref: false })]);
  stop();
}

function isAddress(address: AddressInfo | string | null): address is AddressInfo {
  return typeof address === "object" && address !== null;
}

function urlHost({ address, port, family }: AddressInfo): string {
  return `${family === "IPv6" ? `[${address}]` : address}:${port}`;
}
