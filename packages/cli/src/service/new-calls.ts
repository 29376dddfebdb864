import type { ListedPage, ListPage, RecordedCall } from "@keyward/admin/client";

/** Reads a page of the calls that ended at or after a time in RFC 3339; of all calls without a time. */
export type ReadCalls = (from: string | undefined, page: ListPage) => Promise<ListedPage<RecordedCall>>;

const pageSize = 100;
/** The most pages of one question, because a token may send 50 requests a second. */
const mostPages = 20;
/** An entry is written some time after its call has ended, so calls that ended this long before are looked at again. */
const lookedBackMs = 60_000;

/** Finds the calls that have ended since the last question. Knows only the clock of the service. */
export class NewCalls {
  readonly #read: ReadCalls;
  /** When each call ended that was found, by its id. */
  readonly #found = new Map<string, number>();
  /** Calls that ended before this time are left out. */
  #from = 0;

  constructor(read: ReadCalls) {
    this.#read = read;
  }

  /** Finds the last call, after which the new calls begin. */
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
      // A page without a new call has only calls of the former question, and so have those after it.
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
