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
import { isNamespaced, type StoredValue } from "../store-interface/capabilities.ts";
import { requireStore, type WrappableStore } from "../store-interface/inner-store.ts";
import { decodeForKeyv } from "../store-interface/keyv-decoding.ts";
import { keyvJson } from "../store-interface/keyv-json.ts";
import { isKeyvValue } from "../store-interface/keyv-value.ts";
import { DecodedStore } from "./decoded-store.ts";
import { attachStore, type EncryptedStore, prepareStore, storeParts } from "./encrypted-store.ts";
import { type EncryptedStoreOptions, encryptedStoreOptionNames } from "./encrypted-store-options.ts";
import { notDecodable } from "./record-codec.ts";
import { ReportingKeyv } from "./reporting-keyv.ts";

/** Compression into bytes, such as the one of `@keyv/compress-gzip`. */
export interface BinaryCompression {
  /** Makes bytes of what the serialization wrote. */
  compress(written: string): Promise<Uint8Array>;
  /** Gives back what was compressed, as text or as its bytes. */
  decompress(compressed: Uint8Array): Promise<string | Uint8Array>;
}

/** What {@link createKeyv} takes: how to seal, and what Keyv itself takes, except what would work against it. */
export interface CreateKeyvOptions
  extends Omit<EncryptedStoreOptions, "decode">,
    Omit<KeyvOptions, "store" | "namespace" | "encryption" | "checkExpired" | "serialization" | "compression"> {
  /** Where the sealed records go: a Keyv adapter, or a Map. */
  readonly store: WrappableStore;
  /** Keeps the records of this Keyv apart from others in the same store; records are bound to it. */
  readonly namespace?: string;
  /** How values become text. Default: Keyv's JSON. It cannot be switched off: what is sealed is text or bytes. */
  readonly serialization?: KeyvSerializationAdapter;
  /** What makes values shorter before they are sealed. Lengths then tell something of what the values are. */
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
 * A Keyv over an {@link EncryptedStore}, on which every call rejects when a record is broken. A plain Keyv would emit
 * `error` and answer as for a miss as soon as anybody listens, and the application would overwrite the record.
 */
export class KeywardKeyv extends ReportingKeyv {
  /** The store underneath, with its events, `settled()` and the rest. */
  readonly encryptedStore: EncryptedStore;
  readonly #heard = new WeakSet<Error>();
  /** The namespace that `createKeyv` was given, where it was given one. */
  readonly #ownNamespace: string | undefined;
  /** The namespace that a host has assigned, "" where it assigned none. */
  #hostNamespace: string | undefined;

  /** Use {@link createKeyv}. */
  constructor(encryptedStore: EncryptedStore, options: KeywardKeyvOptions) {
    // Keyv's own check of expiry deletes without comparing, and so destroys newer writes. Ours is inside the record.
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
   * The namespace. One that `createKeyv` was given stays when a host takes this Keyv as its store and assigns its own, as
   * Keyv 5 does before its first call: its keys begin with that namespace already. Once this Keyv is in use, a call
   * after another namespace was assigned rejects with `NAMESPACE_CONFLICT`.
   *
   * @throws KeywardError `NAMESPACE_CONFLICT` when hosts of two namespaces share this Keyv, where their keys could mix.
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
      throw new KeywardError("NAMESPACE_CONFLICT", `This Keyv serves a host of namespace ${first}, and not ${second}`, {
        namespace: own,
        hint: "Make another Keyv with createKeyv for the second host, with a namespace of its own. If one host put a Keyv 5 around the Keyv 5 that you gave it, import Keyv from the package that this host imports it from.",
      });
    }
    super.namespace = own;
  }

  /**
   * Waits for what reads began, then disconnects. Several Keyvs that `createKeyv` made over one store share its
   * connection, which ends with the last of them.
   */
  override async disconnect(): Promise<void> {
    try {
      await super.disconnect();
    } catch (error) {
      // Keyv's own ends early when a listener or a hook of the application throws.
      await this.encryptedStore.disconnect().catch(() => undefined);
      throw error;
    }
  }

  /** As Keyv's, but after the listeners of `error` ran it throws, so that the call which met the error rejects. */
  override emit(event: string | symbol, ...details: unknown[]): boolean {
    if (event !== "error") return super.emit(event, ...details);
    const [problem] = details;
    const error = problem instanceof Error ? problem : asError(problem);
    const heard = this.#heard.has(error);
    // What Keyv did not make an Error it throws, catches and emits again.
    if (error !== problem) this.#heard.add(error);
    if (!heard && this.listenerCount("error") > 0) super.emit("error", error);
    throw error;
  }

  /** The store underneath, as `encryptedStore`. It cannot be replaced. */
  override get store(): KeyvStorageAdapter {
    return super.store instanceof DecodedStore ? this.encryptedStore : super.store;
  }

  override set store(store: KeyvStorageAdapter | KeyvMapAny) {
    super.store = store;
  }

  /**
   * As Keyv's, and refuses what it could not read back.
   *
   * @throws KeywardError `VALUE_INVALID` for a raw value with other fields than `value` and `expires`.
   */
  override encode<Value>(data: KeyvValue<Value>): Promise<unknown> {
    if (isKeyvValue(data)) return super.encode(data);
    return Promise.reject(
      new KeywardError("VALUE_INVALID", "A raw value is not { value, expires }", {
        hint: "Pass an object with value and, at most, expires as a number: put everything else into value.",
      }),
    );
  }

  /**
   * Decodes what the store holds, text or bytes; the store has decoded already what it gives to Keyv.
   *
   * @throws KeywardError `RECORD_MALFORMED` for what is no value of this Keyv.
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
   * Refused once the Keyv is made.
   *
   * @throws KeywardError `STORE_INVALID`: what is written to another store would not be encrypted.
   */
  override setStore(store: unknown): void {
    // Keyv calls this when it is made, and this class has no fields before.
    if (!(#heard in this)) {
      super.setStore(store);
      return;
    }
    throw new KeywardError(
      "STORE_INVALID",
      "The store of a Keyv of createKeyv cannot be replaced: nothing was changed",
      {
        hint: "Records in the other store would not be encrypted. Make a second Keyv with createKeyv({ store, keys }).",
      },
    );
  }

  /** Always `false`: expiry is checked inside the record. */
  override get checkExpired(): boolean {
    return super.checkExpired;
  }

  /**
   * Refused: Keyv's own check deletes what has expired without comparing, and so deletes newer writes.
   *
   * @throws KeywardError `VALUE_INVALID` for `true`.
   */
  override set checkExpired(value: boolean) {
    if (!value) return;
    throw new KeywardError("VALUE_INVALID", "checkExpired cannot be switched on: it would delete newer writes", {
      hint: "Leave checkExpired alone. Records that have expired are absent already.",
    });
  }

  /**
   * Keyv answers `false` for an empty key, and writes the others of a batch.
   *
   * @throws KeywardError `VALUE_INVALID` when one key is empty: nothing is written.
   */
  protected override requireWritable(keys: readonly string[]): void {
    const { sanitize } = this;
    if (keys.every((key) => key !== "" && (!sanitize.enabled || sanitize.cleanKey(key) !== ""))) return;
    this.emit(
      "error",
      new KeywardError("VALUE_INVALID", "Nothing was written: Keyv keeps nothing under an empty key", {
        hint: "Give the record a key that is not empty, also once `sanitize` has cleaned it.",
      }),
    );
  }
}

/**
 * The short way: a Keyv whose records are sealed at rest.
 *
 * @throws KeywardError as the constructor of {@link EncryptedStore}.
 */
export function createKeyv(given: CreateKeyvOptions): KeywardKeyv {
  const options = copyOptions(requireOptions("createKeyv", given, createKeyvOptionNames), createKeyvOptionNames);
  const { store, serialization, compression } = options;
  requireStore(store);
  // Keyv takes null for none, and skips what has no methods: what it wrote would then not be read.
  const hint = "Pass an adapter of Keyv's, made with new where it is a class, or leave the option out.";
  if ((serialization ?? undefined) !== undefined)
    requireMethods("serialization", serialization, ["stringify", "parse"], hint);
  if ((compression ?? undefined) !== undefined)
    requireMethods("compression", compression, ["compress", "decompress"], hint);
  const shared = !(store instanceof Map) && isNamespaced(store) ? store : undefined;
  // A view that was handed in stays the view it is.
  const namespace = options.namespace ?? shared?.namespace ?? "";
  // Both are given all options, and each takes its own: none can be lost in between.
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
    typeof problem === "string" ? problem : "Keyv met a problem it did not name",
    {
      hint: "Nothing was written.",
    },
  );
}
