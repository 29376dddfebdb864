import { randomUUID } from "node:crypto";
import type { IncomingMessage, ServerResponse } from "node:http";
import { type KeyProvider, type Keyring, type OptionNames, requireOptions, type WrappableStore } from "@keyward/core";
import { ClientAddresses, OwnNames, Readiness, startHttpListener } from "@keyward/listener";
import type { AuditLog } from "@keyward/secrets";
import { WorkspaceEndpoint } from "./aggregate/index.ts";
import { ServerDispatchers } from "./network/index.ts";
import { answerProblem, GatewayProblem, problemDetails } from "./problem.ts";
import type { AddressException } from "./relay/address-exceptions.ts";
import { closing } from "./relay/open-calls.ts";
import { Relay, type RelayOptions } from "./relay/relay.ts";
import { type CallLimits, checkedCallLimits } from "./relay/relay-limits.ts";
import { type CalledServer, type ServerState, ServerStates } from "./server-states.ts";

/** The options of {@link startGateway}. */
export interface GatewayOptions {
  /** The store of the secrets service. The code that opened the store closes it. */
  readonly store: WrappableStore;
  /** The encryption keys: a keyring, or a key provider that loads a keyring. */
  readonly keys: Keyring | KeyProvider;
  /** Registers this process in the store as a replica, as the option of `EncryptedStore` does. Default: `false`. */
  readonly replica?: boolean | undefined;
  /** The audit log in which calls are recorded. The code that opened the audit log closes it. */
  readonly audit: AuditLog;
  /** Called for `/readyz`. Resolves if the service is ready, and rejects if it is not. */
  readonly ready: () => Promise<void>;
  /** The address to listen on, with plain HTTP. For TLS, put a proxy in front of the gateway. Default: "127.0.0.1". */
  readonly host?: string | undefined;
  /** The port to listen on. 0 means any free port. Default: 8480. */
  readonly port?: number | undefined;
  /**
   * The URL at which callers reach the gateway, such as `https://keyward.example.com`. Default: none, so the gateway answers
   * only to `localhost`, `127.0.0.1` and `[::1]`.
   */
  readonly publicUrl?: string | undefined;
  /** The addresses or CIDR blocks of trusted proxies. Only their header `X-Forwarded-For` is read. Default: none. */
  readonly trustProxies?: readonly string[] | undefined;
  /** Private addresses that the gateway may call. Default: none, so that servers must have public addresses. */
  readonly allowedAddresses?: readonly AddressException[] | undefined;
  /** Limits on calls. Default: those of {@link CallLimits}. */
  readonly limits?: CallLimits | undefined;
  /** How many connections may be open at once. Default: 10,000. */
  readonly maxConnections?: number | undefined;
  /** How long the calls in progress may take after `close()`, in milliseconds. Default: 30,000. */
  readonly drainMs?: number | undefined;
  /** Called with each problem that an operator should know, and the id of its call. Default: a function that does nothing. */
  readonly onProblem?: RelayOptions["onProblem"] | undefined;
}

/** A gateway that is listening. */
export interface RunningGateway {
  /** The URL of the gateway, such as `http://127.0.0.1:8480`. */
  readonly url: string;
  /** The number of calls in progress. */
  readonly openCalls: number;
  /** Returns the state of a server, as the calls of this process have shown it. `unknown` if the server was changed since then. */
  stateOf(server: CalledServer): ServerState;
  /**
   * Stops the gateway: `/readyz` answers 503, and new calls are refused. Streams of events that were opened with GET end between
   * two events. The other calls in progress have `drainMs` to end. Resolves when all connections are closed.
   */
  close(): Promise<void>;
}

const optionNames = {
  store: true,
  keys: true,
  replica: true,
  audit: true,
  ready: true,
  host: true,
  port: true,
  publicUrl: true,
  trustProxies: true,
  allowedAddresses: true,
  limits: true,
  maxConnections: true,
  drainMs: true,
  onProblem: true,
} satisfies OptionNames<GatewayOptions>;

/** Connections that transfer nothing for this long are closed. Longer than a server may be silent. */
const idleTimeoutMs = 180_000;
const requestTimeoutMs = 600_000;

/**
 * Starts the gateway on a port: relays `/s/<server>/mcp` and `/s/<server>/<path>`, answers `/mcp` for all MCP servers, and answers `/healthz` (the process
 * lives) and `/readyz` (the store, the keys and the audit answer).
 *
 * @throws KeywardError `STORE_UNAVAILABLE` if the gateway cannot listen on the port; `VALUE_INVALID` for an unknown or
 * invalid option.
 * @example
 * const audit = openAuditLog({ path: "audit.db", keys });
 * const admin = new SecretsAdmin({ store, keys, audit });
 * const gateway = await startGateway({ store, keys, audit, ready: () => admin.ready(), port: 0 });
 * console.log((await fetch(`${gateway.url}/s/github/mcp`)).status); // 401
 * await gateway.close();
 * await audit.close();
 */
export async function startGateway(options: GatewayOptions): Promise<RunningGateway> {
  const given = requireOptions("startGateway", options, optionNames);
  const { store, keys, replica = false, audit, ready, onProblem = () => {} } = given;
  const dispatchers = new ServerDispatchers();
  const limits = checkedCallLimits(given.limits);
  const states = new ServerStates();
  const relay = new Relay({
    store,
    keys,
    replica,
    audit,
    dispatchers,
    addressExceptions: given.allowedAddresses ?? [],
    names: new OwnNames(given.publicUrl),
    addresses: new ClientAddresses(given.trustProxies ?? []),
    limits,
    states,
    onProblem,
  });
  const readiness = new Readiness({ ready, late: "service", failedParts: () => ["service"] });
  const endpoint = new WorkspaceEndpoint({
    relay,
    concurrentCallsOfToken: limits.concurrentCallsOfToken,
    maxMessageMemoryBytes: limits.maxBodyMemoryBytes,
    silenceMs: limits.silenceMs,
    states,
    onProblem,
  });
  const handle = async (request: IncomingMessage, response: ServerResponse) => {
    const path = request.url ?? "";
    if (path === "/healthz") return answerHealth(response, []);
    if (path === "/readyz")
      return answerHealth(response, listener.isClosing ? ["closing"] : await readiness.notReady());
    if (listener.isClosing) return answerProblem(response, closing(), randomUUID());
    if (path === "/mcp" || path.startsWith("/mcp?")) await endpoint.handle(request, response);
    else await relay.handle(request, response);
  };
  const listener = await startHttpListener({
    name: "gateway",
    host: given.host ?? "127.0.0.1",
    port: given.port ?? 8480,
    handle,
    handlesExpect: true,
    brokenAnswer: (status) => ({ contentType: "application/problem+json", body: brokenRequest(status) }),
    requestTimeoutMs,
    idleTimeoutMs,
    maxConnections: given.maxConnections ?? 10_000,
    drainMs: given.drainMs,
  });
  const close = async () => {
    const closed = listener.close();
    relay.endStreams();
    endpoint.endStreams();
    await closed;
    await endpoint.close();
    // All callers have left or were answered, so a request that is still open has nobody to answer.
    await dispatchers.destroy(closing());
    await relay.close();
  };
  let ended: Promise<void> | undefined;
  return {
    url: listener.url,
    get openCalls() {
      return relay.openCalls;
    },
    stateOf: (server) => states.of(server),
    close: () => {
      ended ??= close();
      return ended;
    },
  };
}

function answerHealth(response: ServerResponse, missing: readonly string[]): void {
  // Names the listener in the answer, because an operator may have the wrong one of the service's two ports.
  const listener = "calls";
  const body =
    missing.length === 0 ? { status: "ready", listener } : { status: "not ready", listener, notReady: missing };
  response.writeHead(missing.length === 0 ? 200 : 503, {
    "content-type": "application/json",
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    ...(missing.length === 0 ? {} : { "retry-after": "5" }),
  });
  response.end(response.req.method === "HEAD" ? undefined : JSON.stringify(body));
}

function brokenRequest(status: number): string {
  const problem =
    status === 405
      ? new GatewayProblem("METHOD_REFUSED", "The gateway does not relay the method CONNECT", {
          hint: "Send the call to the gateway itself, and not through the gateway as a proxy.",
        })
      : new GatewayProblem(
          "REQUEST_MALFORMED",
          "The request is not valid HTTP, its headers are too large, or it arrived too slowly",
          {
            hint: "Send a valid HTTP/1.1 request with a Host header.",
          },
        );
  return JSON.stringify({ ...problemDetails(problem, randomUUID()), status });
}
