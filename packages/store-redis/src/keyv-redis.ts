import { Buffer, isUtf8 } from "node:buffer";
import {
  ignoreLaterErrors,
  KeywardError,
  type OptionNames,
  Repetitions,
  requireOptions,
  type StoredValue,
  shareConnection,
  shareListener,
} from "@keyward/core";
import type { Cluster, Redis } from "ioredis";
import type { Connection } from "./connection.ts";
import { IoredisConnection } from "./ioredis-connection.ts";
import { escapePattern } from "./key-layout.ts";
import { type NodeRedisAdapter, NodeRedisConnection } from "./node-redis-connection.ts";
import { type PlaceInRedis, type RecordLayout, RecordSpace } from "./record-space.ts";
import { bareError } from "./server-error.ts";

/** The members of an adapter of `@keyv/redis` 5 or 6 that {@link keyvRedis} uses. */
export interface KeyvRedisAdapter extends NodeRedisAdapter {
  /** Namespace of the adapter. A new {@link KeyvRedisStore} over the adapter begins with this namespace. */
  namespace?: string | undefined;
  /** Text between the namespace and the record's key in a key of Redis, by default `::`. */
  readonly keyPrefixSeparator: string;
  /** If true, the adapter's methods reject after an error. {@link keyvRedis} sets this property to true. */
  throwOnErrors: boolean;
  /** Adds a listener for errors of the connection. */
  on(event: "error", listener: (error: unknown) => void): unknown;
  /** Removes a listener that `on` has added. */
  off?(event: "error", listener: (error: unknown) => void): unknown;
}

/** The members of an adapter of `@keyv/valkey` that {@link keyvRedis} uses. */
export interface KeyvValkeyAdapter {
  /** Namespace of the adapter. A new {@link KeyvRedisStore} over the adapter begins with this namespace. */
  namespace?: string | undefined;
  /** The adapter's client: a `Redis` or `Cluster` of iovalkey. */
  readonly redis: unknown;
  /** Options of the adapter. `useRedisSets` must be false. */
  readonly opts: Readonly<Record<string, unknown>>;
  /** Closes the client. */
  disconnect(): Promise<unknown>;
  /** Adds a listener for errors of the connection. */
  on(event: "error", listener: (error: unknown) => void): unknown;
  /** Removes a listener that `on` has added. */
  off?(event: "error", listener: (error: unknown) => void): unknown;
}

/** Options of {@link keyvRedis}. */
export interface KeyvRedisOptions {
  /**
   * Maximum duration of a call in milliseconds, including the time to reconnect. A call that takes longer rejects.
   * Default: 5,000.
   */
  readonly timeoutMs?: number;
}

/**
 * The store that {@link keyvRedis} returns. The store keeps records under the same keys in Redis as the adapter:
 * `namespace::key` for `@keyv/redis`, or only the key if there is no namespace. The store writes only text values.
 * Stored bytes that are not UTF-8 are returned as bytes, and all others as text.
 *
 * The store emits `connection:error` with errors that the adapter emits. An error that recurs is emitted once, and then
 * at growing intervals.
 */
export class KeyvRedisStore extends RecordSpace {
  readonly #adapter: object;
  readonly #connection: Connection;
  readonly #unlisten: () => void;

  /** Only {@link keyvRedis} calls this constructor. To create a store, use `keyvRedis(adapter)`. */
  constructor(adapter: KeyvRedisAdapter | KeyvValkeyAdapter, connection: Connection, layout: RecordLayout) {
    super(connection, layout);
    this.#adapter = adapter;
    this.#connection = connection;
    this.namespace = adapter.namespace;
    const repetitions = new Repetitions();
    const report = (error: unknown) => {
      connection.noteFailure(error);
      const bare = bareError(error);
      const repetition = repetitions.occurred(bare);
      if (repetition !== undefined) this.emit("connection:error", bare, repetition);
    };
    this.#unlisten = shareListener(adapter, "error", report);
  }

  /**
   * Disconnects this store, so that every later call of this store rejects. If no other store uses the adapter, the
   * adapter is closed.
   */
  override async disconnect(): Promise<void> {
    ignoreLaterErrors(this.#adapter);
    try {
      await this.#connection.close();
    } finally {
      this.#unlisten();
    }
  }
}

/**
 * Returns a store over an existing adapter of `@keyv/redis` or `@keyv/valkey`. The store reads and writes the adapter's
 * records over the adapter's client. In addition, the store expires records at the exact millisecond, replaces records
 * atomically, and can be scanned. Each call ends within `timeoutMs`. A failed call rejects, so `throwOnErrors` of an
 * adapter of `@keyv/redis` is switched on.
 *
 * An adapter may be shared by several stores. `disconnect()` of the last of these stores closes the adapter.
 *
 * @throws KeywardError with one of these codes:
 *
 * - `VALUE_INVALID` if an option is unknown or out of range, or an adapter of `@keyv/valkey` uses `useRedisSets`, which
 *   ignores namespaces: a key is then the same record in every namespace.
 * - `STORE_INVALID` if an adapter of `@keyv/redis` is connected to a Sentinel group.
 *
 * @example
 * ```ts
 * import KeyvRedis from "@keyv/redis";
 * import { createKeyv } from "@keyward/core";
 * import { envKeys } from "@keyward/keys-env";
 * import { keyvRedis } from "@keyward/store-redis";
 *
 * const store = keyvRedis(new KeyvRedis(process.env["REDIS_URL"] ?? "redis://localhost"));
 * const sessions = createKeyv({ store, keys: envKeys("APP_ENCRYPTION_KEY"), namespace: "sessions" });
 * await sessions.set("42", { user: 7 }, 60_000);
 * await sessions.disconnect();
 * ```
 */
export function keyvRedis(
  adapter: KeyvRedisAdapter | KeyvValkeyAdapter,
  options: KeyvRedisOptions = {},
): KeyvRedisStore {
  const known: OptionNames<KeyvRedisOptions> = { timeoutMs: true };
  const { timeoutMs = 5_000 } = requireOptions("keyvRedis", options, known);
  if (!("redis" in adapter)) {
    if (adapter.isSentinel?.() === true) {
      throw new KeywardError(
        "STORE_INVALID",
        "The adapter of @keyv/redis is connected to a Sentinel group, whose keys keyvRedis cannot scan",
        {
          hint:
            "Use a RedisStore with the options `sentinels` and `name` of ioredis. Copy the records to the RedisStore, " +
            "because the RedisStore uses other keys in Redis than the adapter.",
        },
      );
    }
    adapter.throwOnErrors = true;
    const layout = new AdapterLayout("", adapter.keyPrefixSeparator);
    return new KeyvRedisStore(adapter, new NodeRedisConnection(adapter, timeoutMs), layout);
  }
  if (adapter.opts["useRedisSets"] !== false) {
    throw new KeywardError(
      "VALUE_INVALID",
      "The adapter of @keyv/valkey uses `useRedisSets`, so equal keys in two namespaces would name the same record",
      {
        hint:
          "Create the adapter with `useRedisSets: false`. This adapter uses other keys in Redis, which contain the namespace, " +
          "so it does not find the records that were written with `useRedisSets`. Write these records again.",
      },
    );
  }
  return new KeyvRedisStore(
    adapter,
    new ValkeyConnection(adapter, timeoutMs),
    new AdapterLayout("namespace:", ":", true),
  );
}

/** A connection over the client of an adapter of `@keyv/valkey`. It closes the client through the adapter. */
class ValkeyConnection extends IoredisConnection {
  readonly #release: () => Promise<void>;

  constructor(adapter: KeyvValkeyAdapter, timeoutMs: number) {
    super(requireIovalkey(adapter.redis), timeoutMs, () => undefined);
    this.#release = shareConnection(adapter, () => adapter.disconnect());
  }

  protected override async end(): Promise<void> {
    await super.end();
    await this.#release();
  }
}

/** The layout of the keys that the adapters use in Redis: a fixed text, the namespace, a separator, and the key. */
class AdapterLayout implements RecordLayout {
  readonly #front: string;
  readonly #separator: string;
  readonly #separatesAlways: boolean;

  constructor(front: string, separator: string, separatesAlways = false) {
    this.#front = front;
    this.#separator = separator;
    this.#separatesAlways = separatesAlways;
  }

  startOf(namespace: string): string {
    if (namespace === "" && !this.#separatesAlways) return this.#front;
    const start = `${namespace}${this.#separator}`;
    if (start.indexOf(this.#separator) !== namespace.length) {
      const separator = JSON.stringify(this.#separator);
      throw new KeywardError(
        "VALUE_INVALID",
        `The namespace contains the separator of the adapter, ${separator}, or ends with a part of this separator`,
        {
          hint:
            `Choose a namespace that contains no character of ${separator}. Then its records cannot appear in another ` +
            "namespace.",
        },
      );
    }
    return `${this.#front}${start}`;
  }

  /**
   * Returns the address of the record that Redis stores under `redisKey`. The first separator ends the namespace, because
   * the adapters escape no separator.
   */
  placeOf(redisKey: Buffer): PlaceInRedis | undefined {
    if (!isUtf8(redisKey)) return undefined;
    const at = redisKey.toString();
    if (!at.startsWith(this.#front)) return undefined;
    const end = at.indexOf(this.#separator, this.#front.length);
    if (end === -1) return this.#separatesAlways ? undefined : { namespace: "", key: at.slice(this.#front.length), at };
    return { namespace: at.slice(this.#front.length, end), key: at.slice(end + this.#separator.length), at };
  }

  patternOf(namespace?: string): string {
    return `${escapePattern(namespace === undefined ? this.#front : this.startOf(namespace))}*`;
  }

  writeValue(key: string, value: unknown): Buffer {
    if (typeof value === "string" && value.isWellFormed()) return Buffer.from(value);
    throw new KeywardError(
      "VALUE_INVALID",
      "The value is not a well-formed string, but keyvRedis can store only well-formed strings",
      {
        hint:
          "If the Keyv has the option `serialization: false`, remove this option, so that Keyv serializes each value to a " +
          "string. To store bytes, use a RedisStore instead.",
        key,
      },
    );
  }

  readValue(bytes: Buffer): StoredValue {
    return isUtf8(bytes) ? bytes.toString() : bytes;
  }
}

function requireIovalkey(client: unknown): Redis | Cluster {
  if (isIovalkey(client)) return client;
  throw new KeywardError("VALUE_INVALID", "The property `redis` of the adapter is not a client of iovalkey", {
    hint: "Pass an adapter of @keyv/valkey or @keyv/redis.",
  });
}

/** Recognises a client of iovalkey, which is a fork of ioredis, by its methods. */
function isIovalkey(client: unknown): client is Redis | Cluster {
  return typeof client === "object" && client !== null && "sendCommand" in client && "status" in client;
}
