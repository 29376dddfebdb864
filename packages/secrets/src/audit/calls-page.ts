import type { CallFilter, Page, PageRequest, RecordedCall } from "../model.ts";
import { SecretsError } from "../secrets-error.ts";
import {
  type CallEntry,
  callIdPattern,
  callStatuses,
  kindNumbers,
  numberOfCall,
  outcomeOfCall,
} from "./audit-entry.ts";
import type { EntryAt } from "./audit-rows.ts";
import { entryId, entryOf, type PageSource, selectEntries } from "./entries-page.ts";
import { formatRecordKey } from "./record-key.ts";

/**
 * Reads a page of the calls of one workspace. The call that ended last is the first.
 *
 * @throws SecretsError `FIELD_INVALID` for a limit outside 1 to 100, and for a cursor of another workspace.
 */
export async function readCalls(
  source: PageSource,
  workspace: string,
  { owner, server, token, tool, outcome, from, until }: CallFilter,
  page: PageRequest,
): Promise<Page<RecordedCall>> {
  const status = outcome === undefined ? undefined : callStatuses[outcome];
  const query = { kind: kindNumbers.call, names: { owner, server, token, action: tool }, status, from, until };
  const { rows, next } = await selectEntries(source, workspace, query, page);
  const values = await source.encrypted.getManyOrErrors(rows.map((row) => keyOf(workspace, row)));
  const items: RecordedCall[] = [];
  const unreadable: string[] = [];
  for (const [index, row] of rows.entries()) {
    const value = values[index];
    // Retention may have removed the entry since its row was read.
    if (value === undefined) continue;
    const call = entryOf(value);
    if (call?.kind === "call") items.push(recordedCall(call));
    else unreadable.push(entryId(row));
  }
  return { items, next, ...(unreadable.length === 0 ? {} : { unreadable }) };
}

/**
 * Reads a call of one workspace by its id. Returns `undefined` if the audit has no such call.
 *
 * @throws SecretsError `AUDIT_INVALID` if the entry of the call cannot be read.
 */
export async function readCall(
  { thread, encrypted }: PageSource,
  workspace: string,
  id: string,
): Promise<RecordedCall | undefined> {
  if (!callIdPattern.test(id)) return undefined;
  const number = numberOfCall(id);
  const places = await thread.request<EntryAt[]>({ method: "call", workspace, kind: kindNumbers.call, number });
  const values = places.length === 0 ? [] : await encrypted.getManyOrErrors(places.map((at) => keyOf(workspace, at)));
  const entries = values.filter((value) => value !== undefined).map(entryOf);
  const call = entries.find((entry) => entry?.kind === "call" && entry.callId === id);
  if (call?.kind === "call") return recordedCall(call);
  if (entries.every((entry) => entry?.kind === "call")) return undefined;
  throw new SecretsError("AUDIT_INVALID", "The entry of the call cannot be read", {
    hint: "Run `keyward audit verify`, and restore a backup of the audit file.",
  });
}

function keyOf(workspace: string, { chain, sequence }: EntryAt): string {
  return formatRecordKey({ kind: "entry", workspace, chain, sequence });
}

function recordedCall(call: CallEntry): RecordedCall {
  const { callId, at, workspace, caller, server, method, path, mcpMethod, tool, status, reason, durationMs } = call;
  const { requestBytes, answerBytes, secrets, redactions } = call;
  return {
    callId,
    // The entry has the time at which the call ended.
    at: at - durationMs,
    workspace,
    caller: { tokenId: caller.tokenId, owner: caller.owner, role: caller.role, address: caller.address },
    server,
    method,
    path,
    mcpMethod,
    tool,
    status,
    reason,
    durationMs,
    requestBytes,
    answerBytes,
    secrets: secrets.map(({ name, revision }) => ({ name, revision })),
    redactions,
    outcome: outcomeOfCall(call),
  };
}
