import { timingSafeEqual } from "node:crypto";
import { installation, serviceKey, tokenKey, workspaceKey } from "../records/record-keys.ts";
import { serviceRecord } from "../records/service-record.ts";
import { isEnded, type TokenRecord, tokenRecord } from "../records/token-record.ts";
import { workspaceRecord } from "../records/workspace-record.ts";
import { SecretsError } from "../secrets-error.ts";
import type { ReadBatch, ServiceStore } from "../store/service-store.ts";
import { type Caller, checkedCaller, isLocal } from "./caller.ts";
import { asListed } from "./keepers.ts";
import { hashOfToken, readTokenText, type TokenParts } from "./token-text.ts";

const noHash = Buffer.alloc(32);

/** A token whose text has the right form and checksum. It was not yet compared with the stored records. */
export interface PresentedToken extends TokenParts {
  /** The keys of the records that {@link requireCaller} needs. */
  readonly keys: readonly string[];
  readonly hash: Buffer;
}

/**
 * Reads the text of a token, without asking the store.
 *
 * @throws SecretsError `TOKEN_REFUSED` if the text is not a token.
 */
export function presentedToken(text: string): PresentedToken {
  const parts = readTokenText(text);
  if (parts === undefined) throw tokenRefused();
  return { ...parts, keys: keysOfToken(parts), hash: hashOfToken(text) };
}

/**
 * Checks a token against its stored records, and returns the caller and the record of the token.
 *
 * @param batch a batch in which the records under `token.keys` were read.
 * @throws SecretsError `TOKEN_REFUSED` if the token is unknown, altered, revoked or expired, or if its workspace is being
 * deleted; the errors of {@link ReadBatch.record}.
 */
export function requireCaller(
  { workspace, id, hash }: PresentedToken,
  batch: ReadBatch,
  address: string | undefined,
): { readonly caller: Caller; readonly token: TokenRecord } {
  const record = batch.record(tokenRecord, tokenKey(workspace, id))?.value;
  const expected = record === undefined ? noHash : Buffer.from(record.hash, "base64url");
  const isRight = expected.length === hash.length && timingSafeEqual(expected, hash);
  if (record === undefined || !isRight || record.id !== id || !isValid(record, workspace, batch)) throw tokenRefused();
  const caller = checkedCaller({
    tokenId: id,
    owner: record.owner,
    role: record.role,
    workspace: workspace === installation ? undefined : workspace,
    expires: record.expires,
    address,
  });
  return { caller, token: record };
}

/**
 * Checks again that the token of a caller is valid. Call this function before a change, because the call may have
 * waited since the first check: for the rest of its body, or for the audit.
 *
 * @throws SecretsError `TOKEN_REFUSED` if the token was revoked or has expired since it was checked.
 */
export async function requireStillValid(store: ServiceStore, caller: Caller): Promise<void> {
  if (isLocal(caller)) return;
  const parts = { workspace: caller.workspace ?? installation, id: caller.tokenId };
  const batch = await store.readBatch(keysOfToken(parts));
  const record = batch.record(tokenRecord, tokenKey(parts.workspace, parts.id))?.value;
  if (record?.role !== caller.role || !isValid(record, parts.workspace, batch)) throw tokenRefused();
}

/** Returns the keys of the records that decide whether a token is valid. */
export function keysOfToken({ workspace, id }: Pick<TokenParts, "workspace" | "id">): readonly string[] {
  const token = tokenKey(workspace, id);
  return workspace === installation ? [serviceKey, token] : [serviceKey, workspaceKey(workspace), token];
}

/**
 * Returns whether the token with this record is valid now. The token of an admin or operator is valid only while the
 * workspace or the installation lists the token. So an attacker cannot make a token valid by putting back an old record
 * of the token.
 */
export function isValid(token: TokenRecord, workspace: string, batch: ReadBatch): boolean {
  const now = Date.now();
  const service = batch.record(serviceRecord, serviceKey)?.value;
  if (service === undefined || service.initializing !== undefined) return false;
  if (token.created < (service.refusedBefore ?? 0)) return false;
  // A token from before a revocation was created later than that only by a clock that was ahead.
  const { lastRevocation = 0 } = token;
  const nextRevocation = service.revocations?.find((at) => at > lastRevocation);
  if (nextRevocation !== undefined && token.created > nextRevocation) return false;
  if ((token.role === "operator") !== (workspace === installation)) return false;
  const home = workspace === installation ? undefined : batch.record(workspaceRecord, workspaceKey(workspace))?.value;
  if (workspace !== installation && home?.deleting !== false) return false;
  const listed = asListed(token, home?.admins ?? service.operators);
  return listed !== undefined && !isEnded(listed, now);
}

function tokenRefused(): SecretsError {
  return new SecretsError("TOKEN_REFUSED", "The token was refused", {
    hint: "Check that the whole token was sent. If the token has expired or was revoked, ask an admin of the workspace for a new one.",
  });
}
