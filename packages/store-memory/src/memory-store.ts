import {
  type AtomicStore,
  type BinaryStore,
  type BoundedStore,
  invalidCursor,
  KeywardError,
  type NamespacedStore,
  type Replacement,
  type ReservedSpace,
  requireEntryExpires,
  requireExpires,
  requireKey,
  requireLimit,
  requireNamespace,
  requireValue,
  type ScannableStore,
  type ScanPage,
  type StoredValue,
  sameStored,
} from "@keyward/core";
import { Hookified } from "hookified";
import { type KeyvStorageCapability, type KeyvStorageEntry, keyvStorageCapability } from "keyv";
import { Entries } from "./entries.ts";

/**
 * One space of records in memory: the whole Keyv storage contract, atomic replacement, and a scan over every namespace.
 * {@link MemoryStore} is one such space, and keeps another that is reserved.
 */
export class MemorySpace extends Hookified implements AtomicStore, ScannableStore, BinaryStore, BoundedStore {
  /** Bytes are kept as they are. */
  readonly values = "bytes";
  /** Nothing is waited for. */
  readonly longestCallMs: number = 0;
  /** The namespace that every call but {@link MemorySpace.scan} works in; `undefined` and "" are the same. */
  namespace: string | undefined;
  readonly #entries: Entries;

  /** A {@link MemoryStore} makes its own. */
  constructor(entries: Entries) {
    super();
    this.#entries = entries;
  }

  /** What Keyv may expect: all methods, and absolute `expires`. */
  get capabilities(): KeyvStorageCapability {
    return keyvStorageCapability(this);
  }

  /**
   * The value under `key`, or `undefined`. Bytes are a copy.
   *
   * @throws KeywardError `VALUE_INVALID` for a key or namespace that is not a well-formed string, as every method does.
   */
  async get(key: string): Promise<StoredValue | undefined> {
    const entry = this.#entries.find(this.#place(), requireKey(key));
    return entry === undefined ? undefined : copy(entry.value);
  }

  /** As {@link MemorySpace.get} for each, in the same order. */
  async getMany(keys: readonly string[]): Promise<(StoredValue | undefined)[]> {
    const namespace = this.#place();
    return keys.map(requireKey).map((key) => {
      const entry = this.#entries.find(namespace, key);
      return entry === undefined ? undefined : copy(entry.value);
    });
  }

  /**
   * Stores a copy of the value.
   *
   * @param expires when it stops being there, in ms since the epoch; a time that has passed leaves nothing under `key`. A
   * duration, as Keyv 5 passes it, counts from now: see `requireExpires`.
   * @throws KeywardError `VALUE_INVALID` for a value that is neither a well-formed string nor bytes, or an `expires`
   * that is not a number.
   */
  async set(key: string, value: unknown, expires?: number): Promise<boolean> {
    const namespace = this.#place();
    const checked = requireValue(requireKey(key), value);
    this.#entries.put(namespace, key, copy(checked), requireExpires(key, expires));
    return true;
  }

  /** As {@link MemorySpace.set} for each, in one step. An entry that is not valid rejects them all, and nothing is stored. */
  async setMany(entries: readonly KeyvStorageEntry<unknown>[]): Promise<boolean[]> {
    const namespace = this.#place();
    const checked = entries.map((entry) => ({
      key: requireKey(entry.key),
      value: copy(requireValue(entry.key, entry.value)),
      expires: requireEntryExpires(entry),
    }));
    for (const { key, value, expires } of checked) this.#entries.put(namespace, key, value, expires);
    return checked.map(() => true);
  }

  /** Removes the record, and says whether there was one. */
  async delete(key: string): Promise<boolean> {
    return this.#entries.delete(this.#place(), requireKey(key));
  }

  /** As {@link MemorySpace.delete} for each, in one step. */
  async deleteMany(keys: readonly string[]): Promise<boolean[]> {
    const namespace = this.#place();
    return keys.map(requireKey).map((key) => this.#entries.delete(namespace, key));
  }

  /** Whether there is a record under `key`. */
  async has(key: string): Promise<boolean> {
    return this.#entries.find(this.#place(), requireKey(key)) !== undefined;
  }

  /** As {@link MemorySpace.has} for each, in the same order. */
  async hasMany(keys: readonly string[]): Promise<boolean[]> {
    const namespace = this.#place();
    return keys.map(requireKey).map((key) => this.#entries.find(namespace, key) !== undefined);
  }

  /** Removes every record of the own namespace, and of no other. */
  async clear(): Promise<void> {
    this.#entries.clear(this.#place());
  }

  /** The records of the own namespace that are there when the iteration begins and when it comes to them. */
  iterator(): AsyncGenerator<[string, StoredValue], void>;
  iterator<Value>(): AsyncGenerator<Array<string | Awaited<Value> | undefined>, void>;
  async *iterator(): AsyncGenerator<[string, StoredValue], void> {
    for (const { key, value } of this.#entries.list(this.#place())) yield [key, copy(value)];
  }

  /** Does nothing: there is no connection. The records stay as long as the store does. */
  async disconnect(): Promise<void> {}

  /**
   * Writes `next` where the whole value, type included, is `expected`, and says whether it did. The expiry stays. With
   * `expected` undefined it writes where nothing lies, without an expiry.
   *
   * @throws KeywardError `VALUE_INVALID` for a value that is neither a well-formed string nor bytes.
   */
  async replace(key: string, expected: StoredValue | undefined, next: StoredValue): Promise<boolean> {
    const [replaced = false] = await this.replaceMany([{ key, expected, next }]);
    return replaced;
  }

  /** As {@link MemorySpace.replace} for each, in one step. */
  async replaceMany(changes: readonly Replacement[]): Promise<boolean[]> {
    const namespace = this.#place();
    const checked = changes.map(({ key, expected, next }) => ({
      key: requireKey(key),
      expected: expected === undefined ? undefined : requireValue(key, expected),
      next: copy(requireValue(key, next)),
    }));
    return checked.map(({ key, expected, next }) => {
      const entry = this.#entries.find(namespace, key);
      if (!sameStored(entry?.value, expected)) return false;
      this.#entries.put(namespace, key, next, entry?.expires);
      return true;
    });
  }

  /**
   * A page of records of every namespace, in the order in which they came. A cursor goes on after any change to the
   * records; it means nothing to another store.
   *
   * @throws KeywardError `VALUE_INVALID` for a cursor that no scan returned, or a limit that is not a whole number from 1.
   */
  async scan(options: { readonly cursor?: string; readonly limit?: number } = {}): Promise<ScanPage> {
    // A scan ends where the store ended when it began: writers that are faster than it would otherwise keep it going.
    const { cursor = `0.${this.#entries.nextSequence}` } = options;
    const limit = requireLimit(options.limit);
    const [, sequence, end] = /^(\d{1,15})\.(\d{1,15})$/.exec(cursor) ?? [];
    if (sequence === undefined || end === undefined) throw invalidCursor();
    const page = this.#entries.after(Number(sequence), limit, Number(end));
    const last = page.length === limit ? page.at(-1) : undefined;
    return {
      ...(last === undefined ? {} : { cursor: `${last.sequence}.${end}` }),
      entries: page.map(({ namespace, key, value }) => ({ namespace, key, value: copy(value) })),
    };
  }

  #place(): string {
    return requireNamespace(this.namespace);
  }
}

/**
 * An in-process store for Keyv and Keyward: it expires, replaces atomically, can be scanned, keeps bytes as they are, and
 * has a reserved space. Its records end with the process.
 */
export class MemoryStore extends MemorySpace implements ReservedSpace, NamespacedStore {
  readonly #records: Entries;
  readonly #reserved: MemorySpace;

  /**
   * An empty store, or another handle on a store that is there.
   *
   * @param origin a store whose records, reserved space included, this one is to share.
   * @throws KeywardError `VALUE_INVALID` for an origin that is no `MemoryStore`: a MemoryStore has no options.
   */
  constructor(origin?: MemoryStore) {
    if (origin !== undefined && !(origin instanceof MemoryStore)) {
      throw new KeywardError("VALUE_INVALID", "The origin of a MemoryStore is no MemoryStore", {
        hint: "Leave it out for an empty store; a MemoryStore has no options.",
      });
    }
    const records = origin === undefined ? new Entries() : origin.#records;
    super(records);
    this.#records = records;
    this.#reserved = origin === undefined ? new MemorySpace(new Entries()) : origin.#reserved;
  }

  /** A place beside the records that no key, clear, iteration or scan of theirs reaches. The same for every view. */
  reserved(): MemorySpace {
    return this.#reserved;
  }

  /** A view on one namespace of the same records; "" is the view on records without a namespace. */
  namespaced(namespace: string): MemoryStore {
    const view = new MemoryStore(this);
    view.namespace = namespace;
    return view;
  }
}

/** Bytes are copied on the way in and out, so that no caller can change what lies here. */
function copy(value: StoredValue): StoredValue {
  return typeof value === "string" ? value : new Uint8Array(value);
}
