import { type ListKind, listKinds, listSources } from "./listed-items.ts";
import { codes, type Era, RpcFailure } from "./messages.ts";
import type { WorkspaceLists } from "./workspace-lists.ts";

/** How long a caller of the modern protocol may cache a complete list, in milliseconds. */
const ttlMs = 5_000;

/** Returns the kind of list that a method requests; `undefined` for another method. */
export function listKindOf(method: string): ListKind | undefined {
  return listKinds.find((kind) => listSources[kind].method === method);
}

/**
 * Returns the pieces of the member `result` of the answer to a request for a list, as JSON: the entries of one server after another, from
 * the server on that the cursor names.
 *
 * @throws RpcFailure for an invalid cursor.
 */
export function listMember(
  lists: WorkspaceLists,
  kind: ListKind,
  era: Era,
  cursor: string | undefined,
): readonly Buffer[] {
  const from = cursor === undefined ? "" : Buffer.from(cursor, "base64url").toString("latin1");
  if (!/^[a-z0-9-]{0,32}$/.test(from)) {
    throw new RpcFailure({ code: codes.invalidParams, message: "The cursor is not one of this list" });
  }
  const { entries, next } = lists.page(kind, from);
  const more = next === undefined ? "" : `,"nextCursor":"${Buffer.from(next, "latin1").toString("base64url")}"`;
  const cached = `"resultType":"complete","ttlMs":${lists.isWhole ? ttlMs : 0},"cacheScope":"private",`;
  const head = `"result":{${era === "modern" ? cached : ""}"${kind}":[`;
  return [Buffer.from(head), entries, Buffer.from(`]${more}}`)];
}
