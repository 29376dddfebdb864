import type { AuditEntry, CalledSecret, ChangeAction, ChangeOutcome, Role } from "@keyward/secrets";

/** An entry of the audit as `keyward audit export` prints it. A property that entries of this kind lack is `null`. */
export interface AuditEntryResult {
  readonly kind: AuditEntry["kind"];
  readonly atMs: number;
  readonly workspace: string;
  readonly chain: string;
  readonly sequence: number;
  /** Random text, so that nobody can confirm a guess of the entry's content by its hash. */
  readonly nonce: string;
  readonly action: ChangeAction | null;
  readonly owner: string | null;
  readonly role: Role | null;
  readonly tokenId: string | null;
  readonly address: string | null;
  readonly server: string | null;
  readonly subject: string | null;
  readonly detail: string | null;
  /** The sequence number of the change whose outcome the entry records. */
  readonly change: number | null;
  readonly outcome: Exclude<ChangeOutcome, "unknown"> | null;
  readonly revision: number | null;
  readonly host: string | null;
  readonly processId: number | null;
  readonly callId: string | null;
  /** The HTTP method of a call. */
  readonly method: string | null;
  /** The shortened path of a call. */
  readonly path: string | null;
  readonly mcpMethod: string | null;
  readonly tool: string | null;
  /** The HTTP status of a call. Also `null` if the caller left before the answer. */
  readonly status: number | null;
  /** Why the gateway refused or aborted a call. Also `null` if the gateway did neither. */
  readonly reason: string | null;
  readonly durationMs: number | null;
  readonly requestBytes: number | null;
  readonly answerBytes: number | null;
  /** The secrets whose values the gateway put into the request to the server. */
  readonly secrets: readonly CalledSecret[] | null;
  readonly redactions: number | null;
}

const nothing = {
  action: null,
  owner: null,
  role: null,
  tokenId: null,
  address: null,
  server: null,
  subject: null,
  detail: null,
  change: null,
  outcome: null,
  revision: null,
  host: null,
  processId: null,
  callId: null,
  method: null,
  path: null,
  mcpMethod: null,
  tool: null,
  status: null,
  reason: null,
  durationMs: null,
  requestBytes: null,
  answerBytes: null,
  secrets: null,
  redactions: null,
};

/** Returns an entry of the audit as `keyward audit export` prints it. */
export function auditEntryResult(entry: AuditEntry): AuditEntryResult {
  const { kind, at: atMs, workspace, chain, sequence, nonce } = entry;
  const place = { kind, atMs, workspace, chain, sequence, nonce, ...nothing };
  switch (entry.kind) {
    case "chain-opened":
      return { ...place, host: entry.process.host, processId: entry.process.pid };
    case "chain-closed":
      return place;
    case "change": {
      const { action, caller, server = null, subject = null, detail = null } = entry;
      const { owner, role, tokenId, address = null } = caller;
      return { ...place, action, owner, role, tokenId, address, server, subject, detail };
    }
    case "outcome": {
      const { change, outcome, revision = null } = entry;
      return { ...place, change, outcome, revision };
    }
    case "call": {
      const {
        caller,
        callId,
        server,
        method,
        path,
        mcpMethod = null,
        tool = null,
        status = null,
        reason = null,
      } = entry;
      const { owner, role, tokenId, address = null } = caller;
      const { durationMs, requestBytes, answerBytes, secrets, redactions } = entry;
      return {
        ...place,
        owner,
        role,
        tokenId,
        address,
        server,
        callId,
        method,
        path,
        mcpMethod,
        tool,
        status,
        reason,
        durationMs,
        requestBytes,
        answerBytes,
        secrets,
        redactions,
      };
    }
  }
}
