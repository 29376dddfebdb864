import { bytesOf, numberOf, optionalNumberOf, type Row, type Transaction, textOf } from "./audit-connection.ts";
import type {
  ChainRemoval,
  EntriesQuery,
  EntryAt,
  EntryRow,
  RowPlace,
  StoredChainRow,
  StoredEntryRow,
} from "./audit-rows.ts";

const workspaceId = "(SELECT id FROM workspaces WHERE workspace = ?)";
const nameId = `(SELECT id FROM names WHERE workspace = ${workspaceId} AND tag = unhex(?))`;
/** The columns that refer to names. */
const nameColumns = ["server", "token", "owner", "action"] as const;

/** How many calls with one number are read. */
const mostOfOneNumber = 10;
/** How many rows of a name are counted, to find the rarest name of a filter. */
const mostCounted = 5_000;

/** Returns the changes or calls of one workspace that a query selects, newest first. */
export function entries(transaction: Transaction, query: EntriesQuery): EntryRow[] {
  const named = namedFilters(transaction, query);
  if (named === undefined) return [];
  const conditions = [];
  const values: number[] = [];
  for (const [index, { column, name }] of named.entries()) {
    // The plus keeps SQLite from another index than that of the rarest name.
    conditions.push(index === 0 ? `${column} = ?` : `+${column} = ?`);
    values.push(name);
  }
  // A name belongs to one workspace, so the index by workspace is needed only without names.
  conditions.push(`${named.length > 0 ? "+" : ""}entries.workspace = ?`, "kind = ?");
  const workspace = transaction.get("SELECT id FROM workspaces WHERE workspace = ?", query.workspace);
  if (workspace === undefined) return [];
  values.push(numberOf(workspace, "id"), query.kind);
  if (query.from !== undefined) {
    conditions.push("time >= ?");
    values.push(query.from);
  }
  if (query.until !== undefined) {
    conditions.push("time < ?");
    values.push(query.until);
  }
  if (query.status !== undefined) {
    conditions.push("status BETWEEN ? AND ?");
    values.push(query.status.least, query.status.most);
  }
  if (query.before !== undefined) {
    // The first condition lets SQLite begin at the right place of the index.
    conditions.push("time <= ? AND (time < ? OR entries.id < ?)");
    const { time, chain, sequence } = query.before;
    const row = transaction.get(
      "SELECT id FROM entries WHERE chain = (SELECT id FROM chains WHERE chain = ?) AND sequence = ?",
      chain,
      sequence,
    );
    // If retention has removed the entry, it has removed the older ones too.
    values.push(time, time, row === undefined ? 0 : numberOf(row, "id"));
  }
  const rows = transaction.all(
    `SELECT entries.time AS time, chains.chain AS chain, sequence,
      (SELECT outcome.sequence FROM entries AS outcome
        WHERE outcome.chain = entries.chain AND outcome.change = entries.sequence) AS outcome
      FROM entries JOIN chains ON chains.id = entries.chain
      WHERE ${conditions.join(" AND ")} ORDER BY entries.time DESC, entries.id DESC LIMIT ?`,
    ...values,
    query.limit,
  );
  return rows.map((row) => ({
    time: numberOf(row, "time"),
    chain: textOf(row, "chain"),
    sequence: numberOf(row, "sequence"),
    outcome: optionalNumberOf(row, "outcome"),
  }));
}

/**
 * Returns the places of the calls of one workspace for which `numberOfCall` returns `number`. This is one call, unless
 * two ids have the same number.
 */
export function call(transaction: Transaction, workspace: string, kind: number, number: number): EntryAt[] {
  const rows = transaction.all(
    `SELECT chains.chain AS chain, sequence FROM entries JOIN chains ON chains.id = entries.chain
      WHERE change = ? AND kind = ? AND entries.workspace = ${workspaceId} LIMIT ?`,
    number,
    kind,
    workspace,
    mostOfOneNumber,
  );
  return rows.map((row) => ({ chain: textOf(row, "chain"), sequence: numberOf(row, "sequence") }));
}

/**
 * Returns the numbers of the names that a query filters by, the rarest name first; `undefined` if a name is not in the
 * dictionary.
 */
function namedFilters(
  transaction: Transaction,
  query: EntriesQuery,
): { readonly column: string; readonly name: number }[] | undefined {
  const named: { readonly column: string; readonly name: number; readonly rows: number }[] = [];
  for (const column of nameColumns) {
    const tag = query[column];
    if (tag === undefined) continue;
    const row = transaction.get(`SELECT ${nameId} AS name`, query.workspace, tag);
    if (row === undefined || row["name"] === null) return undefined;
    const name = numberOf(row, "name");
    const some = `SELECT 1 FROM entries WHERE ${column} = ? AND kind = ? LIMIT ${mostCounted}`;
    const counted = transaction.get(`SELECT count(*) AS rows FROM (${some})`, name, query.kind) ?? {};
    named.push({ column, name, rows: numberOf(counted, "rows") });
  }
  return named.sort((one, other) => one.rows - other.rows);
}

/** Returns the places of entries of one workspace, or of all, in the order in which they were written. */
export function places(
  transaction: Transaction,
  workspace: string | undefined,
  after: number,
  limit: number,
): RowPlace[] {
  const select = `SELECT entries.id AS id, workspaces.workspace AS workspace, chains.chain AS chain, sequence FROM entries
    JOIN chains ON chains.id = entries.chain JOIN workspaces ON workspaces.id = chains.workspace WHERE entries.id > ?`;
  const order = "ORDER BY entries.id LIMIT ?";
  const rows =
    workspace === undefined
      ? transaction.all(`${select} ${order}`, after, limit)
      : transaction.all(`${select} AND +chains.workspace = ${workspaceId} ${order}`, after, workspace, limit);
  return rows.map((row) => ({
    id: numberOf(row, "id"),
    workspace: textOf(row, "workspace"),
    chain: textOf(row, "chain"),
    sequence: numberOf(row, "sequence"),
  }));
}

const chainRows = `SELECT chains.id AS id, workspaces.workspace AS workspace, chain, first, removed IS NOT NULL AS hasRemoved
  FROM chains LEFT JOIN workspaces ON workspaces.id = chains.workspace WHERE chains.id > ?`;

/** Returns chains in the order in which they began. */
export function chains(transaction: Transaction, after: number, limit: number): StoredChainRow[] {
  return transaction.all(`${chainRows} ORDER BY chains.id LIMIT ?`, after, limit).map(chainRowOf);
}

/** Returns the chains of a workspace that have entries, in the order in which they began. */
export function chainsOf(transaction: Transaction, workspace: string, after: number, limit: number): StoredChainRow[] {
  const sql = `${chainRows} AND chains.workspace = ${workspaceId} AND EXISTS
    (SELECT 1 FROM entries WHERE entries.chain = chains.id) ORDER BY chains.id LIMIT ?`;
  return transaction.all(sql, after, workspace, limit).map(chainRowOf);
}

function chainRowOf(row: Row): StoredChainRow {
  return {
    id: numberOf(row, "id"),
    workspace: row["workspace"] === null ? undefined : textOf(row, "workspace"),
    chain: textOf(row, "chain"),
    first: numberOf(row, "first"),
    hasRemoved: row["hasRemoved"] === 1,
  };
}

/** Returns the rows of one chain in the order of their sequence numbers. */
export function chainEntries(transaction: Transaction, chain: number, after: number, limit: number): StoredEntryRow[] {
  const tags = nameColumns.map((column) => `lower(hex(${column}_name.tag)) AS ${column}_tag`).join(", ");
  const joins = nameColumns
    .map((column) => `LEFT JOIN names AS ${column}_name ON ${column}_name.id = entries.${column}`)
    .join(" ");
  const missing = nameColumns
    .map((column) => `(entries.${column} IS NOT NULL AND ${column}_name.id IS NULL)`)
    .join(" OR ");
  const same = nameColumns
    .map((column) => `(${column}_name.workspace IS NULL OR ${column}_name.workspace = entries.workspace)`)
    .join(" AND ");
  const rows = transaction.all(
    `SELECT entries.*, ${tags}, ${missing} AS missing, (${same} AND entries.workspace = chains.workspace) AS same
      FROM entries JOIN chains ON chains.id = entries.chain ${joins}
      WHERE entries.chain = ? AND sequence > ? ORDER BY sequence LIMIT ?`,
    chain,
    after,
    limit,
  );
  return rows.map((row) => ({
    id: numberOf(row, "id"),
    time: numberOf(row, "time"),
    kind: numberOf(row, "kind"),
    status: optionalNumberOf(row, "status"),
    durationMs: optionalNumberOf(row, "duration"),
    bytes: optionalNumberOf(row, "bytes"),
    change: optionalNumberOf(row, "change"),
    sequence: numberOf(row, "sequence"),
    hash: bytesOf(row, "hash"),
    server: tagOf(row, "server_tag"),
    token: tagOf(row, "token_tag"),
    owner: tagOf(row, "owner_tag"),
    action: tagOf(row, "action_tag"),
    sameWorkspace: row["same"] === 1,
    missingName: row["missing"] === 1,
  }));
}

/**
 * Returns the problems of the whole file, as sentences: damaged pages, and rows whose chain or workspace is missing.
 */
export function integrity(transaction: Transaction): string[] {
  const problems = transaction
    .all("PRAGMA integrity_check(20)")
    .map((row) => textOf(row, "integrity_check"))
    .filter((text) => text !== "ok")
    .map((text) => `SQLite reports: ${text}`);
  const orphans = {
    entries: "SELECT count(*) AS count FROM entries WHERE chain NOT IN (SELECT id FROM chains)",
    chains: "SELECT count(*) AS count FROM chains WHERE workspace NOT IN (SELECT id FROM workspaces)",
    names: "SELECT count(*) AS count FROM names WHERE workspace NOT IN (SELECT id FROM workspaces)",
  };
  for (const [what, sql] of Object.entries(orphans)) {
    const count = numberOf(transaction.get(sql) ?? {}, "count");
    if (count > 0)
      problems.push(`${count} rows of the table ${what} refer to a chain or workspace that is not in the file`);
  }
  // A scan begins at 1, so a rotation would leave other rows under an old key.
  for (const table of ["workspaces", "names", "chains", "entries", "installation"]) {
    const count = numberOf(transaction.get(`SELECT count(*) AS count FROM ${table} WHERE id < 1`) ?? {}, "count");
    if (count > 0) problems.push(`${count} rows of the table ${table} have a number that Keyward never gives`);
  }
  return problems;
}

/**
 * Removes the beginning of a chain, and the names that no remaining entry refers to. Returns the number of removed
 * entries; 0 if another process has removed entries of the chain in the meantime.
 */
export function remove(transaction: Transaction, removal: ChainRemoval): number {
  const row = transaction.get(
    `SELECT id, first FROM chains WHERE chain = ? AND workspace = ${workspaceId}`,
    removal.chain,
    removal.workspace,
  );
  if (row === undefined || numberOf(row, "first") !== removal.first) return 0;
  const chain = numberOf(row, "id");
  const part = "chain = ? AND sequence BETWEEN ? AND ?";
  const used = nameColumns.map((column) => ({
    column,
    ids: transaction
      .all(
        `SELECT DISTINCT ${column} AS name FROM entries WHERE ${part} AND ${column} IS NOT NULL`,
        chain,
        removal.first,
        removal.last,
      )
      .map((each) => numberOf(each, "name")),
  }));
  const removed = transaction.run(`DELETE FROM entries WHERE ${part}`, chain, removal.first, removal.last);
  transaction.run("UPDATE chains SET first = ?, removed = ? WHERE id = ?", removal.last + 1, removal.removed, chain);
  for (const { column, ids } of used) {
    // A name has one kind, so only entries with this column can refer to the name.
    const sql = `DELETE FROM names WHERE id = ? AND NOT EXISTS (SELECT 1 FROM entries WHERE ${column} = ?)`;
    for (const id of ids) transaction.run(sql, id, id);
  }
  return removed;
}

function tagOf(row: Row, column: string): string | undefined {
  const tag = textOf(row, column);
  return tag === "" ? undefined : tag;
}
