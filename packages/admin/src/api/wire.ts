import type { RotationStatus } from "@keyward/core";
import type {
  CallerInfo,
  RecordedCall as CallInfo,
  RecordedChange as ChangeInfo,
  NewSecret as DomainSecret,
  NewToken as DomainToken,
  CallExplanation as ExplanationInfo,
  InjectionRule,
  IssuedToken as IssuedTokenInfo,
  KeyCensus as KeyCensusInfo,
  Page,
  SecretChange as SecretChangeInfo,
  SecretInfo,
  ServerInfo,
  TokenInfo,
  WorkspaceInfo,
} from "@keyward/secrets";
import type { z } from "zod";
import type { CallExplanation, RecordedCall } from "../schemas/call-schemas.ts";
import type { WhoAmI } from "../schemas/caller-schemas.ts";
import type { RecordedChange } from "../schemas/change-schemas.ts";
import type { KeyCensus, Rotation } from "../schemas/key-schemas.ts";
import type { newSecret, Secret, SecretChange } from "../schemas/secret-schemas.ts";
import type { Server, ServerState } from "../schemas/server-schemas.ts";
import { millisecondsOf, optionalTimeOf, timeOf } from "../schemas/times.ts";
import type { IssuedToken, newToken, Token } from "../schemas/token-schemas.ts";
import type { Workspace } from "../schemas/workspace-schemas.ts";
import type { SeenState } from "./server-states.ts";

// Converts the models of @keyward/secrets into answers of the API, and bodies of requests into arguments. Each field is
// listed, so that a new field of a model cannot get into an answer by accident.

export function toWhoAmI(info: CallerInfo, callUrl: string | undefined): WhoAmI {
  const { tokenId, owner, role, workspace, expires } = info;
  const where = { workspace: workspace ?? null, callUrl: callUrl ?? null };
  return { tokenId, owner, role, expires: optionalTimeOf(expires), ...where };
}

export function toWorkspace({ id, name, revision, created, retentionDays, deleting }: WorkspaceInfo): Workspace {
  return { id, name, revision, created: timeOf(created), retentionDays, deleting };
}

export function toServer(info: ServerInfo, state: SeenState): Server {
  const { slug, url, kind, forwardHeaders, relayHeaders, disabled, revision, created, secretCount, deleting } = info;
  return {
    slug,
    url,
    kind,
    forwardHeaders: [...forwardHeaders],
    relayHeaders: [...relayHeaders],
    disabled,
    revision,
    created: timeOf(created),
    secretCount,
    deleting,
    state: toServerState(state),
  };
}

function toServerState({ status, since, lastSeen, lastError }: SeenState): ServerState {
  return {
    status,
    since: optionalTimeOf(since),
    lastSeen: optionalTimeOf(lastSeen),
    lastError: lastError === undefined ? null : { at: timeOf(lastError.at), reason: lastError.reason },
  };
}

export function toSecret(info: SecretInfo): Secret {
  const { name, rule, revision, setAt, setBy, expires, lastUsed, weak, redacted, origin, unusable } = info;
  return {
    name,
    injection: toInjection(rule),
    revision,
    setAt: timeOf(setAt),
    setBy,
    expires: optionalTimeOf(expires),
    lastUsed: optionalTimeOf(lastUsed),
    weak,
    redacted,
    origin,
    unusable: unusable ?? null,
  };
}

export function toInjection(rule: InjectionRule): InjectionRule {
  switch (rule.kind) {
    case "header":
      return { kind: rule.kind, header: rule.header };
    case "bearer":
    case "basic":
      return { kind: rule.kind };
    case "template":
      return { kind: rule.kind, header: rule.header, template: rule.template };
    default:
      return rule satisfies never;
  }
}

export function toSecretChange({ secret, created, warnings }: SecretChangeInfo): SecretChange {
  return { secret: toSecret(secret), created, warnings: [...warnings] };
}

export function toToken(info: TokenInfo): Token {
  const { id, owner, role, servers, tools, methods, created, createdBy, expires, revoked, lastUsed } = info;
  return {
    id,
    owner,
    role,
    servers: servers === undefined ? null : [...servers],
    tools: tools === undefined ? null : [...tools],
    methods: methods === undefined ? null : [...methods],
    created: timeOf(created),
    createdBy,
    expires: optionalTimeOf(expires),
    revoked: optionalTimeOf(revoked),
    lastUsed: optionalTimeOf(lastUsed),
  };
}

export function toIssuedToken({ token, info }: IssuedTokenInfo, callUrl: string | undefined): IssuedToken {
  return { token, info: toToken(info), callUrl: callUrl ?? null };
}

export function toChange(info: ChangeInfo): RecordedChange {
  const { id, at, action, outcome, revision, caller, server, subject, detail } = info;
  const { tokenId, owner, role, address } = caller;
  return {
    id,
    at: timeOf(at),
    action,
    outcome,
    revision: revision ?? null,
    caller: { tokenId, owner, role, address: address ?? null },
    server: server ?? null,
    subject: subject ?? null,
    detail: detail ?? null,
  };
}

export function toCall(info: CallInfo): RecordedCall {
  const { callId, at, outcome, caller, server, method, path, mcpMethod, tool, status, reason, durationMs } = info;
  const { requestBytes, answerBytes, secrets, redactions } = info;
  const { tokenId, owner, role, address } = caller;
  return {
    callId,
    at: timeOf(at),
    outcome,
    caller: { tokenId, owner, role, address: address ?? null },
    server,
    method,
    path,
    mcpMethod: mcpMethod ?? null,
    tool: tool ?? null,
    status: status ?? null,
    reason: reason ?? null,
    durationMs,
    requestBytes,
    answerBytes,
    secrets: secrets.map(({ name, revision }) => ({ name, revision })),
    redactions,
  };
}

export function toExplanation({ token, server, secrets, refusals }: ExplanationInfo): CallExplanation {
  const { slug, kind, url, origin, host, revision } = server;
  return {
    token: { id: token.id, owner: token.owner, role: token.role },
    server: { slug, kind, url, origin, host, revision },
    secrets: secrets.map(({ name, revision: setAt, rule, header, redacted, unusable }) => ({
      name,
      revision: setAt,
      injection: toInjection(rule),
      header,
      redacted,
      unusable: unusable ?? null,
    })),
    refusals: [...refusals],
  };
}

export function toCensus({ primary, records, unreadable }: KeyCensusInfo): KeyCensus {
  return { primary, records: { ...records }, unreadable };
}

export function toRotation(status: RotationStatus): Rotation {
  const { id, kind, order, from, to, step, startedAtMs, disabledAtMs, generation } = status;
  return {
    id,
    kind,
    order: order ?? null,
    from,
    to,
    step,
    startedAt: timeOf(startedAtMs),
    disabledAt: optionalTimeOf(disabledAtMs),
    generation: generation ?? null,
  };
}

export function toPage<Item, Answer>({ items, next, unreadable = [] }: Page<Item>, answerOf: (item: Item) => Answer) {
  return { items: items.map(answerOf), next: next ?? null, unreadable: [...unreadable] };
}

export function fromNewSecret({ injection, expires, ...secret }: z.output<typeof newSecret>): DomainSecret {
  return { ...secret, rule: injection, expires: optionalMilliseconds(expires) };
}

export function fromNewToken({ expires, ...token }: z.output<typeof newToken>): DomainToken {
  return { ...token, expires: optionalMilliseconds(expires) };
}

/** Converts a time that a caller sent in RFC 3339 to milliseconds since the epoch. */
export function optionalMilliseconds(text: string | undefined): number | undefined {
  return text === undefined ? undefined : millisecondsOf(text);
}
