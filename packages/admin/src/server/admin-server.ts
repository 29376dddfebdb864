import { randomUUID } from "node:crypto";
import { ServerResponse } from "node:http";
import { getRequestListener } from "@hono/node-server";
import { type OptionNames, requireOptions } from "@keyward/core";
import { type Readiness, startHttpListener } from "@keyward/listener";
import { type AdminApiOptions, adminApiOptionNames, createAdminApi } from "../api/admin-api.ts";
import { apiProblem } from "../api/problem-error.ts";
import { answerHeaders, problemResponse } from "../api/problem-response.ts";
import { type NotReady, readinessOf } from "./health.ts";

/** The options of {@link startAdminServer}: all options of `createAdminApi`, and options of the HTTP server. */
export interface AdminServerOptions extends AdminApiOptions {
  /** The address to listen on, with plain HTTP. For TLS, put a proxy in front of the server. Default: "127.0.0.1". */
  readonly host?: string | undefined;
  /** The port to listen on. 0 means any free port. Default: 8481. */
  readonly port?: number | undefined;
  /**
   * How long the headers of a request may take to arrive, in milliseconds. For the first request of a connection, the
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
  /** How long the requests in progress may take after `close()`, in milliseconds. Default: 30,000. */
  readonly drainMs?: number | undefined;
}

/** An admin server that is listening. */
export interface RunningAdminServer {
  /** The URL of the server, such as `http://127.0.0.1:8481`. */
  readonly url: string;
  /**
   * Stops the server: `/readyz` answers 503, new requests are refused, and requests in progress have `drainMs` to end.
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
  const { admin, publicUrl, trustProxies, callUrl, stateOf, limits, onError } = given;
  const api = createAdminApi({ admin, publicUrl, trustProxies, callUrl, stateOf, limits, onError });
  const readiness = readinessOf(admin, (error) => onError?.(error, { requestId: "readyz" }));
  const answer = getRequestListener(
    async (request, bindings) => {
      const health = await healthAnswer(request, readiness, listener.isClosing);
      if (health !== undefined) return health;
      const response = listener.isClosing
        ? problemResponse(closing(), randomUUID())
        : await api.fetch(request, bindings);
      // After an unread body, the server closes the connection, so the client must not send another request on it.
      if (!bindings.incoming.complete && bindings.outgoing instanceof ServerResponse) {
        bindings.outgoing.shouldKeepAlive = false;
      }
      return response;
    },
    { overrideGlobalObjects: false, errorHandler: () => problemResponse(malformedRequest(), randomUUID()) },
  );
  const { headersTimeoutMs, requestTimeoutMs, idleTimeoutMs, maxConnections, drainMs } = given;
  const listener = await startHttpListener({
    name: "admin server",
    host: given.host ?? "127.0.0.1",
    port: given.port ?? 8481,
    handle: async (request, response) => {
      await answer(request, response);
    },
    brokenAnswer: (status) => ({
      contentType: "application/problem+json",
      body: JSON.stringify({ ...malformedRequest(status).problem, instance: randomUUID() }),
    }),
    headersTimeoutMs,
    requestTimeoutMs,
    idleTimeoutMs,
    maxConnections,
    drainMs,
  });
  return { url: listener.url, close: () => listener.close() };
}

async function healthAnswer(
  request: Request,
  readiness: Readiness<NotReady>,
  isClosing: boolean,
): Promise<Response | undefined> {
  const { pathname } = new URL(request.url);
  if (request.method !== "GET" && request.method !== "HEAD") return undefined;
  if (pathname === "/healthz") return Response.json({ status: "live" }, { headers: answerHeaders });
  if (pathname !== "/readyz") return undefined;
  // Names the listener in the answer, because an operator may have the wrong one of the service's two ports.
  const listener = "admin";
  const notReady = isClosing ? (["closing"] as const) : await readiness.notReady();
  if (notReady.length === 0) return Response.json({ status: "ready", listener }, { headers: answerHeaders });
  const status = 503;
  return Response.json(
    { status: "not ready", listener, notReady },
    { status, headers: { ...answerHeaders, "retry-after": "5" } },
  );
}

function malformedRequest(status = 400) {
  return apiProblem(
    "REQUEST_MALFORMED",
    {
      status,
      title: "Malformed request",
      detail: "The request is not valid HTTP, its headers are too large, or it arrived too slowly",
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
      detail: "This process of the service is shutting down",
      hint: "Send the request again. Another process answers it, or this one after its restart.",
    },
    { "retry-after": "5" },
  );
}
