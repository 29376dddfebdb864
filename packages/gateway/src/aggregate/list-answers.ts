import { type ListKind, listKinds, listSources } from "./listed-items.ts";
import { codes, type Era, RpcFailure } from "./messages.ts";
import type { WorkspaceLists } from "./workspace-lists.ts";

const longestPage = 4 * 1_048_576;
/** How long a caller of the modern protocol may use a whole list again. */
const ttlMs = 5_000;

/** Returns the list that a method asks for. */
export function listKindOf(method: string): ListKind | undefined {
  return listKinds.find((kind) => listSources[kind].method === method);
}

/**
 * Returns the member `result` of the answer to a request for a list, as JSON: the entries of one server after another, from
 * the server on that the cursor names.
 *
 * @throws RpcFailure for an invalid cursor.
 */
export function listMember(lists: WorkspaceLists, kind: ListKind, era: Era, cursor: string | undefined): string {
  const from = cursor === undefined ? "" : Buffer.from(cursor, "base64url").toString("latin1");
  if (!/^[a-z0-9-]{0,32}$/.test(from)) {
    throw new RpcFailure({ code: codes.invalidParams, message: "The cursor is not one of this list" });
  }
  const parts: string[] = [];
  let length = 0;
  let next: string | undefined;
  for (const { slug, json } of lists.entries(kind, from)) {
    if (length > 0 && length + json.length > longestPage) {
      next = Buffer.from(slug, "latin1").toString("base64url");
      break;
    }
    parts.push(json);
    length += json.length;
  }
  const more = next === undefined ? "" : `,"nextCursor":"${next}"`;
  const cached = `"resultType":"complete","ttlMs":${lists.isWhole ? ttlMs : 0},"cacheScope":"private",`;
  return `"result":{${era === "modern" ? cached : ""}"${kind}":[${parts.join(",")}]${more}}`;
}
