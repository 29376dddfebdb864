import type { ChangeFilter, Page, PageRequest, RecordedChange } from "../model.ts";
import { type ChangeEntry, kindNumbers, type OutcomeEntry } from "./audit-entry.ts";
import { entryId, entryOf, type PageSource, selectEntries } from "./entries-page.ts";
import { formatRecordKey, serviceWorkspace } from "./record-key.ts";

/**
 * Reads a page of the changes of one workspace, newest first.
 *
 * @throws SecretsError `FIELD_INVALID` for a limit outside 1 to 100, and for a cursor of another workspace.
 */
export async function readChanges(
  source: PageSource,
  workspace: string,
  { owner, server, action, from, until }: ChangeFilter,
  page: PageRequest,
): Promise<Page<RecordedChange>> {
  const query = { kind: kindNumbers.change, names: { owner, server, action }, from, until };
  const { rows, next } = await selectEntries(source, workspace, query, page);
  const keys = rows.flatMap(({ chain, sequence, outcome }) =>
    [sequence, ...(outcome === undefined ? [] : [outcome])].map((number) =>
      formatRecordKey({ kind: "entry", workspace, chain, sequence: number }),
    ),
  );
  const values = await source.encrypted.getManyOrErrors(keys);
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
    if (change?.kind !== "change" || (outcome !== undefined && !isOutcome)) unreadable.push(entryId(row));
  }
  return { items, next, ...(unreadable.length === 0 ? {} : { unreadable }) };
}

function recordedChange(change: ChangeEntry, outcome: OutcomeEntry | undefined): RecordedChange {
  const { action, caller, workspace, server, subject, detail, at } = change;
  return {
    id: entryId(change),
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
