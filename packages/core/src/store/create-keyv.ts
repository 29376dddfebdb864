import type {
  KeyvCompressionAdapter,
  KeyvMapAny,
  KeyvOptions,
  KeyvSerializationAdapter,
  KeyvStorageAdapter,
  KeyvValue,
} from "keyv";
import { KeywardError } from "../errors/errors.ts";
import { copyOptions, type OptionNames, requireMethods, requireOptions } from "../errors/options.ts";
import { requireStore, type WrappableStore } from "../store-interface/adapters.ts";
import { decodeForKeyv } from "../store-interface/keyv-decoding.ts";
import { keyvJson } from "../store-interface/keyv-json.ts";
import { isKeyvValue } from "../store-interface/keyv-value.ts";
import { isNamespaced, type StoredValue } from "../store-interface/store-capabilities.ts";
import { DecodedStore } from "./decoded-store.ts";
import { attachStore, type EncryptedStore, prepareStore, storeParts } from "./encrypted-store.ts";
import { type EncryptedStoreOptions, encryptedStoreOptionNames } from "./encrypted-store-options.ts";
import type { ReadyOptions } from "./readiness.ts";
import { notDecodable } from "./record-codec.ts";
import { ReportingKeyv } from "./reporting-keyv.ts";

/** A compression adapter that compresses text into bytes, such as the adapter in `@keyv/compress-gzip`. */
export interface BinaryCompression {
  /** Compresses a value that was serialized to text. */
  compress(written: string): Promise<Uint8Array>;
  /** Decompresses bytes that `compress` returned. Returns the text, or the text as UTF-8 bytes. */
  decompress(compressed: Uint8Array): Promise<string | Uint8Array>;
}

/**
 * The options of {@link createKeyv}: the options of {@link EncryptedStore} except `decode`, and the options of Keyv
 * except those that would disable encryption or could delete newer writes.
 */
export interface CreateKeyvOptions
  extends Omit<EncryptedStoreOptions, "decode">,
    Omit<KeyvOptions, "store" | "namespace" | "encryption" | "checkExpired" | "serialization" | "compression"> {
  /** The store for the encrypted records: a Keyv storage adapter, or a `Map`. */
  readonly store: WrappableStore;
  /**
   * The namespace, which separates the records of this Keyv from other records in the same store. A record can be
   * decrypted only in the namespace in which it was written. Default: the namespace of the view if the store is a view
   * that `namespaced()` returned, otherwise no namespace.
   */
  readonly namespace?: string;
  /**
   * The adapter that serializes values to text. Serialization cannot be disabled, because only text and bytes can be
   * encrypted. Default: Keyv's JSON.
   */
  readonly serialization?: KeyvSerializationAdapter;
  /**
   * The adapter that compresses values before they are encrypted. With compression, the length of an encrypted record
   * reveals something about its content. Default: no compression.
   */
  readonly compression?: KeyvCompressionAdapter | BinaryCompression;
}

const { decode: _decode, ...sharedOptionNames } = encryptedStoreOptionNames;
const createKeyvOptionNames = {
  ...sharedOptionNames,
  store: true,
  namespace: true,
  serialization: true,
  compression: true,
  ttl: true,
  stats: true,
  sanitize: true,
} as const satisfies OptionNames<CreateKeyvOptions>;

type KeywardKeyvOptions = Omit<CreateKeyvOptions, "store" | keyof EncryptedStoreOptions>;

/**
 * A Keyv over an {@link EncryptedStore}. A call that reads a record rejects if the record cannot be decrypted or
 * decoded. A plain Keyv with a listener for `error` would return `undefined` instead, as for a missing record, and the
 * application could then overwrite the record.
 *
 * @example
 * const sessions: KeywardKeyv = createKeyv({ store: new Map(), keys: Keyring.generate(), namespace: "sessions" });
 * sessions.encryptedStore.on("provider:error", (error) => console.error(error));
 */
export class KeywardKeyv extends ReportingKeyv {
  /** The store under this Keyv, with its events and methods such as `settled()` and `allowOverwrite()`. */
  readonly encryptedStore: EncryptedStore;
  /** The errors that were already passed to the listeners of `error`. */
  readonly #emitted = new WeakSet<Error>();
  /** The option `namespace` of `createKeyv`; `undefined` if it was omitted. */
  readonly #ownNamespace: string | undefined;
  /**
   * The namespace that a host (a library that uses this Keyv as its store) has assigned; "" if the host has no
   * namespace, `undefined` if no host has assigned one.
   */
  #hostNamespace: string | undefined;

  /** Makes a Keyv over an `EncryptedStore`. Applications call {@link createKeyv} instead. */
  constructor(encryptedStore: EncryptedStore, options: KeywardKeyvOptions) {
    // Keyv's own check of expiries deletes a record without comparing it, and so deletes newer writes.
    super({
      ...options,
      serialization: options.serialization ?? keyvJson,
      store: new DecodedStore(encryptedStore),
      checkExpired: false,
    });
    this.encryptedStore = encryptedStore;
    this.#ownNamespace = options.namespace === undefined ? undefined : super.namespace;
  }

  /**
   * The namespace of this Keyv. A library that uses this Keyv as its store, for example a Keyv 5, may assign its own
   * namespace before the first call. This assignment does not change the namespace that was passed to `createKeyv`,
   * because the library puts its own namespace in front of each key anyway. If another namespace is assigned after the
   * first call, calls reject with `NAMESPACE_CONFLICT`.
   *
   * @throws KeywardError `NAMESPACE_CONFLICT` if two libraries with different namespaces use this Keyv as their store,
   * because the keys of their records could mix.
   */
  override get namespace(): string | undefined {
    return super.namespace;
  }

  override set namespace(namespace: string | undefined) {
    const own = this.#ownNamespace;
    const byHost = this.#hostNamespace !== undefined || !storeParts(this.encryptedStore).inner.inUse;
    if (own === undefined || (namespace !== own && !byHost)) {
      super.namespace = namespace;
      return;
    }
    this.#hostNamespace ??= namespace ?? "";
    if (this.#hostNamespace !== (namespace ?? "")) {
      const [first, second] = [this.#hostNamespace, namespace ?? ""].map((each) => JSON.stringify(each));
      throw new KeywardError(
        "NAMESPACE_CONFLICT",
        `A library with namespace ${first} already uses this Keyv as its store, so a library with namespace ${second} cannot use this Keyv`,
        {
          namespace: own,
          hint: "If two libraries use this Keyv as their store, call createKeyv twice with different namespaces, and give each library its own Keyv. If only one library uses this Keyv, import the class Keyv from the package from which the library imports it. Otherwise, the library does not recognize your Keyv, and wraps it in a second one.",
        },
      );
    }
    super.namespace = own;
  }

  /**
   * Resolves if this Keyv can be used: the store answers, and the keyring is loaded and belongs to the store. Call `ready`
   * when the application starts, before it accepts requests. `ready` writes nothing, and emits no `error`. A library may still
   * assign its namespace to this Keyv afterwards.
   *
   * @throws KeywardError as {@link EncryptedStore.ready}.
   * @example
   * const sessions = createKeyv({ store, keys, namespace: "sessions" });
   * await sessions.ready();
   */
  ready(options: ReadyOptions = {}): Promise<void> {
    return this.encryptedStore.ready(options);
  }

  /**
   * Waits for lazy re-encryption, then disconnects. If several Keyvs that `createKeyv` made use the same store, the
   * connection is closed when the last of them disconnects.
   */
  override async disconnect(): Promise<void> {
    try {
      await super.disconnect();
    } catch (error) {
      // If a listener or hook of the application throws, Keyv's own disconnect() stops before it disconnects the store.
      await this.encryptedStore.disconnect().catch(() => undefined);
      throw error;
    }
  }

  /**
   * Emits an event. For `error`, calls the listeners and then throws the error, so that the call that failed rejects.
   */
  override emit(event: string | symbol, ...details: unknown[]): boolean {
    if (event !== "error") return super.emit(event, ...details);
    const [problem] = details;
    const error = problem instanceof Error ? problem : asError(problem);
    const isEmitted = this.#emitted.has(error);
    // Keyv emits some problems as text. It then catches the error that is thrown below, and emits this error, too.
    if (error !== problem) this.#emitted.add(error);
    if (!isEmitted && this.listenerCount("error") > 0) super.emit("error", error);
    throw error;
  }

  /** The store under this Keyv: the same object as `encryptedStore`. It cannot be replaced. */
  override get store(): KeyvStorageAdapter {
    return super.store instanceof DecodedStore ? this.encryptedStore : super.store;
  }

  override set store(store: KeyvStorageAdapter | KeyvMapAny) {
    super.store = store;
  }

  /**
   * Encodes a raw value, an object `{ value, expires }`, as Keyv does. Rejects if Keyv could not read the raw value
   * back.
   *
   * @throws KeywardError `VALUE_INVALID` if the raw value is not an object with only the fields `value` and `expires`.
   */
  override encode<Value>(data: KeyvValue<Value>): Promise<unknown> {
    if (isKeyvValue(data)) return super.encode(data);
    return Promise.reject(
      new KeywardError("VALUE_INVALID", "The raw value is not an object { value, expires }", {
        hint: "Pass an object with the field `value`. The object may also have a number in the field `expires`, but no other field. Move other fields into `value`.",
      }),
    );
  }

  /**
   * Decodes a stored value, which is text or bytes, into an object `{ value, expires }`. Returns the value unchanged if
   * the store has already decoded it.
   *
   * @throws KeywardError `RECORD_MALFORMED` if this Keyv cannot have written the stored value.
   */
  override async decode<Value>(data: unknown): Promise<KeyvValue<Value> | undefined> {
    if (data === undefined || data === null) return undefined;
    if (isKeyvValue<Value>(data)) return data;
    try {
      return await decodeForKeyv<Value>(this, data);
    } catch (error) {
      const refusal = notDecodable(error);
      this.emit("error", refusal);
      throw refusal;
    }
  }

  /**
   * Always throws: the store cannot be replaced.
   *
   * @throws KeywardError `STORE_INVALID`, because records in another store would not be encrypted.
   */
  override setStore(store: unknown): void {
    // The constructor of Keyv calls this method, before this class has fields.
    if (!(#emitted in this)) {
      super.setStore(store);
      return;
    }
    throw new KeywardError(
      "STORE_INVALID",
      "Nothing was changed: the store of a Keyv that createKeyv made cannot be replaced",
      {
        hint: "To use another store, make a second Keyv with createKeyv({ store, keys }). With setStore(), Keyv would write unencrypted records to the other store.",
      },
    );
  }

  /** Always `false`: Keyv does not check expiries, because Keyward checks the expiry inside each envelope. */
  override get checkExpired(): boolean {
    return super.checkExpired;
  }

  /**
   * Throws if `value` is `true`. Keyv's own expiry check deletes an expired record without comparing the stored value,
   * and so could delete a newer write.
   *
   * @throws KeywardError `VALUE_INVALID` if `value` is `true`.
   */
  override set checkExpired(value: boolean) {
    if (!value) return;
    throw new KeywardError(
      "VALUE_INVALID",
      "checkExpired cannot be set to true, because the expiry check of Keyv could delete newer writes",
      {
        hint: "Do not set `checkExpired`. Reads return `undefined` for expired records even without this option.",
      },
    );
  }

  /**
   * Verifies that no key of a write is empty. Without this check, Keyv would return `false` for the record under the
   * empty key, and write the other records of the batch.
   *
   * @throws KeywardError `VALUE_INVALID` if a key is empty. Nothing is written.
   */
  protected override requireWritable(keys: readonly string[]): void {
    const { sanitize } = this;
    if (keys.every((key) => key !== "" && (!sanitize.enabled || sanitize.cleanKey(key) !== ""))) return;
    this.emit(
      "error",
      new KeywardError(
        "VALUE_INVALID",
        "Nothing was written: the key of a record is empty, and Keyv stores no record under an empty key",
        {
          hint: "Pass a key that is not empty. If the option `sanitize` is set, the key must not be empty after `sanitize` has removed characters from it.",
        },
      ),
    );
  }
}

/**
 * Makes a Keyv whose records are encrypted at rest.
 *
 * @throws KeywardError in the same cases as the constructor of {@link EncryptedStore}.
 * @example
 * const sessions = createKeyv({ store: new Map(), keys: Keyring.generate(), namespace: "sessions" });
 * await sessions.set("42", { user: "u-1007" }, 60_000);
 */
export function createKeyv(given: CreateKeyvOptions): KeywardKeyv {
  const options = copyOptions(requireOptions("createKeyv", given, createKeyvOptionNames), createKeyvOptionNames);
  const { store, serialization, compression } = options;
  requireStore(store);
  // Keyv ignores an adapter that lacks a method, and so could not read values that it wrote before. It treats null as
  // omitted.
  const hint =
    "Pass an adapter for Keyv. If you passed a class, pass an instance of it. Omit the option to use the default.";
  if ((serialization ?? undefined) !== undefined)
    requireMethods("serialization", serialization, ["stringify", "parse"], hint);
  if ((compression ?? undefined) !== undefined)
    requireMethods("compression", compression, ["compress", "decompress"], hint);
  const shared = !(store instanceof Map) && isNamespaced(store) ? store : undefined;
  // If the store is a view on a namespace, use that namespace.
  const namespace = options.namespace ?? shared?.namespace ?? "";
  // Pass all options to both the store and the Keyv. Each reads the options that it knows.
  const ofStore = { ...options, decode: (value: StoredValue) => decodeForKeyv(keyv, value) };
  const encryptedStore = prepareStore(shared?.namespaced(namespace) ?? store, ofStore, shared);
  if (namespace !== "") encryptedStore.namespace = namespace;
  const { namespace: _, ...others } = options;
  const keyv = new KeywardKeyv(encryptedStore, namespace === "" ? others : { ...others, namespace });
  attachStore(encryptedStore);
  return keyv;
}

function asError(problem: unknown): KeywardError {
  return new KeywardError(
    "VALUE_INVALID",
    typeof problem === "string" ? problem : "Keyv refused the call and gave no reason",
    {
      hint: "Nothing was written. Correct the arguments of the call, and repeat it.",
    },
  );
}
