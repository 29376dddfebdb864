import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { KeywardError, requireAmount } from "@keyward/core";
import { Connections } from "./connections.ts";

/** The answer to a broken request: one that is not HTTP, has too large headers, or arrives too slowly. */
export interface BrokenAnswer {
  /** The header `Content-Type`. */
  readonly contentType: string;
  /** The body, as text. */
  readonly body: string;
}

/** The options of {@link startHttpListener}. */
export interface HttpListenerOptions {
  /** A description of the server, such as "admin server". The error for a port that cannot be used contains the description. */
  readonly name: string;
  /** The address to listen on, with plain HTTP. */
  readonly host: string;
  /** The port to listen on. 0 means any free port. */
  readonly port: number;
  /** Answers a request. Must not reject. */
  readonly handle: (request: IncomingMessage, response: ServerResponse) => Promise<void> | void;
  /** Returns the answer to a broken request, by its status: 400, 405 for `CONNECT`, 408 or 431. */
  readonly brokenAnswer: (status: number) => BrokenAnswer;
  /**
   * True if `handle` answers a request with the header `Expect`. Otherwise Node.js answers: `100-continue` with 100, and
   * another expectation with 417. Default: false.
   */
  readonly handlesExpect?: boolean | undefined;
  /**
   * How long the headers of a request may take to arrive, in milliseconds. For the first request of a connection, this
   * time begins when the connection is opened. Default: 5,000.
   */
  readonly headersTimeoutMs?: number | undefined;
  /** How long a whole request may take to arrive, in milliseconds. Default: 15,000. */
  readonly requestTimeoutMs?: number | undefined;
  /** How long a connection may stay open without any transfer, in milliseconds. Default: 30,000. */
  readonly idleTimeoutMs?: number | undefined;
  /**
   * How many connections may be open at once. For a further connection, the server closes one that waits for its client:
   * of the client address with the most such connections, the one that has waited longest. Default: 1,000.
   */
  readonly maxConnections?: number | undefined;
  /**
   * How long the requests in progress may take after `close()`, in milliseconds. After this time, all connections are
   * closed. Default: 30,000.
   */
  readonly drainMs?: number | undefined;
}

/** A server that is listening. */
export interface HttpListener {
  /** The URL of the server, such as `http://127.0.0.1:8481`. */
  readonly url: string;
  /** True after `close` was called. The function `handle` should then refuse new requests. */
  readonly isClosing: boolean;
  /**
   * Refuses new connections, waits at most `drainMs` for the requests in progress, and resolves when all connections are
   * closed.
   */
  close(): Promise<void>;
}

const checkedEveryMs = 500;
/** How long a client may take to read the last answer of a connection, in milliseconds. */
const lingerMs = 1_000;
const reasons: Readonly<Record<number, string>> = {
  400: "Bad Request",
  405: "Method Not Allowed",
  408: "Request Timeout",
  431: "Request Header Fields Too Large",
};

/**
 * Starts an HTTP server on a port. The server closes the connections of slow clients.
 *
 * @throws KeywardError `STORE_UNAVAILABLE` if the server cannot listen on the port; `VALUE_INVALID` for an invalid option.
 * @example
 * const handle = (_request: unknown, response: { end(text: string): unknown }) => void response.end("hello");
 * const brokenAnswer = () => ({ contentType: "text/plain", body: "not HTTP" });
 * const listener = await startHttpListener({ name: "example", host: "127.0.0.1", port: 0, handle, brokenAnswer });
 * console.log(await (await fetch(listener.url)).text()); // hello
 * await listener.close();
 */
export async function startHttpListener(options: HttpListenerOptions): Promise<HttpListener> {
  const { name, host, port, handle, brokenAnswer } = options;
  const headersTimeoutMs = requireAmount("headersTimeoutMs", options.headersTimeoutMs ?? 5_000, "milliseconds");
  const requestTimeoutMs = requireAmount("requestTimeoutMs", options.requestTimeoutMs ?? 15_000, "milliseconds");
  const idleTimeoutMs = requireAmount("idleTimeoutMs", options.idleTimeoutMs ?? 30_000, "milliseconds");
  const maxConnections = requireAmount("maxConnections", options.maxConnections ?? 1_000, "requests");
  const drainMs = requireAmount("drainMs", options.drainMs ?? 30_000, "milliseconds", { least: 0 });
  requireAmount("port", port, "requests", { least: 0, most: 65_535 });

  const connections = new Connections(maxConnections);
  let isClosing = false;
  const begin = (request: IncomingMessage, response: ServerResponse) => {
    if (!connections.begin(response)) return;
    // A request that was destroyed has no socket when its response is closed.
    const { socket } = request;
    response.once("close", () => {
      // A body that nobody reads would keep the connection busy.
      if (isClosing || !request.complete) endSoon(socket);
    });
    if (isClosing) response.shouldKeepAlive = false;
    void handle(request, response);
  };
  const server = createServer(
    {
      // The handler answers a request without a host, so that the answer says what is wrong.
      requireHostHeader: false,
      headersTimeout: Math.min(headersTimeoutMs, requestTimeoutMs),
      requestTimeout: requestTimeoutMs,
      keepAliveTimeout: idleTimeoutMs,
      connectionsCheckingInterval: Math.min(checkedEveryMs, headersTimeoutMs, requestTimeoutMs),
    },
    begin,
  );
  if (options.handlesExpect === true) server.on("checkContinue", begin).on("checkExpectation", begin);
  // Without a listener, Node.js closes the connection and says nothing.
  server.on("connect", ({ socket }) => refuse(405, socket, brokenAnswer));
  server.timeout = idleTimeoutMs;
  server.on("connection", (socket) => connections.add(socket));
  server.on("clientError", (error, socket: Socket) => refuseBrokenRequest(error, socket, brokenAnswer));
  await listening(server, { name, host, port });

  let ended: Promise<void> | undefined;
  const close = async () => {
    isClosing = true;
    const closed = new Promise((resolve) => server.close(resolve));
    connections.end();
    const late = setTimeout(() => server.closeAllConnections(), drainMs);
    await closed;
    clearTimeout(late);
  };
  return {
    url: urlOf(server, host),
    get isClosing() {
      return isClosing;
    },
    close: () => {
      ended ??= close();
      return ended;
    },
  };
}

/** Answers a request that is not HTTP, has too large headers, or was too slow. Then closes the connection. */
function refuseBrokenRequest(
  error: Error & { readonly code?: string },
  socket: Socket,
  brokenAnswer: (status: number) => BrokenAnswer,
): void {
  if (error.code === "ECONNRESET" || !socket.writable) {
    socket.destroy();
    return;
  }
  const status = error.code === "HPE_HEADER_OVERFLOW" ? 431 : error.code === "ERR_HTTP_REQUEST_TIMEOUT" ? 408 : 400;
  refuse(status, socket, brokenAnswer);
}

/** Answers a request for which Node.js has made no `ServerResponse`, and closes the connection. */
function refuse(status: number, socket: Socket, brokenAnswer: (status: number) => BrokenAnswer): void {
  const { contentType, body } = brokenAnswer(status);
  socket.write(
    `HTTP/1.1 ${status} ${reasons[status]}\r\nContent-Type: ${contentType}\r\nCache-Control: no-store\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  );
  endSoon(socket);
}

/** Ends a connection. If the client does not end its side within {@link lingerMs}, closes the connection anyway. */
function endSoon(socket: Socket): void {
  socket.end();
  const late = setTimeout(() => socket.destroy(), lingerMs).unref();
  socket.once("close", () => clearTimeout(late));
}

async function listening(
  server: Server,
  { name, host, port }: Pick<HttpListenerOptions, "name" | "host" | "port">,
): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once("error", (error) => {
      reject(
        new KeywardError("STORE_UNAVAILABLE", `The ${name} cannot listen on ${host}:${port}`, {
          hint: "If another process listens on this port, choose another port. Otherwise, check that the address belongs to this machine.",
          cause: error,
        }),
      );
    });
    server.listen(port, host, resolve);
  });
}

function urlOf(server: Server, host: string): string {
  const address = server.address();
  if (!isAddress(address)) return `http://${host}`;
  return `http://${address.family === "IPv6" ? `[${address.address}]` : address.address}:${address.port}`;
}

function isAddress(address: string | AddressInfo | null): address is AddressInfo {
  return typeof address === "object" && address !== null;
}
