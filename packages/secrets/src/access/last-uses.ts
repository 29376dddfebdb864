import { usedKey } from "../records/record-keys.ts";
import { usedRecord } from "../records/used-record.ts";
import type { ServiceContext } from "../store/service-context.ts";
import type { ReadBatch } from "../store/service-store.ts";

const writtenEveryMs = 60_000;
const keptMs = 400 * 24 * 3_600_000;
const maxRemembered = 10_000;

/** Records when tokens and servers were last used, at most once a minute for each. */
export class LastUses {
  readonly #context: Pick<ServiceContext, "store" | "onProblem">;
  readonly #written = new Map<string, number>();
  readonly #writes = new Set<Promise<void>>();

  constructor(context: Pick<ServiceContext, "store" | "onProblem">) {
    this.#context = context;
  }

  /**
   * Records the present time as the last use of a token or a server. Does not wait until the record is written.
   *
   * @param since in milliseconds since the epoch. A last use before this time is replaced, even if it was recorded less
   * than a minute ago.
   */
  note(workspace: string, id: string, since = 0): void {
    const key = usedKey(workspace, id);
    const now = Date.now();
    const written = this.#written.get(key);
    const isRecent = written !== undefined && now - written < writtenEveryMs && now >= written;
    // A time that has not come yet is that of a clock that is ahead.
    if (isRecent && (written >= since || since > now)) return;
    this.#written.delete(key);
    this.#written.set(key, now);
    if (this.#written.size > maxRemembered) {
      const [oldest] = this.#written.keys();
      if (oldest !== undefined) this.#written.delete(oldest);
    }
    const write = this.#context.store
      .put(key, { v: 1, at: now }, now + keptMs)
      .catch((error: unknown) => this.#context.onProblem(error))
      .finally(() => this.#writes.delete(write));
    this.#writes.add(write);
  }

  /** Returns the last use of a token or a server from a batch that has its record; `undefined` for never. */
  static in(batch: ReadBatch, workspace: string, id: string): number | undefined {
    return batch.record(usedRecord, usedKey(workspace, id))?.value.at;
  }

  /** Waits for the writes in progress. */
  async settled(): Promise<void> {
    await Promise.all(this.#writes);
  }
}
