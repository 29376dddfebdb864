import { closeSync, existsSync, lstatSync, openSync, readSync, realpathSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { DatabaseSync, type StatementSync } from "node:sqlite";
import { isOwnedBy, KeywardError, systemCode } from "@keyward/core";

/** Durability of an acknowledged write: "full" survives a power loss, "normal" only a crash of the process. */
export type Synchronous = "full" | "normal";

/** The path with which SQLite creates a database in memory. The database exists until its connection closes. */
export const inMemory = ":memory:";

/** How long SQLite may block the event loop while it waits for a lock, in ms. After that, the store waits asynchronously. */
const blockMs = 20;

/** The application id in the header of each SQLite file that Keyward creates: the ASCII codes of "KWRD". */
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

const keywardObjects = new Map([
  ["entries", withoutSpace(table)],
  ["entries_expires", withoutSpace(index)],
]);

/**
 * The tables that `ANALYZE` creates, with their SQL. The SQL is compared too, because an index that an attacker added
 * could have an internal name of SQLite, and the expressions of such an index would run with every write.
 */
const analyzeTables = new Map([
  ["sqlite_stat1", withoutSpace("CREATE TABLE sqlite_stat1(tbl,idx,stat)")],
  ["sqlite_stat4", withoutSpace("CREATE TABLE sqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)")],
]);

interface Header {
  readonly applicationId: number;
  readonly version: number;
}

/**
 * Opens the file of a store. A missing or empty file becomes a new store. A file with other content is refused. If
 * another user created the empty file, or created a file beside it (such as `-wal`), the file is refused too, because
 * this user could read or forge records. Nothing is written to a refused file.
 *
 * @throws KeywardError `STORE_INVALID` if the file is refused, `STORE_UNAVAILABLE` if the path does not lead to a regular
 * file, or if its folder does not exist. Errors of SQLite and of the file system are thrown unchanged.
 */
export function openDatabase(path: string, synchronous: Synchronous): DatabaseSync {
  const location = path === inMemory ? path : prepareFile(resolve(path));
  // A foreign key in a table that an attacker added could change that table together with Keyward's table.
  const database = new DatabaseSync(location, { timeout: blockMs, enableForeignKeyConstraints: false });
  try {
    // An attacker may have changed the schema, so the schema may not call functions. Deleted content is overwritten with zeros.
    database.exec("PRAGMA trusted_schema = OFF; PRAGMA secure_delete = ON; PRAGMA cell_size_check = ON");
    setUp(location, database);
    database.exec("PRAGMA journal_mode = WAL");
    database.exec(`PRAGMA synchronous = ${synchronous === "full" ? "FULL" : "NORMAL"}`);
    // The files beside the database are checked again, because SQLite has now opened or created them.
    if (location !== inMemory) requireOwnCompanions(location);
    return database;
  } catch (error) {
    database.close();
    throw error;
  }
}

/** Returns SQLite's `schema_version`: a number that changes whenever the schema of the file changes. */
export function schemaVersionOf(prepare: (sql: string) => StatementSync): number {
  return Number(prepare("PRAGMA schema_version").get()?.["schema_version"]);
}

/**
 * Refuses a file whose schema differs from the schema that this package creates, because a trigger or view that an
 * attacker added would run with Keyward's statements.
 *
 * @throws KeywardError `STORE_INVALID` for such a file.
 */
export function requireKeywardSchema(location: string, database: DatabaseSync): void {
  const found = database
    .prepare(
      "SELECT type, substr(name, 1, 64) AS name, substr(sql, 1, 1000) AS sql FROM sqlite_schema " +
        "WHERE NOT (name = 'sqlite_autoindex_entries_1' AND sql IS NULL)",
    )
    .all();
  let known = 0;
  for (const { type, name, sql } of found) {
    const text = withoutSpace(String(sql));
    if (keywardObjects.get(String(name)) === text) {
      known++;
      continue;
    }
    if (analyzeTables.get(String(name)) === text) continue;
    throw new KeywardError(
      "STORE_INVALID",
      `The file of the SqliteStore, ${location}, contains ${type === "index" ? "an" : "a"} ${type} that Keyward did not create: ${JSON.stringify(name)}`,
      {
        hint:
          `Find out which program created this ${type}, and stop that program. Copy the file, then drop the ${type}. If ` +
          "records are missing or damaged afterwards, restore the file from a backup. Keyward has not changed the file.",
      },
    );
  }
  if (known !== keywardObjects.size) throw invalidFile(location, "lacks Keyward's table or index");
}

function withoutSpace(sql: string): string {
  return sql.replace(/\s+/g, "");
}

/** Creates the file, or checks the existing file. Returns the path of the file with symbolic links resolved. */
function prepareFile(path: string): string {
  const status = statSync(path, { throwIfNoEntry: false });
  if (status === undefined) {
    if (lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() === true) {
      throw new KeywardError(
        "STORE_INVALID",
        `The path of the SqliteStore, ${path}, is a symbolic link to a file that does not exist`,
        {
          hint:
            "If the target of the link is on a file system that is not mounted, mount that file system. Otherwise pass the " +
            "path of the file instead of the link.",
        },
      );
    }
    createPrivate(path);
    // Another process may have created the file first, so the file and its companions are still checked.
    return prepareFile(path);
  }
  const location = realpathSync(path);
  if (!status.isFile()) {
    const kind = status.isDirectory() ? "a directory" : "not a regular file";
    throw new KeywardError("STORE_UNAVAILABLE", `The path of the SqliteStore, ${path}, is ${kind}`, {
      hint: "Pass the path of a regular file.",
    });
  }
  requireOwnCompanions(location);
  if (status.size > 0) requireKeywardFormat(location, readHeader(location));
  else if (!isOwnedBy(status, statSync(dirname(location)).uid)) {
    throw new KeywardError(
      "STORE_INVALID",
      `The file of the SqliteStore, ${location}, is empty and belongs to another user`,
      {
        hint:
          "Pass a path in a folder that only the user of this process can write to, because the owner of this file could " +
          "read and change the records in it.",
      },
    );
  }
  return location;
}

/**
 * Throws if another user could read or forge writes through a file beside the database (`-wal`, `-shm` or `-journal`).
 */
function requireOwnCompanions(location: string): void {
  const { uid, mode } = statSync(location);
  for (const suffix of ["-wal", "-shm", "-journal"]) {
    const status = lstatSync(location + suffix, { throwIfNoEntry: false });
    if (status === undefined) continue;
    // If several users may write to the database, each of them may have created these files.
    const shared = (mode & 0o022) !== 0;
    if (!status.isFile()) {
      throw new KeywardError(
        "STORE_INVALID",
        `${location}${suffix}, which SQLite uses beside the database, is not a regular file`,
        {
          hint:
            "SQLite creates only regular files at this path, so find out which program created something else there. Stop " +
            "every process that uses the database, then move the link, pipe or directory at this path away.",
        },
      );
    }
    if (shared || isOwnedBy(status, uid)) continue;
    throw new KeywardError(
      "STORE_INVALID",
      `${location}${suffix}, which SQLite uses beside the database, belongs to another user`,
      {
        hint:
          "Find out which program created this file. If that program uses the database, keep the file, because it may " +
          "hold the last writes. Change the owner of the file to the owner of the database with `chown`, and run the program " +
          "as the owner of the database. If no program uses the file, stop every process that uses the database, then " +
          "move the file away.",
      },
    );
  }
}

/**
 * If the file is empty, creates the table, and writes the application id and the format version to the header. Does both
 * in one transaction, so that no process sees a table without the header or a header without the table. Then checks both.
 */
function setUp(location: string, database: DatabaseSync): void {
  if (headerOf(database).applicationId !== applicationId) {
    database.exec("BEGIN IMMEDIATE");
    try {
      // Another process may have created the table first.
      const empty = database.prepare("SELECT 1 FROM sqlite_schema").get() === undefined;
      if (headerOf(database).applicationId === 0 && empty) database.exec(schema);
      database.exec("COMMIT");
    } catch (error) {
      database.exec("ROLLBACK");
      throw error;
    }
  }
  requireKeywardFormat(location, headerOf(database));
  requireKeywardSchema(location, database);
}

function readHeader(location: string): Header {
  // While a process has the file open in WAL mode, only SQLite may read it. POSIX drops all locks that a process holds
  // on a file when the process closes any descriptor of it, including the locks of its other threads.
  if (existsSync(`${location}-shm`)) {
    const database = new DatabaseSync(location, { readOnly: true, timeout: blockMs });
    try {
      return headerOf(database);
    } finally {
      database.close();
    }
  }
  // SQLite would leave a -wal and a -shm beside a file that is not Keyward's.
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

// A view that an attacker added could replace the functions pragma_…, so the PRAGMA statements are used.
function headerOf(database: DatabaseSync): Header {
  return {
    applicationId: Number(database.prepare("PRAGMA application_id").get()?.["application_id"]),
    version: Number(database.prepare("PRAGMA user_version").get()?.["user_version"]),
  };
}

function requireKeywardFormat(location: string, header: Header): void {
  if (header.applicationId !== applicationId) throw invalidFile(location, "is the database of another application");
  if (header.version > formatVersion) {
    throw new KeywardError(
      "STORE_INVALID",
      `The file of the SqliteStore, ${location}, has format ${header.version}, but this release reads formats up to ${formatVersion}`,
      {
        hint: "Use the release of @keyward/store-sqlite that wrote the file, or a later release. The file was not changed.",
      },
    );
  }
}

/** Returns the error for a file that is not a usable store. */
export function invalidFile(location: string, problem: string, cause?: unknown): KeywardError {
  return new KeywardError("STORE_INVALID", `The file of the SqliteStore, ${location}, ${problem}`, {
    hint:
      "If the path is wrong, pass the path of your store. Otherwise stop every process that uses the file. Move the file away " +
      "together with its `-wal` and `-shm`, then restore a backup to this path. Keyward has not changed the file.",
    cause,
  });
}

/** Creates an empty file that only its owner may access. SQLite itself would create a file that all users may read. */
function createPrivate(location: string): void {
  try {
    closeSync(openSync(location, "wx", 0o600));
  } catch (error) {
    if (systemCode(error) === "EEXIST") return;
    if (systemCode(error) !== "ENOENT") throw error;
    throw new KeywardError(
      "STORE_UNAVAILABLE",
      `The file of the SqliteStore, ${location}, cannot be created, because its folder does not exist`,
      {
        hint:
          "If the folder is on a volume that is not mounted, mount the volume. Otherwise create the folder with " +
          `\`mkdir -p ${dirname(location)}\``,
        cause: error,
      },
    );
  }
}
