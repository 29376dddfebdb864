import { statSync } from "node:fs";
import type { DatabaseSync, SQLInputValue, SQLOutputValue, StatementSync } from "node:sqlite";
import { type AuditFileOptions, openAuditFile } from "./audit-file.ts";
import { requireAuditSchema } from "./audit-schema.ts";
import { describeProblem, FileProblem, isBusy, MissingNames } from "./file-problem.ts";

/** A row of a statement, by the names of its columns. */
export type Row = Record<string, SQLOutputValue>;

/** The statements of one transaction. Each SQL text is prepared once for a connection. */
export interface Transaction {
  /** Runs a statement, and returns the number of changed rows. */
  run(sql: string, ...values: SQLInputValue[]): number;
  get(sql: string, ...values: SQLInputValue[]): Row | undefined;
  all(sql: string, ...values: SQLInputValue[]): Row[];
}

/**
 * The connection of the worker thread to the audit file. Opens the file for the first transaction, and again if the
 * file was replaced.
 */
export class AuditConnection {
  readonly #options: AuditFileOptions;
  readonly #statements = new Map<string, StatementSync>();
  readonly #transaction: Transaction;
  #database: DatabaseSync | undefined;
  #location = "";
  #fileNumber = 0n;
  #schemaVersion: unknown;
  #wasOpen = false;

  constructor(options: AuditFileOptions) {
    this.#options = options;
    this.#transaction = {
      run: (sql, ...values) => Number(this.#prepare(sql).run(...values).changes),
      get: (sql, ...values) => this.#prepare(sql).get(...values),
      all: (sql, ...values) => this.#prepare(sql).all(...values),
    };
  }

  /**
   * Runs `work` in a transaction that reads.
   *
   * @throws FileProblem
   */
  read<Result>(work: (transaction: Transaction) => Result): Result {
    return this.#run("BEGIN", work);
  }

  /**
   * Runs `work` in a transaction that writes: either all its writes are stored, or none. They are on the disk when this
   * method returns.
   *
   * @param latestStart the time of `process.hrtime.bigint()` after which the transaction must not begin: a replica whose
   * lease has lapsed must not write.
   * @throws FileProblem
   */
  write<Result>(latestStart: bigint, work: (transaction: Transaction) => Result): Result {
    if (process.hrtime.bigint() > latestStart) {
      throw new FileProblem(
        "unavailable",
        `The thread that writes ${this.#options.path} was busy for too long`,
        "Repeat the call. If this error returns, check that the disk of the file is fast enough.",
      );
    }
    return this.#run("BEGIN IMMEDIATE", work);
  }

  close(): void {
    this.#statements.clear();
    this.#schemaVersion = undefined;
    this.#database?.close();
    this.#database = undefined;
  }

  #run<Result>(begin: string, work: (transaction: Transaction) => Result): Result {
    try {
      const database = this.#open();
      this.#prepare(begin).run();
      try {
        // Inside the transaction no other process can change the schema before the work is done.
        this.#requireKnownSchema(database);
        const result = work(this.#transaction);
        this.#prepare("COMMIT").run();
        return result;
      } catch (error) {
        // After some errors, such as a full disk, SQLite has rolled back already.
        if (database.isTransaction) database.exec("ROLLBACK");
        throw error;
      }
    } catch (error) {
      if (error instanceof MissingNames) throw error;
      // SQLite keeps a connection read-only that was opened while the file was read-only.
      if (!isBusy(error)) this.close();
      throw describeProblem(this.#options.path, error);
    }
  }

  #open(): DatabaseSync {
    if (this.#database !== undefined && this.#isStillThere()) return this.#database;
    // Entries that are written to a file without a path would be lost without an error.
    this.close();
    const { database, location } = openAuditFile({
      ...this.#options,
      create: this.#options.create && !this.#wasOpen,
    });
    this.#database = database;
    this.#location = location;
    this.#fileNumber = statSync(location, { bigint: true }).ino;
    this.#wasOpen = true;
    return database;
  }

  #isStillThere(): boolean {
    return statSync(this.#location, { bigint: true, throwIfNoEntry: false })?.ino === this.#fileNumber;
  }

  #requireKnownSchema(database: DatabaseSync): void {
    const version = this.#prepare("PRAGMA schema_version").get()?.["schema_version"];
    if (version === this.#schemaVersion) return;
    requireAuditSchema(this.#location, database);
    this.#schemaVersion = version;
  }

  #prepare(sql: string): StatementSync {
    const known = this.#statements.get(sql);
    if (known !== undefined) return known;
    const database = this.#database;
    if (database === undefined)
      throw new FileProblem("unavailable", "The audit file is closed", "Open the audit again.");
    const statement = database.prepare(sql);
    this.#statements.set(sql, statement);
    return statement;
  }
}

/** Returns the bytes in a column. Throws a FileProblem for a value of a type that Keyward never writes. */
export function bytesOf(row: Row, column: string): Uint8Array {
  const value = row[column];
  if (value instanceof Uint8Array) return value;
  throw foreignColumn(column);
}

/** Returns the number in a column. Throws a FileProblem for a value of a type that Keyward never writes. */
export function numberOf(row: Row, column: string): number {
  const value = row[column];
  if (typeof value === "number") return value;
  throw foreignColumn(column);
}

/** Returns the number in a column like {@link numberOf}, or `undefined` for NULL. */
export function optionalNumberOf(row: Row, column: string): number | undefined {
  return row[column] === null ? undefined : numberOf(row, column);
}

/** Returns the text in a column. Throws a FileProblem for a value of a type that Keyward never writes. */
export function textOf(row: Row, column: string): string {
  const value = row[column];
  if (typeof value === "string") return value;
  throw foreignColumn(column);
}

function foreignColumn(column: string): FileProblem {
  return new FileProblem(
    "refused",
    `A row of the audit file has a value in the column "${column}" that Keyward never writes`,
    "Find out which program writes to the audit file, and stop that program. Run `keyward audit verify`.",
  );
}
