import {
  KeywardError,
  type NamespacedStore,
  type OptionNames,
  type ReservedSpace,
  requireAmount,
  requireOptions,
} from "@keyward/core";
import { Connection } from "./connection.ts";
import type { Synchronous } from "./database-file.ts";
import { SqliteSpace, spaces } from "./sqlite-space.ts";

/** Options of a {@link SqliteStore}. */
export interface SqliteStoreOptions {
  /**
   * Durability of an acknowledged write, which is a write whose call has resolved. Default: "full".
   *
   * - "full": the write is on the disk and survives a power loss.
   * - "normal": the write survives a crash of the process, but a power loss or a crash of the system can undo the last
   *   acknowledged writes.
   *
   * With both settings, a power loss does not damage the file.
   */
  readonly synchronous?: Synchronous;
  /**
   * How long a call waits if another process has the file locked, in milliseconds, at most 2^30. After this time the
   * call rejects. Default: 5,000.
   */
  readonly busyTimeoutMs?: number;
  /**
   * Pause between two sweeps, which remove expired rows from the file in the background. In milliseconds, at most 2^30.
   * With 0 there are no sweeps in the background. Default: 60,000. Reads never return an expired record, even if its
   * row is still in the file.
   */
  readonly sweepMs?: number;
}

/**
 * A durable store for Keyv and Keyward in one SQLite file, which several processes may use at once. The store expires
 * records, replaces them atomically, can be scanned, keeps bytes unchanged, and has a reserved space.
 *
 * If removing expired rows in the background fails, the store emits `sweep:error` with the error, and tries again after
 * `sweepMs`.
 *
 * @example
 * ```ts
 * import { createKeyv } from "@keyward/core";
 * import { envKeys } from "@keyward/keys-env";
 * import { SqliteStore } from "@keyward/store-sqlite";
 *
 * const store = new SqliteStore("records.db");
 * const sessions = createKeyv({ store, keys: envKeys("APP_ENCRYPTION_KEY"), namespace: "sessions" });
 * await sessions.set("42", { user: 7 }, 60_000);
 * console.log(await sessions.get("42")); // { user: 7 }
 * await sessions.disconnect();
 * ```
 */
export class SqliteStore extends SqliteSpace implements ReservedSpace, NamespacedStore {
  readonly #connection: Connection;
  readonly #reserved: SqliteSpace;
  readonly #isView: boolean;

  /**
   * Opens a file, or shares the connection of another store. A missing file is created with a mode that gives access to
   * its owner only.
   *
   * @param origin where the records are stored:
   *
   * - The path of a file.
   * - ":memory:" for a database in memory, which is lost when the store disconnects.
   * - Another store, whose connection and options the new store shares.
   *
   * @throws KeywardError with one of these codes:
   *
   * - `STORE_INVALID` if the file is damaged, belongs to another application, or was written by a later release. Also
   *   if the file is empty and another user created it, if another user created a file beside it (`-wal`, `-shm` or
   *   `-journal`), or if its schema has an object that this package did not create. The file is not changed.
   * - `STORE_UNAVAILABLE` if the file cannot be opened.
   * - `VALUE_INVALID` if an option is unknown or out of range, or `origin` is neither a path nor a store.
   */
  constructor(origin: string | SqliteStore, options: SqliteStoreOptions = {}) {
    const { sweepMs, ...settings } = requireSettings(options);
    const connection =
      typeof origin === "string" ? new Connection({ path: origin, ...settings }) : requireStore(origin).#connection;
    super(connection, spaces.records);
    this.#connection = connection;
    this.#isView = typeof origin !== "string";
    if (typeof origin === "string") {
      this.#reserved = new SqliteSpace(connection, spaces.reserved);
      if (sweepMs > 0) connection.sweepEvery(sweepMs, (error) => this.#reportSweepFailure(error));
    } else {
      this.#reserved = origin.#reserved;
    }
  }

  #reportSweepFailure(error: unknown): void {
    try {
      this.emit("sweep:error", error);
    } catch {
      // No caller could catch the error of a listener here, and a failed sweep must not end the process.
      process.emitWarning('A listener of the event "sweep:error" threw an error', {
        type: "KeywardWarning",
        code: "KEYWARD_LISTENER",
      });
    }
  }

  /**
   * Closes the connection that the store shares with its reserved space and with its views, which `namespaced` returns.
   * Every later call of these stores rejects. On a view, `disconnect` does nothing.
   */
  override async disconnect(): Promise<void> {
    if (!this.#isView) this.#connection.close();
  }

  /**
   * Returns the reserved space, where Keyward keeps its own records. The other methods of this store, except `sweep`,
   * neither read nor change records in the reserved space. The store and its views, which `namespaced` returns, have
   * the same reserved space.
   */
  reserved(): SqliteSpace {
    return this.#reserved;
  }

  /**
   * Returns a view: a store that shares the connection of this store and uses the given namespace. "" selects the
   * records without a namespace.
   */
  namespaced(namespace: string): SqliteStore {
    const view = new SqliteStore(this);
    view.namespace = namespace;
    return view;
  }

  /**
   * Removes the expired rows from the file now, without waiting for the next sweep in the background. Returns the
   * number of removed rows.
   *
   * @throws KeywardError `STORE_UNAVAILABLE` if the file stays locked or cannot be written, `STORE_INVALID` if the file
   * is damaged or its schema was changed.
   */
  async sweep(): Promise<number> {
    return this.#connection.sweep();
  }
}

const optionNames: OptionNames<SqliteStoreOptions> = { synchronous: true, busyTimeoutMs: true, sweepMs: true };

function requireSettings(options: SqliteStoreOptions): Required<SqliteStoreOptions> {
  const {
    synchronous = "full",
    busyTimeoutMs = 5_000,
    sweepMs = 60_000,
  } = requireOptions("SqliteStore", options, optionNames);
  if (synchronous !== "full" && synchronous !== "normal") {
    throw new KeywardError("VALUE_INVALID", 'The option "synchronous" of SqliteStore is neither "full" nor "normal"', {
      hint: 'Omit the option "synchronous" to use its default, "full".',
    });
  }
  return {
    synchronous,
    busyTimeoutMs: requireAmount("busyTimeoutMs", busyTimeoutMs, "milliseconds", { least: 0 }),
    sweepMs: requireAmount("sweepMs", sweepMs, "milliseconds", { least: 0 }),
  };
}

function requireStore(origin: SqliteStore): SqliteStore {
  if (origin instanceof SqliteStore) return origin;
  throw new KeywardError(
    "VALUE_INVALID",
    'The argument "origin" of new SqliteStore() is neither a path nor a SqliteStore',
    {
      hint: 'Pass the path of a file, such as "records.db", or the SqliteStore whose connection the new store shares.',
    },
  );
}
