import { type EncryptedStore, KeywardError } from "@keyward/core";
import type { PageRequest } from "../model.ts";
import { isOfRecord } from "../records/record-errors.ts";
import { SecretsError } from "../secrets-error.ts";
import { type AuditEntry, parseJson, tryToParseEntry } from "./audit-entry.ts";
import type { AuditNames, NameKind } from "./audit-names.ts";
import type { EntriesQuery, EntryRow } from "./audit-rows.ts";
import type { AuditThread } from "./audit-thread.ts";
import { isChain } from "./record-key.ts";

const mostOnPage = 100;
const defaultOnPage = 50;

/** The parts of the audit that a page of changes or calls needs. */
export interface PageSource {
  readonly thread: AuditThread;
  readonly encrypted: EncryptedStore;
  readonly names: AuditNames;
}

/** The filter for the entries of a page. */
export interface PageQuery extends Pick<EntriesQuery, "kind" | "status" | "from" | "until"> {
  /** The names that the entries must have; `undefined` for any name. */
  readonly names: Readonly<Partial<Record<NameKind, string | undefined>>>;
}

/** The rows of a page, and the cursor of the next page. */
export interface SelectedEntries {
  readonly rows: readonly EntryRow[];
  readonly next: string | undefined;
}

/**
 * Selects the entries of a page, newest first.
 *
 * @throws SecretsError `FIELD_INVALID` for a limit outside 1 to 100, and for a cursor of another workspace.
 */
export async function selectEntries(
  { thread, names }: PageSource,
  workspace: string,
  { names: wanted, ...filter }: PageQuery,
  page: PageRequest,
): Promise<SelectedEntries> {
  const limit = requireLimit(page.limit);
  const before = page.cursor === undefined ? undefined : parseCursor(workspace, page.cursor);
  const tags: { [Kind in NameKind]?: string } = {};
  for (const kind of ["owner", "server", "token", "action"] as const) {
    const name = wanted[kind];
    if (name === undefined) continue;
    const tag = await names.find(workspace, kind, name);
    // No entry has a name that the dictionary does not have.
    if (tag === undefined) return { rows: [], next: undefined };
    tags[kind] = tag;
  }
  const query: EntriesQuery = { workspace, ...filter, ...tags, before, limit: limit + 1 };
  const found = await thread.request<EntryRow[]>({ method: "entries", query });
  const rows = found.slice(0, limit);
  const last = rows.at(-1);
  const next = found.length > limit && last !== undefined ? formatCursor(workspace, last) : undefined;
  return { rows, next };
}

/** Returns the id of an entry, as pages and commands show it. */
export function entryId({ chain, sequence }: { readonly chain: string; readonly sequence: number }): string {
  return `${chain}-${sequence}`;
}

/**
 * Returns the entry in the result of a read; `undefined` if the result is missing, an error about this record, or no
 * entry of this release.
 *
 * @throws KeywardError if the file or the keys cannot be used at all.
 */
export function entryOf(value: unknown): AuditEntry | undefined {
  if (value instanceof KeywardError && !isOfRecord(value)) throw value;
  return typeof value === "string" ? tryToParseEntry(value) : undefined;
}

// A cursor has the place of an entry that its page shows. The number of the row would tell how many entries other
// workspaces have.
function formatCursor(workspace: string, { time, chain, sequence }: EntryRow): string {
  return Buffer.from(JSON.stringify([workspace, time, chain, sequence])).toString("base64url");
}

function parseCursor(workspace: string, cursor: string): EntriesQuery["before"] {
  const parts = cursor.length > 200 ? undefined : parseJson(Buffer.from(cursor, "base64url").toString());
  if (Array.isArray(parts) && parts.length === 4) {
    const [owner, time, chain, sequence]: unknown[] = parts;
    const isPlace = typeof chain === "string" && isChain(chain) && isNumber(sequence);
    if (owner === workspace && isNumber(time) && isPlace) return { time, chain, sequence };
  }
  throw new SecretsError("FIELD_INVALID", "The cursor does not belong to this list of the workspace", {
    hint: "Pass the `next` of the previous page, or omit the cursor to begin with the newest.",
  });
}

function isNumber(value: unknown): value is number {
  return Number.isSafeInteger(value);
}

function requireLimit(limit: number = defaultOnPage): number {
  if (Number.isInteger(limit) && limit >= 1 && limit <= mostOnPage) return limit;
  throw new SecretsError("FIELD_INVALID", `The limit of a page must be an integer from 1 to ${mostOnPage}`, {
    hint: "Pass a limit in this range. For more entries, read further pages.",
  });
}
