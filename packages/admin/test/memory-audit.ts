import { randomUUID } from "node:crypto";
import type {
  AuditLog,
  BegunChange,
  Call,
  CallFilter,
  Change,
  ChangeFilter,
  ChangeOutcome,
  Page,
  PageRequest,
  RecordedCall,
  RecordedChange,
} from "@keyward/secrets";
import { SecretsError } from "@keyward/secrets";

/** An audit log in memory. */
export class MemoryAudit implements AuditLog {
  readonly entries: RecordedChange[] = [];
  readonly recordedCalls: RecordedCall[] = [];
  /** While this is true, the log refuses every entry. */
  away = false;

  async begin(change: Change): Promise<BegunChange> {
    this.#requireHere();
    const id = randomUUID();
    const at = Date.now();
    this.entries.unshift({ ...change, id, at, outcome: "unknown", revision: undefined });
    const end = async (outcome: Exclude<ChangeOutcome, "unknown">, revision?: number) => {
      const index = this.entries.findIndex((entry) => entry.id === id);
      this.entries[index] = { ...change, id, at, outcome, revision };
    };
    return { id, end };
  }

  async changes(
    workspace: string | undefined,
    { owner, server, action, from = 0, until = Number.POSITIVE_INFINITY }: ChangeFilter,
    { cursor, limit = 50 }: PageRequest,
  ): Promise<Page<RecordedChange>> {
    this.#requireHere();
    const all = this.entries.filter(
      (entry) =>
        entry.workspace === workspace &&
        (owner === undefined || entry.caller.owner === owner) &&
        (server === undefined || entry.server === server) &&
        (action === undefined || entry.action === action) &&
        entry.at >= from &&
        entry.at < until,
    );
    return pageOf(all, ({ id }) => id, cursor, limit);
  }

  requireWritable(): void {
    this.#requireHere();
  }

  async recordCall(call: Call): Promise<void> {
    this.#requireHere();
    const outcome = call.reason === undefined ? "answered" : "refused";
    this.recordedCalls.unshift({ ...call, outcome });
  }

  async calls(
    workspace: string,
    { owner, server, tool, token, outcome, from = 0, until = Number.POSITIVE_INFINITY }: CallFilter,
    { cursor, limit = 50 }: PageRequest,
  ): Promise<Page<RecordedCall>> {
    this.#requireHere();
    const all = this.recordedCalls.filter(
      (call) =>
        call.workspace === workspace &&
        (owner === undefined || call.caller.owner === owner) &&
        (server === undefined || call.server === server) &&
        (tool === undefined || call.tool === tool) &&
        (token === undefined || call.caller.tokenId === token) &&
        (outcome === undefined || call.outcome === outcome) &&
        call.at + call.durationMs >= from &&
        call.at + call.durationMs < until,
    );
    return pageOf(all, ({ callId }) => callId, cursor, limit);
  }

  async call(workspace: string, id: string): Promise<RecordedCall | undefined> {
    this.#requireHere();
    return this.recordedCalls.find((call) => call.workspace === workspace && call.callId === id);
  }

  async removeBefore(): Promise<number> {
    return 0;
  }

  async ready(): Promise<void> {
    this.#requireHere();
  }

  async close(): Promise<void> {}

  #requireHere(): void {
    if (!this.away) return;
    throw new SecretsError("AUDIT_UNAVAILABLE", "The audit log cannot be written", { hint: "Free space on the disk." });
  }
}

function pageOf<Item>(
  all: readonly Item[],
  idOf: (item: Item) => string,
  cursor: string | undefined,
  limit: number,
): Page<Item> {
  const start = cursor === undefined ? 0 : all.findIndex((item) => idOf(item) === cursor) + 1;
  if (cursor !== undefined && start === 0) {
    throw new SecretsError("FIELD_INVALID", "The cursor does not belong to this list", { hint: "Omit the cursor." });
  }
  const items = all.slice(start, start + limit);
  const last = items.at(-1);
  return { items, next: start + limit < all.length && last !== undefined ? idOf(last) : undefined };
}
