import { Keyv, KeyvBridgeAdapter, type KeyvBridgeStore, KeyvMemoryAdapter, type KeyvStorageAdapter } from "keyv";
import { KeywardError } from "../errors/errors.ts";
import { withoutNewListeners } from "./event-listeners.ts";
import { hasExpired } from "./record.ts";
import { requireNewExpires, sameStored } from "./store-arguments.ts";
import { hasMethod, isStoredValue, type StoredValue } from "./store-capabilities.ts";

/** The stores that an `EncryptedStore` can wrap: a Keyv 6 adapter, a Keyv 5 adapter, or a Map. */
export type WrappableStore = KeyvStorageAdapter | KeyvBridgeStore | Map<string, unknown>;

/**
 * Checks that a value is a store that can be wrapped, because no compiler checks JavaScript code.
 *
 * @throws KeywardError `STORE_INVALID` for any other value.
 */
export function requireStore(given: WrappableStore): void {
  const isObject = typeof given === "object" && given !== null;
  const missing = isObject ? ["get", "set", "delete", "clear"].filter((name) => !hasMethod(given, name)) : [];
  const problem = !isObject
    ? `not an object, but ${given === null ? "null" : typeof given}`
    : missing.length > 0
      ? `an object without ${missing.join(", ")}`
      : isKeyv(given)
        ? "a Keyv, which reports a failed read of its own store as a miss"
        : undefined;
  if (problem === undefined) return;
  const encrypts = isObject && "encryptedStore" in given;
  throw new KeywardError("STORE_INVALID", `The store is ${problem}`, {
    hint: encrypts
      ? "This Keyv was made by createKeyv, so it already encrypts. Use this Keyv without another EncryptedStore. If you " +
        "need a second Keyv or EncryptedStore over the same data, pass it the store that was passed to createKeyv."
      : "Pass a Keyv storage adapter or a Map. If you have a Keyv, pass its adapter, `keyv.store`.",
  });
}

/** Returns whether an object is a Keyv (version 5 or 6), and not an adapter. */
export function isKeyv(given: object): boolean {
  return given instanceof Keyv || (hasMethod(given, "getRaw") && "stats" in given);
}

/** Returns the store itself if it is a Keyv 6 adapter. Otherwise returns a Keyv 6 adapter over the store. */
export function toAdapter(given: WrappableStore): KeyvStorageAdapter {
  if (given instanceof Map) return new AtomicMapAdapter(given);
  if (isKeyv6Adapter(given)) return given;
  // Remove the listener that each new bridge adds to the store, because nothing else removes it.
  return withoutNewListeners(given, () => new Bridge(given));
}

/**
 * Returns the key of a record in the store under `adapter`, for calls that go to that store directly. If `adapter` is
 * Keyv's bridge over a Keyv 5 adapter, the result begins with the namespace, because the bridge puts the namespace
 * before each key. For any other adapter, the result is `key`.
 */
export function keyInStore(adapter: KeyvStorageAdapter, key: string): string {
  return adapter instanceof KeyvBridgeAdapter ? adapter.getKeyPrefix(key, adapter.namespace) : key;
}

/**
 * Returns the value under a key of a Map if the application put the value into the Map directly, and not through Keyv.
 * Keyv's adapter reports such a value as a miss.
 */
export function strayEntry(adapter: KeyvStorageAdapter, key: string): unknown {
  return adapter instanceof AtomicMapAdapter ? adapter.strayEntry(key) : undefined;
}

/**
 * Returns whether a record of the namespace `one` and a record of the namespace `other` can have the same key in the
 * store below the adapter.
 */
export function namespacesOverlap(
  given: WrappableStore,
  adapter: KeyvStorageAdapter,
  one: string,
  other: string,
): boolean {
  if (one === other) return false;
  // An adapter of the caller has one namespace at a time. The adapters of this module put the namespace before each
  // key.
  if (adapter === given) return true;
  if (!(adapter instanceof AtomicMapAdapter || adapter instanceof Bridge)) return true;
  const [first, second] = [adapter.getKeyPrefix("", one), adapter.getKeyPrefix("", other)];
  return first.startsWith(second) || second.startsWith(first);
}

function isKeyv6Adapter(store: KeyvStorageAdapter | KeyvBridgeStore): store is KeyvStorageAdapter {
  return "capabilities" in store && store.capabilities?.expires === true;
}

/**
 * Keyv's bridge over a Keyv 5 adapter, with one change: `deleteMany` rejects if a delete fails. In Keyv's own bridge, a
 * failed delete has the same result as a missing record.
 */
class Bridge extends KeyvBridgeAdapter {
  override async deleteMany(keys: string[]): Promise<boolean[]> {
    if (this.store.deleteMany !== undefined) return await super.deleteMany(keys);
    const deleted: boolean[] = [];
    for (const key of keys) deleted.push(await this.delete(key));
    return deleted;
  }
}

/**
 * Keyv's adapter over a Map, with an atomic `replace`. It is atomic because JavaScript runs a synchronous function
 * without interruption.
 */
class AtomicMapAdapter extends KeyvMemoryAdapter {
  readonly #map: Map<string, unknown>;

  constructor(map: Map<string, unknown>) {
    super(map);
    this.#map = map;
  }

  strayEntry(key: string): unknown {
    const entry = this.#map.get(this.getKeyPrefix(key, this.namespace));
    const isEntry = typeof entry === "object" && entry !== null && "value" in entry;
    return isEntry && entry.value !== undefined && entry.value !== null ? undefined : entry;
  }

  async replace(
    key: string,
    expected: StoredValue | undefined,
    next: StoredValue,
    newExpires?: number | null,
  ): Promise<boolean> {
    const until = requireNewExpires(key, newExpires);
    const prefixed = this.getKeyPrefix(key, this.namespace);
    const { value, expires } = readMapEntry(this.#map.get(prefixed));
    const present = value !== undefined && !hasExpired(expires);
    if (present ? !sameStored(value, expected) : expected !== undefined) return false;
    if (typeof until === "number" && hasExpired(until)) this.#map.delete(prefixed);
    else {
      const kept = present ? expires : undefined;
      this.#map.set(prefixed, { value: next, expires: until === undefined ? kept : (until ?? undefined) });
    }
    return true;
  }
}

function readMapEntry(entry: unknown): { readonly value?: unknown; readonly expires?: number } {
  // The application put the value into the Map directly.
  if (isStoredValue(entry)) return { value: entry };
  if (typeof entry !== "object" || entry === null || !("value" in entry)) return {};
  const expires = "expires" in entry && typeof entry.expires === "number" ? entry.expires : undefined;
  return expires === undefined ? { value: entry.value } : { value: entry.value, expires };
}
