import { accessSync, constants, existsSync } from "node:fs";
import { dirname, resolve } from "node:path";
import type { DatabaseSync, StatementSync } from "node:sqlite";
import { setImmediate as nextTurn, setTimeout as sleep } from "node:timers/promises";
import { KeywardError, systemCode } from "@keyward/core";
import { invalidFile, openDatabase, requireKeywardSchema, type Synchronous, schemaVersionOf } from "./database-file.ts";

/** The options of a {@link Connection}. */
export interface ConnectionOptions {
  readonly path: string;
  readonly synchronous: Synchronous;
  readonly busyTimeoutMs: number;
}

/** A function that returns the prepared statement for a SQL text. Each SQL text is prepared once and then cached. */
export type Prepare = (sql: string) => StatementSync;

/**
 * Bounds of the pause between two attempts to lock the file, in ms. The pause is random, so that waiting processes do not
 * all try again at the same moment.
 */
const leastPauseMs = 2;
const mostPauseMs = 40;

/** Maximum number of expired rows that one transaction removes. */
const sweptAtOnce = 500;

/** Primary result codes of SQLite. */
const primaryCodes = {
  busy: 5,
  locked: 6,
  readOnly: 8,
  ioError: 10,
  corrupt: 11,
  full: 13,
  cannotOpen: 14,
  tooBig: 18,
  notADatabase: 26,
} as const;

/**
 * The one connection to a SQLite file, which a store and its views share. Callers pass the statements of a transaction
 * as a synchronous function, so that each transaction ends within one turn of the event loop. If another process has
 * the file locked, the function is run again later.
 */
export class Connection {
  readonly #options: ConnectionOptions;
  readonly #statements = new Map<string, StatementSync>();
  #database: DatabaseSync | undefined;
  /** SQLite's `schema_version` at the last check of the schema. If the number has changed, the schema is checked again. */
  #schemaVersion: number | undefined;
  #closed = false;
  #sweepTimer: NodeJS.Timeout | undefined;

  /**
   * Opens the file. If another process has the file locked, the first read or write opens the file instead.
   *
   * @throws KeywardError `STORE_INVALID` if the file is not a usable store, `STORE_UNAVAILABLE` if the file cannot be
   * opened.
   */
  constructor(options: ConnectionOptions) {
    this.#options = options;
    try {
      this.#open();
    } catch (error) {
      if (!isBusy(error)) throw this.#toKeywardError(error);
    }
  }

  /** Path of the SQLite file, as the application passed it to the SqliteStore. */
  get path(): string {
    return this.#options.path;
  }

  /** Maximum duration of a call in milliseconds. A call that takes longer rejects, and writes nothing afterwards. */
  get longestCallMs(): number {
    return this.#options.busyTimeoutMs + mostPauseMs;
  }

  /**
   * Runs `work`, a function that only reads, in a transaction. So all statements of `work` see one state of the file.
   * If another process has the file locked, `work` is retried for up to `busyTimeoutMs`.
   *
   * @throws KeywardError `STORE_UNAVAILABLE` if the file stays locked or cannot be read, `STORE_INVALID` if the file is
   * damaged or its schema was changed.
   */
  read<Result>(work: (prepare: Prepare) => Result): Promise<Result> {
    return this.#run("BEGIN", work);
  }

  /**
   * Runs `work`, a function that writes, in a transaction. So either all writes of `work` are stored, or none. If
   * another process has the file locked, `work` is retried as in {@link Connection.read}.
   */
  write<Result>(work: (prepare: Prepare) => Result): Promise<Result> {
    return this.#run("BEGIN IMMEDIATE", work);
  }

  async #run<Result>(begin: string, work: (prepare: Prepare) => Result): Promise<Result> {
    const deadline = performance.now() + this.#options.busyTimeoutMs;
    for (;;) {
      try {
        return this.#inTransaction(begin, work);
      } catch (error) {
        if (!isBusy(error) || performance.now() >= deadline) throw this.#toKeywardError(error);
      }
      await sleep(leastPauseMs + Math.random() * (mostPauseMs - leastPauseMs));
    }
  }

  #inTransaction<Result>(begin: string, work: (prepare: Prepare) => Result): Result {
    const database = this.#open();
    this.#prepare(begin).run();
    try {
      // Inside the transaction no other process can change the schema before the work is done.
      this.#requireKnownSchema(database);
      const result = work(this.#prepare);
      this.#prepare("COMMIT").run();
      return result;
    } catch (error) {
      // After some errors, such as a full disk, SQLite has rolled back already.
      if (database.isTransaction) database.exec("ROLLBACK");
      throw error;
    }
  }

  #requireKnownSchema(database: DatabaseSync): void {
    const version = schemaVersionOf(this.#prepare);
    if (version === this.#schemaVersion) return;
    requireKeywardSchema(this.#options.path, database);
    this.#schemaVersion = version;
  }

  /**
   * Removes the expired rows of the records and of the reserved space, in small transactions. Returns the number of
   * removed rows.
   */
  async sweep(): Promise<number> {
    let total = 0;
    for (;;) {
      const swept = await this.write((prepare) =>
        Number(
          prepare(
            "DELETE FROM entries WHERE id IN (SELECT id FROM entries WHERE expires <= ? ORDER BY expires LIMIT ?)",
          ).run(Date.now(), sweptAtOnce).changes,
        ),
      );
      total += swept;
      if (swept < sweptAtOnce) return total;
      await nextTurn();
    }
  }

  /**
   * Starts to remove expired rows in the background, with a pause of `everyMs` before each sweep, until the connection
   * closes. The timer of the pause does not keep the process alive.
   *
   * @param failed called with the error of a sweep that failed.
   */
  sweepEvery(everyMs: number, failed: (error: unknown) => void): void {
    if (this.#closed) return;
    this.#sweepTimer = setTimeout(async () => {
      let failure: unknown;
      try {
        await this.sweep();
      } catch (error) {
        failure = error;
      }
      const open = !this.#closed;
      this.sweepEvery(everyMs, failed);
      if (failure !== undefined && open) failed(failure);
    }, everyMs).unref();
  }

  /** Closes the file. A second call does nothing. Calls that still wait for a lock reject. */
  close(): void {
    this.#closed = true;
    clearTimeout(this.#sweepTimer);
    this.#statements.clear();
    this.#database?.close();
    this.#database = undefined;
  }

  #open(): DatabaseSync {
    if (this.#closed) {
      throw new KeywardError("STORE_UNAVAILABLE", `The SqliteStore of ${this.#options.path} is disconnected`, {
        hint: "Create a new SqliteStore, because `disconnect()` has closed the connection of this store and of all its views.",
      });
    }
    this.#database ??= openDatabase(this.#options.path, this.#options.synchronous);
    return this.#database;
  }

  readonly #prepare = (sql: string): StatementSync => {
    const known = this.#statements.get(sql);
    if (known !== undefined) return known;
    const statement = this.#open().prepare(sql);
    this.#statements.set(sql, statement);
    return statement;
  };

  #toKeywardError(error: unknown): unknown {
    if (error instanceof KeywardError) return error;
    const { path, busyTimeoutMs } = this.#options;
    switch (primaryCodeOf(error) ?? systemCode(error)) {
      case primaryCodes.corrupt:
      case primaryCodes.notADatabase:
        return invalidFile(path, "is damaged", error);
      case primaryCodes.busy:
      case primaryCodes.locked:
        return unavailable(
          `Another process kept the SQLite file ${path} locked for ${busyTimeoutMs} ms`,
          "Find the process that holds a long transaction on the file, and end that transaction. If such transactions are " +
            "expected, raise the option `busyTimeoutMs`. Do not remove the files `-wal` and `-shm` beside the file, because " +
            "they hold the last writes.",
          error,
        );
      case primaryCodes.tooBig:
        return new KeywardError("VALUE_INVALID", "A value or batch exceeds SQLite's limit of about 1 GB", {
          hint: "Split the value or the batch into smaller parts.",
          cause: error,
        });
      case primaryCodes.full:
      case "ENOSPC":
      case "EDQUOT":
        return unavailable(
          `There is no space left for the SQLite file ${path}`,
          "Free space on the disk of the file, or raise the quota if the file's user has one. Then repeat the call. Do not " +
            "remove the files `-wal` and `-shm` beside the file, because they hold the last writes.",
          error,
        );
      case primaryCodes.readOnly:
      case primaryCodes.cannotOpen:
      case "EACCES":
      case "EPERM":
      case "EROFS":
        return this.#accessError(path, error);
      case primaryCodes.ioError:
        return unavailable(
          `The disk failed while SQLite read or wrote ${path}`,
          "Copy the file together with its `-wal` to another disk, before this disk fails completely. Then look for errors of " +
            "this disk in the system's log.",
          error,
        );
      default:
        return unavailable(
          `SQLite could not read or write ${path}`,
          "Check the disk, and the permissions of the file and of its folder. The property `cause` contains SQLite's message.",
          error,
        );
    }
  }

  /** Returns the error for a file that this process cannot open or write. The error names the missing permission. */
  #accessError(path: string, error: unknown): KeywardError {
    const folder = dirname(resolve(path));
    const user = "the user of this process";
    if (existsSync(path) && !allows(path, constants.R_OK)) {
      return unavailable(
        `The SQLite file ${path} is not readable for ${user}`,
        `Give ${user} permission to read and write the file.`,
        error,
      );
    }
    if (existsSync(path) && !allows(path, constants.W_OK)) {
      return unavailable(
        `The SQLite file ${path} is read-only for ${user}`,
        "If the file system of the file is mounted read-only, mount it for writing. Otherwise give " +
          `${user} permission to write to the file.`,
        error,
      );
    }
    if (!allows(folder, constants.W_OK)) {
      return unavailable(
        `The folder of the SQLite file ${path} is read-only for ${user}`,
        `Give ${user} permission to write to the folder, because SQLite creates the files \`-wal\` and \`-shm\` there.`,
        error,
      );
    }
    return unavailable(
      `The SQLite file ${path} cannot be opened for writing`,
      `Give ${user} permission to read and write the file, its \`-wal\` and its \`-shm\`.`,
      error,
    );
  }
}

function allows(path: string, access: number): boolean {
  try {
    accessSync(path, access);
    return true;
  } catch {
    return false;
  }
}

function unavailable(message: string, hint: string, cause: unknown): KeywardError {
  return new KeywardError("STORE_UNAVAILABLE", message, { hint, cause });
}

function isBusy(error: unknown): boolean {
  const code = primaryCodeOf(error);
  return code === primaryCodes.busy || code === primaryCodes.locked;
}

/** Returns the primary result code of an error of SQLite, or `undefined` for any other error. */
function primaryCodeOf(error: unknown): number | undefined {
  if (!(error instanceof Error) || !("errcode" in error) || typeof error.errcode !== "number") return undefined;
  return error.errcode & 0xff;
}
