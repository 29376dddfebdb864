import { randomUUID } from "node:crypto";
import { createServer, type Server, ServerResponse } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { getRequestListener } from "@hono/node-server";
import { KeywardError, type OptionNames, requireAmount, requireOptions } from "@keyward/core";
import { type AdminApiOptions, adminApiOptionNames, createAdminApi } from "../api/admin-api.ts";
import { apiProblem } from "../api/problem-error.ts";
import { answerHeaders, problemResponse } from "../api/problem-response.ts";
import { Connections } from "./connections.ts";
import { Readiness } from "./health.ts";

/** The options of {@link startAdminServer}: those of `createAdminApi`, and those of a server that listens on a port. */
export interface AdminServerOptions extends AdminApiOptions {
  /** The address to listen on, with plain HTTP. For TLS, put a proxy in front of the server. Default: "127.0.0.1". */
  readonly host?: string | undefined;
  /** The port to listen on. 0 means any free port. Default: 8481. */
  readonly port?: number | undefined;
  /**
   * How long the headers of a request may take to arrive, in milliseconds. For the first request of a connection, from
   * the moment at which the connection was opened. Default: 5,000.
   */
  readonly headersTimeoutMs?: number | undefined;
  /** How long a whole request may take to arrive, in milliseconds. Default: 15,000. */
  readonly requestTimeoutMs?: number | undefined;
  /** How long a connection may stay open without any transfer, in milliseconds. Default: 30,000. */
  readonly idleTimeoutMs?: number | undefined;
  /**
   * How many connections may be open at once. A further one closes the connection that has waited longest for its client,
   * among those of the address that has most of them. Default: 1,000.
   */
  readonly maxConnections?: number | undefined;
  /** How long the requests in progress may take after `close()`, in milliseconds. Default: 30,000. */
  readonly drainMs?: number | undefined;
}

/** An admin server that is listening. */
export interface RunningAdminServer {
  /** The URL of the server, such as `http://127.0.0.1:8481`. */
  readonly url: string;
  /**
   * Ends the server: `/readyz` answers 503, new requests are refused, and requests in progress have `drainMs` to end.
   * Resolves when all connections are closed. The secrets service and the store stay open.
   */
  close(): Promise<void>;
}

const optionNames = {
  ...adminApiOptionNames,
  host: true,
  port: true,
  headersTimeoutMs: true,
  requestTimeoutMs: true,
  idleTimeoutMs: true,
  maxConnections: true,
  drainMs: true,
} satisfies OptionNames<AdminServerOptions>;

const checkedEveryMs = 500;
/** For how long a client may read the last answer of a connection. */
const lingerMs = 1_000;

/**
 * Starts the admin API on a port, with `/healthz` (the process lives) and `/readyz` (the store, the keys and the audit
 * log answer). The server closes the connections of slow clients.
 *
 * @throws KeywardError `STORE_UNAVAILABLE` if the server cannot listen on the port; `VALUE_INVALID` for an unknown or
 * invalid option.
 * @example
 * const audit = openAuditLog({ path: "audit.db", keys });
 * const server = await startAdminServer({ admin: new SecretsAdmin({ store, keys, audit }), port: 0 });
 * console.log((await fetch(`${server.url}/healthz`)).status); // 200
 * await server.close();
 * await audit.close();
 */
export async function startAdminServer(options: AdminServerOptions): Promise<RunningAdminServer> {
  const given = requireOptions("startAdminServer", options, optionNames);
  const { admin, publicUrl, trustProxies, limits, onError } = given;
  const { host = "127.0.0.1", port = 8481 } = given;
  const headersTimeoutMs = requireAmount("headersTimeoutMs", given.headersTimeoutMs ?? 5_000, "milliseconds");
  const requestTimeoutMs = requireAmount("requestTimeoutMs", given.requestTimeoutMs ?? 15_000, "milliseconds");
  const idleTimeoutMs = requireAmount("idleTimeoutMs", given.idleTimeoutMs ?? 30_000, "milliseconds");
  const maxConnections = requireAmount("maxConnections", given.maxConnections ?? 1_000, "requests");
  const drainMs = requireAmount("drainMs", given.drainMs ?? 30_000, "milliseconds", { least: 0 });
  requireAmount("port", port, "requests", { least: 0, most: 65_535 });

  const api = createAdminApi({ admin, publicUrl, trustProxies, limits, onError });
  const readiness = new Readiness(admin, (error) => onError?.(error, { requestId: "readyz" }));
  const state = { closing: false };
  const listener = getRequestListener(
    async (request, bindings) => {
      const health = await healthAnswer(request, readiness, state);
      if (health !== undefined) return health;
      const answer = state.closing ? problemResponse(closing(), randomUUID()) : await api.fetch(request, bindings);
      // The connection of a body that was not read is closed, so the client must not send another request on it.
      if (!bindings.incoming.complete && bindings.outgoing instanceof ServerResponse) {
        bindings.outgoing.shouldKeepAlive = false;
      }
      return answer;
    },
    { overrideGlobalObjects: false, errorHandler: () => problemResponse(malformedRequest(), randomUUID()) },
  );
  const connections = new Connections(maxConnections);
  const server = createServer(
    {
      // The listener answers a request without a host with problem details.
      requireHostHeader: false,
      headersTimeout: Math.min(headersTimeoutMs, requestTimeoutMs),
      requestTimeout: requestTimeoutMs,
      keepAliveTimeout: idleTimeoutMs,
      connectionsCheckingInterval: Math.min(checkedEveryMs, headersTimeoutMs, requestTimeoutMs),
    },
    (request, response) => {
      if (!connections.begin(response)) return;
      response.once("close", () => {
        // A body that nobody reads would keep the connection busy.
        if (state.closing || !request.complete) endSoon(request.socket);
      });
      if (state.closing) response.shouldKeepAlive = false;
      void listener(request, response);
    },
  );
  server.timeout = idleTimeoutMs;
  server.on("connection", (socket) => connections.add(socket));
  server.on("clientError", refuseBrokenRequest);
  await listening(server, host, port);
  return { url: urlOf(server, host), close: once(() => closeServer(server, state, connections, drainMs)) };
}

async function healthAnswer(
  request: Request,
  readiness: Readiness,
  { closing: isClosing }: { readonly closing: boolean },
): Promise<Response | undefined> {
  const { pathname } = new URL(request.url);
  if (request.method !== "GET" && request.method !== "HEAD") return undefined;
  if (pathname === "/healthz") return Response.json({ status: "live" }, { headers: answerHeaders });
  if (pathname !== "/readyz") return undefined;
  const notReady = isClosing ? (["closing"] as const) : await readiness.notReady();
  if (notReady.length === 0) return Response.json({ status: "ready" }, { headers: answerHeaders });
  const status = 503;
  return Response.json(
    { status: "not ready", notReady },
    { status, headers: { ...answerHeaders, "retry-after": "5" } },
  );
}

/** Answers what is not HTTP, has too large headers, or was too slow, and closes the connection. */
function refuseBrokenRequest(error: Error & { readonly code?: string }, socket: Socket): void {
  if (error.code === "ECONNRESET" || !socket.writable) {
    socket.destroy();
    return;
  }
  const [status, reason] =
    error.code === "HPE_HEADER_OVERFLOW"
      ? [431, "Request Header Fields Too Large"]
      : error.code === "ERR_HTTP_REQUEST_TIMEOUT"
        ? [408, "Request Timeout"]
        : [400, "Bad Request"];
  const { problem } = malformedRequest(status);
  const body = JSON.stringify({ ...problem, instance: randomUUID() });
  socket.write(
    `HTTP/1.1 ${status} ${reason}\r\nContent-Type: application/problem+json\r\nCache-Control: no-store\r\nContent-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  );
  endSoon(socket);
}

/** Ends a connection, and closes it also if the client does not end its side. */
function endSoon(socket: Socket): void {
  socket.end();
  const late = setTimeout(() => socket.destroy(), lingerMs).unref();
  socket.once("close", () => clearTimeout(late));
}

function malformedRequest(status = 400) {
  return apiProblem(
    "REQUEST_MALFORMED",
    {
      status,
      title: "Malformed request",
      detail: "The request is not valid HTTP, is too large, or arrived too slowly",
      hint: "Send a valid HTTP/1.1 request with a Host header.",
    },
    { connection: "close" },
  );
}

function closing() {
  return apiProblem(
    "SERVICE_CLOSING",
    {
      status: 503,
      title: "Closing",
      detail: "This process of the service is ending",
      hint: "Send the request again: another process answers, or this one after its restart.",
    },
    { "retry-after": "5" },
  );
}

async function listening(server: Server, host: string, port: number): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once("error", (error) => {
      reject(
        new KeywardError("STORE_UNAVAILABLE", `The admin server cannot listen on ${host}:${port}`, {
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

async function closeServer(
  server: Server,
  state: { closing: boolean },
  connections: Connections,
  drainMs: number,
): Promise<void> {
  state.closing = true;
  const closed = new Promise((resolve) => server.close(resolve));
  connections.end();
  const late = setTimeout(() => server.closeAllConnections(), drainMs);
  await closed;
  clearTimeout(late);
}

function once(run: () => Promise<void>): () => Promise<void> {
  let ended: Promise<void> | undefined;
  return () => {
    ended ??= run();
    return ended;
  };
}
