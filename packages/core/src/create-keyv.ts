import type { KeyvCompressionAdapter, KeyvOptions, KeyvSerializationAdapter, KeyvValue } from "keyv";
import { isNamespaced, type NamespacedStore } from "./capabilities.ts";
import { EncryptedStore, type EncryptedStoreOptions } from "./encrypted-store.ts";
import { KeywardError } from "./errors.ts";
import { isStore, type WrappableStore, wrapRejection } from "./inner-store.ts";
import { keyvJson } from "./keyv-json.ts";
import { ReportingKeyv } from "./reporting-keyv.ts";

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
export class KeywardKeyv extends ReportingKeyv {
  /** The store underneath, with its events, `settled()` and the rest. */
  readonly encryptedStore: EncryptedStore;
  readonly #release: (() => Promise<void>) | undefined;
  readonly #heard = new WeakSet<Error>();
  readonly #keepsNamespace: boolean;
  #hostNamespace: string | undefined;

  /** Use {@link createKeyv}. */
  constructor(encryptedStore: EncryptedStore, options: KeywardKeyvOptions, release?: () => Promise<void>) {
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
    this.#release = release;
    this.#keepsNamespace = options.namespace !== undefined;
  }

  /**
   * The namespace. One that `createKeyv` was given stays when a host assigns its own, as Keyv 5 does to every store: its
   * keys begin with that namespace already.
   *
   * @throws KeywardError `NAMESPACE_CONFLICT` when hosts of two namespaces share this Keyv, where their keys could mix.
   */
  override get namespace(): string | undefined {
    return super.namespace;
  }

  override set namespace(namespace: string | undefined) {
    if (!this.#keepsNamespace) {
      super.namespace = namespace;
      return;
    }
    this.#hostNamespace ??= namespace ?? "";
    if (this.#hostNamespace === (namespace ?? "")) return;
    const [first, second] = [this.#hostNamespace, namespace ?? ""].map((each) => JSON.stringify(each));
    throw new KeywardError("NAMESPACE_CONFLICT", `This Keyv serves a host of namespace ${first}, and not ${second}`, {
      namespace: super.namespace ?? "",
      hint: "Make another Keyv with createKeyv for the second host, with a namespace of its own.",
    });
  }

  /**
   * Waits for what reads began, then disconnects. Several Keyvs that `createKeyv` made over one store share its
   * connection, which ends with the last of them.
   */
  override async disconnect(): Promise<void> {
    await super.disconnect();
    await this.#release?.();
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
  const encryptedStore = new EncryptedStore(shared?.namespaced(namespace) ?? store, {
    keys,
    ...(scope === undefined ? {} : { scope }),
    ...(reencrypt === undefined ? {} : { reencrypt }),
    ...(accept === undefined ? {} : { accept }),
    ...(padTo === undefined ? {} : { padTo }),
    ...(replica === undefined ? {} : { replica }),
  });
  if (namespace !== "") encryptedStore.namespace = namespace;
  const release = shared === undefined ? undefined : share(shared);
  return new KeywardKeyv(encryptedStore, { ...keyvOptions, ...(namespace === "" ? {} : { namespace }) }, release);
}

interface Disconnectable {
  disconnect?(): Promise<unknown>;
}

const users = new WeakMap<object, number>();

/** Counts one more Keyv over a store; what it returns counts it off, and with the last one disconnects the store. */
function share(store: NamespacedStore & Disconnectable): () => Promise<void> {
  users.set(store, (users.get(store) ?? 0) + 1);
  let released = false;
  return async () => {
    if (released) return;
    released = true;
    const left = (users.get(store) ?? 1) - 1;
    users.set(store, left);
    if (left === 0) await wrapRejection(async () => store.disconnect?.());
  };
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
