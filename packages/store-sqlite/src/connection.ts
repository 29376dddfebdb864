import type { DatabaseSync, StatementSync } from "node:sqlite";
import { setImmediate as nextTurn, setTimeout as sleep } from "node:timers/promises";
import { KeywardError } from "@keyward/core";
import { invalidFile, openDatabase, type Synchronous } from "./database-file.ts";

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

  /** For how long after {@link Connection.run} was called the work may still be done. */
  get longestCallMs(): number {
    return this.#options.busyTimeoutMs + mostPauseMs;
  }

  /**
   * Does the work, again and again while the file is locked, for `busyTimeoutMs`.
   *
   * @throws KeywardError `STORE_UNAVAILABLE` or `STORE_INVALID`.
   */
  async run<Result>(work: (prepare: Prepare) => Result): Promise<Result> {
    const deadline = performance.now() + this.#options.busyTimeoutMs;
    for (;;) {
      try {
        this.#open();
        return work(this.#prepare);
      } catch (error) {
        if (!isBusy(error) || performance.now() >= deadline) throw this.#explain(error);
      }
      await sleep(leastPauseMs + Math.random() * (mostPauseMs - leastPauseMs));
    }
  }

  /** As {@link Connection.run}, in a transaction: all of the work is done, or nothing. */
  transaction<Result>(work: (prepare: Prepare) => Result): Promise<Result> {
    return this.run((prepare) => {
      const database = this.#open();
      database.exec("BEGIN IMMEDIATE");
      try {
        const result = work(prepare);
        database.exec("COMMIT");
        return result;
      } catch (error) {
        // After some errors, a full disk among them, SQLite has rolled back already.
        if (database.isTransaction) database.exec("ROLLBACK");
        throw error;
      }
    });
  }

  /** Removes what has expired, in all spaces, in small transactions, and says how many rows that were. */
  async sweep(): Promise<number> {
    let total = 0;
    for (;;) {
      const swept = await this.run((prepare) =>
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
    switch (primaryCodeOf(error)) {
      case primaryCodes.corrupt:
      case primaryCodes.notADatabase:
        return invalidFile(path, "is damaged", error);
      case primaryCodes.busy:
      case primaryCodes.locked:
        return unavailable(
          `${path} stayed locked for ${busyTimeoutMs} ms`,
          "Find the process that holds a long transaction on it, or raise busyTimeoutMs.",
          error,
        );
      case primaryCodes.tooBig:
        return new KeywardError("VALUE_INVALID", "A value or batch is larger than SQLite takes, about 1 GB", {
          hint: "Store it in smaller parts.",
          cause: error,
        });
      case primaryCodes.full:
        return unavailable(`There is no room left for ${path}`, "Make room on its disk.", error);
      case primaryCodes.cannotOpen:
        return unavailable(
          `${path} cannot be opened`,
          "Check that it is a file, and who may read and write it.",
          error,
        );
      default:
        return unavailable(`${path} cannot be used`, "Check the disk and the permissions; the cause says more.", error);
    }
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
