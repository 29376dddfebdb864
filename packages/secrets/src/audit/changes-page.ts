import { type EncryptedStore, KeywardError } from "@keyward/core";
import type { ChangeFilter, Page, PageRequest, RecordedChange } from "../model.ts";
import { isOfRecord } from "../records/record-errors.ts";
import { SecretsError } from "../secrets-error.ts";
import {
  type AuditEntry,
  type ChangeEntry,
  kindNumbers,
  type OutcomeEntry,
  parseJson,
  tryToParseEntry,
} from "./audit-entry.ts";
import type { AuditNames, NameKind } from "./audit-names.ts";
import type { EntriesQuery, EntryRow } from "./audit-rows.ts";
import type { AuditThread } from "./audit-thread.ts";
import { formatRecordKey, isChain, serviceWorkspace } from "./record-key.ts";

const mostOnPage = 100;
const defaultOnPage = 50;

/** The parts of the audit that a page of changes or calls needs. */
export interface PageSource {
  readonly thread: AuditThread;
  readonly encrypted: EncryptedStore;
  readonly names: AuditNames;
}

/**
 * Reads a page of the changes of one workspace, newest first.
 *
 * @throws SecretsError `FIELD_INVALID` for a limit outside 1 to 100, and for a cursor of another workspace.
 */
export async function readChanges(
  { thread, encrypted, names }: PageSource,
  workspace: string,
  filter: ChangeFilter,
  page: PageRequest,
): Promise<Page<RecordedChange>> {
  const limit = requireLimit(page.limit);
  const before = page.cursor === undefined ? undefined : parseCursor(workspace, page.cursor);
  const { from, until } = filter;
  const tags: { [Kind in NameKind]?: string } = {};
  for (const kind of ["owner", "server", "action"] as const) {
    const name = filter[kind];
    if (name === undefined) continue;
    const tag = await names.find(workspace, kind, name);
    if (tag === undefined) return { items: [], next: undefined };
    tags[kind] = tag;
  }
  const query: EntriesQuery = {
    workspace,
    kind: kindNumbers.change,
    owner: tags.owner,
    server: tags.server,
    action: tags.action,
    from,
    until,
    before,
    limit: limit + 1,
  };
  const found = await thread.request<EntryRow[]>({ method: "entries", query });
  const rows = found.slice(0, limit);
  const keys = rows.flatMap(({ chain, sequence, outcome }) =>
    [sequence, ...(outcome === undefined ? [] : [outcome])].map((number) =>
      formatRecordKey({ kind: "entry", workspace, chain, sequence: number }),
    ),
  );
  const values = await encrypted.getManyOrErrors(keys);
  const read = new Map(keys.map((key, index) => [key, values[index]]));
  const items: RecordedChange[] = [];
  const unreadable: string[] = [];
  for (const row of rows) {
    const { chain, sequence, outcome } = row;
    const value = read.get(formatRecordKey({ kind: "entry", workspace, chain, sequence }));
    // Retention may have removed the entry since its row was read.
    if (value === undefined) continue;
    const change = entryOf(value);
    const ended =
      outcome === undefined
        ? undefined
        : entryOf(read.get(formatRecordKey({ kind: "entry", workspace, chain, sequence: outcome })));
    const isOutcome = ended?.kind === "outcome" && ended.change === sequence;
    if (change?.kind === "change") items.push(recordedChange(change, isOutcome ? ended : undefined));
    if (change?.kind !== "change" || (outcome !== undefined && !isOutcome)) unreadable.push(changeId(row));
  }
  const last = rows.at(-1);
  const next = found.length > limit && last !== undefined ? formatCursor(workspace, last) : undefined;
  return { items, next, ...(unreadable.length === 0 ? {} : { unreadable }) };
}

/** Returns the id of a change, as pages and commands show it. */
export function changeId({ chain, sequence }: { readonly chain: string; readonly sequence: number }): string {
  return `${chain}-${sequence}`;
}

/**
 * Returns the entry that a read has returned; `undefined` if there is no entry that this release reads.
 *
 * @throws KeywardError if the file or the keys cannot be used at all.
 */
export function entryOf(value: unknown): AuditEntry | undefined {
  if (value instanceof KeywardError && !isOfRecord(value)) throw value;
  return typeof value === "string" ? tryToParseEntry(value) : undefined;
}

function recordedChange(change: ChangeEntry, outcome: OutcomeEntry | undefined): RecordedChange {
  const { action, caller, workspace, server, subject, detail, at } = change;
  return {
    id: changeId(change),
    at,
    action,
    workspace: workspace === serviceWorkspace ? undefined : workspace,
    caller: { tokenId: caller.tokenId, owner: caller.owner, role: caller.role, address: caller.address },
    server,
    subject,
    detail,
    outcome: outcome?.outcome ?? "unknown",
    revision: outcome?.revision,
  };
}

// A cursor has the place of an entry that its page shows. The number of the row would tell how many entries other
// workspaces have.
export function formatCursor(workspace: string, { time, chain, sequence }: EntryRow): string {
  return Buffer.from(JSON.stringify([workspace, time, chain, sequence])).toString("base64url");
}

export function parseCursor(workspace: string, cursor: string): EntriesQuery["before"] {
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

export function requireLimit(limit: number = defaultOnPage): number {
  if (Number.isInteger(limit) && limit >= 1 && limit <= mostOnPage) return limit;
  throw new SecretsError("FIELD_INVALID", `The limit of a page must be an integer from 1 to ${mostOnPage}`, {
    hint: "Read several pages for more.",
  });
}
