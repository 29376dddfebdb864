import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type IncomingMessage, type RequestListener, type Server, type ServerResponse } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { Keyring, type WrappableStore } from "@keyward/core";
import { type Caller, type InjectionRule, openAuditLog, SecretsAdmin } from "@keyward/secrets";
import { MemoryStore } from "@keyward/store-memory";
import { onTestFinished } from "vitest";
import {
  type GatewayOptions,
  parseAddressException,
  type RunningGateway,
  type ServerState,
  startGateway,
} from "../src/index.ts";

/** A server on loopback that a test calls through the gateway. */
export interface Upstream {
  readonly port: number;
  readonly origin: string;
  /** The requests that have arrived, in order. */
  readonly requests: readonly IncomingMessage[];
}

/** A gateway over a new service, with the token of a member. */
export interface Installation {
  readonly gateway: RunningGateway;
  readonly admin: SecretsAdmin;
  readonly store: WrappableStore;
  readonly keys: Keyring;
  /** The path of the audit. */
  readonly auditPath: string;
  /** The admin of the workspace `main`. */
  readonly caller: Caller;
  /** The token of a member who may call every server. */
  readonly token: string;
  readonly problems: unknown[];
  /** Adds a server with a secret, and returns the value. */
  addServer(server: {
    readonly slug: string;
    readonly url: string;
    readonly kind?: "mcp" | "http";
    readonly rule?: InjectionRule;
    readonly value?: string;
    readonly forwardHeaders?: readonly string[];
    readonly relayHeaders?: readonly string[];
  }): Promise<string>;
  /** Returns how the gateway has seen a server. */
  stateOf(slug: string): Promise<ServerState>;
  /** Sends a request to the gateway with the token of the member. */
  call(path: string, init?: RequestInit): Promise<Response>;
}

/** A value for a test. It is not a credential of anything. */
export const testValue = "test-value-0123456789abcdefghijklmnop";

/** Starts a server on loopback that ends with the test. */
export async function startUpstream(listener: RequestListener): Promise<Upstream> {
  const requests: IncomingMessage[] = [];
  const server = createServer((request, response) => {
    requests.push(request);
    listener(request, response);
  });
  const port = await listen(server, 0);
  onTestFinished(async () => {
    server.closeAllConnections();
    server.close();
    await once(server, "close");
  });
  return { port, origin: `http://127.0.0.1:${port}`, requests };
}

/** A server on loopback that can end, and begin again at its port. */
export interface MortalUpstream extends Pick<Upstream, "port" | "origin"> {
  begin(): Promise<void>;
  end(): Promise<void>;
}

/** Starts a server on loopback that ends with the test, if it has not ended before. */
export async function startMortalUpstream(listener: RequestListener): Promise<MortalUpstream> {
  const server = createServer(listener);
  const end = async () => {
    if (!server.listening) return;
    server.close();
    server.closeAllConnections();
    await once(server, "close");
  };
  onTestFinished(end);
  const port = await listen(server, 0);
  return {
    port,
    origin: `http://127.0.0.1:${port}`,
    begin: async () => void (await listen(server, port)),
    end,
  };
}

async function listen(server: Server, port: number): Promise<number> {
  server.listen(port, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  return typeof address === "object" && address !== null ? address.port : 0;
}

/** Reads the whole body of a request. */
export async function bodyOf(request: Readable): Promise<string> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks).toString("utf8");
}

/** Answers with JSON. */
export function answerJson(response: ServerResponse, value: unknown, headers: Record<string, string> = {}): void {
  const body = JSON.stringify(value);
  response.writeHead(200, {
    "content-type": "application/json",
    "content-length": Buffer.byteLength(body),
    ...headers,
  });
  response.end(body);
}

/** Starts a gateway over a new service. Servers on loopback may be called at the given ports. */
export async function startInstallation(
  upstreams: readonly Pick<Upstream, "port">[],
  { store = new MemoryStore(), ...options }: Partial<Omit<GatewayOptions, "keys" | "audit">> = {},
): Promise<Installation> {
  const folder = await mkdtemp(join(tmpdir(), "keyward-calls-"));
  const keys = Keyring.generate("test");
  const auditPath = join(folder, "audit.db");
  const audit = openAuditLog({ path: auditPath, keys });
  const admin = new SecretsAdmin({ store, keys, audit });
  const first = await admin.initialize();
  const caller = await admin.authenticate(first.admin.token);
  const { token } = await admin.createToken(caller, { owner: "ci", role: "member" });
  const problems: unknown[] = [];
  const gateway = await startGateway({
    store,
    keys,
    audit,
    ready: () => admin.ready(),
    port: 0,
    allowedAddresses: upstreams.map(({ port }) => parseAddressException(`127.0.0.1:${port}`)),
    onProblem: (problem) => problems.push(problem),
    ...options,
  });
  onTestFinished(async () => {
    await gateway.close();
    await admin.close();
    await audit.close();
    await rm(folder, { recursive: true });
  });
  return {
    gateway,
    admin,
    store,
    keys,
    auditPath,
    caller,
    token,
    problems,
    addServer: async ({ slug, kind = "http", rule = { kind: "bearer" }, value = testValue, ...server }) => {
      await admin.createServer(caller, { slug, kind, ...server });
      await admin.setSecret(caller, slug, { name: "API_TOKEN", value, rule });
      return value;
    },
    stateOf: async (slug) => {
      const { id, revision } = await admin.getServer(caller, slug);
      return gateway.stateOf({ workspace: caller.workspace ?? "", id, revision });
    },
    call: (path, init = {}) =>
      fetch(`${gateway.url}${path}`, {
        redirect: "manual",
        ...init,
        headers: { authorization: `Bearer ${token}`, ...Object.fromEntries(new Headers(init.headers)) },
      }),
  };
}
