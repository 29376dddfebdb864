import type { ListedPage, ListPage, RecordedCall } from "@keyward/admin/client";

/** Reads a page of the calls that ended at or after a time in RFC 3339. If `from` is `undefined`, reads a page of all calls. */
export type ReadCalls = (from: string | undefined, page: ListPage) => Promise<ListedPage<RecordedCall>>;

const pageSize = 100;
/** The maximum number of pages that `next` reads at once, because the service accepts 50 requests a second from a token. */
const mostPages = 20;
/** How far back `next` reads again, because the service writes the entry of a call some time after the call has ended. */
const lookedBackMs = 60_000;

/** Finds the calls that have ended since the last poll. Compares only times of the service, and not the clock of this machine. */
export class NewCalls {
  readonly #read: ReadCalls;
  /** The time at which each found call ended, in milliseconds since the epoch, by the id of the call. */
  readonly #found = new Map<string, number>();
  /** Calls that ended before this time are not read, in milliseconds since the epoch. */
  #from = 0;

  constructor(read: ReadCalls) {
    this.#read = read;
  }

  /** Marks the calls that have ended so far as found, so that `next` returns only newer ones. */
  async begin(): Promise<void> {
    const { items } = await this.#read(undefined, { limit: 1 });
    for (const call of items) this.#from = endOf(call);
    await this.next();
  }

  /**
   * Returns the calls that were not found before, the oldest first.
   *
   * @returns `complete` is false if more calls have ended than were read.
   */
  async next(): Promise<{ readonly found: readonly RecordedCall[]; readonly complete: boolean }> {
    const found: RecordedCall[] = [];
    let cursor: string | undefined;
    let complete = false;
    for (let page = 0; page < mostPages && !complete; page++) {
      const from = this.#from === 0 ? undefined : new Date(this.#from).toISOString();
      const { items, next } = await this.#read(from, { limit: pageSize, cursor });
      const fresh = items.filter(({ callId }) => !this.#found.has(callId));
      for (const call of fresh) this.#found.set(call.callId, endOf(call));
      found.push(...fresh);
      cursor = next ?? undefined;
      // If all calls of a page were found before, all calls of the later pages were found before, too.
      complete = cursor === undefined || (items.length > 0 && fresh.length === 0);
    }
    this.#forget();
    return { found: found.reverse(), complete };
  }

  #forget(): void {
    let newest = 0;
    for (const end of this.#found.values()) newest = Math.max(newest, end);
    this.#from = Math.max(this.#from, newest - lookedBackMs);
    for (const [id, end] of this.#found) if (end < this.#from) this.#found.delete(id);
  }
}

function endOf({ at, durationMs }: RecordedCall): number {
  return Date.parse(at) + durationMs;
}
