import { type AdminApiOptions, createAdminApi, type SecretsService } from "@keyward/admin";
import { AdminClient } from "@keyward/admin/client";
import { Keyring, type WrappableStore } from "@keyward/core";
import { type Call, type IssuedToken, openAuditLog, type Role, SecretsAdmin } from "@keyward/secrets";
import { MemoryStore } from "@keyward/store-memory";
import { onTestFinished } from "vitest";
import { MemoryAudit } from "./memory-audit.ts";

/** The path of the admin API. */
export const apiPath = "/api/v1/admin";

/** A secrets service with a workspace `main`, and functions that call its API. */
export interface Installation {
  readonly service: SecretsAdmin;
  readonly audit: MemoryAudit;
  readonly operator: IssuedToken;
  /** The first admin of the workspace `main`. */
  readonly admin: IssuedToken;
  /** Sends a request to the API, below its path, without a network. */
  send(token: string | undefined, method: string, path: string, options?: SendOptions): Promise<Answer>;
  /** Returns a client that reaches the API without a network. */
  clientOf(token: string): AdminClient;
  /** Creates a token in the workspace `main`. */
  tokenOf(role: Role, owner: string): Promise<IssuedToken>;
}

/** The headers and the body of a request. */
export interface SendOptions {
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: unknown;
}

/** An answer of the API, with its whole body. */
export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  /** The body as JSON; `undefined` without a body. */
  readonly json: unknown;
}

/**
 * Initializes a secrets service in an empty store, and mounts the admin API. Without `auditPath`, the audit is in memory.
 */
export async function install({
  store = new MemoryStore(),
  auditPath,
  ...options
}: Partial<AdminApiOptions> & {
  readonly store?: WrappableStore;
  readonly auditPath?: string;
} = {}): Promise<Installation> {
  const keys = Keyring.generate();
  const audit = new MemoryAudit();
  const file = auditPath === undefined ? undefined : openAuditLog({ path: auditPath, keys });
  onTestFinished(() => file?.close());
  const service = new SecretsAdmin({ store, keys, audit: file ?? audit });
  onTestFinished(() => service.close());
  const { operator, admin } = await service.initialize();
  const app = createAdminApi({ admin: service, ...options });
  return {
    service,
    audit,
    operator,
    admin,
    send: async (token, method, path, { headers = {}, body } = {}) => {
      const sent = new Headers(headers);
      if (token !== undefined) sent.set("authorization", `Bearer ${token}`);
      if (body !== undefined && !sent.has("content-type")) sent.set("content-type", "application/json");
      const text = typeof body === "string" ? body : JSON.stringify(body);
      const response = await app.request(`${apiPath}${path}`, { method, headers: sent, body: text ?? null });
      return await answerOf(response);
    },
    clientOf: (token) =>
      new AdminClient({
        url: "http://localhost:8481",
        token,
        fetch: async (input, init) => app.request(String(input), init),
      }),
    tokenOf: async (role, owner) => await service.createToken(await service.authenticate(admin.token), { owner, role }),
  };
}

/** Returns a call of a tool, as the gateway records it in the audit. `changed` replaces some of its fields. */
export function toolCall(workspace: string | undefined, changed: Partial<Call> = {}): Call {
  return {
    callId: "c4ll00000001",
    at: Date.parse("2026-11-28T09:30:00Z"),
    workspace: workspace ?? "",
    caller: { tokenId: "t0ken0000001", owner: "ci", role: "member", address: "192.0.2.7" },
    server: "github",
    method: "POST",
    path: "/mcp",
    mcpMethod: "tools/call",
    tool: "create_issue",
    status: 200,
    durationMs: 35,
    requestBytes: 120,
    answerBytes: 900,
    secrets: [{ name: "API_TOKEN", revision: 2 }],
    redactions: 0,
    ...changed,
  };
}

/** Reads the body of a response. */
export async function answerOf(response: Response): Promise<Answer> {
  const text = await response.text();
  const { status, headers } = response;
  return { status, headers, text, json: text === "" ? undefined : JSON.parse(text) };
}

/** Returns the headers and the body of an answer as one text. */
export function wholeText({ headers, text }: Answer): string {
  return `${[...headers].map(([name, value]) => `${name}: ${value}`).join("\n")}\n\n${text}`;
}

/** Returns the service with one method replaced, so that a test can delay calls or make them fail. */
export function serviceWith<Name extends keyof SecretsService>(
  service: SecretsAdmin,
  name: Name,
  method: SecretsService[Name],
): SecretsService {
  return new Proxy(service, {
    get: (target, asked) => {
      const own: unknown = asked === name ? method : Reflect.get(target, asked);
      return typeof own === "function" ? own.bind(target) : own;
    },
  });
}
