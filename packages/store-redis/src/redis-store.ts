import {
  type BinaryStore,
  type NamespacedStore,
  type OptionNames,
  type ReservedSpace,
  requireOptions,
} from "@keyward/core";
import type { Connection } from "./connection.ts";
import { IoredisConnection, type RedisSource } from "./ioredis-connection.ts";
import { KeyLayout } from "./key-layout.ts";
import { RecordSpace } from "./record-space.ts";

/** Options of a {@link RedisStore}. */
export interface RedisStoreOptions {
  /**
   * Prefix of all keys of the store in Redis. A colon separates the prefix from the rest of the key, so the prefix must
   * not contain a colon. Default: "keyward". Stores with different prefixes never share a record. A prefix in braces,
   * such as `{app}`, puts all records of the store into one slot of a Cluster.
   */
  readonly prefix?: string;
  /**
   * Maximum duration of a call in milliseconds, including the time to reconnect. A call that takes longer rejects.
   * Default: 5,000.
   */
  readonly timeoutMs?: number;
}

const optionNames: OptionNames<RedisStoreOptions> = { prefix: true, timeoutMs: true };

/**
 * A set of records in Redis that keeps bytes unchanged. {@link RedisStore} extends this class. `RedisStore.reserved()`
 * returns an instance of this class.
 */
export class RedisSpace extends RecordSpace implements BinaryStore {
  /** Marks the store as one that keeps bytes unchanged, so that records are encrypted to binary envelopes. */
  readonly values = "bytes";
}

/**
 * A store for Keyv and Keyward in Redis or Valkey: one server, a Sentinel group, or a Cluster. The store expires
 * records, replaces them atomically, can be scanned, keeps bytes unchanged, and has a reserved space.
 *
 * The store connects with its first call, and reconnects by itself. The store that opened the connection emits
 * `connection:error` with each connection error. An error that recurs is emitted once, then at growing intervals with
 * the number of times it has occurred (`Repetition`), and immediately again after the store has reconnected.
 *
 * @example
 * ```ts
 * import { createKeyv } from "@keyward/core";
 * import { envKeys } from "@keyward/keys-env";
 * import { RedisStore } from "@keyward/store-redis";
 *
 * const store = new RedisStore(process.env["REDIS_URL"] ?? "redis://localhost");
 * const sessions = createKeyv({ store, keys: envKeys("APP_ENCRYPTION_KEY"), namespace: "sessions" });
 * await sessions.set("42", { user: 7 }, 60_000);
 * console.log(await sessions.get("42")); // { user: 7 }
 * await sessions.disconnect();
 * ```
 */
export class RedisStore extends RedisSpace implements ReservedSpace, NamespacedStore {
  readonly #connection: Connection;
  readonly #layout: KeyLayout;
  readonly #reserved: RedisSpace;
  readonly #isView: boolean;

  /**
   * Creates a store, which connects to Redis with its first call.
   *
   * @param origin the Redis to connect to, or another store:
   *
   * - A URL (`redis:` or `rediss:`), as text or as a `URL`.
   * - Options of ioredis, such as `sentinels` and `name`.
   * - The nodes of a Cluster.
   * - An existing client of ioredis, which `disconnect()` leaves open.
   * - Another store, whose connection and options the new store shares.
   *
   * @throws KeywardError `VALUE_INVALID` if an option is unknown or out of range, or the prefix is empty or has a
   * colon. Also if a URL cannot be parsed or its password is not percent-encoded, if ioredis refuses the options that
   * are passed to ioredis, or if the option `keyPrefix` of ioredis is set. The error contains no part of the URL.
   */
  constructor(origin: RedisSource | RedisStore, options: RedisStoreOptions = {}) {
    const { prefix = "keyward", timeoutMs = 5_000 } = requireOptions("RedisStore", options, optionNames);
    const isOwner = !(origin instanceof RedisStore);
    const layout = isOwner ? new KeyLayout(prefix) : origin.#layout;
    const connection = isOwner
      ? new IoredisConnection(origin, timeoutMs, (error, repetition) =>
          this.emit("connection:error", error, repetition),
        )
      : origin.#connection;
    super(connection, layout);
    this.#connection = connection;
    this.#layout = layout;
    this.#isView = !isOwner;
    this.#reserved = isOwner ? new RedisSpace(connection, layout.reserved()) : origin.#reserved;
  }

  /**
   * Closes the connection that the store shares with its reserved space and with its views, which `namespaced` returns.
   * Every later call of these stores rejects. A client that the application passed to the store stays open. On a view,
   * `disconnect` does nothing.
   */
  override async disconnect(): Promise<void> {
    if (!this.#isView) await this.#connection.close();
  }

  /**
   * Returns the `maxmemory-policy` of each primary, such as `noeviction`, or "" for a server that does not report its
   * policy. With any other policy than `noeviction`, a server deletes records when its memory is full.
   *
   * @throws KeywardError `STORE_UNAVAILABLE` if a server does not reply in time, or if the store is disconnected.
   */
  async evictionPolicies(): Promise<readonly string[]> {
    return await this.#connection.within(async (deadline) => {
      const servers = await this.#connection.servers(deadline);
      const replies = await Promise.all(servers.map((server) => server.transaction([["INFO", "memory"]], deadline)));
      return replies.map(([information]) => /^maxmemory_policy:(\S+)/m.exec(String(information))?.[1] ?? "");
    });
  }

  /**
   * Returns the reserved space, where Keyward keeps its own records. The other methods of this store neither read nor
   * change records in the reserved space. The store and its views, which `namespaced` returns, have the same reserved
   * space.
   */
  reserved(): RedisSpace {
    return this.#reserved;
  }

  /**
   * Returns a view: a store that shares the connection of this store and uses the given namespace. "" selects the
   * records without a namespace.
   */
  namespaced(namespace: string): RedisStore {
    const view = new RedisStore(this);
    view.namespace = namespace;
    return view;
  }
}
