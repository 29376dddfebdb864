import { keysOfToken } from "../access/authentication.ts";
import type { Caller } from "../access/caller.ts";
import { hasRight } from "../access/rights.ts";
import { endOfToken, type TokenEnd } from "../access/token-end.ts";
import type { ServerKind } from "../model.ts";
import { installation, serverKey, tokenKey } from "../records/record-keys.ts";
import { type ServerRecord, serverRecord } from "../records/server-record.ts";
import { type TokenRecord, tokenRecord } from "../records/token-record.ts";
import type { ReadBatch, ServiceStore } from "../store/service-store.ts";
import { scopesWithout } from "./token-scope.ts";

/** The fields of a call in progress that {@link endedCalls} needs. A `CallGrant` has these fields. */
export interface OpenCall {
  /** Who made the call. */
  readonly caller: Caller;
  /** The server of the call, as it was when the call began. */
  readonly server: { readonly id: string; readonly slug: string; readonly kind: ServerKind };
  /** The tool that was called. `undefined` if no tool was called. */
  readonly tool?: string | undefined;
  /** The HTTP method of the call. `undefined` to skip the check of the method. */
  readonly method?: string | undefined;
}

/**
 * Why a call in progress must end.
 *
 * - `TOKEN_REVOKED`: the token was revoked, or its workspace is being deleted.
 * - `TOKEN_EXPIRED`: the token has expired.
 * - `TOKEN_NARROWED`: the scopes or the role of the token no longer allow the call.
 * - `SERVER_DISABLED`: an admin has disabled the server.
 * - `SERVER_REMOVED`: the server was deleted. Another server may have its slug by now.
 * - `RECORD_UNREADABLE`: a record of the token or the server cannot be read, so nothing shows that the call is allowed.
 */
export type CallEnd = TokenEnd | "TOKEN_NARROWED" | "SERVER_DISABLED" | "SERVER_REMOVED" | "RECORD_UNREADABLE";

/** A call in progress that must end. */
export interface EndedCall<Call extends OpenCall> {
  /** The call, as it was passed. */
  readonly call: Call;
  /** Why the call must end. */
  readonly reason: CallEnd;
  /** The error of a record that cannot be read. `undefined` for another reason. */
  readonly problem: unknown;
}

/**
 * Reads the tokens and servers of calls in progress again, in one call to the store, and returns the calls that must
 * end. If a record cannot be read, only the calls that depend on this record must end.
 */
export async function endedCalls<Call extends OpenCall>(
  store: ServiceStore,
  calls: readonly Call[],
): Promise<readonly EndedCall<Call>[]> {
  if (calls.length === 0) return [];
  const keys = new Set<string>();
  for (const call of calls) {
    for (const key of keysOfToken(tokenOf(call))) keys.add(key);
    keys.add(serverKey(tokenOf(call).workspace, call.server.slug));
  }
  const batch = await store.readJointly([...keys]);
  const records = new Records(batch);
  return calls.flatMap((call): EndedCall<Call>[] => {
    try {
      const reason = endOf(call, records);
      return reason === undefined ? [] : [{ call, reason, problem: undefined }];
    } catch (problem) {
      return [{ call, reason: "RECORD_UNREADABLE", problem }];
    }
  });
}

interface TokenState {
  readonly token: TokenRecord | undefined;
  readonly end: TokenEnd | undefined;
}

/** The records of one batch. Each is checked once, because many calls share a token and a server. */
class Records {
  readonly #batch: ReadBatch;
  readonly #tokens = new Map<string, () => TokenState>();
  readonly #servers = new Map<string, () => ServerRecord | undefined>();

  constructor(batch: ReadBatch) {
    this.#batch = batch;
  }

  token(workspace: string, id: string): TokenState {
    return once(this.#tokens, tokenKey(workspace, id), (key) => {
      const token = this.#batch.record(tokenRecord, key)?.value;
      return { token, end: endOfToken(token, workspace, this.#batch) };
    });
  }

  server(workspace: string, slug: string): ServerRecord | undefined {
    return once(this.#servers, serverKey(workspace, slug), (key) => this.#batch.record(serverRecord, key)?.value);
  }
}

/** Returns what `read` has returned for a key, or throws what it has thrown. */
function once<Result>(known: Map<string, () => Result>, key: string, read: (key: string) => Result): Result {
  let outcome = known.get(key);
  if (outcome === undefined) {
    try {
      const result = read(key);
      outcome = () => result;
    } catch (error) {
      outcome = () => {
        throw error;
      };
    }
    known.set(key, outcome);
  }
  return outcome();
}

function tokenOf({ caller }: OpenCall): { readonly workspace: string; readonly id: string } {
  return { workspace: caller.workspace ?? installation, id: caller.tokenId };
}

function endOf(call: OpenCall, records: Records): CallEnd | undefined {
  const { workspace, id } = tokenOf(call);
  const { id: serverId, slug, kind } = call.server;
  const { token, end } = records.token(workspace, id);
  if (token === undefined || end !== undefined) return end ?? "TOKEN_REVOKED";
  const target = { server: slug, kind, tool: call.tool, method: call.method };
  if (!hasRight(token.role, "servers.call") || scopesWithout(token, target).length > 0) return "TOKEN_NARROWED";
  const server = records.server(workspace, slug);
  if (server?.id !== serverId || server.deleting) return "SERVER_REMOVED";
  return server.disabled ? "SERVER_DISABLED" : undefined;
}
