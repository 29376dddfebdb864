import { bytesOf, numberOf, type Row, type Transaction, textOf } from "./audit-connection.ts";
import type { AppendBatch, NewEntryRow, RecordReplacement, RecordsPage } from "./audit-rows.ts";
import { FileProblem, MissingNames } from "./file-problem.ts";
import { type AuditRecordKey, clockKey, formatRecordKey, parseRecordKey, serviceWorkspace } from "./record-key.ts";

const workspaceId = "(SELECT id FROM workspaces WHERE workspace = ?)";

const statements = {
  workspace: "SELECT id FROM workspaces WHERE workspace = ?",
  chain: "SELECT id FROM chains WHERE chain = ? AND workspace = ?",
  name: "SELECT id FROM names WHERE workspace = ? AND tag = ?",
  addName: "INSERT INTO names (workspace, tag, name) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
  setHead: "UPDATE chains SET head = ? WHERE id = ? AND chain = ? AND workspace = ?",
  addChain: "INSERT INTO chains (id, workspace, chain, first, head) VALUES (?, ?, ?, 1, ?) ON CONFLICT DO NOTHING",
  setRegistry: `INSERT INTO installation (name, record) VALUES ('registry', ?)
    ON CONFLICT (name) DO UPDATE SET record = excluded.record`,
  addEntry: `INSERT INTO entries (time, kind, workspace, server, token, owner, action, status, duration, bytes, change, chain,
    sequence, hash, entry) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (chain, sequence) DO NOTHING`,
  hashAt: "SELECT hash FROM entries WHERE chain = ? AND sequence = ?",
} as const;

/**
 * The kinds of encrypted records, in the order of a scan. Each kind is one column of one table, with the SQL to scan,
 * get and replace its records.
 */
const columns = [
  {
    kind: "installation",
    scan: "SELECT id, name, record AS value FROM installation WHERE id > ? ORDER BY id LIMIT ?",
    get: "SELECT record AS value FROM installation WHERE name = ?",
    replace: "UPDATE installation SET record = ? WHERE name = ? AND record = ?",
  },
  {
    kind: "lookup",
    scan: "SELECT id, workspace, lookup AS value FROM workspaces WHERE id > ? ORDER BY id LIMIT ?",
    get: "SELECT lookup AS value FROM workspaces WHERE workspace = ?",
    replace: "UPDATE workspaces SET lookup = ? WHERE workspace = ? AND lookup = ?",
  },
  {
    kind: "name",
    scan: `SELECT names.id AS id, workspaces.workspace AS workspace, lower(hex(tag)) AS tag, name AS value FROM names
      JOIN workspaces ON workspaces.id = names.workspace WHERE names.id > ? ORDER BY names.id LIMIT ?`,
    get: `SELECT name AS value FROM names WHERE workspace = ${workspaceId} AND tag = unhex(?)`,
    replace: `UPDATE names SET name = ? WHERE workspace = ${workspaceId} AND tag = unhex(?) AND name = ?`,
  },
  {
    kind: "head",
    scan: `SELECT chains.id AS id, workspaces.workspace AS workspace, chain, head AS value FROM chains
      JOIN workspaces ON workspaces.id = chains.workspace WHERE chains.id > ? ORDER BY chains.id LIMIT ?`,
    get: `SELECT head AS value FROM chains WHERE workspace = ${workspaceId} AND chain = ?`,
    replace: `UPDATE chains SET head = ? WHERE workspace = ${workspaceId} AND chain = ? AND head = ?`,
  },
  {
    kind: "removed",
    scan: `SELECT chains.id AS id, workspaces.workspace AS workspace, chain, removed AS value FROM chains
      JOIN workspaces ON workspaces.id = chains.workspace
      WHERE chains.id > ? AND removed IS NOT NULL ORDER BY chains.id LIMIT ?`,
    get: `SELECT removed AS value FROM chains WHERE workspace = ${workspaceId} AND chain = ? AND removed IS NOT NULL`,
    replace: `UPDATE chains SET removed = ? WHERE workspace = ${workspaceId} AND chain = ? AND removed = ?`,
  },
  {
    kind: "entry",
    scan: `SELECT entries.id AS id, workspaces.workspace AS workspace, chains.chain AS chain, sequence, entry AS value
      FROM entries JOIN chains ON chains.id = entries.chain JOIN workspaces ON workspaces.id = chains.workspace
      WHERE entries.id > ? ORDER BY entries.id LIMIT ?`,
    get: `SELECT entry AS value FROM entries WHERE chain =
      (SELECT id FROM chains WHERE workspace = ${workspaceId} AND chain = ?) AND sequence = ?`,
    replace: `UPDATE entries SET entry = ? WHERE chain =
      (SELECT id FROM chains WHERE workspace = ${workspaceId} AND chain = ?) AND sequence = ? AND entry = ?`,
  },
] as const satisfies readonly { kind: AuditRecordKey["kind"]; scan: string; get: string; replace: string }[];

/**
 * The largest number of records on one page of a scan, even if the caller asks for more, because a page is held in
 * memory.
 */
const mostScanned = 2_000;

/**
 * Appends entries with their names and the new heads of their chains. Appending the same batch again changes nothing.
 *
 * @returns an empty array.
 * @throws MissingNames with the tags of names that are not in the dictionary, the id of a chain whose number another
 * chain has, or the id of a workspace that is not in the file. Then nothing is written.
 */
export function append(transaction: Transaction, batch: AppendBatch): string[] {
  const workspaces = new Map<string, number>();
  const workspaceOf = (workspace: string): number => {
    let id = workspaces.get(workspace);
    if (id === undefined) {
      const row = transaction.get(statements.workspace, workspace);
      if (row === undefined) throw new MissingNames([workspace]);
      id = numberOf(row, "id");
      workspaces.set(workspace, id);
    }
    return id;
  };
  for (const { workspace, tag, name } of batch.names) {
    transaction.run(statements.addName, workspaceOf(workspace), Buffer.from(tag, "hex"), name);
  }
  for (const { workspace, chain, number, head } of batch.heads) {
    const owner = workspaceOf(workspace);
    if (transaction.run(statements.setHead, head, number, chain, owner) === 1) continue;
    // Only the registry gives a chain its number. So the row of a chain that has begun is never written again.
    if (batch.registry === undefined) throw foreignEntry();
    // Another process may have begun a chain with this number first.
    if (transaction.run(statements.addChain, number, owner, chain, head) !== 1) throw new MissingNames([chain]);
    transaction.run(statements.setRegistry, batch.registry);
  }
  const missing: string[] = [];
  for (const entry of batch.entries) addEntry(transaction, entry, workspaceOf(entry.workspace), missing);
  if (missing.length > 0) throw new MissingNames(missing);
  return [];
}

function addEntry(transaction: Transaction, entry: NewEntryRow, workspace: number, missing: string[]): void {
  const idOf = (tag: string | undefined): number | null => {
    if (tag === undefined) return null;
    const row = transaction.get(statements.name, workspace, Buffer.from(tag, "hex"));
    if (row === undefined) missing.push(tag);
    return row === undefined ? null : numberOf(row, "id");
  };
  const chainRow = transaction.get(statements.chain, entry.chain, workspace);
  if (chainRow === undefined) throw foreignEntry();
  const chain = numberOf(chainRow, "id");
  const { time, kind, status, durationMs, bytes, change, sequence, hash } = entry;
  const added = transaction.run(
    statements.addEntry,
    time,
    kind,
    workspace,
    idOf(entry.server),
    idOf(entry.token),
    idOf(entry.owner),
    idOf(entry.action),
    status ?? null,
    durationMs ?? null,
    bytes ?? null,
    change ?? null,
    chain,
    sequence,
    hash,
    entry.entry,
  );
  if (added === 1) return;
  // An earlier attempt may have been committed although its answer did not arrive.
  const stored = transaction.get(statements.hashAt, chain, sequence);
  if (stored === undefined || Buffer.compare(bytesOf(stored, "hash"), hash) !== 0) throw foreignEntry();
}

function foreignEntry(): FileProblem {
  return new FileProblem(
    "refused",
    "Another program wrote entries to a chain of this process",
    "Find out which program writes to the audit file, and stop that program. Run `keyward audit verify`, and restart this " +
      "process, which then begins new chains.",
  );
}

/** Returns the values of records, in the order of `keys`; `undefined` for a missing record. */
export function read(transaction: Transaction, keys: readonly string[]): (Uint8Array | undefined)[] {
  return keys.map((text) => {
    const key = parseRecordKey(text);
    if (key === undefined) return undefined;
    const row = transaction.get(columnOf(key).get, ...partsOf(key));
    return row === undefined ? undefined : bytesOf(row, "value");
  });
}

/**
 * Makes replacements, and returns for each whether it was made. Can create only a `lookup` record and the record of the
 * clock.
 */
export function replace(transaction: Transaction, changes: readonly RecordReplacement[]): boolean[] {
  return changes.map(({ key: text, expected, next }) => {
    const key = parseRecordKey(text);
    if (key === undefined) return false;
    if (expected !== undefined) return transaction.run(columnOf(key).replace, next, ...partsOf(key), expected) === 1;
    if (text === clockKey) {
      const insert = "INSERT INTO installation (name, record) VALUES ('clock', ?) ON CONFLICT DO NOTHING";
      return transaction.run(insert, next) === 1;
    }
    if (key.kind !== "lookup") return false;
    const insert = "INSERT INTO workspaces (workspace, lookup) VALUES (?, ?) ON CONFLICT DO NOTHING";
    return transaction.run(insert, key.workspace, next) === 1;
  });
}

/** Returns a page of records of the whole file. A cursor is the number of a table and the id of its last row. */
export function scan(transaction: Transaction, cursor: string | undefined, limit: number): RecordsPage {
  const [, table = "0", after = "0"] = /^(\d)\.(\d{1,15})$/.exec(cursor ?? "0.0") ?? [];
  const index = Number(table);
  const column = columns[index];
  if (column === undefined) return { records: [], next: undefined };
  const most = Math.min(limit, mostScanned);
  const rows = transaction.all(column.scan, Number(after), most);
  const records = rows.map((row) => ({ key: formatRecordKey(keyOf(column.kind, row)), value: bytesOf(row, "value") }));
  const last = rows.at(-1);
  if (last !== undefined && rows.length === most) return { records, next: `${index}.${numberOf(last, "id")}` };
  return { records, next: index + 1 < columns.length ? `${index + 1}.0` : undefined };
}

function keyOf(kind: AuditRecordKey["kind"], row: Row): AuditRecordKey {
  if (kind === "installation") return { kind, workspace: serviceWorkspace, name: textOf(row, "name") };
  const workspace = textOf(row, "workspace");
  switch (kind) {
    case "lookup":
      return { kind, workspace };
    case "name":
      return { kind, workspace, tag: textOf(row, "tag") };
    case "head":
    case "removed":
      return { kind, workspace, chain: textOf(row, "chain") };
    case "entry":
      return { kind, workspace, chain: textOf(row, "chain"), sequence: numberOf(row, "sequence") };
  }
}

function columnOf({ kind }: AuditRecordKey): (typeof columns)[number] {
  const column = columns.find((each) => each.kind === kind);
  if (column === undefined) throw new RangeError(`No column has the records of the kind ${kind}`);
  return column;
}

function partsOf(key: AuditRecordKey): (string | number)[] {
  switch (key.kind) {
    case "lookup":
      return [key.workspace];
    case "installation":
      return [key.name];
    case "name":
      return [key.workspace, key.tag];
    case "head":
    case "removed":
      return [key.workspace, key.chain];
    case "entry":
      return [key.workspace, key.chain, key.sequence];
  }
}
