/**
 * A cache that drops entries that were not used recently.
 *
 * The cache consists of two Maps: one of recent entries, one of older entries. Reading a recent entry changes neither
 * Map, because moving an entry within a Map takes longer than the rest of the lookup.
 */
export class RecentlyUsed<Key, Value> {
  readonly #maxRecent: number;
  #recent = new Map<Key, Value>();
  #older = new Map<Key, Value>();

  /** @param maxEntries maximum number of entries. A full cache drops about half of its entries at once. */
  constructor(maxEntries: number) {
    this.#maxRecent = Math.floor(maxEntries / 2);
  }

  /** Returns the value of an entry; `undefined` if the cache does not contain the entry. */
  get(key: Key): Value | undefined {
    const recent = this.#recent.get(key);
    if (recent !== undefined) return recent;
    const older = this.#older.get(key);
    if (older !== undefined) this.set(key, older);
    return older;
  }

  /** Adds an entry, which is then the most recently used one. */
  set(key: Key, value: Value): void {
    if (this.#recent.size >= this.#maxRecent) this.dropUnused();
    this.#recent.set(key, value);
  }

  /** Drops the entries that were not used since the previous call. Returns whether the cache still contains entries. */
  dropUnused(): boolean {
    this.#older = this.#recent;
    this.#recent = new Map();
    return this.#older.size > 0;
  }
}
