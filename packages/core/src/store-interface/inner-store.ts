import {
  Keyv,
  KeyvBridgeAdapter,
  type KeyvBridgeStore,
  KeyvMemoryAdapter,
  type KeyvStorageAdapter,
  type KeyvStorageEntry,
} from "keyv";
import { asKeywardError, KeywardError } from "../errors/errors.ts";
import {
  type AtomicStore,
  describeStore,
  hasReservedSpace,
  isAtomic,
  isBinary,
  isNamespaced,
  isScannable,
  type Replacement,
  type ReservedSpace,
  type ScannableStore,
  type StoredValue,
} from "./capabilities.ts";
import { shareConnection } from "./connection-users.ts";
import { shareListener, withoutNewListeners } from "./event-listeners.ts";
import { hasExpired, type ValueForm } from "./record.ts";
import { sameStored } from "./store-arguments.ts";
import { WriteTurns } from "./write-turns.ts";

/** A replacement of a record that ends at this time, in milliseconds since the epoch. */
export interface ReplacementUntil extends Replacement {
  readonly expires: number | undefined;
}

/** What an `EncryptedStore` can wrap: a Keyv 6 adapter, a Keyv 5 adapter, or a Map. */
export type WrappableStore = KeyvStorageAdapter | KeyvBridgeStore | Map<string, unknown>;

/** The namespace that records of the reserved space are sealed for. No record of a user can claim it. */
export const reservedNamespace = "\0keyward";

/** The namespaces that are in use on what was given to be wrapped, and by how many. */
const namespacesInUse = new WeakMap<object, Map<string, number>>();

/**
 * The wrapped store, whatever its kind: one error for whatever it rejects with, values that are strings or bytes,
 * and its optional capabilities.
 */
export class InnerStore {
  /** What errors call it. */
  readonly description: string;
  readonly form: ValueForm;
  readonly atomic: AtomicStore | undefined;
  readonly scannable: ScannableStore | undefined;
  readonly reserved: (AtomicStore & ScannableStore) | undefined;
  /** For how long after it was called a write may still be sent, as the store says, unchecked; `undefined` where it does not. */
  readonly longestCallMs: unknown;
  readonly #given: object;
  readonly #adapter: KeyvStorageAdapter;
  /** What emits the errors that happen below the adapter. */
  readonly #errorSource: object;
  /** The namespace that was set; `undefined`: that of the adapter. */
  #wanted: string | undefined;
  /** Only where replacements race with writes. */
  #turns: WriteTurns | undefined;
  /** The namespace that calls have used. */
  #used: string | undefined;

  /**
   * @throws KeywardError `STORE_INVALID` for what is no store.
   */
  constructor(given: WrappableStore) {
    requireStore(given);
    // Capabilities are looked for on what was given: Keyv's bridge passes on Keyv's own methods alone.
    const adapter = toAdapter(given);
    const capable = given instanceof Map ? adapter : given;
    this.description = describeStore(given);
    this.#given = given;
    this.#adapter = adapter;
    this.#errorSource = capable;
    this.form = isBinary(capable) ? "binary" : "text";
    this.atomic = isAtomic(capable) ? capable : undefined;
    this.scannable = isScannable(capable) ? capable : undefined;
    this.reserved = reservedSpaceOf(capable);
    this.longestCallMs = Reflect.get(capable, "longestCallMs");
    if ("throwOnErrors" in given) Reflect.set(given, "throwOnErrors", true);
  }

  /** The namespace that was set, or that the adapter came with; "" where there is none. */
  get namespace(): string {
    return this.#wanted ?? this.#adapter.namespace ?? "";
  }

  /**
   * The namespace for one call, read once at its start. From the first call on it is in use.
   *
   * @throws KeywardError `NAMESPACE_CONFLICT` when what was given is in use with another, whose records could mix with
   * these; `VALUE_INVALID` for a reserved one.
   */
  useNamespace(): string {
    const { namespace } = this;
    if (namespace !== this.#used || namespace !== (this.#adapter.namespace ?? "")) this.#use(namespace);
    return namespace;
  }

  /** Whether a call has used a namespace. */
  get inUse(): boolean {
    return this.#used !== undefined;
  }

  /**
   * Takes effect with the next call. An adapter that others use is left as it is until then.
   *
   * @throws KeywardError `VALUE_INVALID` for a reserved one.
   */
  setNamespace(namespace: string): void {
    requireUnreserved(namespace);
    this.#wanted = namespace;
  }

  /** Lets others use what was given with another namespace. */
  releaseNamespace(): void {
    const used = this.#used;
    const inUse = namespacesInUse.get(this.#given);
    if (used === undefined || inUse === undefined) return;
    this.#used = undefined;
    const left = (inUse.get(used) ?? 1) - 1;
    if (left > 0) inUse.set(used, left);
    else inUse.delete(used);
  }

  /** The same backend seen in another namespace, where the store can show it. */
  view(namespace: string): InnerStore | undefined {
    if (isNamespaced(this.#given)) return new InnerStore(this.#given.namespaced(namespace));
    return namespace === this.namespace && namespace === this.useNamespace() ? this : undefined;
  }

  /** Calls the listener with what the store emits as `error`, until the returned function is called. */
  onError(listener: (error: unknown) => void): () => void {
    const stops = [...new Set<object>([this.#adapter, this.#errorSource])].map((source) =>
      shareListener(source, "error", listener),
    );
    return () => {
      for (const stop of stops) stop();
    };
  }

  /**
   * Counts one more user of the connection. What is returned counts it off, and disconnects with the last.
   *
   * @param opened what to disconnect. Default: the store itself.
   */
  shareConnection(opened?: { disconnect?(): Promise<unknown> }): () => Promise<void> {
    // Every view of a backend has the same reserved space.
    const backend = this.reserved ?? this.#given;
    if (opened === undefined || opened === this.#given) {
      return shareConnection(backend, () => this.#call(async () => this.#adapter.disconnect?.()), this.#given);
    }
    return shareConnection(backend, () => wrapRejection(async () => opened.disconnect?.()), opened);
  }

  // The most frequent calls, get and set, do without the promises of #call.
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
    return forEach("setMany", entries.length, answer);
  }

  async delete(key: string): Promise<boolean> {
    return (await this.#write([key], () => this.#adapter.delete(key))) !== false;
  }

  async deleteMany(keys: string[]): Promise<boolean[]> {
    const answer: unknown = await this.#write(keys, () => this.#adapter.deleteMany(keys));
    return forEach("deleteMany", keys.length, answer);
  }

  async clear(): Promise<void> {
    await this.#write("all", () => this.#adapter.clear());
  }

  /**
   * @throws KeywardError `STORE_NOT_SCANNABLE` when the store cannot be iterated.
   */
  async *iterate(): AsyncGenerator<readonly [string, unknown]> {
    // Keyv's bridge has an iterator over every store, which finds nothing where the store has none.
    const iterable = this.#given instanceof Map || "iterator" in this.#given;
    const entries = iterable ? await this.#call(async () => this.#adapter.iterator?.()) : undefined;
    if (entries === undefined) {
      throw new KeywardError("STORE_NOT_SCANNABLE", "The store cannot be iterated", {
        hint: "Its adapter has no iterator(). Use one that has.",
      });
    }
    // By its type this is a generator, but some stores give a plain iterator.
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

  /** Replaces each where it is unchanged; one round trip where the store can. */
  async replaceMany(atomic: AtomicStore, changes: readonly Replacement[]): Promise<boolean[]> {
    const stored =
      this.#adapter instanceof KeyvBridgeAdapter
        ? changes.map((change) => ({ ...change, key: this.#keyInStore(change.key) }))
        : changes;
    return await this.#call(async () => {
      if (atomic.replaceMany !== undefined) return await atomic.replaceMany(stored);
      const replaced: boolean[] = [];
      for (const { key, expected, next } of stored) replaced.push(await atomic.replace(key, expected, next));
      return replaced;
    });
  }

  /**
   * Has {@link replaceRacing} replace what this store does not write itself at that time. To be called before the first write.
   */
  takeTurns(): void {
    this.#turns = new WriteTurns();
  }

  /** Replaces each that was unchanged a moment ago: a write of somebody else that comes in between is undone. */
  async replaceRacing(changes: readonly ReplacementUntil[]): Promise<boolean[]> {
    const turns = this.#turns ?? new WriteTurns();
    return await turns.comparing(async () => {
      const stored = await this.getMany(changes.map(({ key }) => key));
      const replaced: boolean[] = [];
      for (const [index, { key, expected, next, expires }] of changes.entries()) {
        const isSame = sameStored(stored[index] ?? undefined, expected);
        replaced.push(isSame && (await turns.replace(key, () => this.#set(key, next, expires))));
      }
      return replaced;
    });
  }

  /** Keyv's bridge prefixes keys for stores that know no namespaces; what is not called through it must do so too. */
  #keyInStore(key: string): string {
    const adapter = this.#adapter;
    return adapter instanceof KeyvBridgeAdapter ? adapter.getKeyPrefix(key, adapter.namespace) : key;
  }

  #use(namespace: string): void {
    requireUnreserved(namespace);
    const adapter = this.#adapter;
    // A call that is on its way would be carried out in the other namespace.
    const before = this.#used;
    if (before !== undefined) throw conflict(before === namespace ? (adapter.namespace ?? "") : before, namespace);
    let inUse = namespacesInUse.get(this.#given);
    if (inUse === undefined) {
      inUse = new Map();
      namespacesInUse.set(this.#given, inUse);
    }
    for (const other of inUse.keys()) if (this.#mixes(other, namespace)) throw conflict(other, namespace);
    inUse.set(namespace, (inUse.get(namespace) ?? 0) + 1);
    this.#used = namespace;
    if (namespace !== (adapter.namespace ?? "")) adapter.namespace = namespace === "" ? undefined : namespace;
  }

  /** Whether records of two namespaces could be taken for each other. */
  #mixes(one: string, other: string): boolean {
    if (one === other) return false;
    const adapter = this.#adapter;
    // An adapter that was given is in one namespace at a time. One of ours puts it in front of the keys.
    if (adapter === this.#given) return true;
    if (!(adapter instanceof AtomicMapAdapter || adapter instanceof Bridge)) return true;
    const [first, second] = [adapter.getKeyPrefix("", one), adapter.getKeyPrefix("", other)];
    return first.startsWith(second) || second.startsWith(first);
  }

  /** What somebody put into a Map himself: Keyv's adapter takes it for a miss, and it is none. */
  #strayEntry(key: string): unknown {
    return this.#adapter instanceof AtomicMapAdapter ? this.#adapter.strayEntry(key) : undefined;
  }

  async #write<Result>(keys: readonly string[] | "all", operation: () => Promise<Result>): Promise<Result> {
    const call = () => this.#call(operation);
    return this.#turns === undefined ? await call() : await this.#turns.write(keys, call);
  }

  async #call<Result>(operation: () => Promise<Result>): Promise<Result> {
    return await wrapRejection(operation);
  }
}

/** What a store answers to a batch of writes: for each, or for all at once; only `false` says that one was not made. */
function forEach(method: string, length: number, answer: unknown): boolean[] {
  if (!Array.isArray(answer)) return Array.from({ length }, () => answer !== false);
  if (answer.length === length) return answer.map((each: unknown) => each !== false);
  throw noAnswer(method, "answers", length, answer);
}

function noAnswer(method: string, what: string, length: number, answer: unknown): KeywardError {
  const given = Array.isArray(answer) ? `${answer.length} ${what}` : "no list";
  return new KeywardError("STORE_UNAVAILABLE", `The ${method}() of the store gave ${given} for ${length} keys`, {
    hint: `Its ${method}() must answer for every key, in order: which answer belongs to which key cannot be told.`,
  });
}

function requireUnreserved(namespace: string): void {
  if (namespace !== reservedNamespace) return;
  throw new KeywardError("VALUE_INVALID", "This namespace is reserved", { hint: "Choose another." });
}

function conflict(used: string, namespace: string): KeywardError {
  return new KeywardError(
    "NAMESPACE_CONFLICT",
    `This store instance is in use with namespace ${JSON.stringify(used)} and cannot also be ${JSON.stringify(namespace)}`,
    {
      namespace,
      hint:
        "Give each Keyv a store instance of its own: store.namespaced(…) where the store has it, or a second adapter. " +
        "Over one Map, give each Keyv a namespace, none of which begins with another and a colon.",
    },
  );
}

/**
 * The store, if it is one. Code without types may have handed over anything.
 *
 * @throws KeywardError `STORE_INVALID`.
 */
export function requireStore(given: WrappableStore): void {
  const isObject = typeof given === "object" && given !== null;
  const missing = isObject ? ["get", "set", "delete", "clear"].filter((name) => !hasMethod(given, name)) : [];
  const problem = !isObject
    ? `no object, but ${given === null ? "null" : typeof given}`
    : missing.length > 0
      ? `an object without ${missing.join(", ")}`
      : isKeyv(given)
        ? "a Keyv, which answers as for a miss when its own store fails"
        : undefined;
  if (problem === undefined) return;
  throw new KeywardError("STORE_INVALID", `The store is ${problem}`, {
    hint: "Give a Keyv storage adapter, or a Map; of a Keyv, its adapter: keyv.store.",
  });
}

/** Whether it is a Keyv, of version 5 or 6, and not an adapter. */
export function isKeyv(given: object): boolean {
  return given instanceof Keyv || (hasMethod(given, "getRaw") && "stats" in given);
}

function hasMethod(given: object, name: string): boolean {
  return typeof Reflect.get(given, name) === "function";
}

/**
 * What makes re-encryption safe beside live traffic.
 *
 * @throws KeywardError `STORE_NOT_ATOMIC`.
 */
export function requireAtomic(inner: InnerStore): AtomicStore {
  if (inner.atomic !== undefined) return inner.atomic;
  throw new KeywardError("STORE_NOT_ATOMIC", "The wrapped store cannot replace a record only if it is unchanged", {
    hint: "Re-encryption could undo a newer write. Leave it off, or use a store that has replace().",
  });
}

/**
 * What a store rejects with, as one error.
 *
 * @throws KeywardError `STORE_UNAVAILABLE` with the cause, or the error itself where it is one already.
 */
export async function wrapRejection<Result>(operation: () => Promise<Result>): Promise<Result> {
  try {
    return await operation();
  } catch (error) {
    throw storeError(error);
  }
}

function storeError(error: unknown): KeywardError {
  const hint = "See the cause. Nothing is known about whether a write arrived.";
  return asKeywardError(error, "STORE_UNAVAILABLE", "The store failed", hint);
}

function reservedSpaceOf(store: object & Partial<ReservedSpace>): (AtomicStore & ScannableStore) | undefined {
  return hasReservedSpace(store) ? store.reserved() : undefined;
}

function toAdapter(given: WrappableStore): KeyvStorageAdapter {
  if (given instanceof Map) return new AtomicMapAdapter(given);
  if (isKeyv6Adapter(given)) return given;
  // Each bridge would leave one more listener on the store, for ever.
  return withoutNewListeners(given, () => new Bridge(given));
}

function isKeyv6Adapter(store: KeyvStorageAdapter | KeyvBridgeStore): store is KeyvStorageAdapter {
  return "capabilities" in store && store.capabilities?.expires === true;
}

/** Keyv's bridge, except that a delete that failed is not taken for one that found nothing. */
class Bridge extends KeyvBridgeAdapter {
  override async deleteMany(keys: string[]): Promise<boolean[]> {
    if (this.store.deleteMany !== undefined) return await super.deleteMany(keys);
    const deleted: boolean[] = [];
    for (const key of keys) deleted.push(await this.delete(key));
    return deleted;
  }
}

/** Keyv's adapter over a Map, which can replace atomically: nothing comes between the steps of one synchronous function. */
class AtomicMapAdapter extends KeyvMemoryAdapter {
  readonly #map: Map<string, unknown>;

  constructor(map: Map<string, unknown>) {
    super(map);
    this.#map = map;
  }

  /** What lies in the Map and is no entry of Keyv's. */
  strayEntry(key: string): unknown {
    const entry = this.#map.get(this.getKeyPrefix(key, this.namespace));
    const isEntry = typeof entry === "object" && entry !== null && "value" in entry;
    return isEntry && entry.value !== undefined && entry.value !== null ? undefined : entry;
  }

  async replace(key: string, expected: StoredValue | undefined, next: StoredValue): Promise<boolean> {
    const prefixed = this.getKeyPrefix(key, this.namespace);
    const { value, expires } = readMapEntry(this.#map.get(prefixed));
    const present = value !== undefined && !hasExpired(expires);
    if (present ? !sameStored(value, expected) : expected !== undefined) return false;
    this.#map.set(prefixed, { value: next, expires: present ? expires : undefined });
    return true;
  }
}

function readMapEntry(entry: unknown): { readonly value?: unknown; readonly expires?: number } {
  if (typeof entry !== "object" || entry === null || !("value" in entry)) return {};
  const expires = "expires" in entry && typeof entry.expires === "number" ? entry.expires : undefined;
  return expires === undefined ? { value: entry.value } : { value: entry.value, expires };
}
