import type { Injection, RecordedChange, Secret, Server, Token, Workspace } from "@keyward/admin/client";
import type { TokenInfo } from "@keyward/secrets";
import { millisecondsOf } from "../terminal/times.ts";

// What the commands of the secrets service print with `--json`. Times are in milliseconds since the epoch.

/** A workspace as `--json` prints it. */
export interface WorkspaceResult {
  readonly id: string;
  readonly name: string;
  readonly revision: number;
  readonly createdAtMs: number;
  readonly retentionDays: number;
  readonly deleting: boolean;
}

/** Returns a workspace as `--json` prints it. */
export function workspaceResult({ id, name, revision, created, retentionDays, deleting }: Workspace): WorkspaceResult {
  return { id, name, revision, createdAtMs: millisecondsOf(created), retentionDays, deleting };
}

/** The state of a server when the gateway last called it, as `--json` prints it. */
export interface ServerStateResult {
  readonly status: Server["state"]["status"];
  readonly sinceMs: number | null;
  readonly lastSeenMs: number | null;
  readonly lastError: { readonly atMs: number; readonly reason: string } | null;
}

/** A server as `--json` prints it. */
export interface ServerResult {
  readonly slug: string;
  readonly url: string;
  readonly kind: Server["kind"];
  readonly forwardHeaders: readonly string[];
  readonly relayHeaders: readonly string[];
  readonly disabled: boolean;
  readonly revision: number;
  readonly createdAtMs: number;
  readonly secretCount: number;
  readonly deleting: boolean;
  readonly state: ServerStateResult;
}

/** Returns a server as `--json` prints it. */
export function serverResult({ created, ...server }: Server): ServerResult {
  const { slug, url, kind, forwardHeaders, relayHeaders, disabled, revision, secretCount, deleting } = server;
  const { status, since, lastSeen, lastError } = server.state;
  return {
    slug,
    url,
    kind,
    forwardHeaders,
    relayHeaders,
    disabled,
    revision,
    createdAtMs: millisecondsOf(created),
    secretCount,
    deleting,
    state: {
      status,
      sinceMs: millisecondsOf(since),
      lastSeenMs: millisecondsOf(lastSeen),
      lastError: lastError === null ? null : { atMs: millisecondsOf(lastError.at), reason: lastError.reason },
    },
  };
}

/** A rule as `--json` prints it. */
export interface InjectionResult {
  readonly kind: Injection["kind"];
  /** `null` for the rules `bearer` and `basic`, whose header is Authorization. */
  readonly header: string | null;
  /** `null` for a rule without a template. */
  readonly template: string | null;
}

/** Returns a rule as `--json` prints it. */
export function injectionResult(rule: Injection): InjectionResult {
  switch (rule.kind) {
    case "bearer":
    case "basic":
      return { kind: rule.kind, header: null, template: null };
    case "header":
      return { kind: rule.kind, header: rule.header, template: null };
    case "template":
      return { kind: rule.kind, header: rule.header, template: rule.template };
  }
}

/** A secret as `--json` prints it, without its value. */
export interface SecretResult {
  readonly name: string;
  readonly injection: InjectionResult;
  readonly revision: number;
  readonly setAtMs: number;
  readonly setBy: string;
  readonly expiresAtMs: number | null;
  readonly lastUsedAtMs: number | null;
  readonly weak: boolean;
  readonly redacted: boolean;
  readonly origin: string;
  readonly unusable: Secret["unusable"];
}

/** Returns a secret as `--json` prints it. */
export function secretResult(secret: Secret): SecretResult {
  const { name, injection, revision, setAt, setBy, expires, lastUsed, weak, redacted, origin, unusable } = secret;
  return {
    name,
    injection: injectionResult(injection),
    revision,
    setAtMs: millisecondsOf(setAt),
    setBy,
    expiresAtMs: millisecondsOf(expires),
    lastUsedAtMs: millisecondsOf(lastUsed),
    weak,
    redacted,
    origin,
    unusable,
  };
}

/** A token as `--json` prints it, without its text. */
export interface TokenResult {
  readonly id: string;
  readonly owner: string;
  readonly role: Token["role"];
  /** `null` if the token may call all servers. */
  readonly servers: readonly string[] | null;
  /** `null` if the token may call all tools. */
  readonly tools: readonly string[] | null;
  /** `null` if the token may use all HTTP methods. */
  readonly methods: readonly string[] | null;
  readonly createdAtMs: number;
  readonly createdBy: string;
  readonly expiresAtMs: number | null;
  readonly revokedAtMs: number | null;
  readonly lastUsedAtMs: number | null;
}

/** Returns a token as `--json` prints it. */
export function tokenResult({ created, expires, revoked, lastUsed, ...token }: Token): TokenResult {
  const { id, owner, role, servers, tools, methods, createdBy } = token;
  return {
    id,
    owner,
    role,
    servers,
    tools,
    methods,
    createdAtMs: millisecondsOf(created),
    createdBy,
    expiresAtMs: millisecondsOf(expires),
    revokedAtMs: millisecondsOf(revoked),
    lastUsedAtMs: millisecondsOf(lastUsed),
  };
}

/** A change as `--json` prints it. */
export interface ChangeResult {
  readonly id: string;
  readonly atMs: number;
  readonly action: RecordedChange["action"];
  readonly outcome: RecordedChange["outcome"];
  readonly owner: string;
  readonly role: RecordedChange["caller"]["role"];
  readonly tokenId: string;
  readonly address: string | null;
  readonly server: string | null;
  readonly subject: string | null;
  readonly detail: string | null;
  readonly revision: number | null;
}

/** Returns a change as `--json` prints it. */
export function changeResult({ id, at, action, outcome, caller, ...change }: RecordedChange): ChangeResult {
  const { server, subject, detail, revision } = change;
  const { owner, role, tokenId, address } = caller;
  return {
    id,
    atMs: millisecondsOf(at),
    action,
    outcome,
    owner,
    role,
    tokenId,
    address,
    server,
    subject,
    detail,
    revision,
  };
}

/** Returns a token that was made on this machine, without the admin API, as `--json` prints it. */
export function localTokenResult({
  servers,
  tools,
  methods,
  expires,
  revoked,
  lastUsed,
  ...token
}: TokenInfo): TokenResult {
  const { id, owner, role, created, createdBy } = token;
  return {
    id,
    owner,
    role,
    servers: servers ?? null,
    tools: tools ?? null,
    methods: methods ?? null,
    createdAtMs: created,
    createdBy,
    expiresAtMs: expires ?? null,
    revokedAtMs: revoked ?? null,
    lastUsedAtMs: lastUsed ?? null,
  };
}
