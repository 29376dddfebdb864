import {
  Keyv,
  type KeyvCompressionAdapter,
  type KeyvEntry,
  type KeyvOptions,
  type KeyvSerializationAdapter,
  type KeyvValue,
} from "keyv";
import { isNamespaced } from "./capabilities.ts";
import { attachStore, type EncryptedStore, type EncryptedStoreOptions, prepareStore } from "./encrypted-store.ts";
import { KeywardError } from "./errors.ts";
import { isStore, type WrappableStore } from "./inner-store.ts";
import { keyvJson } from "./keyv-json.ts";

/** What {@link createKeyv} takes: how to seal, and what Keyv itself takes, except what would work against it. */
export interface CreateKeyvOptions
  extends EncryptedStoreOptions,
    Omit<KeyvOptions, "store" | "namespace" | "encryption" | "checkExpired" | "serialization" | "compression"> {
  /** Where the sealed records go: a Keyv adapter, or a Map. */
  readonly store: WrappableStore;
  /** Keeps the records of this Keyv apart from others in the same store; records are bound to it. */
  readonly namespace?: string;
  /** How values become text. Default: Keyv's JSON. It cannot be switched off: what is sealed is text or bytes. */
  readonly serialization?: KeyvSerializationAdapter;
  /** What makes values shorter before they are sealed. Lengths then tell something of what the values are. */
  readonly compression?: KeyvCompressionAdapter;
}

type KeywardKeyvOptions = Omit<CreateKeyvOptions, "store" | keyof EncryptedStoreOptions>;

/**
 * A Keyv over an {@link EncryptedStore}, on which every call rejects when a record is broken. A plain Keyv would emit
 * `error` and answer as for a miss as soon as anybody listens, and the application would overwrite the record.
 */
export class KeywardKeyv extends Keyv {
  /** The store underneath, with its events, `settled()` and the rest. */
  readonly encryptedStore: EncryptedStore;
  readonly #heard = new WeakSet<Error>();

  /** Use {@link createKeyv}. */
  constructor(encryptedStore: EncryptedStore, options: KeywardKeyvOptions) {
    // Keyv's own check of expiry deletes without comparing, and so destroys newer writes. Ours is inside the record.
    const { serialization = keyvJson, compression } = options;
    super({
      ...options,
      serialization: quietSerialization(serialization),
      ...(compression === undefined ? {} : { compression: quietCompression(compression) }),
      store: encryptedStore,
      checkExpired: false,
    });
    this.encryptedStore = encryptedStore;
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

  /** As Keyv's, which emits what it then throws; the iterator would emit that once more. */
  override async decode<Value>(data: unknown): Promise<KeyvValue<Value> | undefined> {
    try {
      return await super.decode<Value>(data);
    } catch (error) {
      if (error instanceof Error) this.#heard.add(error);
      throw error;
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

  /** As Keyv's, which answers `false` for an empty key and writes nothing. */
  override async set<Value>(key: string, value: Value, ttl?: number): Promise<boolean> {
    this.#requireKeys([key]);
    return await super.set(key, value, ttl);
  }

  /** As {@link KeywardKeyv.set}. */
  override async setRaw<Value>(key: string, value: KeyvValue<Value>): Promise<boolean> {
    this.#requireKeys([key]);
    return await super.setRaw(key, value);
  }

  /** As {@link KeywardKeyv.set}: nothing is written when one key is empty. */
  override async setManyRaw<Value>(entries: KeyvEntry<KeyvValue<Value>>[]): Promise<boolean[]> {
    this.#requireKeys(entries.map(({ key }) => key));
    return await super.setManyRaw(entries);
  }

  /** As Keyv's, which would emit for each symbol of a batch. Nothing is written when one key is empty. */
  override async setMany<Value>(entries: KeyvEntry<Value>[]): Promise<boolean[]> {
    this.#requireKeys(entries.map(({ key }) => key));
    if (entries.some(({ value }) => typeof value === "symbol")) this.emit("error", "symbol cannot be serialized");
    return await super.setMany(entries);
  }

  #requireKeys(keys: readonly string[]): void {
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
export function createKeyv(options: CreateKeyvOptions): KeywardKeyv {
  const { store, keys, scope, reencrypt, accept, padTo, replica, namespace: given, ...keyvOptions } = options;
  const shared = isStore(store) && !(store instanceof Map) && isNamespaced(store) ? store : undefined;
  // A view that was handed in stays the view it is.
  const namespace = given ?? shared?.namespace ?? "";
  const wrapped = shared?.namespaced(namespace) ?? store;
  const encryptedStore = prepareStore(
    wrapped,
    {
      keys,
      ...(scope === undefined ? {} : { scope }),
      ...(reencrypt === undefined ? {} : { reencrypt }),
      ...(accept === undefined ? {} : { accept }),
      ...(padTo === undefined ? {} : { padTo }),
      ...(replica === undefined ? {} : { replica }),
    },
    shared,
  );
  if (namespace !== "") encryptedStore.namespace = namespace;
  const keyv = new KeywardKeyv(encryptedStore, { ...keyvOptions, ...(namespace === "" ? {} : { namespace }) });
  attachStore(encryptedStore);
  return keyv;
}

// What a parser throws quotes what it parses, which here is plaintext: it goes no further than its name.

function quietSerialization(serialization: KeyvSerializationAdapter): KeyvSerializationAdapter {
  return {
    stringify: (value) => serialization.stringify(value),
    parse: <Value>(text: string) => quietly("parses", () => serialization.parse<Value>(text), requireKeyvData),
  };
}

function quietCompression(compression: KeyvCompressionAdapter): KeyvCompressionAdapter {
  return {
    compress: (text) => compression.compress(text),
    decompress: async (text) =>
      await quietly(
        "decompresses",
        () => compression.decompress(text),
        (decompressed) => decompressed,
      ),
  };
}

/** Of anything but its own `{ value, expires }` Keyv would make a miss. */
function requireKeyvData<Value>(data: Value): Value {
  if (typeof data === "object" && data !== null && !Array.isArray(data)) {
    if ("value" in data || Object.keys(data).every((field) => field === "expires")) return data;
  }
  throw new TypeError("not Keyv's");
}

/** What was read, checked; a promise only where reading gives one. */
function quietly<Result>(
  does: string,
  read: () => Result | Promise<Result>,
  check: (result: Result) => Result,
): Result | Promise<Result> {
  try {
    const result = read();
    if (!(result instanceof Promise)) return check(result);
    return result.then(check).catch((error: unknown) => {
      throw notReadable(does, error);
    });
  } catch (error) {
    throw notReadable(does, error);
  }
}

function notReadable(does: string, error: unknown): KeywardError {
  const name = error instanceof Error ? error.name : typeof error;
  return new KeywardError("RECORD_MALFORMED", `A record opens, and is not what this Keyv ${does}: ${name}`, {
    hint: "Something else wrote it under this key, or serialization or compression were changed since.",
  });
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
