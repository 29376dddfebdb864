import { randomUUID } from "node:crypto";
import type {
  AuditLog,
  BegunChange,
  Change,
  ChangeFilter,
  ChangeOutcome,
  Page,
  PageRequest,
  RecordedChange,
} from "@keyward/secrets";
import { SecretsError } from "@keyward/secrets";

/** An audit log in memory. */
export class MemoryAudit implements AuditLog {
  readonly entries: RecordedChange[] = [];
  /** Set this to true to let the log refuse every entry. */
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
    const start = cursor === undefined ? 0 : all.findIndex(({ id }) => id === cursor) + 1;
    if (cursor !== undefined && start === 0) {
      throw new SecretsError("FIELD_INVALID", "The cursor does not belong to this list", { hint: "Omit the cursor." });
    }
    const items = all.slice(start, start + limit);
    return { items, next: start + limit < all.length ? items.at(-1)?.id : undefined };
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
