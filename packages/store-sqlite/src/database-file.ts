import { closeSync, existsSync, openSync, readSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { KeywardError } from "@keyward/core";

/** How long a write waits for the disk: see {@link SqliteStoreOptions.synchronous}. */
export type Synchronous = "full" | "normal";

/** The path of a database that lives in memory and ends with its connection. */
export const inMemory = ":memory:";

/** How long SQLite itself may block the event loop for a lock. What is longer is waited for asynchronously. */
const blockMs = 20;

/** "KWRD": what tells our files from those of others. It is in the header of the file from its first page on. */
const applicationId = 0x4b575244;
const formatVersion = 1;

// Namespaces and keys are UTF-8 in BLOBs: node:sqlite of Node 22 cuts a TEXT at its first NUL when it reads it.
const schema = `
  CREATE TABLE entries (
    id INTEGER PRIMARY KEY,
    space INTEGER NOT NULL,
    namespace BLOB NOT NULL,
    key BLOB NOT NULL,
    value ANY NOT NULL,
    expires INTEGER,
    UNIQUE (space, namespace, key)
  ) STRICT;
  CREATE INDEX entries_expires ON entries (expires) WHERE expires IS NOT NULL;
  PRAGMA application_id = ${applicationId};
  PRAGMA user_version = ${formatVersion};
`;

interface Header {
  readonly applicationId: number;
  readonly version: number;
}

/**
 * Opens the file, which is made if it is missing or empty. A file of another kind is refused before anything could
 * write to it.
 *
 * @throws KeywardError `STORE_INVALID` for a file that is not a store of this format. Errors of SQLite and of the file
 * system come as they are.
 */
export function openDatabase(path: string, synchronous: Synchronous): DatabaseSync {
  const location = path === inMemory ? path : resolve(path);
  if (location !== inMemory) {
    const header = readHeader(location);
    if (header === undefined) createPrivate(location);
    else requireOurs(location, header);
  }
  const database = new DatabaseSync(location, { timeout: blockMs });
  try {
    setUp(location, database);
    database.exec("PRAGMA journal_mode = WAL");
    database.exec(`PRAGMA synchronous = ${synchronous === "full" ? "FULL" : "NORMAL"}`);
    return database;
  } catch (error) {
    database.close();
    throw error;
  }
}

/** Makes the table in one transaction with the marks of the format, so that no process ever sees one without the other. */
function setUp(location: string, database: DatabaseSync): void {
  if (headerOf(database).applicationId !== applicationId) {
    database.exec("BEGIN IMMEDIATE");
    try {
      // Another process may have been faster.
      const tables = numberIn(database, "SELECT count(*) AS number FROM sqlite_schema");
      if (headerOf(database).applicationId === 0 && tables === 0) database.exec(schema);
      database.exec("COMMIT");
    } catch (error) {
      database.exec("ROLLBACK");
      throw error;
    }
  }
  requireOurs(location, headerOf(database));
  if (numberIn(database, "SELECT count(*) AS number FROM sqlite_schema WHERE name = 'entries'") !== 1) {
    throw invalidFile(location, "lacks its table");
  }
}

function readHeader(location: string): Header | undefined {
  const size = statSync(location, { throwIfNoEntry: false })?.size ?? 0;
  if (size === 0) return undefined;
  // While somebody has the file open in WAL mode, only SQLite may look into it: POSIX drops every lock that a process
  // holds on a file as soon as it closes any descriptor of it, those of its other threads included.
  if (existsSync(`${location}-shm`)) {
    const database = new DatabaseSync(location, { readOnly: true, timeout: blockMs });
    try {
      return headerOf(database);
    } finally {
      database.close();
    }
  }
  // Not through SQLite, which would leave a -wal and a -shm beside a file that is not ours.
  const header = Buffer.alloc(100);
  const file = openSync(location, "r");
  try {
    readSync(file, header, 0, header.length, 0);
  } finally {
    closeSync(file);
  }
  if (header.toString("latin1", 0, 16) !== "SQLite format 3\0") {
    throw invalidFile(location, "is not a SQLite database");
  }
  return { applicationId: header.readUInt32BE(68), version: header.readUInt32BE(60) };
}

function headerOf(database: DatabaseSync): Header {
  return {
    applicationId: numberIn(database, "SELECT application_id AS number FROM pragma_application_id"),
    version: numberIn(database, "SELECT user_version AS number FROM pragma_user_version"),
  };
}

function numberIn(database: DatabaseSync, sql: string): number {
  return Number(database.prepare(sql).get()?.["number"]);
}

function requireOurs(location: string, header: Header): void {
  if (header.applicationId !== applicationId) throw invalidFile(location, "is the database of another application");
  if (header.version > formatVersion) {
    throw new KeywardError(
      "STORE_INVALID",
      `${location} has format ${header.version}, and this release reads up to ${formatVersion}`,
      { hint: "Use the release of @keyward/store-sqlite that wrote it, or a later one. The file was not changed." },
    );
  }
}

/** Error of a file that this package cannot use. */
export function invalidFile(location: string, problem: string, cause?: unknown): KeywardError {
  return new KeywardError("STORE_INVALID", `${location} ${problem}`, {
    hint: "Check the path. If this file should hold records, restore it from a backup; it was not changed.",
    cause,
  });
}

/** SQLite makes files that everybody may read, and gives -wal and -shm the mode of the file. */
function createPrivate(location: string): void {
  try {
    closeSync(openSync(location, "wx", 0o600));
  } catch (error) {
    if (!(error instanceof Error && "code" in error)) throw error;
    if (error.code === "EEXIST") return;
    if (error.code !== "ENOENT") throw error;
    throw new KeywardError("STORE_UNAVAILABLE", `${location} cannot be made: its directory does not exist`, {
      hint: `Make the directory first: mkdir -p ${dirname(location)}`,
      cause: error,
    });
  }
}
