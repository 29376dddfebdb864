import { KeyvBridgeAdapter, type KeyvStorageAdapter, type KeyvStorageEntry } from "keyv";
import { asKeywardError, KeywardError } from "../errors/errors.ts";
import { keyInStore, requireStore, strayEntry, toAdapter, type WrappableStore } from "./adapters.ts";
import { shareConnection } from "./connection-users.ts";
import { ignoreLaterErrors, shareListener } from "./event-listeners.ts";
import { NamespaceUse } from "./namespace-use.ts";
import type { ValueForm } from "./record.ts";
import { sameStored } from "./store-arguments.ts";
import {
  type AtomicStore,
  describeStore,
  hasMethod,
  hasReservedSpace,
  isAtomic,
  isBinary,
  isNamespaced,
  isScannable,
  type Replacement,
  type ReservedSpace,
  type ScannableStore,
  type StoredValue,
} from "./store-capabilities.ts";
import { WriteTurns } from "./write-turns.ts";

/**
 * A replacement in a store without an atomic replace. The caller passes the expiry of the record, because such a store
 * would lose the expiry.
 */
export interface RacingReplacement extends Replacement {
  /** The expiry of the replaced record, which the new record keeps: in milliseconds since the epoch; `undefined` for never. */
  readonly keptExpires: number | undefined;
}

/**
 * Gives every wrapped store the same interface: a Keyv 6 adapter, a Keyv 5 adapter or a Map. Turns every rejection of
 * the store into a KeywardError, passes values as strings or bytes, and has the optional capabilities of the store as
 * properties.
 */
export class WrappedStore {
  /** The name of the store in error messages. */
  readonly description: string;
  readonly form: ValueForm;
  readonly atomic: AtomicStore | undefined;
  readonly scannable: ScannableStore | undefined;
  readonly reserved: (AtomicStore & ScannableStore) | undefined;
  /** The property `longestCallMs` of the store, unchecked; `undefined` if the store has no such property. */
  readonly longestCallMs: unknown;
  readonly #given: WrappableStore;
  readonly #adapter: KeyvStorageAdapter;
  /** The object that emits the errors of the connection below the adapter. */
  readonly #errorSource: object;
  readonly #namespaceUse: NamespaceUse;
  /**
   * Prevents a write and a replacement of the same key from running at the same time. Only for a store without an
   * atomic replace.
   */
  #turns: WriteTurns | undefined;

  /**
   * Wraps a store.
   *
   * @throws KeywardError `STORE_INVALID` for a value that is not a store.
   */
  constructor(given: WrappableStore) {
    requireStore(given);
    // Look for capabilities on the caller's store: Keyv's bridge passes on only the methods of a Keyv adapter.
    const adapter = toAdapter(given);
    const capable = given instanceof Map ? adapter : given;
    this.description = describeStore(given);
    this.#given = given;
    this.#adapter = adapter;
    this.#namespaceUse = new NamespaceUse(given, adapter);
    this.#errorSource = capable;
    this.form = isBinary(capable) ? "binary" : "text";
    this.atomic = isAtomic(capable) ? capable : undefined;
    this.scannable = isScannable(capable) ? capable : undefined;
    this.reserved = reservedSpaceOf(capable);
    this.longestCallMs = Reflect.get(capable, "longestCallMs");
    if ("throwOnErrors" in given) Reflect.set(given, "throwOnErrors", true);
  }

  /**
   * The namespace that was passed to `setNamespace`. If `setNamespace` was not called, this is the namespace of the
   * adapter, or "" if the adapter has no namespace.
   */
  get namespace(): string {
    return this.#namespaceUse.namespace;
  }

  /**
   * Begins the use of {@link WrappedStore.namespace}, and returns this namespace. Each method of the `EncryptedStore`
   * calls `useNamespace` once, at its start.
   *
   * @throws KeywardError `NAMESPACE_CONFLICT` if the store is in use with another namespace, and records of the two
   * namespaces could have the same key in the store; `VALUE_INVALID` for the namespace of Keyward's own records.
   */
  useNamespace(): string {
    return this.#namespaceUse.begin();
  }

  /** True if the store was called since the last `releaseNamespace`, so that its namespace is in use. */
  get inUse(): boolean {
    return this.#namespaceUse.begun;
  }

  /**
   * Sets the namespace that the next call of the store uses. The namespace of the adapter changes only in that call,
   * because other users may share the adapter.
   *
   * @throws KeywardError `VALUE_INVALID` for the namespace of Keyward's own records.
   */
  setNamespace(namespace: string): void {
    this.#namespaceUse.set(namespace);
  }

  /** Ends the use of the namespace, so that other users of the store can use another namespace. */
  releaseNamespace(): void {
    this.#namespaceUse.release();
  }

  /**
   * Verifies that the store is still in use with `namespace`, the namespace in which a call began. Call this method
   * before a write that had to wait.
   *
   * @throws KeywardError `STORE_UNAVAILABLE` if the store was disconnected in the meantime.
   */
  requireNamespace(namespace: string): void {
    if (this.#namespaceUse.isUsedWith(namespace)) return;
    throw new KeywardError("STORE_UNAVAILABLE", "The store was disconnected while a call was waiting to write", {
      namespace,
      hint: "Nothing was written. Repeat the call with a connected store. Wait for running calls before you disconnect a store.",
    });
  }

  /**
   * Returns a view on a namespace of the same backend. If the store has no views, returns this object if it has this
   * namespace, and `undefined` otherwise.
   */
  view(namespace: string): WrappedStore | undefined {
    if (isNamespaced(this.#given)) return new WrappedStore(this.#given.namespaced(namespace));
    return namespace === this.namespace && namespace === this.useNamespace() ? this : undefined;
  }

  /** Calls the listener for each `error` event of the store. The returned function removes the listener. */
  onError(listener: (error: unknown) => void): () => void {
    const stops = [...new Set<object>([this.#adapter, this.#errorSource])].map((source) =>
      shareListener(source, "error", listener),
    );
    return () => {
      for (const stop of stops) stop();
    };
  }

  /**
   * Registers one more user of the store's connection.
   *
   * @param opened the object to disconnect when the connection has no user left. Default: the store itself.
   * @returns a function that removes this user of the connection, and disconnects `opened` if no user is left.
   */
  shareConnection(opened?: { disconnect?(): Promise<unknown> }): () => Promise<void> {
    // Every view of a backend has the same reserved space.
    const backend = this.reserved ?? this.#given;
    if (opened === undefined || opened === this.#given) {
      const disconnect = async () => {
        for (const source of new Set<object>([this.#adapter, this.#errorSource])) ignoreLaterErrors(source);
        return this.#adapter.disconnect?.();
      };
      return shareConnection(backend, () => this.#call(disconnect), this.#given);
    }
    return shareConnection(backend, () => wrapRejection(async () => opened.disconnect?.()), opened);
  }

  /**
   * Checks that the store answers: reads one key and ignores the result. The namespace can still be changed afterwards.
   *
   * @throws KeywardError `STORE_UNAVAILABLE` if the store fails; the errors of {@link WrappedStore.useNamespace}.
   */
  async requireAnswer(): Promise<void> {
    const use = new NamespaceUse(this.#given, this.#adapter);
    use.set(this.namespace);
    use.begin();
    try {
      await this.#call(() => this.#adapter.get("keyward:ready"));
    } finally {
      use.release();
    }
  }

  // get and set are the most frequent calls. They avoid the extra promises of #call.
  async get(key: string): Promise<unknown> {
    try {
      return (await this.#adapter.get(key)) ?? this.#strayEntry(key);
    } catch (error) {
      throw storeError(error);
    }
  }

  async getMany(keys: string[]): Promise<readonly unknown[]> {
    const stored: unknown = await this.#call(() => this.#adapter.getMany(keys));
    if (!Array.isArray(stored) || stored.length !== keys.length) {
      throw noAnswer("getMany", "values", keys.length, stored);
    }
    return stored.map((value: unknown, index) => value ?? this.#strayEntry(keys[index] ?? ""));
  }

  set(key: string, value: StoredValue, expires: number | undefined): Promise<boolean> {
    if (this.#turns === undefined) return this.#set(key, value, expires);
    return this.#turns.write([key], () => this.#set(key, value, expires));
  }

  async #set(key: string, value: StoredValue, expires: number | undefined): Promise<boolean> {
    try {
      return (await this.#adapter.set(key, value, expires)) !== false;
    } catch (error) {
      throw storeError(error);
    }
  }

  async setMany(entries: KeyvStorageEntry<StoredValue>[]): Promise<boolean[]> {
    const answer: unknown = await this.#write(
      entries.map(({ key }) => key),
      () => this.#adapter.setMany(entries),
    );
    return outcomes("setMany", entries.length, answer);
  }

  async delete(key: string): Promise<boolean> {
    return (await this.#write([key], () => this.#adapter.delete(key))) !== false;
  }

  async deleteMany(keys: string[]): Promise<boolean[]> {
    const answer: unknown = await this.#write(keys, () => this.#adapter.deleteMany(keys));
    return outcomes("deleteMany", keys.length, answer);
  }

  async clear(): Promise<void> {
    await this.#write("all", () => this.#adapter.clear());
  }

  /**
   * Iterates over the keys and stored values of the namespace.
   *
   * @throws KeywardError `STORE_NOT_SCANNABLE` if the store has no iterator.
   */
  async *iterate(): AsyncGenerator<readonly [string, unknown]> {
    // Keyv's bridge always has an iterator, which returns no records if the store below has no iterator.
    const iterable = this.#given instanceof Map || "iterator" in this.#given;
    const entries = iterable ? await this.#call(async () => this.#adapter.iterator?.()) : undefined;
    if (entries === undefined) {
      throw new KeywardError(
        "STORE_NOT_SCANNABLE",
        `Cannot iterate over ${this.description}, which has no iterator()`,
        {
          hint: "Use a storage adapter that has the method iterator().",
        },
      );
    }
    // The declared type is a generator, but some stores return an iterator without the method return().
    const end = async () => (hasMethod(entries, "return") ? await entries.return() : undefined);
    try {
      for (;;) {
        const entry = await this.#call(async () => {
          const next = await entries.next();
          if (next.done === true) return undefined;
          const [key, value] = next.value;
          return { key: String(key), value };
        });
        if (entry === undefined) return;
        yield [entry.key, entry.value ?? this.#strayEntry(entry.key)];
      }
    } finally {
      await this.#call(end);
    }
  }

  /**
   * Replaces each record that still has the expected value, in one round trip if the store has `replaceMany`. Returns
   * one boolean for each replacement, in the order of `changes`: true if the record was replaced.
   */
  async replaceMany(atomic: AtomicStore, changes: readonly Replacement[]): Promise<boolean[]> {
    const adapter = this.#adapter;
    const stored =
      adapter instanceof KeyvBridgeAdapter
        ? changes.map((change) => ({ ...change, key: keyInStore(adapter, change.key) }))
        : changes;
    const keys = changes.map(({ key }) => key);
    const answer: unknown = await this.#write(keys, async () => {
      if (atomic.replaceMany !== undefined) return await atomic.replaceMany(stored);
      const replaced: boolean[] = [];
      for (const { key, expected, next, expires } of stored) {
        replaced.push(await atomic.replace(key, expected, next, expires));
      }
      return replaced;
    });
    if (isAnswer(answer, changes.length)) return answer;
    throw noAnswer("replaceMany", "booleans", changes.length, answer);
  }

  /**
   * Prevents a write through this object and a replacement by {@link replaceRacing} from running at the same time for
   * the same record, so that the replacement does not undo the write. Call this method before the first write.
   */
  takeTurns(): void {
    this.#turns = new WriteTurns();
  }

  /**
   * Replaces each record that still has the expected value, in a store without an atomic replace. If another process
   * writes the record between the comparison and the replacement, its write is lost. Returns one boolean for each
   * replacement, in the order of `changes`: true if the record was replaced.
   */
  async replaceRacing(changes: readonly RacingReplacement[]): Promise<boolean[]> {
    const turns = this.#turns ?? new WriteTurns();
    return await turns.comparing(async () => {
      const stored = await this.getMany(changes.map(({ key }) => key));
      const replaced: boolean[] = [];
      for (const [index, { key, expected, next, keptExpires }] of changes.entries()) {
        const isSame = sameStored(stored[index] ?? undefined, expected);
        replaced.push(isSame && (await turns.replace(key, () => this.#set(key, next, keptExpires))));
      }
      return replaced;
    });
  }

  #strayEntry(key: string): unknown {
    return strayEntry(this.#adapter, key);
  }

  async #write<Result>(keys: readonly string[] | "all", operation: () => Promise<Result>): Promise<Result> {
    const call = () => this.#call(operation);
    return this.#turns === undefined ? await call() : await this.#turns.write(keys, call);
  }

  async #call<Result>(operation: () => Promise<Result>): Promise<Result> {
    return await wrapRejection(operation);
  }
}

/**
 * Returns one boolean for each write of a batch: false if the store did not make the write. A store may answer with a
 * list, or with one value for the whole batch. Only the value `false` means that a write was not made.
 */
function outcomes(method: string, length: number, answer: unknown): boolean[] {
  if (!Array.isArray(answer)) return Array.from({ length }, () => answer !== false);
  if (answer.length === length) return answer.map((each: unknown) => each !== false);
  throw noAnswer(method, "answers", length, answer);
}

function isAnswer(answer: unknown, length: number): answer is boolean[] {
  return Array.isArray(answer) && answer.length === length && answer.every((each) => typeof each === "boolean");
}

function noAnswer(method: string, what: string, length: number, answer: unknown): KeywardError {
  const returned = Array.isArray(answer) ? `${answer.length} ${what}` : "no list";
  return new KeywardError("STORE_UNAVAILABLE", `${method}() of the store returned ${returned} for ${length} keys`, {
    hint: `Fix the storage adapter: ${method}() must return one answer for each key, in the order of the keys.`,
  });
}

/**
 * Returns the store if it has an atomic replace. With an atomic replace, re-encryption can run while the application
 * writes.
 *
 * @throws KeywardError `STORE_NOT_ATOMIC` for a store without an atomic replace.
 */
export function requireAtomic(inner: WrappedStore): AtomicStore {
  if (inner.atomic !== undefined) return inner.atomic;
  throw new KeywardError(
    "STORE_NOT_ATOMIC",
    `Re-encryption needs replace(), which ${inner.description} does not have`,
    {
      hint:
        "Use a store that has `replace()`. If you cannot, do not re-encrypt the records of this store, because " +
        "re-encryption without `replace()` could undo a newer write.",
    },
  );
}

/**
 * Calls a store, and turns a rejection of the call into a KeywardError.
 *
 * @throws the KeywardError that the call rejected with. If the call rejected with any other error, `STORE_UNAVAILABLE`
 * with that error as its cause.
 */
export async function wrapRejection<Result>(operation: () => Promise<Result>): Promise<Result> {
  try {
    return await operation();
  } catch (error) {
    throw storeError(error);
  }
}

function storeError(error: unknown): KeywardError {
  const hint =
    "Read `error.cause`, the store's own error. Check that the store is reachable, and try again. If the call was a write, the store may or may not have executed it.";
  return asKeywardError(error, "STORE_UNAVAILABLE", "The store failed", hint);
}

function reservedSpaceOf(store: object & Partial<ReservedSpace>): (AtomicStore & ScannableStore) | undefined {
  return hasReservedSpace(store) ? store.reserved() : undefined;
}
