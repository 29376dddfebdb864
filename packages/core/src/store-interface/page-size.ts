import type { ScannableStore, ScannedRecord } from "./capabilities.ts";
import { wrapRejection } from "./inner-store.ts";

/** What a page of a scan should hold at most. */
export const targetPageBytes = 2 * 1024 * 1024;

const targetPageMs = 1_000;
const firstLimit = 16;

/**
 * How many records the next page may have: few at first, twice as many each time, as far as the last pages say that it
 * will be light and quick. So memory stays bounded whatever the values are, a job stops soon when it is told to, and no
 * call comes near the time limit of its store.
 */
export class PageSize {
  readonly #most: number;
  #grown: number;
  #light = Number.POSITIVE_INFINITY;
  #quick = Number.POSITIVE_INFINITY;

  /** @param most records a page. */
  constructor(most: number) {
    this.#most = most;
    this.#grown = firstLimit;
  }

  /** The `limit` of the next scan. */
  get limit(): number {
    return Math.max(1, Math.floor(Math.min(this.#most, this.#grown, this.#light, this.#quick)));
  }

  /** Tells what the last page held. */
  held(records: number, bytes: number): void {
    if (records > 0) this.#light = (records * targetPageBytes) / bytes;
    this.#grown = this.limit * 2;
  }

  /** Tells how long the work on a page took, without its scan: that one may be slow for what it had to pass over. */
  took(records: number, workMs: number): void {
    if (records > 0) this.#quick = (records * targetPageMs) / workMs;
  }
}

/** About what records take in memory, as read. */
export function bytesOf(entries: readonly ScannedRecord[]): number {
  return entries.reduce((sum, { namespace, key, value }) => sum + namespace.length + key.length + value.length, 0);
}

/** The pages of a scan, one after another, of as many records as memory allows and `most` at most. */
export async function* pages(store: ScannableStore, most: number): AsyncGenerator<readonly ScannedRecord[]> {
  const size = new PageSize(most);
  let cursor: string | undefined;
  do {
    const at = cursor;
    const { limit } = size;
    const page = await wrapRejection(() => store.scan({ limit, ...(at === undefined ? {} : { cursor: at }) }));
    size.held(page.entries.length, bytesOf(page.entries));
    yield page.entries;
    cursor = page.cursor;
  } while (cursor !== undefined);
}
