import { type EncryptedStore, KeywardError } from "@keyward/core";
import type { ChangeFilter, Page, PageRequest, RecordedChange } from "../model.ts";
import { SecretsError } from "../secrets-error.ts";
import { type AuditEntry, kindNumbers, parseEntry, parseJson } from "./audit-entry.ts";
import type { AuditNames, NameKind } from "./audit-names.ts";
import type { ChangeRow, ChangesQuery } from "./audit-rows.ts";
import type { AuditThread } from "./audit-thread.ts";
import { formatRecordKey, serviceWorkspace } from "./record-key.ts";

const mostOnPage = 100;
const defaultOnPage = 50;

/** The parts of the audit that a page of changes needs. */
export interface ChangesSource {
  readonly thread: AuditThread;
  readonly encrypted: EncryptedStore;
  readonly names: AuditNames;
}

/**
 * Reads a page of the changes of one workspace, newest first.
 *
 * @throws SecretsError `FIELD_INVALID` for a limit outside 1 to 100, and for a cursor of another workspace;
 * `AUDIT_INVALID` if an entry cannot be decrypted.
 */
export async function readChanges(
  { thread, encrypted, names }: ChangesSource,
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
  const query: ChangesQuery = {
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
  const found = await thread.request<ChangeRow[]>({ method: "changes", query });
  const rows = found.slice(0, limit);
  const keys = rows.flatMap(({ chain, sequence, outcome }) =>
    [sequence, ...(outcome === undefined ? [] : [outcome])].map((number) =>
      formatRecordKey({ kind: "entry", workspace, chain, sequence: number }),
    ),
  );
  const texts = await readAll(encrypted, keys);
  const items = rows.flatMap(({ chain, sequence, outcome }) => {
    const change = texts.get(formatRecordKey({ kind: "entry", workspace, chain, sequence }));
    // Retention may have removed the entry since its row was read.
    if (change === undefined) return [];
    const ended =
      outcome === undefined
        ? undefined
        : texts.get(formatRecordKey({ kind: "entry", workspace, chain, sequence: outcome }));
    return [recordedChange(parseEntry(change), ended === undefined ? undefined : parseEntry(ended))];
  });
  const last = rows.at(-1);
  return { items, next: found.length > limit && last !== undefined ? formatCursor(workspace, last) : undefined };
}

/** Returns the id of a change, as pages and commands show it. */
export function changeId({ chain, sequence }: { readonly chain: string; readonly sequence: number }): string {
  return `${chain}-${sequence}`;
}

async function readAll(encrypted: EncryptedStore, keys: readonly string[]): Promise<Map<string, string>> {
  const values = await encrypted.getManyOrErrors(keys);
  const texts = new Map<string, string>();
  for (const [index, key] of keys.entries()) {
    const value = values[index];
    if (value instanceof KeywardError) {
      throw new SecretsError("AUDIT_INVALID", `An entry of the audit cannot be read: ${value.message}`, {
        hint: `${value.hint} Run \`keyward audit verify\`.`,
        cause: value,
      });
    }
    if (typeof value === "string") texts.set(key, value);
  }
  return texts;
}

function recordedChange(change: AuditEntry, ended: AuditEntry | undefined): RecordedChange {
  const outcome = ended?.kind === "outcome" && ended.change === change.sequence ? ended : undefined;
  if (change.kind !== "change" || outcome !== ended) {
    throw new SecretsError("AUDIT_INVALID", "A row of the audit file has another kind than its entry", {
      hint: "Find out which program writes to the audit file, and stop that program. Run `keyward audit verify`.",
    });
  }
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

function formatCursor(workspace: string, { time, id }: ChangeRow): string {
  return Buffer.from(JSON.stringify([workspace, time, id])).toString("base64url");
}

function parseCursor(workspace: string, cursor: string): { readonly time: number; readonly id: number } {
  const parts = cursor.length > 200 ? undefined : parseJson(Buffer.from(cursor, "base64url").toString());
  if (Array.isArray(parts) && parts.length === 3) {
    const [owner, time, id]: unknown[] = parts;
    if (owner === workspace && isNumber(time) && isNumber(id)) return { time, id };
  }
  throw new SecretsError("FIELD_INVALID", "The cursor does not belong to the changes of this workspace", {
    hint: "Pass the `next` of the previous page, or omit the cursor to begin with the newest changes.",
  });
}

function isNumber(value: unknown): value is number {
  return Number.isSafeInteger(value);
}

function requireLimit(limit: number = defaultOnPage): number {
  if (Number.isInteger(limit) && limit >= 1 && limit <= mostOnPage) return limit;
  throw new SecretsError("FIELD_INVALID", `The limit of a page must be an integer from 1 to ${mostOnPage}`, {
    hint: "Read several pages for more changes.",
  });
}
