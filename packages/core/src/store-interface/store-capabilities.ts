import type { KeyvStorageAdapter } from "keyv";

/**
 * Bytes that a store keeps as a value. The properties `value` and `expires` are never present. The type declares them
 * only so that it fits the result type of a Keyv adapter.
 */
export type StoredBytes = Uint8Array & {
  /** Never present. Declared only so that the type fits the result type of a Keyv adapter. */
  readonly value?: never;
  /** Never present. Declared only so that the type fits the result type of a Keyv adapter. */
  readonly expires?: never;
};

/** A value as a store keeps it: a string or bytes. */
export type StoredValue = string | StoredBytes;

/** Returns whether a value is a string or bytes. Not part of the public surface. */
export function isStoredValue(value: unknown): value is StoredValue {
  return typeof value === "string" || value instanceof Uint8Array;
}

/**
 * A conditional write for {@link AtomicStore.replaceMany}: writes the value `next` only if the stored value is
 * `expected`.
 */
export interface Replacement {
  /** The key of the record, in the namespace of the store. */
  readonly key: string;
  /**
   * The whole value that must still be stored under `key`. If `expected` is `undefined`, no value may be stored under
   * `key`.
   */
  readonly expected: StoredValue | undefined;
  /** The value to write. */
  readonly next: StoredValue;
  /**
   * When the record expires after the replacement, in milliseconds since the epoch; `null` for never. Default: the record
   * keeps its expiry, and a new record never expires.
   */
  readonly expires?: number | null | undefined;
}

/**
 * A store with an atomic replace (compare-and-set): in one step, the store compares the stored value with the value
 * that the caller has read, and writes a new value only if both are equal. Re-encryption needs an atomic replace.
 * Otherwise it could undo a newer write, or restore a record that was deleted or has expired.
 */
export interface AtomicStore extends KeyvStorageAdapter {
  /**
   * Writes `next` if the value under `key` equals `expected` and has the same type (string or bytes). If `expected` is
   * `undefined`, writes `next` only if there is no value under `key`. Resolves to true if `next` was written.
   *
   * @param expires when the record expires, in milliseconds since the epoch; `null` for never. A time in the past removes
   * the record. Default: the record keeps its expiry, and a new record never expires.
   */
  replace(key: string, expected: StoredValue | undefined, next: StoredValue, expires?: number | null): Promise<boolean>;
  /**
   * Makes several replacements as {@link AtomicStore.replace} does, in one round trip. If one replacement is not made,
   * the others still are. Resolves to one boolean for each replacement, in the order of `changes`: true if the
   * replacement was made.
   */
  replaceMany?(changes: readonly Replacement[]): Promise<boolean[]>;
}

/** A stored record that a scan returned. */
export interface ScannedRecord {
  /** The namespace of the record; "" if the record has none. */
  readonly namespace: string;
  /** The key of the record in its namespace. */
  readonly key: string;
  /** The stored value, encrypted or not. */
  readonly value: StoredValue;
}

/** One page of records that {@link ScannableStore.scan} returned. */
export interface ScanPage {
  /** The cursor of the next page; absent on the last page. */
  readonly cursor?: string;
  /** The records of this page. A page without records is not always the last page. */
  readonly entries: readonly ScannedRecord[];
}

/** A store whose records can be read page by page. A scan returns the records of every namespace of the backend. */
export interface ScannableStore {
  /**
   * Returns a page of about `limit` records. A record that is stored during the whole scan, from the first page to the
   * last, is returned at least once, even if a write replaces its value. A record that is created or deleted during the
   * scan may be returned or not. A cursor stays valid in other processes, even after the process that received it has
   * ended.
   *
   * @param options.cursor the property `cursor` of the previous page. Default: the scan begins with the first page.
   * @param options.limit the approximate number of records in the page. Default: the store chooses a number.
   */
  scan(options: { readonly cursor?: string; readonly limit?: number }): Promise<ScanPage>;
}

/** A store that can divide its records into ranges, so that several processes can each scan one range. */
export interface RangedStore extends ScannableStore {
  /**
   * Divides the records of the backend into at most `count` ranges of about equal size, and returns the name of each
   * range. Pass such a name to `scan` as `range`. Every record of every namespace is in exactly one range, including
   * records that are written later. A name stays valid in other processes, and after any change to the backend.
   *
   * @throws KeywardError `VALUE_INVALID` for a count that is not an integer of at least 1.
   */
  ranges(count: number): Promise<readonly string[]>;
  /**
   * Returns a page of records, as {@link ScannableStore.scan} does. If `range` is set, returns only records of that
   * range. If you pass a `cursor`, also pass the `range` of the call that returned the cursor.
   *
   * @throws KeywardError `VALUE_INVALID` for a range or a cursor that does not come from this store.
   */
  scan(options: { readonly cursor?: string; readonly limit?: number; readonly range?: string }): Promise<ScanPage>;
}

/**
 * A store that keeps bytes unchanged. Keyward writes the binary form of the envelope to such a store, which is shorter
 * than the text form.
 */
export interface BinaryStore {
  /** Marks the store as one that keeps bytes unchanged. */
  readonly values: "bytes";
}

/**
 * A store with a reserved space: an area of its backend for Keyward's own records. The application cannot read or write
 * these records under any key, and `clear`, iteration and `census` leave them out.
 */
export interface ReservedSpace {
  /** Returns the reserved space as a store. All views on the namespaces of a backend have the same reserved space. */
  reserved(): AtomicStore & ScannableStore;
}

/**
 * A store that declares the maximum duration of its calls. If such a store has `replace`, it must also have
 * `replaceMany`.
 */
export interface BoundedStore {
  /**
   * Maximum time, in milliseconds, from the call of a write (or of a batch of writes) until the store sends the write
   * to the backend for the last time. The time includes repeated attempts and the pauses between them. An integer
   * between 0 and 3,600,000 (one hour); 0 if a call never waits. If the value is outside this range, no process can
   * register as a replica in the store. A rotation adds this time to the lease of each replica, because a replica may
   * still send a write that it began before its lease lapsed.
   */
  readonly longestCallMs: number;
}

/**
 * A store with views on its namespaces. A view is a store that reads and writes only the records of one namespace. All
 * views share one connection.
 */
export interface NamespacedStore {
  /**
   * Returns the view on one namespace; "" for records without a namespace. Disconnecting a view does not close the
   * connection. Only the store that opened the connection closes it.
   */
  namespaced(namespace: string): KeyvStorageAdapter;
}

/** A store with a name for error messages. */
export interface DescribedStore {
  /** The name of the store in errors, such as `SqliteStore "sessions.sqlite"`. Never contains a credential. */
  readonly description: string;
}

/** Returns whether an object has a method. Not part of the public surface. */
export function hasMethod(store: object, name: string): boolean {
  return typeof Reflect.get(store, name) === "function";
}

/**
 * Returns whether the store has `replace`, an atomic compare-and-set.
 *
 * @example
 * console.log(isAtomic(new MemoryStore()), isAtomic(new KeyvMemoryAdapter(new Map()))); // true false
 */
export function isAtomic(store: object): store is AtomicStore {
  return hasMethod(store, "replace");
}

/** Returns whether the store has `scan`, which reads its records page by page. */
export function isScannable(store: object): store is ScannableStore {
  return hasMethod(store, "scan");
}

/** Returns whether the store can divide its records into ranges, so that several processes can each scan one range. */
export function isRanged(store: object): store is RangedStore {
  return isScannable(store) && hasMethod(store, "ranges");
}

/** Returns whether the store keeps bytes unchanged. */
export function isBinary(store: object): store is BinaryStore {
  return Reflect.get(store, "values") === "bytes";
}

/** Returns whether the store has a reserved space, an area for Keyward's own records. */
export function hasReservedSpace(store: object): store is ReservedSpace {
  return typeof store === "object" && store !== null && hasMethod(store, "reserved");
}

/** Returns whether the store declares the maximum duration of its calls, in the property `longestCallMs`. */
export function isBounded(store: object): store is BoundedStore {
  const longestCallMs: unknown = Reflect.get(store, "longestCallMs");
  return typeof longestCallMs === "number" && Number.isSafeInteger(longestCallMs) && longestCallMs >= 0;
}

/** Returns whether the store has `namespaced`, which returns a view on one of its namespaces. */
export function isNamespaced(store: object): store is NamespacedStore {
  return hasMethod(store, "namespaced");
}

/**
 * Returns the name of a store for error messages: its property `description`, or the name of its class if it has no
 * description. For a plain object, returns "the store".
 */
export function describeStore(store: object): string {
  const description: unknown = Reflect.get(store, "description");
  if (typeof description === "string") return description;
  const storeClass: unknown = Reflect.get(store, "constructor");
  return typeof storeClass === "function" && !["", "Object"].includes(storeClass.name) ? storeClass.name : "the store";
}
