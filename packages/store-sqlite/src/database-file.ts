import { closeSync, existsSync, lstatSync, openSync, readSync, realpathSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { DatabaseSync, type StatementSync } from "node:sqlite";
import { isOwnedBy, KeywardError, systemCode } from "@keyward/core";

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
const table = `CREATE TABLE entries (
    id INTEGER PRIMARY KEY,
    space INTEGER NOT NULL,
    namespace BLOB NOT NULL,
    key BLOB NOT NULL,
    value ANY NOT NULL,
    expires INTEGER,
    UNIQUE (space, namespace, key)
  ) STRICT`;
const index = "CREATE INDEX entries_expires ON entries (expires) WHERE expires IS NOT NULL";
const schema = `${table}; ${index}; PRAGMA application_id = ${applicationId}; PRAGMA user_version = ${formatVersion}`;

const ours = new Map([
  ["entries", withoutSpace(table)],
  ["entries_expires", withoutSpace(index)],
]);

/** What `ANALYZE` makes. By its name alone nothing is taken for SQLite's: an index calls functions with every write. */
const ofSqlite = new Map([
  ["sqlite_stat1", withoutSpace("CREATE TABLE sqlite_stat1(tbl,idx,stat)")],
  ["sqlite_stat4", withoutSpace("CREATE TABLE sqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)")],
]);

interface Header {
  readonly applicationId: number;
  readonly version: number;
}

/**
 * Opens the file, which is made if it is missing or empty. A file of another kind is refused before anything could
 * write to it, and so is one that another user prepared.
 *
 * @throws KeywardError `STORE_INVALID` for a file that is not a store of this format. Errors of SQLite and of the file
 * system come as they are.
 */
export function openDatabase(path: string, synchronous: Synchronous): DatabaseSync {
  const location = path === inMemory ? path : prepareFile(resolve(path));
  // Foreign keys of another table could change its rows with ours.
  const database = new DatabaseSync(location, { timeout: blockMs, enableForeignKeyConstraints: false });
  try {
    // Who can write the file may not have its schema call functions, and what was deleted is overwritten with zeros.
    database.exec("PRAGMA trusted_schema = OFF; PRAGMA secure_delete = ON; PRAGMA cell_size_check = ON");
    setUp(location, database);
    database.exec("PRAGMA journal_mode = WAL");
    database.exec(`PRAGMA synchronous = ${synchronous === "full" ? "FULL" : "NORMAL"}`);
    // Once more, now that SQLite has opened or made the files beside it.
    if (location !== inMemory) requireOwnCompanions(location);
    return database;
  } catch (error) {
    database.close();
    throw error;
  }
}

/** A number that changes with the schema. */
export function schemaVersionOf(prepare: (sql: string) => StatementSync): number {
  return Number(prepare("PRAGMA schema_version").get()?.["schema_version"]);
}

/**
 * Refuses a file whose schema is not the one that this package makes: a trigger or a view would be run with our
 * statements.
 *
 * @throws KeywardError `STORE_INVALID`.
 */
export function requireOurSchema(location: string, database: DatabaseSync): void {
  const found = database
    .prepare(
      "SELECT type, substr(name, 1, 64) AS name, substr(sql, 1, 1000) AS sql FROM sqlite_schema " +
        "WHERE NOT (name = 'sqlite_autoindex_entries_1' AND sql IS NULL)",
    )
    .all();
  let known = 0;
  for (const { type, name, sql } of found) {
    const text = withoutSpace(String(sql));
    if (ours.get(String(name)) === text) {
      known++;
      continue;
    }
    if (ofSqlite.get(String(name)) === text) continue;
    throw new KeywardError(
      "STORE_INVALID",
      `${location} holds a ${type} that is not of Keyward's making: ${JSON.stringify(name)}`,
      {
        hint:
          "Find out who else writes to the file, and stop that. Copy the file, move what is not Keyward's to another " +
          "database, and drop it here; or restore the file from a backup. It was not changed.",
      },
    );
  }
  if (known !== ours.size) throw invalidFile(location, "lacks its table or its index");
}

function withoutSpace(sql: string): string {
  return sql.replace(/\s+/g, "");
}

/** Makes the file, or checks the one that is there; returns its path without links. */
function prepareFile(path: string): string {
  const status = statSync(path, { throwIfNoEntry: false });
  if (status === undefined) {
    if (lstatSync(path, { throwIfNoEntry: false }) !== undefined) {
      throw new KeywardError("STORE_INVALID", `${path} is a symbolic link that leads nowhere`, {
        hint: "Mount what it leads to, or give the path of the file itself.",
      });
    }
    createPrivate(path);
    // The file and those beside it are checked as ever: another process may have been faster.
    return prepareFile(path);
  }
  const location = realpathSync(path);
  if (!status.isFile()) {
    throw new KeywardError("STORE_UNAVAILABLE", `${path} is ${status.isDirectory() ? "a directory" : "no file"}`, {
      hint: "Give the path of a file.",
    });
  }
  requireOwnCompanions(location);
  if (status.size > 0) requireOurs(location, readHeader(location));
  else if (!isOwnedBy(status, statSync(dirname(location)).uid)) {
    throw new KeywardError("STORE_INVALID", `${location} is an empty file of another user`, {
      hint: "Give a path in a folder that only this user can write to.",
    });
  }
  return location;
}

/** Refuses files beside the database in which another user would receive, or slip in, what is written. */
function requireOwnCompanions(location: string): void {
  const { uid, mode } = statSync(location);
  for (const suffix of ["-wal", "-shm", "-journal"]) {
    const status = lstatSync(location + suffix, { throwIfNoEntry: false });
    if (status === undefined) continue;
    // Users who may all write the database make these files for one another.
    const shared = (mode & 0o022) !== 0;
    if (status.isFile() && (shared || isOwnedBy(status, uid))) continue;
    throw new KeywardError(
      "STORE_INVALID",
      `${location}${suffix} is ${status.isFile() ? "of another user" : "no file"}`,
      {
        hint:
          "Find out who made it. If it is not this database's own, which holds its last writes, move it away while no " +
          "process uses the database.",
      },
    );
  }
}

/** Makes the table in one transaction with the marks of the format, so that no process ever sees one without the other. */
function setUp(location: string, database: DatabaseSync): void {
  if (headerOf(database).applicationId !== applicationId) {
    database.exec("BEGIN IMMEDIATE");
    try {
      // Another process may have been faster.
      const empty = database.prepare("SELECT 1 FROM sqlite_schema").get() === undefined;
      if (headerOf(database).applicationId === 0 && empty) database.exec(schema);
      database.exec("COMMIT");
    } catch (error) {
      database.exec("ROLLBACK");
      throw error;
    }
  }
  requireOurs(location, headerOf(database));
  requireOurSchema(location, database);
}

function readHeader(location: string): Header {
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

// Not by the functions pragma_…, in whose place a view may have been planted.
function headerOf(database: DatabaseSync): Header {
  return {
    applicationId: Number(database.prepare("PRAGMA application_id").get()?.["application_id"]),
    version: Number(database.prepare("PRAGMA user_version").get()?.["user_version"]),
  };
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
    hint:
      "Check the path. If this file should hold records: stop what uses it, move it away together with its -wal and " +
      "-shm, and restore it from a backup. It was not changed.",
    cause,
  });
}

/** SQLite makes files that everybody may read, and gives -wal and -shm the mode of the file. */
function createPrivate(location: string): void {
  try {
    closeSync(openSync(location, "wx", 0o600));
  } catch (error) {
    if (systemCode(error) === "EEXIST") return;
    if (systemCode(error) !== "ENOENT") throw error;
    throw new KeywardError("STORE_UNAVAILABLE", `${location} cannot be made: its folder does not exist`, {
      hint: `If the folder belongs to a volume, mount it. Otherwise make it: mkdir -p ${dirname(location)}`,
      cause: error,
    });
  }
}
