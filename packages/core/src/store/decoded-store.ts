import { type KeyvStorageEntry, keyvStorageCapability } from "keyv";
import { type EncryptedStore, storeParts } from "./encrypted-store.ts";
import type { DecodedReads } from "./record-reader.ts";

/**
 * The store of a Keyv that `createKeyv` made. It calls an {@link EncryptedStore}, but its reads return decoded values.
 *
 * Keyv must not decode the values itself, for two reasons. It would treat bytes as an already decoded value, and return
 * `undefined`. And the `EncryptedStore` would not notice that a value cannot be decoded, and would let a write replace
 * the record.
 */
export class DecodedStore {
  readonly #store: EncryptedStore;
  readonly #reads: DecodedReads;

  constructor(store: EncryptedStore) {
    this.#store = store;
    this.#reads = storeParts(store).decoded;
  }

  get capabilities(): ReturnType<typeof keyvStorageCapability> {
    return keyvStorageCapability(this);
  }

  get namespace(): string | undefined {
    return this.#store.namespace;
  }

  set namespace(namespace: string | undefined) {
    this.#store.namespace = namespace;
  }

  get(key: string): Promise<unknown> {
    return this.#reads.get(key);
  }

  getMany(keys: readonly string[]): Promise<readonly unknown[]> {
    return this.#reads.getMany(keys);
  }

  async has(key: string): Promise<boolean> {
    return (await this.get(key)) !== undefined;
  }

  async hasMany(keys: readonly string[]): Promise<boolean[]> {
    return (await this.getMany(keys)).map((value) => value !== undefined);
  }

  iterator(): AsyncGenerator<[string, unknown], void> {
    return this.#reads.iterator();
  }

  set(key: string, value: unknown, expires?: number): Promise<boolean> {
    return this.#store.set(key, value, expires === undefined ? undefined : asTime(expires));
  }

  setMany(entries: KeyvStorageEntry<unknown>[]): Promise<boolean[]> {
    const timed = entries.map((entry) =>
      entry.expires === undefined ? entry : { ...entry, expires: asTime(entry.expires) },
    );
    return this.#store.setMany(timed);
  }

  delete(key: string): Promise<boolean> {
    return this.#store.delete(key);
  }

  deleteMany(keys: string[]): Promise<boolean[]> {
    return this.#store.deleteMany(keys);
  }

  clear(): Promise<void> {
    return this.#store.clear();
  }

  disconnect(): Promise<void> {
    return this.#store.disconnect();
  }
}

/**
 * Returns 0 for a time in the past, and any other time unchanged. Keyv 6 always passes a time. But the store also
 * supports Keyv 5, which passes a duration, and would treat a small number as a duration.
 */
function asTime(expires: number): number {
  return expires <= Date.now() ? 0 : expires;
}
