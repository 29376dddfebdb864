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
  requireNewExpires,
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
 * A set of records in memory, with Keyv's storage adapter methods, atomic replacement, and a scan over every namespace.
 * {@link MemoryStore} extends this class. `MemoryStore.reserved()` returns an instance of this class.
 */
export class MemorySpace extends Hookified implements AtomicStore, ScannableStore, BinaryStore, BoundedStore {
  /** Marks the store as one that keeps bytes unchanged, so that records are encrypted to binary envelopes. */
  readonly values = "bytes";
  /** Maximum duration of a call in milliseconds: 0, because no call waits. */
  readonly longestCallMs: number = 0;
  /**
   * The namespace whose records the methods read and write. Only {@link MemorySpace.scan} ignores this property, and
   * reads the records of every namespace. `undefined` and "" both mean no namespace.
   */
  namespace: string | undefined;
  readonly #entries: Entries;

  /** Only {@link MemoryStore} calls this constructor. To create a store, use `new MemoryStore()`. */
  constructor(entries: Entries) {
    super();
    this.#entries = entries;
  }

  /**
   * The capabilities that Keyv reads: the store has all methods of a storage adapter, and `expires` is an absolute time.
   */
  get capabilities(): KeyvStorageCapability {
    return keyvStorageCapability(this);
  }

  /**
   * Returns the value of `key`, or `undefined` if `key` has no record. Bytes are returned as a copy.
   *
   * @throws KeywardError `VALUE_INVALID` if the key or the namespace is not a well-formed string. Every method checks
   * its keys and the namespace in this way.
   */
  async get(key: string): Promise<StoredValue | undefined> {
    const entry = this.#entries.find(this.#requiredNamespace(), requireKey(key));
    return entry === undefined ? undefined : copy(entry.value);
  }

  /** Returns one value per key, in the order of `keys`. The value is `undefined` for a key without a record. */
  async getMany(keys: readonly string[]): Promise<(StoredValue | undefined)[]> {
    const namespace = this.#requiredNamespace();
    return keys.map(requireKey).map((key) => {
      const entry = this.#entries.find(namespace, key);
      return entry === undefined ? undefined : copy(entry.value);
    });
  }

  /**
   * Stores a copy of `value` as the value of `key`.
   *
   * @param expires when the record expires, in milliseconds since the epoch. Default: never. A time in the past removes
   * the record. A number up to 10^12 counts as a duration from now in milliseconds, because Keyv 5 passes durations
   * (`requireExpires` of `@keyward/core` has the exact rule).
   * @throws KeywardError `VALUE_INVALID` if the value is neither a well-formed string nor bytes, or `expires` is not a
   * number.
   */
  async set(key: string, value: unknown, expires?: number): Promise<boolean> {
    const namespace = this.#requiredNamespace();
    const checked = requireValue(requireKey(key), value);
    this.#entries.put(namespace, key, copy(checked), requireExpires(key, expires));
    return true;
  }

  /** Stores all entries in one atomic step. If one entry is invalid, the call rejects and stores no entry. */
  async setMany(entries: readonly KeyvStorageEntry<unknown>[]): Promise<boolean[]> {
    const namespace = this.#requiredNamespace();
    const checked = entries.map((entry) => ({
      key: requireKey(entry.key),
      value: copy(requireValue(entry.key, entry.value)),
      expires: requireEntryExpires(entry),
    }));
    for (const { key, value, expires } of checked) this.#entries.put(namespace, key, value, expires);
    return checked.map(() => true);
  }

  /** Removes the record of `key`, and returns whether the record existed. */
  async delete(key: string): Promise<boolean> {
    return this.#entries.delete(this.#requiredNamespace(), requireKey(key));
  }

  /** Removes the records of all `keys` in one atomic step. Returns for each key whether its record existed. */
  async deleteMany(keys: readonly string[]): Promise<boolean[]> {
    const namespace = this.#requiredNamespace();
    return keys.map(requireKey).map((key) => this.#entries.delete(namespace, key));
  }

  /** Returns whether `key` has a record. */
  async has(key: string): Promise<boolean> {
    return this.#entries.find(this.#requiredNamespace(), requireKey(key)) !== undefined;
  }

  /** Returns for each key whether the key has a record, in the order of `keys`. */
  async hasMany(keys: readonly string[]): Promise<boolean[]> {
    const namespace = this.#requiredNamespace();
    return keys.map(requireKey).map((key) => this.#entries.find(namespace, key) !== undefined);
  }

  /** Removes every record of this store's namespace. Records of other namespaces stay. */
  async clear(): Promise<void> {
    this.#entries.clear(this.#requiredNamespace());
  }

  /**
   * Yields the key and value of each record of this namespace. Leaves out records that are added after the iteration
   * has begun, and records that are removed before the iterator reaches them.
   */
  iterator(): AsyncGenerator<[string, StoredValue], void>;
  iterator<Value>(): AsyncGenerator<Array<string | Awaited<Value> | undefined>, void>;
  async *iterator(): AsyncGenerator<[string, StoredValue], void> {
    for (const { key, value } of this.#entries.list(this.#requiredNamespace())) yield [key, copy(value)];
  }

  /** Does nothing, because there is no connection. The records stay until the store is garbage-collected. */
  async disconnect(): Promise<void> {}

  /**
   * Writes `next` only if the stored value equals `expected`, and returns whether `next` was written. Text never equals
   * bytes. If `expected` is `undefined`, `next` is written only if there is no record.
   *
   * @param expires when the record expires, in milliseconds since the epoch; `null` for never. A time in the past removes
   * the record. Default: the record keeps its expiry, and a new record never expires.
   * @throws KeywardError `VALUE_INVALID` if a value is neither a well-formed string nor bytes, or `expires` is neither a
   * number nor `null`.
   */
  async replace(
    key: string,
    expected: StoredValue | undefined,
    next: StoredValue,
    expires?: number | null,
  ): Promise<boolean> {
    const [replaced = false] = await this.replaceMany([{ key, expected, next, expires }]);
    return replaced;
  }

  /**
   * Makes several replacements like {@link MemorySpace.replace}, in one atomic step. Returns for each of the `changes`
   * whether its `next` was written.
   */
  async replaceMany(changes: readonly Replacement[]): Promise<boolean[]> {
    const namespace = this.#requiredNamespace();
    const checked = changes.map(({ key, expected, next, expires }) => ({
      key: requireKey(key),
      expected: expected === undefined ? undefined : requireValue(key, expected),
      next: copy(requireValue(key, next)),
      expires: requireNewExpires(key, expires),
    }));
    return checked.map(({ key, expected, next, expires }) => {
      const entry = this.#entries.find(namespace, key);
      if (!sameStored(entry?.value, expected)) return false;
      this.#entries.put(namespace, key, next, expires === undefined ? entry?.expires : (expires ?? undefined));
      return true;
    });
  }

  /**
   * Returns a page of records of every namespace, in the order in which they were added, and the cursor of the next
   * page. The last page has no cursor. A cursor stays valid while records change, but only for this store and its
   * views.
   *
   * @throws KeywardError `VALUE_INVALID` if `cursor` is not a cursor of a scan, or if `limit` is not an integer of at
   * least 1.
   */
  async scan(options: { readonly cursor?: string; readonly limit?: number } = {}): Promise<ScanPage> {
    // A scan leaves out records that were added after the scan began. Otherwise fast writers could keep it running forever.
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

  #requiredNamespace(): string {
    return requireNamespace(this.namespace);
  }
}

/**
 * A store for Keyv and Keyward that keeps records in the memory of the process, for tests, development and caches. The
 * store expires records, replaces them atomically, can be scanned, keeps bytes unchanged, and has a reserved space. All
 * records are lost when the process ends.
 *
 * @example
 * ```ts
 * import { createKeyv, Keyring } from "@keyward/core";
 * import { MemoryStore } from "@keyward/store-memory";
 *
 * const sessions = createKeyv({ store: new MemoryStore(), keys: Keyring.generate("key-1"), namespace: "sessions" });
 * await sessions.set("42", { user: 7 }, 60_000);
 * console.log(await sessions.get("42")); // { user: 7 }
 * ```
 */
export class MemoryStore extends MemorySpace implements ReservedSpace, NamespacedStore {
  readonly #records: Entries;
  readonly #reserved: MemorySpace;

  /**
   * Creates an empty store, or a second store object over the records of an existing store.
   *
   * @param origin the existing store, whose records and reserved space the new store shares. Default: none, which
   * creates an empty store.
   * @throws KeywardError `VALUE_INVALID` if `origin` is not a `MemoryStore`, for example an object with options.
   */
  constructor(origin?: MemoryStore) {
    if (origin !== undefined && !(origin instanceof MemoryStore)) {
      throw new KeywardError("VALUE_INVALID", "The argument of new MemoryStore() is not a MemoryStore", {
        hint:
          "For an empty store, call `new MemoryStore()`. To share the records of a MemoryStore, pass that store. A " +
          "MemoryStore has no options.",
      });
    }
    const records = origin === undefined ? new Entries() : origin.#records;
    super(records);
    this.#records = records;
    this.#reserved = origin === undefined ? new MemorySpace(new Entries()) : origin.#reserved;
  }

  /**
   * Returns the reserved space, where Keyward keeps its own records. The other methods of this store neither read nor
   * change records in the reserved space. The store and its views, which `namespaced` returns, have the same reserved
   * space.
   */
  reserved(): MemorySpace {
    return this.#reserved;
  }

  /**
   * Returns a view: a store that shares the records of this store and uses the given namespace. "" selects the records
   * without a namespace.
   */
  namespaced(namespace: string): MemoryStore {
    const view = new MemoryStore(this);
    view.namespace = namespace;
    return view;
  }
}

/** Returns a copy of bytes, and a string unchanged. The store keeps and returns copies, so no caller can change a value. */
function copy(value: StoredValue): StoredValue {
  return typeof value === "string" ? value : new Uint8Array(value);
}
