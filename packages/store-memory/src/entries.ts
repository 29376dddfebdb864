import type { StoredValue } from "@keyward/core";

/**
 * A record in memory. `sequence` numbers the records in the order in which they were added. A record keeps its number
 * when its value is replaced.
 */
export interface Entry {
  readonly namespace: string;
  readonly key: string;
  readonly sequence: number;
  value: StoredValue;
  /** When the record expires, in milliseconds since the epoch. `undefined` if it never expires. */
  expires: number | undefined;
  removed: boolean;
}

/**
 * Number of stored records that each write inspects, to remove those that have expired. The number is above 1, so that
 * writes remove expired records faster than they add new records.
 */
const inspectedPerWrite = 4;

/** {@link Entries} compacts its list only if the list contains at least this number of removed records. */
const leastToCompact = 64;

/**
 * The records of all namespaces in memory. A record is found by its namespace and key. Methods that return several
 * records return them in the order in which they were added. Every method is synchronous, so each call is atomic.
 */
export class Entries {
  readonly #namespaces = new Map<string, Map<string, Entry>>();
  /**
   * All records, ascending by sequence number, so that a scan finds its position by bisection. Removed records stay in
   * the list until the next compaction.
   */
  #ordered: Entry[] = [];
  #removed = 0;
  #nextSequence = 1;
  #inspected = 0;

  /** Number of records in memory, including expired records that no write has removed yet. */
  get size(): number {
    return this.#ordered.length - this.#removed;
  }

  /**
   * Returns the record with this namespace and key, or `undefined` if there is no such record or the record has
   * expired.
   */
  find(namespace: string, key: string): Entry | undefined {
    const entry = this.#namespaces.get(namespace)?.get(key);
    return entry !== undefined && isAlive(entry, Date.now()) ? entry : undefined;
  }

  put(namespace: string, key: string, value: StoredValue, expires: number | undefined): void {
    this.#dropSomeExpired();
    const entry = this.#namespaces.get(namespace)?.get(key);
    if (expires !== undefined && expires <= Date.now()) {
      if (entry !== undefined) this.#remove(entry);
    } else if (entry !== undefined) {
      entry.value = value;
      entry.expires = expires;
    } else {
      this.#add({ namespace, key, sequence: this.#nextSequence++, value, expires, removed: false });
    }
  }

  /** Removes the record with this namespace and key. Returns whether the record existed and had not expired. */
  delete(namespace: string, key: string): boolean {
    this.#dropSomeExpired();
    const entry = this.#namespaces.get(namespace)?.get(key);
    if (entry === undefined) return false;
    const wasAlive = isAlive(entry, Date.now());
    this.#remove(entry);
    return wasAlive;
  }

  clear(namespace: string): void {
    for (const entry of this.#namespaces.get(namespace)?.values() ?? []) this.#remove(entry);
  }

  /**
   * Yields the records of a namespace. Leaves out records that are added after the iteration has begun, and records
   * that are removed before the iteration reaches them.
   */
  *list(namespace: string): Generator<Entry, void> {
    const end = this.#nextSequence;
    for (const entry of this.#namespaces.get(namespace)?.values() ?? []) {
      if (entry.sequence >= end) return;
      if (isAlive(entry, Date.now())) yield entry;
    }
  }

  /** Sequence number that the next new record will get. */
  get nextSequence(): number {
    return this.#nextSequence;
  }

  /**
   * Returns up to `limit` records, of any namespace, that have a sequence number above `sequence` and below `end`.
   * Default of `end`: the sequence number of the next new record.
   */
  after(sequence: number, limit: number, end: number = this.#nextSequence): Entry[] {
    const now = Date.now();
    const page: Entry[] = [];
    for (let index = this.#indexAfter(sequence); index < this.#ordered.length && page.length < limit; index++) {
      const entry = this.#ordered[index];
      if (entry === undefined || entry.sequence >= end) break;
      if (!entry.removed && isAlive(entry, now)) page.push(entry);
    }
    return page;
  }

  #add(entry: Entry): void {
    const records = this.#namespaces.get(entry.namespace) ?? new Map<string, Entry>();
    this.#namespaces.set(entry.namespace, records);
    records.set(entry.key, entry);
    this.#ordered.push(entry);
  }

  #remove(entry: Entry): void {
    const records = this.#namespaces.get(entry.namespace);
    records?.delete(entry.key);
    if (records?.size === 0) this.#namespaces.delete(entry.namespace);
    entry.removed = true;
    this.#removed++;
    if (this.#removed >= leastToCompact && this.#removed > this.#ordered.length / 2) {
      this.#ordered = this.#ordered.filter(({ removed }) => !removed);
      this.#removed = 0;
    }
  }

  /**
   * Removes the expired records among the next {@link inspectedPerWrite} records. The next call continues with the records
   * after them. Only writes call this method, because reads must not delete anything.
   */
  #dropSomeExpired(): void {
    const now = Date.now();
    for (let count = 0; count < inspectedPerWrite; count++) {
      if (this.#inspected >= this.#ordered.length) this.#inspected = 0;
      const entry = this.#ordered[this.#inspected++];
      if (entry !== undefined && !entry.removed && !isAlive(entry, now)) this.#remove(entry);
    }
  }

  #indexAfter(sequence: number): number {
    let low = 0;
    let high = this.#ordered.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#ordered[middle]?.sequence ?? 0) <= sequence) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

function isAlive({ expires }: Entry, now: number): boolean {
  return expires === undefined || now < expires;
}
