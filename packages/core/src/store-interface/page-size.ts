import type { ScannableStore, ScannedRecord } from "./store-capabilities.ts";
import { wrapRejection } from "./wrapped-store.ts";

/** The size that a page of a scan should not exceed, in bytes. */
export const targetPageBytes = 2 * 1024 * 1024;

const targetPageMs = 1_000;
const firstLimit = 16;

/**
 * Computes how many records the next page of a scan may have. The number begins small and doubles with each page, but
 * stays lower if the next page would probably exceed 2 MiB or one second of work. This limits the memory even for large
 * values, lets a caller stop a job soon, and keeps each call far below the time limit of the store.
 */
export class PageSize {
  readonly #most: number;
  #grown: number;
  #mostByBytes = Number.POSITIVE_INFINITY;
  #mostByTime = Number.POSITIVE_INFINITY;

  /**
   * Creates a page size. The first page is small.
   *
   * @param most maximum number of records in a page.
   */
  constructor(most: number) {
    this.#most = most;
    this.#grown = firstLimit;
  }

  /** The `limit` for the next call of `scan`. */
  get limit(): number {
    return Math.max(1, Math.floor(Math.min(this.#most, this.#grown, this.#mostByBytes, this.#mostByTime)));
  }

  /** Records how many records and bytes the last page contained. Call this method after each page. */
  held(records: number, bytes: number): void {
    if (records > 0) this.#mostByBytes = (records * targetPageBytes) / bytes;
    this.#grown = this.limit * 2;
  }

  /**
   * Records how long the work on the records of a page took, in milliseconds. Do not include the time of the scan in
   * `workMs`, because a scan that skips many records is slow.
   */
  took(records: number, workMs: number): void {
    if (records > 0) this.#mostByTime = (records * targetPageMs) / workMs;
  }
}

/** Returns the approximate size of records in memory, in bytes. */
export function bytesOf(entries: readonly ScannedRecord[]): number {
  return entries.reduce((sum, { namespace, key, value }) => sum + namespace.length + key.length + value.length, 0);
}

/** Scans a store page by page. Each page has as many records as {@link PageSize} allows, and at most `most`. */
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
