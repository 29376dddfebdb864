import { accessSync, constants, existsSync } from "node:fs";
import { dirname, resolve } from "node:path";
import type { DatabaseSync, StatementSync } from "node:sqlite";
import { setImmediate as nextTurn, setTimeout as sleep } from "node:timers/promises";
import { KeywardError, systemCode } from "@keyward/core";
import { invalidFile, openDatabase, requireOurSchema, type Synchronous, schemaVersionOf } from "./database-file.ts";

/** What a {@link Connection} is told. */
export interface ConnectionOptions {
  readonly path: string;
  readonly synchronous: Synchronous;
  readonly busyTimeoutMs: number;
}

/** Prepares a statement, or finds the one prepared before. */
export type Prepare = (sql: string) => StatementSync;

/** Between two attempts to get a lock, in ms. Random, so that several waiting processes do not keep step. */
const leastPauseMs = 2;
const mostPauseMs = 40;

/** How many expired rows are removed in one transaction. */
const sweptAtOnce = 500;

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
 * The one connection that a store and its views share. Work is handed over as a synchronous function, so that a
 * transaction never lasts longer than a turn of the event loop; where the file is locked by others, it is run again.
 */
export class Connection {
  readonly #options: ConnectionOptions;
  readonly #statements = new Map<string, StatementSync>();
  #database: DatabaseSync | undefined;
  /** Of the schema that was looked at last, and found to be ours. */
  #schemaVersion: number | undefined;
  #closed = false;
  #sweepTimer: NodeJS.Timeout | undefined;

  /**
   * Opens the file, unless it is locked at the moment: then the first piece of work does.
   *
   * @throws KeywardError `STORE_INVALID` or `STORE_UNAVAILABLE`.
   */
  constructor(options: ConnectionOptions) {
    this.#options = options;
    try {
      this.#open();
    } catch (error) {
      if (!isBusy(error)) throw this.#explain(error);
    }
  }

  /** As it was given. */
  get path(): string {
    return this.#options.path;
  }

  /** For how long after a call the work may still be done. */
  get longestCallMs(): number {
    return this.#options.busyTimeoutMs + mostPauseMs;
  }

  /**
   * Does work that reads, in a transaction: it sees one state of the file. Again and again while the file is locked, for
   * `busyTimeoutMs`.
   *
   * @throws KeywardError `STORE_UNAVAILABLE` or `STORE_INVALID`.
   */
  read<Result>(work: (prepare: Prepare) => Result): Promise<Result> {
    return this.#run("BEGIN", work);
  }

  /** As {@link Connection.read}, for work that writes: all of it is done, or nothing. */
  write<Result>(work: (prepare: Prepare) => Result): Promise<Result> {
    return this.#run("BEGIN IMMEDIATE", work);
  }

  async #run<Result>(begin: string, work: (prepare: Prepare) => Result): Promise<Result> {
    const deadline = performance.now() + this.#options.busyTimeoutMs;
    for (;;) {
      try {
        return this.#inTransaction(begin, work);
      } catch (error) {
        if (!isBusy(error) || performance.now() >= deadline) throw this.#explain(error);
      }
      await sleep(leastPauseMs + Math.random() * (mostPauseMs - leastPauseMs));
    }
  }

  #inTransaction<Result>(begin: string, work: (prepare: Prepare) => Result): Result {
    const database = this.#open();
    this.#prepare(begin).run();
    try {
      // Inside, where nobody else changes the schema before the work is done.
      this.#requireKnownSchema(database);
      const result = work(this.#prepare);
      this.#prepare("COMMIT").run();
      return result;
    } catch (error) {
      // After some errors, a full disk among them, SQLite has rolled back already.
      if (database.isTransaction) database.exec("ROLLBACK");
      throw error;
    }
  }

  #requireKnownSchema(database: DatabaseSync): void {
    const version = schemaVersionOf(this.#prepare);
    if (version === this.#schemaVersion) return;
    requireOurSchema(this.#options.path, database);
    this.#schemaVersion = version;
  }

  /** Removes what has expired, in all spaces, in small transactions, and says how many rows that were. */
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

  /** Sweeps `everyMs` after the last sweep ended, until the connection closes. Keeps no process alive. */
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

  /** Closes the file; a second time does nothing. Work that still waits for a lock is given up. */
  close(): void {
    this.#closed = true;
    clearTimeout(this.#sweepTimer);
    this.#statements.clear();
    this.#database?.close();
    this.#database = undefined;
  }

  #open(): DatabaseSync {
    if (this.#closed) {
      throw new KeywardError("STORE_UNAVAILABLE", `The store on ${this.#options.path} is disconnected`, {
        hint: "disconnect() closes the connection of the store and of all its views. Make a new SqliteStore.",
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

  #explain(error: unknown): unknown {
    if (error instanceof KeywardError) return error;
    const { path, busyTimeoutMs } = this.#options;
    switch (primaryCodeOf(error) ?? systemCode(error)) {
      case primaryCodes.corrupt:
      case primaryCodes.notADatabase:
        return invalidFile(path, "is damaged", error);
      case primaryCodes.busy:
      case primaryCodes.locked:
        return unavailable(
          `${path} stayed locked for ${busyTimeoutMs} ms`,
          "Find the process that holds a long transaction on it, or raise busyTimeoutMs. Leave -wal and -shm where they are.",
          error,
        );
      case primaryCodes.tooBig:
        return new KeywardError("VALUE_INVALID", "A value or batch is larger than SQLite takes, about 1 GB", {
          hint: "Store it in smaller parts.",
          cause: error,
        });
      case primaryCodes.full:
      case "ENOSPC":
      case "EDQUOT":
        return unavailable(
          `There is no room left for ${path}`,
          "Make room on its disk, but not by removing -wal or -shm: they hold the last writes. Then try again.",
          error,
        );
      case primaryCodes.readOnly:
      case primaryCodes.cannotOpen:
      case "EACCES":
      case "EPERM":
      case "EROFS":
        return this.#explainAccess(path, error);
      case primaryCodes.ioError:
        return unavailable(
          `The disk failed to read or write ${path}`,
          "Look for errors of the disk in the system's log, and copy the file with its -wal to another disk.",
          error,
        );
      default:
        return unavailable(`${path} cannot be used`, "Check the disk and the permissions; the cause says more.", error);
    }
  }

  /** What keeps this process from opening or writing the file. */
  #explainAccess(path: string, error: unknown): KeywardError {
    const folder = dirname(resolve(path));
    const whose = "the user of this process";
    if (existsSync(path) && !allows(path, constants.R_OK)) {
      return unavailable(`${path} may not be read by ${whose}`, `Let ${whose} read and write the file.`, error);
    }
    if (existsSync(path) && !allows(path, constants.W_OK)) {
      return unavailable(
        `${path} is read-only for ${whose}`,
        `Let ${whose} write the file; where it is mounted read-only, mount it for writing.`,
        error,
      );
    }
    if (!allows(folder, constants.W_OK)) {
      return unavailable(
        `The folder of ${path} is read-only for ${whose}`,
        `Let ${whose} write to the folder: SQLite keeps -wal and -shm beside the file.`,
        error,
      );
    }
    return unavailable(
      `${path} cannot be opened for writing`,
      `Let ${whose} read and write the file, its -wal and its -shm.`,
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

/** SQLite's result code without what extends it; `undefined` for an error of another kind. */
function primaryCodeOf(error: unknown): number | undefined {
  if (!(error instanceof Error) || !("errcode" in error) || typeof error.errcode !== "number") return undefined;
  return error.errcode & 0xff;
}
