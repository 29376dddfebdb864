import { Hookified } from "hookified";
import { type KeyvStorageAdapter, type KeyvStorageEntry, keyvStorageCapability } from "keyv";
import { KeywardError } from "../errors/errors.ts";
import { requireOptions } from "../errors/options.ts";
import { KeyringSource } from "../keyring/keyring-source.ts";
import { isKeyv, type WrappableStore } from "../store-interface/adapters.ts";
import { requireAddress } from "../store-interface/record.ts";
import type { Replacement, StoredValue } from "../store-interface/store-capabilities.ts";
import { WrappedStore } from "../store-interface/wrapped-store.ts";
import { BackgroundEvents } from "./background-events.ts";
import { CheckRecord } from "./check-record.ts";
import {
  type EncryptedStoreOptions,
  encryptedStoreOptionNames,
  registrationFor,
  requireOptionValues,
} from "./encrypted-store-options.ts";
import { GenerationNotice } from "./generation-notice.ts";
import { KeyringCheck } from "./keyring-check.ts";
import { LazyReencryption, replacementFor } from "./lazy-reencryption.ts";
import { OverwriteGuard } from "./overwrite-guard.ts";
import { type ReadyOptions, requireReady } from "./readiness.ts";
import { RecordCodec } from "./record-codec.ts";
import { type Convert, type DecodedReads, RecordReader } from "./record-reader.ts";
import { RecordReplacer } from "./record-replacer.ts";
import { RecordScopes } from "./record-scopes.ts";
import { RecordWriter } from "./record-writer.ts";
import { ReplicaRegistration } from "./replica-registration.ts";
import { ReservedRecords } from "./reserved-records.ts";
import { type Disconnectable, StoreAttachment } from "./store-attachment.ts";
import { WriteGate } from "./write-gate.ts";

/**
 * The argument of each tool, such as bulk re-encryption: an {@link EncryptedStore}, or a Keyv that `createKeyv` made.
 */
export type EncryptedStoreOrKeyv =
  | EncryptedStore
  | {
      /** The `EncryptedStore` under a Keyv that `createKeyv` made. */
      readonly encryptedStore: EncryptedStore;
    };

/** The parts of a store that bulk re-encryption, rotation and the other tools of this package use. Not public. */
export interface StoreParts {
  readonly inner: WrappedStore;
  readonly codec: RecordCodec;
  readonly check: KeyringCheck;
  readonly generationNotice: GenerationNotice;
  readonly source: KeyringSource;
  readonly writeGate: WriteGate;
  /** The access to the reserved space of the store. `undefined` if the store has no reserved space. */
  readonly reserve: ReservedRecords | undefined;
  readonly decoded: DecodedReads;
}

const unconverted: Convert<StoredValue> = (value) => value;

let partsOf: (store: EncryptedStore) => StoreParts;
let attach: (store: EncryptedStore) => void;

/** For the options of a store that {@link prepareStore} made: the store to disconnect, if not the wrapped store. */
const prepared = new WeakMap<EncryptedStoreOptions, { readonly opened: Disconnectable | undefined }>();

/**
 * A Keyv storage adapter that wraps another storage adapter. It encrypts each value before writing the value to the
 * wrapped store, and decrypts each value that it reads. A value can be decrypted only under the namespace and key for
 * which it was encrypted.
 *
 * A read returns `undefined` for a missing or expired record. It throws an error if the record is stored but cannot be
 * decrypted. A read never deletes a record.
 *
 * Events:
 * - `reencrypted`, `reencrypt:conflict`, `reencrypt:error`: the outcome of lazy re-encryption for one record. The
 *   argument is a {@link ReencryptEvent}.
 * - `keyring:changed`: the key provider returned another keyring, which is now in use. The argument is this keyring.
 * - `provider:error`: the key provider failed. The argument is a `KeywardError`. The last good keyring stays in use.
 * - `store:error`: the wrapped store emitted the event `error`. The argument is the error of the wrapped store.
 * - `replica:lapsed`: the heartbeat of this process has lapsed. Writes wait until the process has renewed the
 *   heartbeat.
 * - `replica:error`: a heartbeat of this process failed. The argument is a `KeywardError`.
 *
 * Each `…:error` event has a {@link Repetition} as its second argument, which counts how often the error occurred. An
 * error is emitted at once when it first occurs. If the error repeats, it is emitted only after pauses that grow from 5
 * seconds to 5 minutes. After a success, the next error is emitted at once. The store never emits the event `error`,
 * because a call that fails rejects.
 *
 * @example
 * const encrypted = new EncryptedStore(store, { keys });
 * await encrypted.set("session:42", "checkout");
 * console.log(await encrypted.get("session:42")); // checkout
 */
export class EncryptedStore extends Hookified implements KeyvStorageAdapter {
  /**
   * Writes `next` if the decrypted value equals `expected` and has the same type. Returns whether `next` was written.
   * If `expected` is `undefined`, writes only if there is no record. Present if the wrapped store can replace
   * atomically.
   *
   * If other writes changed the value and then changed it back to `expected`, the record is still replaced. To prevent
   * that, store a number in the value, and increase the number with each write.
   *
   * @param expires when the record expires, in milliseconds since the epoch; `null` for never. A time in the past
   * removes the record. Default: the record keeps its expiry, and a new record never expires.
   * @throws KeywardError as {@link EncryptedStore.get} and {@link EncryptedStore.set}; `STORE_UNAVAILABLE` if other
   * processes changed the record 64 times during the call.
   */
  declare readonly replace?: (
    key: string,
    expected: StoredValue | undefined,
    next: StoredValue,
    expires?: number | null,
  ) => Promise<boolean>;
  /**
   * Makes several replacements as {@link EncryptedStore.replace} does, and returns for each whether it was made.
   * Present if the wrapped store can replace atomically.
   *
   * @throws KeywardError `RECORDS_UNREADABLE`, with one error for each record that cannot be decrypted;
   * `STORE_UNAVAILABLE`. If some replacements were made before the error, the hint of the error states this.
   */
  declare readonly replaceMany?: (changes: readonly Replacement[]) => Promise<boolean[]>;
  /**
   * Sets the expiry of a record, but not its value. Returns false if there is no record. If another process writes the
   * record at the same time, its value is kept. Present if the wrapped store can replace atomically.
   *
   * @param expires when the record expires, in milliseconds since the epoch; `null` for never. A time in the past
   * removes the record.
   * @throws KeywardError as {@link EncryptedStore.replace}; `KEYRING_INVALID` with a keyring without keys.
   */
  declare readonly touch?: (key: string, expires: number | null) => Promise<boolean>;
  readonly #inner: WrappedStore;
  readonly #codec: RecordCodec;
  readonly #check: KeyringCheck;
  readonly #guard: OverwriteGuard;
  readonly #reencryption: LazyReencryption | undefined;
  readonly #attachment: StoreAttachment;
  readonly #reader: RecordReader;
  readonly #writer: RecordWriter;
  readonly #parts: StoreParts;

  static {
    attach = (store) => store.#attachment.attach();
    partsOf = (store) => store.#parts;
  }

  /**
   * Wraps a store. Keyward detects optional capabilities of the store, such as `replace()`, on the object that you
   * pass.
   *
   * @throws KeywardError with one of these codes:
   * - `VALUE_INVALID` if an option is unknown or has an invalid value.
   * - `STORE_INVALID` if the store is neither a Keyv storage adapter nor a `Map`, for example if it is a Keyv, or if it
   *   is an `EncryptedStore`. Also if the option `replica` is set, but the store has no reserved space.
   * - `KEYRING_INVALID` if `keys` is neither a keyring nor a key provider.
   * - `STORE_NOT_ATOMIC` if `reencrypt` is `"on-read"`, but the store cannot replace a record atomically.
   */
  constructor(store: WrappableStore, options: EncryptedStoreOptions) {
    super({ throwOnHookError: false, throwOnEmptyListeners: false });
    // createKeyv has checked the option names of a prepared store.
    if (!prepared.has(options)) requireOptions("EncryptedStore", options, encryptedStoreOptionNames);
    requireOptionValues(options);
    requireUnencrypted(store);
    const { keys, accept = [], padTo, keepDecrypted, decode } = options;
    const scopes = new RecordScopes(options.scope);
    const inner = new WrappedStore(store);
    const replaceMany = replacementFor(options.reencrypt, inner);
    const source = KeyringSource.of(keys);
    const codec = new RecordCodec(source, inner.form, { scopes, accept, padTo, keepDecrypted, decode });
    const guard = new OverwriteGuard(inner, codec);
    const record = CheckRecord.of(inner, codec, scopes.ofStore);
    const check = new KeyringCheck(record, scopes);
    const generationNotice = new GenerationNotice(record);
    const reserve = ReservedRecords.of(inner, source);
    const registration = registrationFor(options.replica, reserve, {
      check: check.unscoped,
      generationNotice: generationNotice.unscoped,
      source,
      longestCallMs: inner.longestCallMs,
    });
    const processRegistration = reserve === undefined ? undefined : ReplicaRegistration.slotOf(reserve.space, source);
    const writeGate = new WriteGate({ registration, processRegistration, codec, check, guard });
    const events = new BackgroundEvents((event, ...details) => this.emit(event, ...details));
    const reencryption =
      replaceMany === undefined ? undefined : new LazyReencryption({ replaceMany, codec, writeGate, source, events });
    const { opened } = prepared.get(options) ?? {};
    const attachment = new StoreAttachment({ inner, source, check, registration, reencryption, events, opened });
    const reader = new RecordReader({ attachment, inner, codec, guard, reencryption });
    const decoding: Convert<unknown> = (value, address) => codec.decode(value, address);
    const decoded: DecodedReads = {
      get: (key) => reader.get(key, decoding),
      getMany: (all) => reader.getMany(all, decoding),
      iterator: () => reader.iterate(decoding),
    };
    this.#inner = inner;
    this.#codec = codec;
    this.#check = check;
    this.#guard = guard;
    this.#reencryption = reencryption;
    this.#attachment = attachment;
    this.#reader = reader;
    this.#writer = new RecordWriter({ attachment, inner, codec, guard, writeGate, source });
    if (inner.atomic !== undefined) {
      const { atomic } = inner;
      const replacer = new RecordReplacer({ attachment, inner, atomic, codec, guard, writeGate, source });
      this.replace = (key, expected, next, expires) => replacer.replace(key, expected, next, expires);
      this.replaceMany = (changes) => replacer.replaceMany(changes);
      this.touch = (key, expires) => replacer.touch(key, expires);
    }
    this.#parts = { inner, codec, check, generationNotice, source, writeGate, reserve, decoded };
    // Attach the store last, so that nothing has to be disconnected if the constructor throws before.
    if (!prepared.has(options)) attachment.attach();
  }

  /**
   * The capabilities of this storage adapter, which Keyv reads. For example, they make Keyv pass each expiry as an
   * absolute time.
   */
  get capabilities(): ReturnType<typeof keyvStorageCapability> {
    return keyvStorageCapability(this);
  }

  /**
   * The namespace of the wrapped store. A record can be decrypted only in the namespace in which it was written.
   *
   * You can change the namespace until the first call, such as `get`, and again after `disconnect()`. A call rejects
   * with `NAMESPACE_CONFLICT` if the wrapped storage adapter is already in use with another namespace, because the
   * records of the two namespaces could mix.
   *
   * @throws KeywardError `VALUE_INVALID` for a namespace that is ill-formed or reserved.
   */
  get namespace(): string | undefined {
    const { namespace } = this.#inner;
    return namespace === "" ? undefined : namespace;
  }

  set namespace(namespace: string | undefined) {
    this.#inner.setNamespace(requireAddress(namespace ?? "", "").namespace);
  }

  /**
   * Resolves if this store can be used: the wrapped store answers, and the keyring is loaded and belongs to the store.
   * Call `ready` when the application starts, before it accepts requests. It writes nothing. In a store without a
   * reserved space, it cannot check whether the keyring belongs to the store.
   *
   * @throws KeywardError whose {@link KeywardError.notReady} lists what is not ready:
   * - `STORE_UNAVAILABLE` and the other errors of a read if the store does not answer;
   * - the errors of the key provider if the keyring cannot be loaded;
   * - `OVERWRITE_REFUSED` if the keyring does not belong to the store.
   */
  ready(options: ReadyOptions = {}): Promise<void> {
    return requireReady(this.#parts, options);
  }

  /**
   * Reads and decrypts a value. Returns `undefined` if there is no record under `key`, or if the record has expired.
   *
   * @throws KeywardError if the stored record cannot be decrypted, or `STORE_UNAVAILABLE` if the wrapped store fails.
   */
  get(key: string): Promise<StoredValue | undefined> {
    return this.#reader.get(key, unconverted);
  }

  /**
   * Reads and decrypts several values, and returns them in the order of `keys`. A missing or expired record yields
   * `undefined`.
   *
   * @throws KeywardError `RECORDS_UNREADABLE`, with one error for each record that cannot be decrypted.
   */
  getMany(keys: string[]): Promise<(StoredValue | undefined)[]> {
    return this.#reader.getMany(keys, unconverted);
  }

  /**
   * Reads and decrypts values like {@link EncryptedStore.getMany}. For a record that cannot be decrypted, returns its
   * error instead of its value.
   */
  getManyOrErrors(keys: readonly string[]): Promise<(StoredValue | KeywardError | undefined)[]> {
    return this.#reader.getManyOrErrors(keys, unconverted);
  }

  /**
   * Encrypts and writes a value. If `expires` has passed, the record is deleted instead.
   *
   * @param expires when the record expires, in milliseconds since the epoch. A small number is treated as a duration
   * from now, which Keyv 5 passes. {@link requireExpires} defines which numbers are durations.
   * @throws KeywardError with one of these codes:
   * - `VALUE_INVALID` if the value is neither a string nor bytes.
   * - `OVERWRITE_REFUSED` if the stored record was read before and could not be decrypted, or if the keyring in use
   *   cannot decrypt the check record of the store.
   * - `STORE_UNAVAILABLE` if the wrapped store fails.
   */
  set(key: string, value: unknown, expires?: number): Promise<boolean> {
    return this.#writer.set(key, value, expires);
  }

  /**
   * Encrypts several values, and writes them in one call to the wrapped store. If one value is refused, none is
   * written.
   *
   * @throws KeywardError in the same cases as {@link EncryptedStore.set}.
   */
  setMany<Value>(entries: KeyvStorageEntry<Value>[]): Promise<boolean[]> {
    return this.#writer.setMany(entries);
  }

  /** Deletes the record under `key`, even if the record cannot be decrypted. */
  delete(key: string): Promise<boolean> {
    return this.#writer.delete(key);
  }

  /** Deletes the records under `keys` in one call to the wrapped store, even records that cannot be decrypted. */
  deleteMany(keys: string[]): Promise<boolean[]> {
    return this.#writer.deleteMany(keys);
  }

  /**
   * Returns whether {@link EncryptedStore.get} would return a value other than `undefined`.
   *
   * @throws KeywardError in the same cases as {@link EncryptedStore.get}.
   */
  async has(key: string): Promise<boolean> {
    return (await this.get(key)) !== undefined;
  }

  /**
   * Returns, for each key, whether {@link EncryptedStore.getMany} would return a value other than `undefined`.
   *
   * @throws KeywardError in the same cases as {@link EncryptedStore.getMany}.
   */
  async hasMany(keys: string[]): Promise<boolean[]> {
    return (await this.getMany(keys)).map((value) => value !== undefined);
  }

  /** Deletes every record of the namespace, even records that cannot be decrypted. */
  clear(): Promise<void> {
    return this.#writer.clear();
  }

  /**
   * Iterates over the records of the namespace, and yields a pair of key and decrypted value for each. Skips records
   * that cannot be decrypted.
   *
   * @throws KeywardError `RECORDS_UNREADABLE` after the last record, if records were skipped. Contains one error for
   * each skipped record, at most 1,000.
   */
  iterator(): AsyncGenerator<[string, StoredValue], void>;
  // Keyv lets the caller choose the type of the value.
  iterator<Value>(): AsyncGenerator<Array<string | Awaited<Value> | undefined>, void>;
  iterator(): AsyncGenerator<unknown[], void> {
    return this.#reader.iterate(unconverted);
  }

  /**
   * Waits for lazy re-encryption, then removes the listeners of this store and ends its heartbeat. Disconnects the
   * wrapped store only if no other `EncryptedStore` of this process uses the same backend. You can use this store again
   * after `disconnect()`, for example by calling `get`.
   *
   * @throws KeywardError `STORE_UNAVAILABLE` if the wrapped store cannot be disconnected.
   */
  async disconnect(): Promise<void> {
    await this.#attachment.disconnect();
  }

  /** Resolves when lazy re-encryption has processed all queued records. Reads queue the records to re-encrypt. */
  async settled(): Promise<void> {
    await this.#reencryption?.settled();
  }

  /** Lets the next write under `key` replace the stored record, even if this record cannot be decrypted. */
  allowOverwrite(key: string): void {
    this.#guard.allow(this.#attachment.namespaceForCall(), key);
  }

  /**
   * Makes the keyring in use the keyring that belongs to the store: replaces the check record with one that this
   * keyring encrypts, even if it cannot decrypt the stored check record. A process with this keyring may then overwrite
   * records that it cannot decrypt, except records that it has tried to read. Call this method only if the former
   * keyring is lost for good.
   */
  async overwriteCheckRecord(): Promise<void> {
    await this.#check.overwrite(await this.#codec.ring());
  }
}

/**
 * Checks that the store does not encrypt already. With two layers of encryption, a rotation would see only the outer
 * layer, and so could remove a key that the inner layer needs.
 */
function requireUnencrypted(store: WrappableStore): void {
  if (!(store instanceof EncryptedStore)) return;
  throw new KeywardError("STORE_INVALID", "The store is an EncryptedStore, which already encrypts its records", {
    hint: "Use that EncryptedStore as it is, or pass the store that it wraps.",
  });
}

/**
 * Returns `given` if it is an `EncryptedStore`. If `given` is a Keyv that `createKeyv` made, returns the
 * `EncryptedStore` under it. For authors of tools that accept both.
 *
 * @throws KeywardError `STORE_INVALID` for anything else.
 * @example
 * encryptedStoreOf(sessions).on("keyring:changed", (keyring: Keyring) => console.log(keyring.primary));
 */
export function encryptedStoreOf(given: EncryptedStoreOrKeyv): EncryptedStore {
  if (given instanceof EncryptedStore) return given;
  const isObject = typeof given === "object" && given !== null;
  if (isObject && given.encryptedStore instanceof EncryptedStore) return given.encryptedStore;
  const what = !isObject ? describe(given) : isKeyv(given) ? "a Keyv that createKeyv did not make" : "another object";
  throw new KeywardError("STORE_INVALID", `An EncryptedStore was expected, but this is ${what}`, {
    hint:
      "Pass the Keyv that createKeyv returned, or the EncryptedStore. For a Keyv that you made over an EncryptedStore, pass " +
      "`keyv.store`. If the result of createKeyv or an EncryptedStore is refused, two copies of @keyward/core are " +
      "installed: install only one copy.",
  });
}

/**
 * Returns the parts of a store that bulk re-encryption, rotation and the other tools of this package use. Not public.
 */
export function storeParts(store: EncryptedStoreOrKeyv): StoreParts {
  return partsOf(encryptedStoreOf(store));
}

function describe(given: unknown): string {
  return given === null ? "null" : given === undefined ? "nothing" : `of type ${typeof given}`;
}

/**
 * Makes an `EncryptedStore` without listeners, heartbeat and use of the connection. These begin when {@link
 * attachStore} is called. So if `createKeyv` throws before that call, there is nothing to disconnect.
 *
 * @param opened if `store` is a view: the store that returned the view. The `EncryptedStore` disconnects `opened`
 * instead of the view. `undefined` if `store` is not a view.
 */
export function prepareStore(
  store: WrappableStore,
  options: EncryptedStoreOptions,
  opened: Disconnectable | undefined,
): EncryptedStore {
  const own = { ...options };
  prepared.set(own, { opened });
  return new EncryptedStore(store, own);
}

/**
 * Attaches a store that {@link prepareStore} made: adds its listeners, starts its heartbeat, and registers it as a user
 * of the connection. The store stays attached until it is disconnected.
 */
export function attachStore(store: EncryptedStore): void {
  attach(store);
}
