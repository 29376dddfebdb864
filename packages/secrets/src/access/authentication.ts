import { timingSafeEqual } from "node:crypto";
import { installation, serviceKey, tokenKey, workspaceKey } from "../records/record-keys.ts";
import { serviceRecord } from "../records/service-record.ts";
import { type TokenRecord, tokenRecord } from "../records/token-record.ts";
import { workspaceRecord } from "../records/workspace-record.ts";
import { SecretsError } from "../secrets-error.ts";
import type { ReadBatch } from "../store/service-store.ts";
import { type Caller, checkedCaller } from "./caller.ts";
import { hashOfToken, readTokenText, type TokenParts } from "./token-text.ts";

const noHash = Buffer.alloc(32);

/** A token whose text has the right form and checksum. The store has not been asked yet. */
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
  const { workspace, id } = parts;
  const home = workspace === installation ? serviceKey : workspaceKey(workspace);
  return { ...parts, keys: [home, tokenKey(workspace, id)], hash: hashOfToken(text) };
}

/**
 * Checks a token against its stored records, and returns the caller and the record of the token.
 *
 * @param batch a batch in which the records under `token.keys` were read.
 * @throws SecretsError `TOKEN_REFUSED` if the token is unknown, altered, revoked or expired, or if its workspace is being
 * deleted; the errors of {@link ReadBatch.record}.
 */
export function requireCaller(
  { workspace, id, hash, keys: [home = ""] }: PresentedToken,
  batch: ReadBatch,
  address: string | undefined,
): { readonly caller: Caller; readonly token: TokenRecord } {
  const record = batch.record(tokenRecord, tokenKey(workspace, id))?.value;
  const expected = record === undefined ? noHash : Buffer.from(record.hash, "base64url");
  const isRight = expected.length === hash.length && timingSafeEqual(expected, hash);
  if (record === undefined || !isRight || record.id !== id || isEnded(record, Date.now())) throw tokenRefused();
  const isOperator = record.role === "operator";
  if (isOperator !== (workspace === installation)) throw tokenRefused();
  const isActive = isOperator
    ? batch.record(serviceRecord, home) !== undefined
    : batch.record(workspaceRecord, home)?.value.deleting === false;
  if (!isActive) throw tokenRefused();
  const caller = checkedCaller({
    tokenId: id,
    owner: record.owner,
    role: record.role,
    workspace: isOperator ? undefined : workspace,
    expires: record.expires,
    address,
  });
  return { caller, token: record };
}

/** Returns whether a token was revoked or has expired. */
export function isEnded({ revoked, expires }: Pick<TokenRecord, "revoked" | "expires">, now: number): boolean {
  return revoked !== undefined || (expires !== undefined && expires <= now);
}

function tokenRefused(): SecretsError {
  return new SecretsError("TOKEN_REFUSED", "The token was refused", {
    hint: "Check that the whole token was sent. If the token has expired or was revoked, ask an admin of the workspace for a new one.",
  });
}
