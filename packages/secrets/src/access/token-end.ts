import { isEnded, type TokenRecord } from "../records/token-record.ts";
import type { ReadBatch } from "../store/service-store.ts";
import { isValid } from "./authentication.ts";

/** Why a token that was valid is refused now. */
export type TokenEnd = "TOKEN_EXPIRED" | "TOKEN_REVOKED";

/**
 * Returns why a token is refused; `undefined` for a valid token. A token without a record counts as revoked, and so does
 * each token of a workspace that is being deleted.
 *
 * @param batch a batch in which the records under `keysOfToken` were read.
 * @throws the errors of {@link ReadBatch.record}.
 */
export function endOfToken(token: TokenRecord | undefined, workspace: string, batch: ReadBatch): TokenEnd | undefined {
  if (token !== undefined && isValid(token, workspace, batch)) return undefined;
  const hasExpired = token !== undefined && token.revoked === undefined && isEnded(token, Date.now());
  return hasExpired ? "TOKEN_EXPIRED" : "TOKEN_REVOKED";
}
