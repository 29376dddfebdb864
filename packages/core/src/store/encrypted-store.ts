import { Hookified } from "hookified";
import { type KeyvStorageAdapter, type KeyvStorageEntry, keyvStorageCapability } from "keyv";
import { type ForeignFormat, requireFormats } from "../envelope/foreign-format.ts";
import { KeywardError, requireKeywardError } from "../errors/errors.ts";
import { type OptionNames, requireAmount, requireOneOf, requireOptions } from "../errors/options.ts";
import { Repetitions } from "../errors/repetitions.ts";
import type { KeyProvider } from "../keyring/key-provider.ts";
import type { Keyring } from "../keyring/keyring.ts";
import { KeyringSource } from "../keyring/keyring-source.ts";
import { isStoredValue, type StoredValue } from "../store-interface/capabilities.ts";
import { InnerStore, requireAtomic } from "../store-interface/inner-store.ts";
import { hasExpired, type RecordAddress, type RecordContent, requireAddress } from "../store-interface/record.ts";
import { requireEntryExpires, requireExpires, requireValue } from "../store-interface/store-arguments.ts";
import { isKeyv, type WrappableStore } from "../store-interface/wrappable-store.ts";
import { CheckRecord } from "./check-record.ts";
import { LazyReencryption, type ReplaceMany } from "./lazy-reencryption.ts";
import { OverwriteGuard } from "./overwrite-guard.ts";
import { isAbsent, isUndecodable, type OpenedRecord, RecordCodec } from "./record-codec.ts";
import { type ReplicaOptions, ReplicaRegistration } from "./replica-registration.ts";
import { ReservedRecords } from "./reserved-records.ts";
import { WriteGate } from "./write-gate.ts";

/** How an {@link EncryptedStore} seals and opens. */
export interface EncryptedStoreOptions {
  /** A ring, or where rings come from. */
  readonly keys: Keyring | KeyProvider;
  /** Seals under roots derived for this name: stores of other scopes cannot open its records. */
  readonly scope?: string;
  /**
   * Whether a record under an older key is sealed again behind the read that found it, with rests that leave the way to
   * reads: of many, about a hundred of 1 KiB a second, the others when they are read again. Default "on-read" where the
   * store can replace atomically, otherwise "off". "on-read-may-undo-writes" does it in any store, by reading, comparing
   * and writing: a write of another `EncryptedStore` or process that comes in between is undone, so it is for stores with one
   * writer. A foreign record whose format gives no expiry then stays for ever, whatever expiry the wrapped store has for it.
   */
  readonly reencrypt?: "on-read" | "off" | "on-read-may-undo-writes";
  /** What else may lie in the store and be read. Default: nothing. Plaintext is asked last, wherever it stands. */
  readonly accept?: readonly ForeignFormat[];
  /**
   * Decodes a value as the reader of this store does, and throws or rejects for what that reader cannot decode. A foreign
   * record is encrypted only after it was decoded; the result is not used. `createKeyv` knows how its Keyv decodes.
   * Default: the reader takes text and bytes as they are.
   */
  readonly decode?: (value: StoredValue) => unknown;
  /** Hides lengths: pads the plaintext to a multiple of this many bytes. */
  readonly padTo?: number;
  /**
   * Makes this process known, by a heartbeat in the store's reserved space, as one that uses the store: a rotation then
   * waits for it, and while it cannot be heard it seals nothing, in any of its stores over the same keys and backend
   * object. `true` is all that is needed. Default: not.
   */
  readonly replica?: boolean | ReplicaOptions;
}

const reencryptions: readonly Required<EncryptedStoreOptions>["reencrypt"][] = [
  "on-read",
  "off",
  "on-read-may-undo-writes",
];

/** Every option of an {@link EncryptedStore}: one that is missing here does not compile. */
export const encryptedStoreOptionNames = {
  keys: true,
  scope: true,
  reencrypt: true,
  accept: true,
  decode: true,
  padTo: true,
  replica: true,
} as const satisfies OptionNames<EncryptedStoreOptions>;

/** What the tools take: a store, or what `createKeyv` made, of which they take the store. */
export type EncryptedStoreOrKeyv =
  | EncryptedStore
  | {
      /** The store of what `createKeyv` made. */
      readonly encryptedStore: EncryptedStore;
    };

/** What the tools of this package see of a store: for this package only. */
export interface StoreParts {
  readonly inner: InnerStore;
  readonly codec: RecordCodec;
  readonly check: CheckRecord;
  readonly source: KeyringSource;
  readonly sealing: WriteGate;
  /** Absent where the store has no reserved space. */
  readonly reserve: ReservedRecords | undefined;
  readonly decoded: DecodedReads;
}

/** The reads of a store whose results are decoded as its option `decode` says: what a Keyv in front calls. */
export interface DecodedReads {
  get(key: string): Promise<unknown>;
  getMany(keys: readonly string[]): Promise<readonly unknown[]>;
  iterator(): AsyncGenerator<[string, unknown], void>;
}

/** What a read makes of the value of a record that opened; a promise only where that takes time. */
type Take<Result> = (value: StoredValue, address: RecordAddress) => Result | Promise<Result>;

const asItIs: Take<StoredValue> = (value) => value;

let partsOf: (store: EncryptedStore) => StoreParts;
let attach: (store: EncryptedStore) => void;

/** By the options of a store that was prepared, what is disconnected with it; the wrapped store itself by default. */
const prepared = new WeakMap<EncryptedStoreOptions, { readonly opened: Disconnectable | undefined }>();

const maxListedErrors = 1_000;

/** What can be disconnected. */
export interface Disconnectable {
  disconnect?(): Promise<unknown>;
}

/** The events that tell of what fails in the background, perhaps again and again. */
type FailureEvent = "provider:error" | "store:error" | "replica:error" | "reencrypt:error";

/** What became of one read of a batch. */
type ReadOrError<Result> = { readonly result: Result | undefined } | { readonly error: KeywardError };

/**
 * A Keyv storage adapter that wraps another one: what it writes is sealed for its place, and what it reads was.
 *
 * Absent is `undefined`; whatever is there and cannot be opened throws. Reads never delete.
 *
 * Events: `reencrypted`, `reencrypt:conflict` and `reencrypt:error` with a {@link ReencryptEvent}; `keyring:changed`
 * with the new ring; `provider:error` with a `KeywardError` while the last good ring stays in use; `store:error` with
 * what the wrapped store emitted as `error`; `replica:lapsed` when the process was not heard of for too long, and
 * `replica:error` with a `KeywardError` when a heartbeat failed. Each `…:error` has a {@link Repetition} as its second
 * argument: an equal error is told of once, then with a count after pauses that grow from 5 s to 5 min, and at once again
 * after a success. It never emits `error` itself: what a caller should know, the call throws.
 */
export class EncryptedStore extends Hookified implements KeyvStorageAdapter {
  readonly #inner: InnerStore;
  readonly #codec: RecordCodec;
  readonly #check: CheckRecord;
  readonly #guard: OverwriteGuard;
  readonly #reencryption: LazyReencryption | undefined;
  readonly #source: KeyringSource;
  readonly #reserve: ReservedRecords | undefined;
  readonly #registration: ReplicaRegistration | undefined;
  readonly #sealing: WriteGate;
  readonly #decoded: DecodedReads;
  readonly #opened: Disconnectable | undefined;
  /** What lets go of all that this store holds from when it is made, or used again, until it is disconnected. */
  #releases: readonly (() => unknown)[] | undefined;
  #disconnecting: Promise<void> | undefined;
  /** Whether it was used again since the `disconnect()` that is under way let go of everything. */
  #usedAgain = false;
  readonly #repetitions = new Map<FailureEvent | "listener", Repetitions>();
  /** Counts this store off as a user of the connection. */
  #leaveConnection: (() => Promise<void>) | undefined;

  static {
    attach = (store) => store.#attach();
    partsOf = (store) => ({
      inner: store.#inner,
      codec: store.#codec,
      check: store.#check,
      source: store.#source,
      sealing: store.#sealing,
      reserve: store.#reserve,
      decoded: store.#decoded,
    });
  }

  /**
   * Wraps a store, whose optional capabilities are looked for on the very object given.
   *
   * @throws KeywardError `VALUE_INVALID` for an option that does not exist or a value that it cannot have, such as a
   * `padTo` that is not a whole number from 1 to 2^20; `STORE_INVALID` for what is no store, for a Keyv, and when a replica
   * is to be registered in a store without a reserved space; `KEYRING_INVALID` for keys that are neither a ring nor a
   * provider; `STORE_NOT_ATOMIC` when re-encryption is asked of a store that cannot replace atomically.
   */
  constructor(store: WrappableStore, options: EncryptedStoreOptions) {
    super({ throwOnHookError: false, throwOnEmptyListeners: false });
    // Those of a store that was prepared were checked by its maker.
    if (!prepared.has(options)) requireOptions("EncryptedStore", options, encryptedStoreOptionNames);
    const { keys, scope, accept = [], padTo, decode, reencrypt } = options;
    if (padTo !== undefined) requireAmount("padTo", padTo, "bytes", { most: 2 ** 20 });
    requireFormats(accept);
    if (decode !== undefined && typeof decode !== "function") {
      throw new KeywardError("VALUE_INVALID", `decode is no function, but of type ${typeof decode}`, {
        hint: "Pass a function that decodes a value as the reader of the store does, or leave it out.",
      });
    }
    this.#inner = new InnerStore(store);
    if (reencrypt !== undefined) requireOneOf("reencrypt", reencrypt, reencryptions);
    const replaceMany = this.#replacesBehindReads(reencrypt);
    this.#source = KeyringSource.of(keys);
    this.#codec = new RecordCodec(this.#source, this.#inner.form, { scope, accept, padTo, decode });
    const { reserved } = this.#inner;
    const unscoped = new CheckRecord(this.#inner, this.#codec.forScope(undefined), undefined);
    this.#check = scope === undefined ? unscoped : new CheckRecord(this.#inner, this.#codec, { scope, unscoped });
    this.#guard = new OverwriteGuard(this.#inner, this.#codec);
    const decoding: Take<unknown> = (value, address) => this.#codec.decode(value, address);
    this.#decoded = {
      get: (key) => this.#get(key, decoding),
      getMany: (keys) => this.#getMany(keys, decoding),
      iterator: () => this.#iterate(decoding),
    };
    this.#reserve = ReservedRecords.of(this.#inner, this.#source);
    this.#registration = this.#register(options.replica, unscoped);
    const address = reserved === undefined ? undefined : ReplicaRegistration.address(reserved, this.#source);
    this.#sealing = new WriteGate(this.#codec, this.#check, this.#registration, address);
    this.#reencryption = replaceMany === undefined ? undefined : this.#startReencryption(replaceMany);
    this.#opened = prepared.get(options)?.opened;
    // Nothing is held before everything else has succeeded: a store that was never made cannot be disconnected.
    if (!prepared.has(options)) this.#attach();
  }

  /** Tells Keyv to hand over absolute expiries. */
  get capabilities(): ReturnType<typeof keyvStorageCapability> {
    return keyvStorageCapability(this);
  }

  /**
   * The namespace of the wrapped store, which records are bound to.
   *
   * It counts from the first call on, until the store is disconnected: a call then rejects with `NAMESPACE_CONFLICT` when
   * the wrapped instance is in use with another namespace, whose records could mix with these.
   *
   * @throws KeywardError `VALUE_INVALID` for one that is ill-formed or reserved.
   */
  get namespace(): string | undefined {
    const { namespace } = this.#inner;
    return namespace === "" ? undefined : namespace;
  }

  set namespace(namespace: string | undefined) {
    this.#inner.setNamespace(requireAddress(namespace ?? "", "").namespace);
  }

  /**
   * The value, or `undefined` when nothing lies there or what lies there has expired.
   *
   * @throws KeywardError when something lies there that cannot be opened, and `STORE_UNAVAILABLE`.
   */
  get(key: string): Promise<StoredValue | undefined> {
    return this.#get(key, asItIs);
  }

  /**
   * The values in the order of the keys.
   *
   * @throws KeywardError `RECORDS_UNREADABLE`, with one error for each record that cannot be opened.
   */
  getMany(keys: string[]): Promise<(StoredValue | undefined)[]> {
    return this.#getMany(keys, asItIs);
  }

  /**
   * Seals and writes. A record whose expiry has passed is absent from the start.
   *
   * @param expires milliseconds since the epoch. A duration, as Keyv 5 passes it, counts from now: see
   * {@link requireExpires}.
   * @throws KeywardError `VALUE_INVALID` for a value that is neither string nor bytes; `OVERWRITE_REFUSED` when what
   * lies there, or the store's check record, cannot be opened; `STORE_UNAVAILABLE`.
   */
  set(key: string, value: unknown, expires?: number): Promise<boolean> {
    return this.#source.whileSealing(this.#sealAndSend(key, value, expires));
  }

  /**
   * Seals and writes all, in one call to the wrapped store. When one record is refused, none is written.
   *
   * @throws KeywardError as {@link EncryptedStore.set}.
   */
  setMany<Value>(entries: KeyvStorageEntry<Value>[]): Promise<boolean[]> {
    return this.#source.whileSealing(this.#sealAndSendMany(entries));
  }

  /** Deletes a record, readable or not. */
  async delete(key: string): Promise<boolean> {
    const { namespace } = this.#address(key);
    const since = this.#guard.now;
    const deleted = await this.#inner.delete(key);
    this.#deleted(namespace, key, deleted, since);
    return deleted;
  }

  /** Deletes records, readable or not, in one call to the wrapped store. */
  async deleteMany(keys: string[]): Promise<boolean[]> {
    const addresses = this.#addresses(keys);
    const since = this.#guard.now;
    const deleted = await this.#inner.deleteMany(keys);
    for (const [index, { namespace, key }] of addresses.entries()) {
      this.#deleted(namespace, key, deleted[index] === true, since);
    }
    return deleted;
  }

  /**
   * Whether {@link EncryptedStore.get} would give a value.
   *
   * @throws KeywardError as `get` would.
   */
  async has(key: string): Promise<boolean> {
    return (await this.get(key)) !== undefined;
  }

  /**
   * For each key, whether {@link EncryptedStore.getMany} would give a value.
   *
   * @throws KeywardError as `getMany` would.
   */
  async hasMany(keys: string[]): Promise<boolean[]> {
    return (await this.getMany(keys)).map((value) => value !== undefined);
  }

  /** Deletes every record of the namespace, readable or not. */
  async clear(): Promise<void> {
    const namespace = this.#begin();
    const since = this.#guard.now;
    await this.#inner.clear();
    this.#guard.liftAll(namespace, since);
  }

  /**
   * All records of the namespace that open.
   *
   * @throws KeywardError `RECORDS_UNREADABLE` at its end, with one error for each that does not (the first 1,000).
   */
  iterator(): AsyncGenerator<[string, StoredValue], void>;
  // Keyv declares the value as whatever the caller says it is.
  iterator<Value>(): AsyncGenerator<Array<string | Awaited<Value> | undefined>, void>;
  iterator(): AsyncGenerator<unknown[], void> {
    return this.#iterate(asItIs);
  }

  /**
   * Waits for what reads began, and lets go of everything that this store holds. The wrapped store is disconnected with
   * the last `EncryptedStore` of this process over the same backend; a view of a store closes nothing.
   *
   * @throws KeywardError `STORE_UNAVAILABLE` when the wrapped store cannot be disconnected.
   */
  async disconnect(): Promise<void> {
    const running = this.#disconnecting;
    // Where a call came after what is under way had let go of everything, the store holds things again.
    const begin = running === undefined || this.#usedAgain;
    await (begin ? this.#disconnectAfter(running) : running);
  }

  /** Resolves when the re-encryptions that reads began are done. */
  async settled(): Promise<void> {
    await this.#reencryption?.settled();
  }

  /** Lets the next write of this key destroy a record that cannot be opened. */
  allowOverwrite(key: string): void {
    this.#guard.allow(this.#begin(), key);
  }

  /**
   * Seals the store's check record anew under the ring in use, although this ring could not open it. From then on the
   * ring may write, over records that it cannot read: only for a store whose former ring is gone for good.
   */
  async overwriteCheckRecord(): Promise<void> {
    await this.#check.overwrite(await this.#codec.ring());
  }

  /** What re-encryption behind reads replaces with; `undefined` where there is none. */
  #replacesBehindReads(choice: EncryptedStoreOptions["reencrypt"]): ReplaceMany | undefined {
    const inner = this.#inner;
    switch (choice) {
      case "off":
        return undefined;
      case "on-read-may-undo-writes":
        inner.takeTurns();
        return (changes) => inner.replaceRacing(changes);
      case undefined:
        return inner.atomic === undefined ? undefined : this.#replacesBehindReads("on-read");
      case "on-read": {
        const atomic = requireAtomic(inner);
        return (changes) => inner.replaceMany(atomic, changes);
      }
    }
  }

  #startReencryption(replaceMany: ReplaceMany): LazyReencryption {
    return new LazyReencryption({
      replaceMany,
      codec: this.#codec,
      sealing: this.#sealing,
      source: this.#source,
      report: (event, detail) => {
        if (event === "reencrypt:error") return this.#tellOfFailure(event, detail, detail.error);
        this.#repetitionsOf("reencrypt:error").succeeded();
        this.#tell(event, detail);
      },
    });
  }

  #register(replica: EncryptedStoreOptions["replica"], check: CheckRecord): ReplicaRegistration | undefined {
    if (replica === undefined || replica === false) return undefined;
    const records = this.#reserve;
    if (records === undefined) {
      throw new KeywardError("STORE_INVALID", "The store has no reserved space, where heartbeats would lie", {
        hint: "Use a store that has reserved(), such as those of Keyward, or leave the option replica out.",
      });
    }
    const { longestCallMs } = this.#inner;
    return ReplicaRegistration.of(
      { records, check, source: this.#source, longestCallMs },
      replica === true ? {} : replica,
    );
  }

  #attach(): void {
    if (this.#releases !== undefined) return;
    const releases: (() => unknown)[] = [];
    try {
      releases.push(
        this.#source.listen({
          tell: (report) => {
            switch (report.kind) {
              case "changed":
                return this.#tell("keyring:changed", report.ring);
              case "failed":
                return this.#tellOfFailure("provider:error", report.error, report.error);
              case "recovered":
                return this.#repetitionsOf("provider:error").succeeded();
            }
          },
          recognizes: (next, previous) => this.#check.recognizes(next, previous),
        }),
      );
      releases.unshift(this.#inner.onError((error) => this.#tellOfFailure("store:error", error, error)));
      const leave = this.#registration?.join((report) => {
        switch (report.kind) {
          case "lapsed":
            return this.#tell("replica:lapsed", undefined);
          case "failed":
            return this.#tellOfFailure("replica:error", report.error, report.error);
          case "recovered":
            return this.#repetitionsOf("replica:error").succeeded();
        }
      });
      if (leave !== undefined) releases.push(leave);
    } catch (error) {
      for (const release of releases) release();
      throw error;
    }
    this.#leaveConnection = this.#inner.shareConnection(this.#opened);
    this.#releases = releases;
    this.#usedAgain = this.#disconnecting !== undefined;
  }

  #disconnectAfter(running: Promise<void> | undefined): Promise<void> {
    this.#usedAgain = false;
    const detach = () => this.#detach();
    const disconnecting = (running === undefined ? detach() : running.then(detach, detach)).finally(() => {
      if (this.#disconnecting === disconnecting) this.#disconnecting = undefined;
    });
    this.#disconnecting = disconnecting;
    return disconnecting;
  }

  async #detach(): Promise<void> {
    await this.settled();
    const releases = this.#releases ?? [];
    this.#releases = undefined;
    const [unhear, ...others] = releases;
    // One that fails keeps none of the others from being let go of. What is heard of errors goes last.
    const failures: unknown[] = [];
    for (const release of [...others, this.#leaveConnection, unhear]) {
      try {
        await release?.();
      } catch (error) {
        failures.push(error);
      }
    }
    this.#inner.releaseNamespace();
    if (failures.length > 0) throw failures[0];
  }

  /** As {@link EncryptedStore.#tell}, of what fails again and again: once, then with a count and growing pauses. */
  #tellOfFailure(event: FailureEvent, detail: unknown, problem: unknown): void {
    const repetition = this.#repetitionsOf(event).occurred(problem);
    if (repetition !== undefined) this.#tell(event, detail, repetition);
  }

  #repetitionsOf(what: FailureEvent | "listener"): Repetitions {
    let repetitions = this.#repetitions.get(what);
    if (repetitions === undefined) {
      repetitions = new Repetitions();
      this.#repetitions.set(what, repetitions);
    }
    return repetitions;
  }

  /** Emits what happened in the background, where no caller could catch what a listener throws. */
  #tell(event: string, ...details: unknown[]): void {
    try {
      this.emit(event, ...details);
    } catch (error) {
      const problem = `A listener of "${event}" threw (${error instanceof Error ? error.name : typeof error})`;
      const repetition = this.#repetitionsOf("listener").occurred(problem);
      if (repetition === undefined) return;
      process.emitWarning(
        repetition.times === 1 ? problem : `${problem}, ${repetition.times} times since the last warning`,
        {
          type: "KeywardWarning",
          code: "KEYWARD_LISTENER",
        },
      );
    }
  }

  /** The namespace of one call. */
  #begin(): string {
    // A store that is used again after disconnect() follows its provider again.
    if (this.#releases === undefined) this.#attach();
    return this.#inner.useNamespace();
  }

  #address(key: string): RecordAddress {
    return requireAddress(this.#begin(), key);
  }

  #addresses(keys: readonly string[]): RecordAddress[] {
    const namespace = this.#begin();
    return keys.map((key) => requireAddress(namespace, key));
  }

  async #get<Result>(key: string, take: Take<Result>): Promise<Result | undefined> {
    const address = this.#address(key);
    return this.#read(await this.#inner.get(key), address, take);
  }

  async #getMany<Result>(keys: readonly string[], take: Take<Result>): Promise<(Result | undefined)[]> {
    const addresses = this.#addresses(keys);
    const stored = await this.#inner.getMany([...keys]);
    const errors: KeywardError[] = [];
    const results: (Result | undefined)[] = [];
    // At once, so that all which name an unknown key wait for the same refresh.
    const reads = await Promise.all(addresses.map((address, index) => this.#readOrError(stored[index], address, take)));
    for (const read of reads) {
      if ("error" in read) errors.push(read.error);
      else results.push(read.result);
    }
    if (errors.length > 0) throw unreadable(errors, errors.length, keys.length);
    return results;
  }

  async *#iterate<Result>(take: Take<Result>): AsyncGenerator<[string, Result], void> {
    const namespace = this.#begin();
    const errors: KeywardError[] = [];
    let unreadableCount = 0;
    let count = 0;
    for await (const [key, stored] of this.#inner.iterate()) {
      count++;
      let result: Result | undefined;
      try {
        result = await this.#read(stored, requireAddress(namespace, key), take);
      } catch (error) {
        unreadableCount++;
        if (errors.length < maxListedErrors) errors.push(requireKeywardError(error));
      }
      if (result !== undefined) yield [key, result];
    }
    if (errors.length > 0) throw unreadable(errors, unreadableCount, count);
  }

  /** What lies there, opened and taken; a promise only where the ring, a format or the taker has to be waited for. */
  #read<Result>(
    stored: unknown,
    address: RecordAddress,
    take: Take<Result>,
  ): Result | undefined | Promise<Result | undefined> {
    if (stored === undefined || stored === null) return undefined;
    try {
      const record = this.#codec.openAtOnce(stored, address);
      if (record === undefined) return this.#readLater(stored, address, take);
      const read = this.#use(record, stored, address, take);
      return read instanceof Promise ? this.#marking(read, address) : read;
    } catch (error) {
      this.#guard.mark(address.namespace, address.key);
      throw error;
    }
  }

  async #readLater<Result>(stored: unknown, address: RecordAddress, take: Take<Result>): Promise<Result | undefined> {
    const opening = this.#codec.open(stored, address);
    return await this.#marking(
      opening.then((record) => this.#use(record, stored, address, take)),
      address,
    );
  }

  /** What cannot be read must not be overwritten. */
  async #marking<Result>(reading: Promise<Result>, { namespace, key }: RecordAddress): Promise<Result> {
    try {
      return await reading;
    } catch (error) {
      this.#guard.mark(namespace, key);
      throw error;
    }
  }

  /** Takes the value of a record that opened; one that lies under an older key is offered to re-encryption. */
  #use<Result>(
    record: OpenedRecord,
    stored: unknown,
    address: RecordAddress,
    take: Take<Result>,
  ): Result | undefined | Promise<Result> {
    if (isAbsent(record)) return undefined;
    const taken = take(record.content.value, address);
    if (record.current) return taken;
    if (!(taken instanceof Promise)) {
      this.#offer(record, stored, address);
      return taken;
    }
    return taken.then((result) => {
      this.#offer(record, stored, address);
      return result;
    });
  }

  #offer(record: OpenedRecord, stored: unknown, address: RecordAddress): void {
    if (isStoredValue(stored)) this.#reencryption?.offer(address, stored, record);
  }

  /** As `#read`, for a batch: it goes on past a record that cannot be read. */
  #readOrError<Result>(
    stored: unknown,
    address: RecordAddress,
    take: Take<Result>,
  ): ReadOrError<Result> | Promise<ReadOrError<Result>> {
    try {
      const read = this.#read(stored, address, take);
      return read instanceof Promise ? read.then((result) => ({ result }), errorOf) : { result: read };
    } catch (error) {
      return errorOf(error);
    }
  }

  #deleted(namespace: string, key: string, deleted: boolean, since: number): void {
    if (deleted) this.#guard.lift(namespace, key, since);
    else this.#guard.forbid(namespace, key);
  }

  async #sealAndSend(key: string, value: unknown, expires: number | undefined): Promise<boolean> {
    const address = this.#address(key);
    const content = toContent(key, value, requireExpires(key, expires));
    const admitted = this.#ringToWriteWith(address.namespace, [key]);
    const ring = admitted instanceof Promise ? await admitted : admitted;
    const since = this.#guard.now;
    if (hasExpired(content.expires)) {
      this.#deleted(address.namespace, key, await this.#inner.delete(key), since);
      return true;
    }
    const written = await this.#inner.set(key, this.#codec.seal(ring, address, content), content.expires);
    if (written) this.#guard.lift(address.namespace, key, since);
    return written;
  }

  async #sealAndSendMany(entries: readonly KeyvStorageEntry<unknown>[]): Promise<boolean[]> {
    const namespace = this.#begin();
    const keys = entries.map(({ key }) => key);
    // The last entry of a key wins, as it would if they were written one by one.
    const records = new Map<string, { readonly address: RecordAddress; readonly content: RecordContent }>();
    for (const entry of entries) {
      const { key, value } = entry;
      const content = toContent(key, value, requireEntryExpires(entry));
      records.set(key, { address: requireAddress(namespace, key), content });
    }
    const admitted = this.#ringToWriteWith(namespace, keys);
    const ring = admitted instanceof Promise ? await admitted : admitted;

    const nowMs = Date.now();
    const live: KeyvStorageEntry<StoredValue>[] = [];
    const expired: string[] = [];
    for (const [key, { address, content }] of records) {
      const { expires } = content;
      if (hasExpired(expires, nowMs)) expired.push(key);
      else {
        const value = this.#codec.seal(ring, address, content);
        live.push(expires === undefined ? { key, value } : { key, value, expires });
      }
    }
    const since = this.#guard.now;
    // What was sealed goes first: the ring may be another by the time that something was waited for.
    const results = live.length > 0 ? await this.#inner.setMany(live) : [];
    const deleted = expired.length > 0 ? await this.#inner.deleteMany(expired) : [];
    for (const [index, key] of expired.entries()) this.#deleted(namespace, key, deleted[index] === true, since);
    const refused = new Set(live.filter((_, index) => results[index] === false).map(({ key }) => key));
    for (const { key } of live) if (!refused.has(key)) this.#guard.lift(namespace, key, since);
    return keys.map((key) => !refused.has(key));
  }

  /**
   * The ring in use, once it has passed the check record and the records to overwrite; a promise only where that has to
   * be waited for.
   */
  #ringToWriteWith(namespace: string, keys: readonly string[]): Keyring | Promise<Keyring> {
    const ring = this.#sealing.take();
    if (ring instanceof Promise) return ring.then(() => this.#ringToWriteWith(namespace, keys));
    const admitting = this.#guard.admit(namespace, keys);
    if (admitting === undefined) return ring;
    return admitting.then(async () => {
      const still = this.#sealing.take();
      return (still instanceof Promise ? await still : still) === ring ? ring : this.#ringToWriteWith(namespace, keys);
    });
  }
}

/**
 * The store that a tool was given, or that of the Keyv of `createKeyv` that it was given, for those who write a tool.
 *
 * @throws KeywardError `STORE_INVALID` for everything else.
 */
export function encryptedStoreOf(given: EncryptedStoreOrKeyv): EncryptedStore {
  if (given instanceof EncryptedStore) return given;
  const isObject = typeof given === "object" && given !== null;
  if (isObject && given.encryptedStore instanceof EncryptedStore) return given.encryptedStore;
  const what = !isObject ? describe(given) : isKeyv(given) ? "a Keyv that createKeyv did not make" : "another object";
  throw new KeywardError("STORE_INVALID", `An EncryptedStore was expected, but this is ${what}`, {
    hint:
      "Pass what createKeyv returned, or the EncryptedStore; of a Keyv over an EncryptedStore pass keyv.store. All of them " +
      "must come from this very copy of @keyward/core.",
  });
}

/** The parts of a store that re-encryption, census and retirement work on. Not part of the public surface. */
export function storeParts(store: EncryptedStoreOrKeyv): StoreParts {
  return partsOf(encryptedStoreOf(store));
}

function describe(given: unknown): string {
  return given === null ? "null" : given === undefined ? "nothing" : `of type ${typeof given}`;
}

/**
 * A store that holds nothing before {@link attachStore}, so that its maker can still fail.
 *
 * @param opened where a view is wrapped: the store that the view is of, which is disconnected instead.
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

/** Has a store that was prepared hold what it needs, until it is disconnected. */
export function attachStore(store: EncryptedStore): void {
  attach(store);
}

function toContent(key: string, given: unknown, expires: number | undefined): RecordContent {
  const value = requireValue(key, given);
  return expires === undefined ? { value } : { value, expires };
}

function errorOf(thrown: unknown): { readonly error: KeywardError } {
  return { error: requireKeywardError(thrown) };
}

function unreadable(errors: readonly KeywardError[], broken: number, total: number): KeywardError {
  if (errors.every(isUndecodable)) {
    return new KeywardError("RECORD_MALFORMED", `${broken} of ${total} records open and cannot be decoded`, {
      errors,
      hint: "error.errors lists each, with its key and what to do.",
    });
  }
  const codes = [...new Set(errors.map(({ code }) => code))].join(", ");
  return new KeywardError("RECORDS_UNREADABLE", `${broken} of ${total} records cannot be opened: ${codes}`, {
    errors,
    hint: "error.errors lists each, with its key and what to do.",
  });
}
