import { setImmediate } from "node:timers/promises";
import { type AtomicStore, isAtomic, type StoredValue } from "@keyward/core";
import type { KeyvStorageAdapter } from "keyv";
import { turnBytes } from "./exchange.ts";
import { field, Refusal } from "./protocol.ts";
import { packRecord, type StoredRecord, unpackRecord } from "./stored-record.ts";

/** A record to store. */
export interface RecordWrite {
  readonly key: string;
  readonly value: StoredValue;
  readonly expires?: number;
}

/** A replacement of a record that was read before. */
export interface RecordReplacement {
  readonly key: string;
  /**
   * The replacement is done only if this record is still stored. If `expected` is `undefined`, the replacement is done
   * only if no record is stored.
   */
  readonly expected: StoredRecord | undefined;
  /** The record to store in place of `expected`. {@link NamespaceRecords.successorOf} makes this record. */
  readonly next: StoredRecord;
  /**
   * Whether the store sets the record's expiry to the expiry of `next`. If false, the record keeps its expiry in the
   * store. Default: false.
   */
  readonly setsExpiry?: boolean;
}

/** Number of keys that are deleted in one call of the store. */
const deletedAtOnce = 500;
/** How long a listing may run before it lets other requests run, in milliseconds. */
const longestTurnMs = 10;
/** A number that every store reads as a time in the past, and not as a duration: a time in 2001. */
const earliestTime = 10 ** 12 + 1;

/** Reads and writes the records of one namespace in the server's store. */
export class NamespaceRecords {
  readonly #store: KeyvStorageAdapter;
  readonly #prefix: string;

  /**
   * @param prefix the text before each record's key in the store, or "" if `store` contains only the records of this
   * namespace.
   */
  constructor(store: KeyvStorageAdapter, prefix: string) {
    this.#store = store;
    this.#prefix = prefix;
  }

  /**
   * Whether the store supports compare-and-replace, which replaces a value only if the stored value is the expected value.
   */
  get atomic(): boolean {
    return isAtomic(this.#store);
  }

  /** Returns the value of each key, in the order of the keys, or `undefined` for a key without a record. */
  async getMany(keys: readonly string[]): Promise<(StoredValue | undefined)[]> {
    return (await this.getRecords(keys)).map((record) => record?.value);
  }

  /** Returns the record of each key, in the order of the keys, or `undefined` for a key without a record. */
  async getRecords(keys: readonly string[]): Promise<(StoredRecord | undefined)[]> {
    if (keys.length === 0) return [];
    const found: readonly unknown[] = await this.#store.getMany(keys.map(this.#storedKey));
    return keys.map((_, index) => toRecord(this.#store, found[index]));
  }

  /** Returns, for each key, whether it has a record. */
  async hasMany(keys: readonly string[]): Promise<boolean[]> {
    return keys.length === 0 ? [] : await this.#store.hasMany(keys.map(this.#storedKey));
  }

  /**
   * Stores records in small batches, so no other request waits long. Returns, for each record, whether it was stored.
   */
  async setMany(entries: readonly RecordWrite[]): Promise<boolean[]> {
    const results: boolean[] = [];
    for (let start = 0; start < entries.length; ) {
      if (start > 0) await setImmediate();
      let [end, bytes] = [start, 0];
      while (end < entries.length && (end === start || bytes < turnBytes)) bytes += entries[end++]?.value.length ?? 0;
      const batch = entries.slice(start, end);
      const stored = await this.#store.setMany(
        batch.map(({ key, value, expires }) => ({
          key: this.#storedKey(key),
          value: packRecord(this.#store, { value, modified: Date.now(), expires }),
          // A store reads a smaller number as a duration, as Keyv 5 passes one. In the protocol, each number is a time.
          ...(expires === undefined ? {} : { expires: Math.max(expires, earliestTime) }),
        })),
      );
      results.push(...(stored ?? batch.map(() => true)));
      start = end;
    }
    return results;
  }

  /** Deletes the record of each key. Returns, for each key, whether there was a record. */
  async deleteMany(keys: readonly string[]): Promise<boolean[]> {
    return keys.length === 0 ? [] : await this.#store.deleteMany(keys.map(this.#storedKey));
  }

  /**
   * Yields the key of each record in this namespace, in the order of the store's iterator.
   *
   * @throws Refusal `NOT_SCANNABLE` if the store has no iterator.
   */
  async *keys(): AsyncGenerator<string> {
    const entries = this.#store.iterator?.();
    if (entries === undefined) throw new Refusal("NOT_SCANNABLE", "The server's store cannot list its keys");
    let turnEndsMs = performance.now() + longestTurnMs;
    for await (const [key] of entries) {
      if (performance.now() >= turnEndsMs) {
        await setImmediate();
        turnEndsMs = performance.now() + longestTurnMs;
      }
      if (typeof key === "string" && key.startsWith(this.#prefix)) yield key.slice(this.#prefix.length);
    }
  }

  /** Deletes all records of the namespace. */
  async clear(): Promise<void> {
    if (this.#prefix === "") await this.#store.clear();
    else await this.deleteAll(() => true);
  }

  /** Deletes each record of the namespace for whose key `chosen` returns true. */
  async deleteAll(chosen: (key: string) => boolean): Promise<void> {
    let batch: string[] = [];
    for await (const key of this.keys()) {
      if (!chosen(key)) continue;
      batch.push(key);
      if (batch.length < deletedAtOnce) continue;
      await this.deleteMany(batch);
      batch = [];
    }
    await this.deleteMany(batch);
  }

  /**
   * Returns a record with `value`, to be stored in place of `record`.
   *
   * @param expires when the new record expires, in milliseconds since the epoch; `null` for never. Default: the expiry
   * of `record`.
   */
  successorOf(record: StoredRecord | undefined, value: StoredValue, expires?: number | null): StoredRecord {
    // In a packed record, the expiry 0 means never. So a time near 0 is replaced by another time in the past.
    const set = typeof expires === "number" ? Math.max(expires, earliestTime) : undefined;
    const next = { value, modified: Date.now(), expires: expires === undefined ? record?.expires : set };
    return { ...next, stored: packRecord(this.#store, next) };
  }

  /**
   * Replaces each record if the store still has the expected record. Returns, for each change, whether the record was
   * replaced.
   *
   * @throws Refusal `NOT_ATOMIC` if the store cannot replace a value atomically.
   */
  async replaceMany(changes: readonly RecordReplacement[]): Promise<boolean[]> {
    const store = this.requireAtomic();
    const stored = changes.map(({ key, expected, next, setsExpiry = false }) => ({
      key: this.#storedKey(key),
      expected: expected?.stored,
      next: next.stored,
      ...(setsExpiry ? { expires: next.expires ?? null } : {}),
    }));
    if (stored.length === 0) return [];
    if (store.replaceMany !== undefined) return await store.replaceMany(stored);
    const replaced: boolean[] = [];
    for (const { key, expected, next, expires } of stored) {
      replaced.push(await store.replace(key, expected, next, expires));
    }
    return replaced;
  }

  /**
   * Returns the server's store as an `AtomicStore`.
   *
   * @throws Refusal `NOT_ATOMIC` if the store cannot replace a value atomically.
   */
  requireAtomic(): AtomicStore {
    if (isAtomic(this.#store)) return this.#store;
    throw new Refusal("NOT_ATOMIC", "The server's store cannot compare and replace a value in one step");
  }

  readonly #storedKey = (key: string): string => `${this.#prefix}${key}`;
}

/** Returns the record that a Keyv adapter returned for a key: as its value, or as an object with the value. */
function toRecord(store: KeyvStorageAdapter, returned: unknown): StoredRecord | undefined {
  const stored = returned instanceof Uint8Array || typeof returned === "string" ? returned : field(returned, "value");
  return stored === undefined || stored === null ? undefined : unpackRecord(store, stored);
}
