import type { DatabaseSync } from "node:sqlite";
import { FileProblem } from "./file-problem.ts";

/** The application id in the header of each audit file: the ASCII codes of "KWAU". */
export const applicationId = 0x4b574155;
/** The version of the tables below. A release refuses a file with a later version. */
export const formatVersion = 1;

// Ids of workspaces and chains are random letters and digits. All names are encrypted, in `names` and in the entries.
const tables = {
  workspaces: "workspaces (id INTEGER PRIMARY KEY, workspace TEXT NOT NULL UNIQUE, lookup BLOB NOT NULL) STRICT",
  names: `names (id INTEGER PRIMARY KEY, workspace INTEGER NOT NULL, tag BLOB NOT NULL, name BLOB NOT NULL,
    UNIQUE (workspace, tag)) STRICT`,
  chains: `chains (id INTEGER PRIMARY KEY, workspace INTEGER NOT NULL, chain TEXT NOT NULL UNIQUE,
    first INTEGER NOT NULL, head BLOB NOT NULL, removed BLOB) STRICT`,
  entries: `entries (id INTEGER PRIMARY KEY, time INTEGER NOT NULL, kind INTEGER NOT NULL, workspace INTEGER NOT NULL,
    server INTEGER, token INTEGER, owner INTEGER, action INTEGER, status INTEGER, duration INTEGER, bytes INTEGER,
    change INTEGER, chain INTEGER NOT NULL, sequence INTEGER NOT NULL, hash BLOB NOT NULL, entry BLOB NOT NULL,
    UNIQUE (chain, sequence)) STRICT`,
  installation: "installation (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, record BLOB NOT NULL) STRICT",
  reserved: "reserved (key BLOB PRIMARY KEY, value BLOB NOT NULL, expires INTEGER) STRICT",
} as const;

// Each index contains the columns of the other filters, so that a page needs few rows of the table. `change` has the
// sequence number of a change for its outcome, and a number made from its id for a call.
const indexes = {
  chains_by_workspace: "chains_by_workspace ON chains (workspace, id)",
  entries_by_time: "entries_by_time ON entries (workspace, kind, time, status)",
  entries_by_owner: `entries_by_owner ON entries (owner, kind, time, server, token, action, status)
    WHERE owner IS NOT NULL`,
  entries_by_server: `entries_by_server ON entries (server, kind, time, owner, token, action, status)
    WHERE server IS NOT NULL`,
  entries_by_action: `entries_by_action ON entries (action, kind, time, owner, server, token, status)
    WHERE action IS NOT NULL`,
  entries_by_token: `entries_by_token ON entries (token, kind, time, server, owner, action, status)
    WHERE token IS NOT NULL`,
  entries_by_change: "entries_by_change ON entries (change, chain) WHERE change IS NOT NULL",
} as const;

const statements = [
  ...Object.values(tables).map((table) => `CREATE TABLE ${table}`),
  ...Object.values(indexes).map((index) => `CREATE INDEX ${index}`),
];

const expectedObjects = new Map([
  ...Object.entries(tables).map(([name, table]) => [name, withoutSpace(`CREATE TABLE ${table}`)] as const),
  ...Object.entries(indexes).map(([name, index]) => [name, withoutSpace(`CREATE INDEX ${index}`)] as const),
]);
const autoIndexes = new Set(Object.keys(tables).map((name) => autoIndexOf(name)));
// `ANALYZE` creates these. Their SQL is compared too, because a planted index could have such a name.
const analyzeTables = new Map([
  ["sqlite_stat1", "CREATETABLEsqlite_stat1(tbl,idx,stat)"],
  ["sqlite_stat4", "CREATETABLEsqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)"],
]);

/** What the header of a SQLite file says about its owner. */
export interface FileHeader {
  readonly applicationId: number;
  readonly version: number;
}

/** Returns the application id and the format version of an open file. */
export function headerOf(database: DatabaseSync): FileHeader {
  return {
    applicationId: Number(database.prepare("PRAGMA application_id").get()?.["application_id"]),
    version: Number(database.prepare("PRAGMA user_version").get()?.["user_version"]),
  };
}

/**
 * Creates the tables in an empty file, in one transaction, so that no process sees a part of them. Then checks the
 * header and the schema.
 *
 * @throws FileProblem if the file is not an audit file of this release.
 */
export function setUpSchema(location: string, database: DatabaseSync): void {
  if (headerOf(database).applicationId !== applicationId) {
    database.exec("BEGIN IMMEDIATE");
    try {
      // Another process may have created the tables first.
      const isEmpty = database.prepare("SELECT 1 FROM sqlite_schema").get() === undefined;
      if (headerOf(database).applicationId === 0 && isEmpty) {
        for (const statement of statements) database.exec(statement);
        database.exec(`PRAGMA application_id = ${applicationId}; PRAGMA user_version = ${formatVersion}`);
      }
      database.exec("COMMIT");
    } catch (error) {
      if (database.isTransaction) database.exec("ROLLBACK");
      throw error;
    }
  }
  requireAuditFormat(location, headerOf(database));
  requireAuditSchema(location, database);
}

/** Throws a FileProblem if the header is not that of an audit file, or if a later release wrote the file. */
export function requireAuditFormat(location: string, header: FileHeader): void {
  if (header.applicationId !== applicationId) {
    throw new FileProblem("refused", `${location} is the database of another application`, restoreHint);
  }
  if (header.version > formatVersion) {
    throw new FileProblem(
      "refused",
      `${location} has format ${header.version}, but this release reads formats up to ${formatVersion}`,
      "Use the release of Keyward that wrote the file, or a later release. The file was not changed.",
    );
  }
}

/**
 * Refuses a file whose schema differs from the schema of this release, because a trigger or view that an attacker added
 * would run with the statements of the audit.
 *
 * @throws FileProblem
 */
export function requireAuditSchema(location: string, database: DatabaseSync): void {
  const found = database
    .prepare("SELECT type, substr(name, 1, 64) AS name, substr(sql, 1, 2000) AS sql FROM sqlite_schema")
    .all();
  let known = 0;
  for (const { type, name, sql } of found) {
    if (sql === null && autoIndexes.has(String(name))) continue;
    const text = withoutSpace(String(sql));
    if (expectedObjects.get(String(name)) === text) known++;
    else if (analyzeTables.get(String(name)) !== text) {
      throw new FileProblem(
        "refused",
        `${location} contains the ${String(type)} ${JSON.stringify(name)}, which Keyward did not create`,
        `Find out which program created this ${String(type)}, and stop that program. Copy the file, then drop the ` +
          `${String(type)}. Run \`keyward audit verify\` afterwards. Keyward has not changed the file.`,
      );
    }
  }
  if (known !== expectedObjects.size) {
    throw new FileProblem("refused", `${location} lacks a table or an index of the audit`, restoreHint);
  }
}

/** The hint for a file that is not a usable audit file. */
export const restoreHint =
  "If the path is wrong, pass the path of the audit file. Otherwise stop every process that uses the file. Move the file " +
  "away together with its `-wal` and `-shm`, then restore a backup to this path. Keyward has not changed the file.";

function withoutSpace(sql: string): string {
  return sql.replace(/\s+/g, "");
}

function autoIndexOf(table: string): string {
  return `sqlite_autoindex_${table}_1`;
}
