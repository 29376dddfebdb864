import { Buffer, isUtf8 } from "node:buffer";
import {
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

/** An adapter of `@keyv/redis`, version 5 or 6, as far as it is used. */
export interface KeyvRedisAdapter extends NodeRedisAdapter {
  /** As the adapter keeps it. */
  namespace?: string | undefined;
  /** Between namespace and key. */
  readonly keyPrefixSeparator: string;
  /** Whether its own methods reject. */
  throwOnErrors: boolean;
  /** Where the adapter tells of a lost connection. */
  on(event: "error", listener: (error: unknown) => void): unknown;
  /** Takes off what `on` was given. */
  off?(event: "error", listener: (error: unknown) => void): unknown;
}

/** An adapter of `@keyv/valkey`, as far as it is used. */
export interface KeyvValkeyAdapter {
  /** As the adapter keeps it. */
  namespace?: string | undefined;
  /** Its client, of iovalkey. */
  readonly redis: unknown;
  /** Its settings; `useRedisSets` has to be false. */
  readonly opts: Readonly<Record<string, unknown>>;
  /** Closes the client. */
  disconnect(): Promise<unknown>;
  /** Where the adapter tells of a lost connection. */
  on(event: "error", listener: (error: unknown) => void): unknown;
  /** Takes off what `on` was given. */
  off?(event: "error", listener: (error: unknown) => void): unknown;
}

/** Settings of {@link keyvRedis}. */
export interface KeyvRedisOptions {
  /** How long one call waits for the server, in ms, reconnecting included; 5,000 unless given. */
  readonly timeoutMs?: number;
}

/**
 * The store that {@link keyvRedis} makes. Values are text; what lies there and is not UTF-8 comes as bytes. Its records
 * lie where the adapter puts them: `namespace::key`, or the key alone.
 *
 * What the adapter emits as `error` is told by the event `connection:error`.
 */
export class KeyvRedisStore extends RecordSpace {
  readonly #connection: Connection;
  readonly #unhear: () => void;

  /** Use {@link keyvRedis}. */
  constructor(adapter: KeyvRedisAdapter | KeyvValkeyAdapter, connection: Connection, layout: RecordLayout) {
    super(connection, layout);
    this.#connection = connection;
    this.namespace = adapter.namespace;
    const repetitions = new Repetitions();
    const tell = (error: unknown) => {
      connection.noteFailure(error);
      const bare = bareError(error);
      const repetition = repetitions.occurred(bare);
      if (repetition !== undefined) this.emit("connection:error", bare, repetition);
    };
    this.#unhear = shareListener(adapter, "error", tell);
  }

  /** Rejects every later call, and closes the adapter once every store that `keyvRedis` made of it is disconnected. */
  override async disconnect(): Promise<void> {
    try {
      await this.#connection.close();
    } finally {
      this.#unhear();
    }
  }
}

/**
 * An adapter that an application has already, as a store that expires to the millisecond, replaces atomically and can be
 * scanned. It reads and writes the same records over the adapter's own client; each call ends in time and rejects when
 * it failed. The adapter's `throwOnErrors` is switched on. `disconnect()` of the last store over an adapter closes it.
 *
 * @throws KeywardError `VALUE_INVALID` for an adapter of `@keyv/valkey` with `useRedisSets`, under which namespaces share
 * their keys, and options that are none; `STORE_INVALID` for an adapter of `@keyv/redis` of a Sentinel group.
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
        "The adapter's client is one of a Sentinel group, which cannot be scanned",
        {
          hint: "Use a RedisStore with the options sentinels and name of ioredis, and move the records there.",
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
      "The adapter keeps its namespaces in sets, and lets them share their keys",
      {
        hint: "Make it with the option useRedisSets: false.",
      },
    );
  }
  return new KeyvRedisStore(
    adapter,
    new ValkeyConnection(adapter, timeoutMs),
    new AdapterLayout("namespace:", ":", true),
  );
}

/** A connection over the client of `@keyv/valkey`, which it closes through the adapter. */
class ValkeyConnection extends IoredisConnection {
  readonly #leave: () => Promise<void>;

  constructor(adapter: KeyvValkeyAdapter, timeoutMs: number) {
    super(requireIovalkey(adapter.redis), timeoutMs, () => undefined);
    this.#leave = shareConnection(adapter, () => adapter.disconnect());
  }

  protected override async end(): Promise<void> {
    await super.end();
    await this.#leave();
  }
}

/** Where the adapters put records: what is in front, the namespace, what separates it, the key. */
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
      throw new KeywardError("VALUE_INVALID", "The namespace has what the adapter separates it from keys by", {
        hint: `Choose one without ${JSON.stringify(this.#separator)}: its records would be found in another namespace.`,
      });
    }
    return `${this.#front}${start}`;
  }

  /** The adapters do not escape: the first separator is taken for the end of the namespace. */
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
    throw new KeywardError("VALUE_INVALID", "A value is not a well-formed string", {
      hint: "Let Keyv serialize values (no `serialization: false`); bytes need a RedisStore.",
      key,
    });
  }

  readValue(bytes: Buffer): StoredValue {
    return isUtf8(bytes) ? bytes.toString() : bytes;
  }
}

function requireIovalkey(client: unknown): Redis | Cluster {
  if (isIovalkey(client)) return client;
  throw new KeywardError("VALUE_INVALID", "The adapter's client is not one of iovalkey", {
    hint: "Pass an adapter of @keyv/valkey or @keyv/redis.",
  });
}

/** iovalkey began as a copy of ioredis. */
function isIovalkey(client: unknown): client is Redis | Cluster {
  return typeof client === "object" && client !== null && "sendCommand" in client && "status" in client;
}
