import type { KeyvStorageAdapter } from "keyv";

/**
 * Bytes that a store keeps as a value. `value` and `expires` are never present: the type declares them only to be
 * assignable to the result type of a Keyv adapter.
 */
export type StoredBytes = Uint8Array & {
  /** Never present. */
  readonly value?: never;
  /** Never present. */
  readonly expires?: never;
};

/** A value as a store keeps it: a string or bytes. */
export type StoredValue = string | StoredBytes;

/** Returns whether a value is a string or bytes. Not part of the public surface. */
export function isStoredValue(value: unknown): value is StoredValue {
  return typeof value === "string" || value instanceof Uint8Array;
}

/** One conditional write of {@link AtomicStore.replaceMany}. */
export interface Replacement {
  /** The key of the record, in the namespace of the store. */
  readonly key: string;
  /** The whole value that must still be stored under the key; `undefined` for no value. */
  readonly expected: StoredValue | undefined;
  /** The new value. */
  readonly next: StoredValue;
  /**
   * When the record expires after the replacement, in milliseconds since the epoch; `null` for never. Default: the record
   * keeps its expiry, and a new record never expires.
   */
  readonly expires?: number | null | undefined;
}

/**
 * A store with an atomic replace (compare-and-set): in one step, it compares the stored value with the value that was
 * read, and writes a new value only if both are equal. Re-encryption needs this, so that it never undoes a newer write,
 * a delete or an expiry.
 */
export interface AtomicStore extends KeyvStorageAdapter {
  /**
   * Writes `next` if the whole value under `key` equals `expected`, type included. Resolves to true if `next` was
   * written. If `expected` is `undefined`, the write happens only if there is no value under `key`.
   *
   * @param expires when the record expires, in milliseconds since the epoch; `null` for never. A time in the past removes
   * the record. Default: the record keeps its expiry, and a new record never expires.
   */
  replace(key: string, expected: StoredValue | undefined, next: StoredValue, expires?: number | null): Promise<boolean>;
  /**
   * Makes several replacements as {@link AtomicStore.replace} does, in one round trip. A replacement that is not made
   * does not stop the others. Resolves to one boolean for each replacement, in the order of `changes`: true if it was
   * made.
   */
  replaceMany?(changes: readonly Replacement[]): Promise<boolean[]>;
}

/** A record as a scan returns it. */
export interface ScannedRecord {
  /** The namespace of the record; "" for none. */
  readonly namespace: string;
  /** The key of the record in its namespace. */
  readonly key: string;
  /** The stored value, encrypted or not. */
  readonly value: StoredValue;
}

/** One page of a scan. */
export interface ScanPage {
  /** The cursor of the next page; absent on the last page. */
  readonly cursor?: string;
  /** The records of this page. A page without records need not be the last page. */
  readonly entries: readonly ScannedRecord[];
}

/** A store whose records can be read page by page. A scan returns the records of every namespace of the backend. */
export interface ScannableStore {
  /**
   * Returns a page of about `limit` records. A record that is stored during the whole scan is returned at least once. A
   * record that is written or deleted during the scan may be returned or not. A cursor stays valid when the process
   * that got it ends.
   *
   * @param options.cursor the cursor of the page before. Default: the first page.
   * @param options.limit about how many records the page has. The default is up to the store.
   */
  scan(options: { readonly cursor?: string; readonly limit?: number }): Promise<ScanPage>;
}

/** A store whose scan can be divided into ranges, so that several processes share it. */
export interface RangedStore extends ScannableStore {
  /**
   * Divides the records of the backend into at most `count` ranges of about equal size, and returns the name of each
   * range, to be passed to `scan`. Every record of every namespace is in exactly one range, including records that are
   * written later. A range stays valid when the process that got it ends, and after any change to the backend.
   *
   * @throws KeywardError `VALUE_INVALID` for a count that is not an integer of at least 1.
   */
  ranges(count: number): Promise<readonly string[]>;
  /**
   * Returns a page like {@link ScannableStore.scan}, of one range if `range` is set. A cursor continues in its own
   * range.
   *
   * @throws KeywardError `VALUE_INVALID` for a range or a cursor that does not come from this store.
   */
  scan(options: { readonly cursor?: string; readonly limit?: number; readonly range?: string }): Promise<ScanPage>;
}

/**
 * A store that keeps bytes unchanged. It receives the binary form of the envelope, which is shorter than the text form.
 */
export interface BinaryStore {
  /** Marks the store as one that keeps bytes unchanged. */
  readonly values: "bytes";
}

/**
 * A store with a reserved space: an area of its backend that keys of the application, `clear`, iteration and census
 * cannot reach.
 */
export interface ReservedSpace {
  /** Returns the reserved space, which is the same for every view on the backend. */
  reserved(): AtomicStore & ScannableStore;
}

/** A store that declares how long its calls take at most. Such a store has `replaceMany` if it has `replace`. */
export interface BoundedStore {
  /**
   * Maximum time between the call of a write (or a batch of writes) and its last transmission to the backend, in
   * milliseconds, with all attempts and the pauses between them. An integer between 0 and 3,600,000 (one hour); 0 if a
   * call never waits. If the value is outside this range, no process can register as a replica of the store. After the
   * lease of a replica has lapsed, a rotation waits this much longer before it treats the replica as gone.
   */
  readonly longestCallMs: number;
}

/** A store that returns a view on each of its namespaces. The views share one connection. */
export interface NamespacedStore {
  /**
   * Returns the view on one namespace; "" for records without a namespace. Disconnecting a view does not close the
   * connection, which belongs to the store that opened it: see {@link shareConnection}.
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

/** Returns whether the store has an atomic replace. */
export function isAtomic(store: object): store is AtomicStore {
  return hasMethod(store, "replace");
}

/** Returns whether the store can be scanned. */
export function isScannable(store: object): store is ScannableStore {
  return hasMethod(store, "scan");
}

/** Returns whether the scan of the store can be divided into ranges. */
export function isRanged(store: object): store is RangedStore {
  return isScannable(store) && hasMethod(store, "ranges");
}

/** Returns whether the store keeps bytes unchanged. */
export function isBinary(store: object): store is BinaryStore {
  return Reflect.get(store, "values") === "bytes";
}

/** Returns whether the store has a reserved space. */
export function hasReservedSpace(store: object): store is ReservedSpace {
  return typeof store === "object" && store !== null && hasMethod(store, "reserved");
}

/** Returns whether the store declares how long its calls take at most. */
export function isBounded(store: object): store is BoundedStore {
  const longestCallMs: unknown = Reflect.get(store, "longestCallMs");
  return typeof longestCallMs === "number" && Number.isSafeInteger(longestCallMs) && longestCallMs >= 0;
}

/** Returns whether the store has views on its namespaces. */
export function isNamespaced(store: object): store is NamespacedStore {
  return hasMethod(store, "namespaced");
}

/**
 * Returns the name of a store in errors: its `description`; without one, the name of its class; without that, "the
 * store".
 */
export function describeStore(store: object): string {
  const description: unknown = Reflect.get(store, "description");
  if (typeof description === "string") return description;
  const storeClass: unknown = Reflect.get(store, "constructor");
  return typeof storeClass === "function" && !["", "Object"].includes(storeClass.name) ? storeClass.name : "the store";
}
