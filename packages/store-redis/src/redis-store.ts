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

/** Settings of a {@link RedisStore}. */
export interface RedisStoreOptions {
  /**
   * What all keys of the store begin with, before a colon; "keyward" unless given. Stores of different prefixes share a
   * server without ever meeting. It has no colon. One in braces, such as `{app}`, puts all records of a Cluster into one
   * slot.
   */
  readonly prefix?: string;
  /** How long one call waits for the server, in ms, reconnecting included; 5,000 unless given. */
  readonly timeoutMs?: number;
}

const optionNames: OptionNames<RedisStoreOptions> = { prefix: true, timeoutMs: true };

/** The records of a {@link RedisStore}, or its reserved space. */
export class RedisSpace extends RecordSpace implements BinaryStore {
  /** Bytes are kept as they are. */
  readonly values = "bytes";
}

/**
 * A store for Keyv and Keyward in Redis or Valkey: one server, a Sentinel group, or a Cluster. It expires, replaces
 * atomically, can be scanned, keeps bytes as they are, and has a reserved space.
 *
 * It connects with its first call and again after a loss, by itself. What goes wrong in the background is told by the
 * event `connection:error` of the store that opened the connection: once, then with a count (`Repetition`) and growing
 * pauses, and at once again after it was connected.
 */
export class RedisStore extends RedisSpace implements ReservedSpace, NamespacedStore {
  readonly #connection: Connection;
  readonly #layout: KeyLayout;
  readonly #reserved: RedisSpace;
  readonly #isView: boolean;

  /**
   * Makes a store; nothing is sent yet.
   *
   * @param origin what to connect to: a URL (`redis:`, `rediss:`) as text or as a `URL`, options of ioredis, the nodes of a Cluster; a client
   * of ioredis that exists, which `disconnect()` leaves open; or another store, whose connection and options this one is
   * to share.
   * @throws KeywardError `VALUE_INVALID` for a URL that cannot be read or whose password is not percent-encoded, for options
   * that ioredis does not take, for its option `keyPrefix`, for a prefix that is empty or has a colon, and for options of
   * the store that are none. The error holds nothing of the URL.
   */
  constructor(origin: RedisSource | RedisStore, options: RedisStoreOptions = {}) {
    const { prefix = "keyward", timeoutMs = 5_000 } = requireOptions("RedisStore", options, optionNames);
    const own = !(origin instanceof RedisStore);
    const layout = own ? new KeyLayout(prefix) : origin.#layout;
    const connection = own
      ? new IoredisConnection(origin, timeoutMs, (error, repetition) =>
          this.emit("connection:error", error, repetition),
        )
      : origin.#connection;
    super(connection, layout);
    this.#connection = connection;
    this.#layout = layout;
    this.#isView = !own;
    this.#reserved = own ? new RedisSpace(connection, layout.reserved()) : origin.#reserved;
  }

  /**
   * Closes the connection that the store shares with its views and its reserved space, and leaves a client open that it
   * was given: they all reject every later call. On a view it does nothing.
   */
  override async disconnect(): Promise<void> {
    if (!this.#isView) await this.#connection.close();
  }

  /** A place beside the records that no key, clear, iteration or scan of theirs reaches. The same for every view. */
  reserved(): RedisSpace {
    return this.#reserved;
  }

  /** A view on one namespace, over the same connection; "" is the view on records without a namespace. */
  namespaced(namespace: string): RedisStore {
    const view = new RedisStore(this);
    view.namespace = namespace;
    return view;
  }
}
