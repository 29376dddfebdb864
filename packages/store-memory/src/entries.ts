import type { StoredValue } from "@keyward/core";

/** A record as it lies in memory. Its sequence grows with each new record, and stays when the value is replaced. */
export interface Entry {
  readonly namespace: string;
  readonly key: string;
  readonly sequence: number;
  value: StoredValue;
  /** When it stops being there, in ms since the epoch. */
  expires: number | undefined;
  removed: boolean;
}

/** How many old records each write looks at, to drop those that have expired. More than one, so that they cannot pile up. */
const inspectedPerWrite = 4;

/** The least number of removed records for which {@link Entries} tidies up. */
const leastToCompact = 64;

/**
 * Records of all namespaces, found by namespace and key and walked in the order in which they came. Everything here is
 * synchronous: a call is one step that no other writer can come between.
 */
export class Entries {
  readonly #namespaces = new Map<string, Map<string, Entry>>();
  /** Ascending by sequence, with removed records among them until the next compaction: so any place is found by bisection. */
  #ordered: Entry[] = [];
  #removed = 0;
  #nextSequence = 1;
  #inspected = 0;

  /** How many records take up memory, those that have expired included. */
  get size(): number {
    return this.#ordered.length - this.#removed;
  }

  /** The record that lies there and has not expired. */
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

  /** Removes the record, and says whether one lay there that had not expired. */
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

  /** The records of a namespace that lay there when the walk began, and still do when it comes to them. */
  *list(namespace: string): Generator<Entry, void> {
    const end = this.#nextSequence;
    for (const entry of this.#namespaces.get(namespace)?.values() ?? []) {
      if (entry.sequence >= end) return;
      if (isAlive(entry, Date.now())) yield entry;
    }
  }

  /** The sequence of the next new record. */
  get nextSequence(): number {
    return this.#nextSequence;
  }

  /** Up to `limit` records of all namespaces that came after the one with this sequence, and before `end`. */
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

  /** Reads delete nothing and no timer runs: writes reclaim what has expired, a few records at a time, round and round. */
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
