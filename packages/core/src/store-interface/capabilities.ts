import type { KeyvStorageAdapter } from "keyv";

/** Bytes as a store keeps them. (A byte array has no `value` and no `expires`: saying so makes it a legal result of a Keyv adapter.) */
export type StoredBytes = Uint8Array & {
  /** Never there. */
  readonly value?: never;
  /** Never there. */
  readonly expires?: never;
};

/** What lies in a store under a key. */
export type StoredValue = string | StoredBytes;

/** Whether something can be what a store keeps. Not part of the public surface. */
export function isStoredValue(value: unknown): value is StoredValue {
  return typeof value === "string" || value instanceof Uint8Array;
}

/** One conditional write of {@link AtomicStore.replaceMany}. */
export interface Replacement {
  /** Where, in the namespace of the store. */
  readonly key: string;
  /** The whole value that must lie there still; `undefined`: nothing may lie there. */
  readonly expected: StoredValue | undefined;
  /** What is to lie there instead. */
  readonly next: StoredValue;
}

/**
 * A store that can replace a value only if it is still the one that was read, in one step that no other writer
 * can come between. Re-encryption needs it, so that a newer write, a delete or an expiry always wins.
 */
export interface AtomicStore extends KeyvStorageAdapter {
  /**
   * Writes `next` if the whole value under `key` equals `expected`, type included, and says whether it did.
   * The entry's remaining time to live is kept as the store has it. With `expected` undefined the write happens only
   * where nothing lies, and the new entry does not expire.
   */
  replace(key: string, expected: StoredValue | undefined, next: StoredValue): Promise<boolean>;
  /** As {@link AtomicStore.replace} for each, in one round trip. One refused replacement does not stop the others. */
  replaceMany?(changes: readonly Replacement[]): Promise<boolean[]>;
}

/** A record as a scan finds it. */
export interface ScannedRecord {
  /** "" where there is none. */
  readonly namespace: string;
  /** Where in its namespace. */
  readonly key: string;
  /** As it is stored, sealed or not. */
  readonly value: StoredValue;
}

/** One page of a scan. */
export interface ScanPage {
  /** Where the next page begins; absent on the last page. */
  readonly cursor?: string;
  /** The records of this page; it may have none and not be the last. */
  readonly entries: readonly ScannedRecord[];
}

/** A store whose whole backend can be walked, every namespace, page by page. */
export interface ScannableStore {
  /**
   * A page of about `limit` records. A record that lies in the store during the whole scan is returned at least once;
   * one that is written or deleted meanwhile may or may not be. A cursor outlives the process that got it.
   */
  scan(options: { readonly cursor?: string; readonly limit?: number }): Promise<ScanPage>;
}

/** A store whose scan can be divided, so that several processes share the walk. */
export interface RangedStore extends ScannableStore {
  /**
   * At most `count` ranges of about equal size. Every record, of whatever namespace and whenever it was written, is in
   * exactly one. A range outlives the process that got it, and any change to the backend.
   *
   * @throws KeywardError `VALUE_INVALID` for a count that is not a whole number from 1.
   */
  ranges(count: number): Promise<readonly string[]>;
  /**
   * As {@link ScannableStore.scan}, of one range where one is given. A cursor goes on in the range it came from.
   *
   * @throws KeywardError `VALUE_INVALID` for a range or a cursor that is none of this store.
   */
  scan(options: { readonly cursor?: string; readonly limit?: number; readonly range?: string }): Promise<ScanPage>;
}

/** A store that keeps bytes as they are, and so is given the binary form of the envelope. */
export interface BinaryStore {
  /** Says so. */
  readonly values: "bytes";
}

/** A store with a place in the same backend that user keys, clear, iteration and census cannot reach. */
export interface ReservedSpace {
  /** The place: the same for every view on the backend. */
  reserved(): AtomicStore & ScannableStore;
}

/** A store that says how long its calls take at most. Where it has `replace`, it has `replaceMany` too. */
export interface BoundedStore {
  /**
   * For how many milliseconds after it was called a write, or a batch of them, may still be sent to the backend, with all
   * attempts and the pauses between them; a whole number, at most an hour; 0 where nothing is waited for. A process cannot
   * register in a store that says anything else. A rotation waits so much longer before it takes a
   * process that is silent for gone.
   */
  readonly longestCallMs: number;
}

/** A store that hands out views on its namespaces, which share one connection. */
export interface NamespacedStore {
  /**
   * The view on one namespace; "" is the view on records without a namespace. Disconnecting a view does nothing to the
   * connection, which belongs to the store that opened it: see {@link shareConnection}.
   */
  namespaced(namespace: string): KeyvStorageAdapter;
}

/** A store that says what errors should call it. */
export interface DescribedStore {
  /** Such as `SqliteStore "sessions.sqlite"`. Never a credential. */
  readonly description: string;
}

function hasMethod(store: object, name: string): boolean {
  return typeof Reflect.get(store, name) === "function";
}

/** Whether the store can replace atomically. */
export function isAtomic(store: object): store is AtomicStore {
  return hasMethod(store, "replace");
}

/** Whether the store can be scanned. */
export function isScannable(store: object): store is ScannableStore {
  return hasMethod(store, "scan");
}

/** Whether the scan of the store can be divided. */
export function isRanged(store: object): store is RangedStore {
  return isScannable(store) && hasMethod(store, "ranges");
}

/** Whether the store keeps bytes as they are. */
export function isBinary(store: object): store is BinaryStore {
  return Reflect.get(store, "values") === "bytes";
}

/** Whether the store has a reserved space. */
export function hasReservedSpace(store: object): store is ReservedSpace {
  return typeof store === "object" && store !== null && hasMethod(store, "reserved");
}

/** Whether the store says how long its calls take at most. */
export function isBounded(store: object): store is BoundedStore {
  const longestCallMs: unknown = Reflect.get(store, "longestCallMs");
  return typeof longestCallMs === "number" && Number.isSafeInteger(longestCallMs) && longestCallMs >= 0;
}

/** Whether the store hands out views on its namespaces. */
export function isNamespaced(store: object): store is NamespacedStore {
  return hasMethod(store, "namespaced");
}

/** What errors call a store: what it says itself, or else the name of its class. */
export function describeStore(store: object): string {
  const description: unknown = Reflect.get(store, "description");
  if (typeof description === "string") return description;
  const made: unknown = Reflect.get(store, "constructor");
  return typeof made === "function" && !["", "Object"].includes(made.name) ? made.name : "the store";
}
