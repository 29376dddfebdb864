import { setImmediate as nextTurn } from "node:timers/promises";
import {
  type AtomicStore,
  type BinaryStore,
  type BoundedStore,
  type DescribedStore,
  invalidCursor,
  KeywardError,
  type Replacement,
  requireEntryExpires,
  requireKey,
  requireLimit,
  requireNamespace,
  requireNewExpires,
  requireValue,
  type ScannableStore,
  type ScanPage,
  type StoredValue,
} from "@keyward/core";
import { Hookified } from "hookified";
import { type KeyvStorageCapability, type KeyvStorageEntry, keyvStorageCapability } from "keyv";
import type { Connection, Prepare } from "./connection.ts";

/** Values of the column `space`: 0 for records of the application, 1 for records in the reserved space. */
export const spaces = { records: 0, reserved: 1 } as const;
type Space = (typeof spaces)[keyof typeof spaces];

const iteratedAtOnce = 256;
const clearedAtOnce = 2_000;
/**
 * Total bytes of values after which a transaction of `iterator` or `clear` ends, because a transaction holds its values
 * in memory and blocks the event loop.
 */
const mostBytesAtOnce = 2 * 2 ** 20;

const atAddress = "space = ? AND namespace = ? AND key = ?";
const notExpired = "(expires IS NULL OR expires > ?)";
// TEXT is read as bytes and decoded in this file: node:sqlite of Node 22 cuts a TEXT at its first NUL.
const value = "typeof(entries.value) AS type, CAST(entries.value AS BLOB) AS bytes";

const statements = {
  get: `SELECT ${value} FROM entries WHERE ${atAddress} AND ${notExpired}`,
  getMany: `SELECT given.key AS position, ${value} FROM json_each(?) AS given CROSS JOIN entries
    WHERE space = ? AND namespace = ? AND entries.key = CAST(given.value AS BLOB) AND ${notExpired}`,
  has: `SELECT 1 FROM entries WHERE ${atAddress} AND ${notExpired}`,
  hasMany: `SELECT given.key AS position FROM json_each(?) AS given CROSS JOIN entries
    WHERE space = ? AND namespace = ? AND entries.key = CAST(given.value AS BLOB) AND ${notExpired}`,
  set: `INSERT INTO entries (space, namespace, key, value, expires) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (space, namespace, key) DO UPDATE SET value = excluded.value, expires = excluded.expires`,
  delete: `DELETE FROM entries WHERE ${atAddress} RETURNING ${notExpired} AS alive`,
  some: `SELECT id, octet_length(value) AS size FROM entries
    WHERE space = ? AND namespace = ? AND id <= ? LIMIT ${clearedAtOnce}`,
  deleteRow: "DELETE FROM entries WHERE id = ?",
  replace: `UPDATE entries SET value = ? WHERE ${atAddress} AND value = ? AND ${notExpired}`,
  replaceUntil: `UPDATE entries SET value = ?, expires = ? WHERE ${atAddress} AND value = ? AND ${notExpired}`,
  insert: `INSERT INTO entries (space, namespace, key, value, expires) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (space, namespace, key) DO UPDATE SET value = excluded.value, expires = excluded.expires
    WHERE expires <= ?`,
  newest: "SELECT max(id) AS id FROM entries",
  iterate: `SELECT key, ${value} FROM entries
    WHERE space = ? AND namespace = ? AND key >= ? AND id <= ? AND ${notExpired} ORDER BY key LIMIT ?`,
  scan: `SELECT namespace, key, ${value} FROM entries
    WHERE space = ? AND (namespace, key) >= (?, ?) AND ${notExpired} ORDER BY namespace, key LIMIT ?`,
} as const;

type Row = ReturnType<ReturnType<Prepare>["get"]>;

/**
 * A set of records in a file, with Keyv's storage adapter methods, atomic replacement, and a scan over every namespace.
 * `SqliteStore` extends this class. `SqliteStore.reserved()` returns an instance of this class on the same file.
 *
 * A method that fails rejects with a KeywardError of one of these codes:
 *
 * - `VALUE_INVALID`: a key or a namespace is not a well-formed string.
 * - `STORE_UNAVAILABLE`: the file stays locked, the file cannot be read or written, or the store is disconnected.
 * - `STORE_INVALID`: the file is damaged, or its schema has an object that this package did not create.
 */
export class SqliteSpace
  extends Hookified
  implements AtomicStore, ScannableStore, BinaryStore, BoundedStore, DescribedStore
{
  /** Marks the store as one that keeps bytes unchanged (as BLOB), so that records are encrypted to binary envelopes. */
  readonly values = "bytes";
  /**
   * The namespace whose records the methods read and write. Only {@link SqliteSpace.scan} ignores this property, and
   * reads the records of every namespace. `undefined` and "" both mean no namespace.
   */
  namespace: string | undefined;
  readonly #connection: Connection;
  readonly #space: Space;

  /** Only `SqliteStore` calls this constructor. To open a store, use `new SqliteStore(path)`. */
  constructor(connection: Connection, space: Space) {
    super();
    this.#connection = connection;
    this.#space = space;
  }

  /**
   * Maximum duration of a call in milliseconds. `clear` and `iterator` work in steps, and each step may take this time.
   */
  get longestCallMs(): number {
    return this.#connection.longestCallMs;
  }

  /** Name of the store in error messages: its class and the path of its file. */
  get description(): string {
    return `SqliteStore ${JSON.stringify(this.#connection.path)}`;
  }

  /**
   * The capabilities that Keyv reads: the store has all methods of a storage adapter, and `expires` is an absolute time.
   */
  get capabilities(): KeyvStorageCapability {
    return keyvStorageCapability(this);
  }

  /** Returns the value of `key`, or `undefined` if `key` has no record. */
  async get(key: string): Promise<StoredValue | undefined> {
    const address = this.#addressColumns(key);
    const row = await this.#connection.read((prepare) => prepare(statements.get).get(...address, Date.now()));
    return row === undefined ? undefined : readValue(row);
  }

  /**
   * Returns one value per key, in the order of `keys`. The value is `undefined` for a key without a record. All values
   * are read in one transaction.
   */
  async getMany(keys: readonly string[]): Promise<(StoredValue | undefined)[]> {
    const found = await this.#findMany(statements.getMany, keys);
    return keys.map((_, position) => {
      const row = found.get(position);
      return row === undefined ? undefined : readValue(row);
    });
  }

  /**
   * Stores `value` as the value of `key`.
   *
   * @param expires when the record expires, in milliseconds since the epoch. Default: never. A time in the past removes
   * the record. A number up to 10^12 counts as a duration from now in milliseconds, because Keyv 5 passes durations
   * (`requireExpires` of `@keyward/core` has the exact rule).
   * @throws KeywardError `VALUE_INVALID` if the value is neither a well-formed string nor bytes, or `expires` is not a
   * number.
   */
  async set(key: string, value: unknown, expires?: number): Promise<boolean> {
    await this.#connection.write(this.#write({ key, value, ...(expires === undefined ? {} : { expires }) }));
    return true;
  }

  /** Stores all entries like {@link SqliteSpace.set}, in one transaction. If the call rejects, no entry is stored. */
  async setMany(entries: readonly KeyvStorageEntry<unknown>[]): Promise<boolean[]> {
    const writes = entries.map((entry) => this.#write(entry));
    await this.#connection.write((prepare) => {
      for (const write of writes) write(prepare);
    });
    return writes.map(() => true);
  }

  /** Removes the record of `key`, and returns whether the record existed. */
  async delete(key: string): Promise<boolean> {
    return this.#connection.write(this.#removal(key));
  }

  /** Removes the records of all `keys` in one transaction. Returns for each key whether its record existed. */
  async deleteMany(keys: readonly string[]): Promise<boolean[]> {
    const removals = keys.map((key) => this.#removal(key));
    return this.#connection.write((prepare) => removals.map((remove) => remove(prepare)));
  }

  /** Returns whether `key` has a record. */
  async has(key: string): Promise<boolean> {
    const address = this.#addressColumns(key);
    return this.#connection.read((prepare) => prepare(statements.has).get(...address, Date.now()) !== undefined);
  }

  /**
   * Returns for each key whether the key has a record, in the order of `keys`. All records are looked up in one
   * transaction.
   */
  async hasMany(keys: readonly string[]): Promise<boolean[]> {
    const found = await this.#findMany(statements.hasMany, keys);
    return keys.map((_, position) => found.has(position));
  }

  /**
   * Removes every record that this store's namespace has at the start of the call. Records of other namespaces stay.
   * The records are removed in small transactions, so that other processes can write in between. If the call rejects,
   * some records may already be removed.
   */
  async clear(): Promise<void> {
    const address = this.#namespaceColumns();
    const newest = await this.#connection.read((prepare) => prepare(statements.newest).get()?.["id"] ?? 0);
    for (;;) {
      const removed = await this.#connection.write((prepare) => {
        const rows = takeByBytes(prepare(statements.some).iterate(...address, newest), ({ size }) => Number(size));
        for (const row of rows) prepare(statements.deleteRow).run(row["id"] ?? 0);
        return rows.length;
      });
      if (removed === 0) return;
      await nextTurn();
    }
  }

  /**
   * Yields the key and value of each record of this namespace, ordered by key. Leaves out records that are added after
   * the iteration has begun, and records that are removed before the iterator reads them.
   */
  iterator(): AsyncGenerator<[string, StoredValue], void>;
  iterator<Value>(): AsyncGenerator<Array<string | Awaited<Value> | undefined>, void>;
  async *iterator(): AsyncGenerator<[string, StoredValue], void> {
    const address = this.#namespaceColumns();
    // Later rows have higher ids. Without this bound, a loop that writes the records that it reads might never end.
    const newest = await this.#connection.read((prepare) => prepare(statements.newest).get()?.["id"] ?? 0);
    let start: Uint8Array = Buffer.alloc(0);
    for (;;) {
      const rows = await this.#connection.read((prepare) =>
        takeByBytes(
          prepare(statements.iterate).iterate(...address, start, newest, Date.now(), iteratedAtOnce),
          ({ bytes }) => readBytes(bytes).length,
        ),
      );
      for (const row of rows) yield [readText(row["key"]), readValue(row)];
      const last = rows.at(-1);
      if (last === undefined) return;
      start = successor(readBytes(last["key"]));
    }
  }

  /** Does nothing. The connection closes when the SqliteStore that opened it disconnects. */
  async disconnect(): Promise<void> {}

  /**
   * Writes `next` only if the stored value equals `expected`, and returns whether `next` was written. Text never equals
   * bytes. If `expected` is `undefined`, `next` is written only if there is no record.
   *
   * @param expires when the record expires, in milliseconds since the epoch; `null` for never. A time in the past removes
   * the record. Default: the record keeps its expiry, and a new record never expires.
   * @throws KeywardError `VALUE_INVALID` if a value is neither a well-formed string nor bytes, or `expires` is neither a
   * number nor `null`.
   */
  async replace(
    key: string,
    expected: StoredValue | undefined,
    next: StoredValue,
    expires?: number | null,
  ): Promise<boolean> {
    return this.#connection.write(this.#replacement({ key, expected, next, expires }));
  }

  /**
   * Makes several replacements like {@link SqliteSpace.replace}, in one transaction. Returns for each of the `changes`
   * whether its `next` was written.
   */
  async replaceMany(changes: readonly Replacement[]): Promise<boolean[]> {
    const replacements = changes.map((change) => this.#replacement(change));
    return this.#connection.write((prepare) => replacements.map((replace) => replace(prepare)));
  }

  /**
   * Returns a page of records of every namespace, ordered by namespace and key, and the cursor of the next page. The
   * last page has no cursor. A cursor stays valid while records change, and in every process that uses the file.
   *
   * @throws KeywardError `VALUE_INVALID` if `cursor` is not a cursor of a scan, or if `limit` is not an integer of at
   * least 1.
   */
  async scan(options: { readonly cursor?: string; readonly limit?: number } = {}): Promise<ScanPage> {
    const limit = requireLimit(options.limit);
    const start = readCursor(options.cursor);
    const rows = await this.#connection.read((prepare) =>
      prepare(statements.scan).all(this.#space, ...start, Date.now(), limit),
    );
    const last = rows.length === limit ? rows.at(-1) : undefined;
    return {
      ...(last === undefined ? {} : { cursor: writeCursor(readBytes(last["namespace"]), readBytes(last["key"])) }),
      entries: rows.map((row) => ({
        namespace: readText(row["namespace"]),
        key: readText(row["key"]),
        value: readValue(row),
      })),
    };
  }

  async #findMany(sql: string, keys: readonly string[]): Promise<Map<unknown, Row>> {
    const address = this.#namespaceColumns();
    const given = JSON.stringify(keys.map(requireKey));
    const rows = await this.#connection.read((prepare) => prepare(sql).all(given, ...address, Date.now()));
    return new Map(rows.map((row) => [row["position"], row]));
  }

  // Each of the following methods checks its arguments at once, and returns a function to run in a transaction. If the
  // file is locked, the connection runs that function again.

  #write(entry: KeyvStorageEntry<unknown>): (prepare: Prepare) => void {
    const { key } = entry;
    const address = this.#addressColumns(key);
    const stored = requireValue(key, entry.value);
    const until = requireEntryExpires(entry);
    return (prepare) => {
      if (until !== undefined && until <= Date.now()) prepare(statements.delete).get(...address, Date.now());
      else prepare(statements.set).run(...address, stored, until ?? null);
    };
  }

  #removal(key: string): (prepare: Prepare) => boolean {
    const address = this.#addressColumns(key);
    return (prepare) => prepare(statements.delete).get(...address, Date.now())?.["alive"] === 1;
  }

  #replacement({ key, expected, next, expires }: Replacement): (prepare: Prepare) => boolean {
    const address = this.#addressColumns(key);
    const stored = requireValue(key, next);
    const until = requireNewExpires(key, expires);
    if (expected === undefined) {
      return (prepare) => prepare(statements.insert).run(...address, stored, until ?? null, Date.now()).changes === 1;
    }
    const compared = requireValue(key, expected);
    if (until !== undefined) {
      return (prepare) =>
        prepare(statements.replaceUntil).run(stored, until, ...address, compared, Date.now()).changes === 1;
    }
    return (prepare) => prepare(statements.replace).run(stored, ...address, compared, Date.now()).changes === 1;
  }

  #namespaceColumns(): [Space, Uint8Array] {
    return [this.#space, Buffer.from(requireNamespace(this.namespace))];
  }

  #addressColumns(key: string): [Space, Uint8Array, Uint8Array] {
    return [...this.#namespaceColumns(), Buffer.from(requireKey(key))];
  }
}

/** Returns the next rows, and stops when the values of the returned rows together have {@link mostBytesAtOnce} bytes. */
function takeByBytes(rows: Iterable<NonNullable<Row>>, sizeOf: (row: NonNullable<Row>) => number): NonNullable<Row>[] {
  const taken: NonNullable<Row>[] = [];
  let bytes = 0;
  for (const row of rows) {
    taken.push(row);
    bytes += sizeOf(row);
    if (bytes >= mostBytesAtOnce) break;
  }
  return taken;
}

function readValue(row: NonNullable<Row>): StoredValue {
  const bytes = readBytes(row["bytes"]);
  return row["type"] === "text" ? readText(bytes) : bytes;
}

function readText(column: unknown): string {
  const { buffer, byteOffset, byteLength } = readBytes(column);
  return Buffer.from(buffer, byteOffset, byteLength).toString("utf8");
}

function readBytes(column: unknown): Uint8Array {
  if (column instanceof Uint8Array) return column;
  throw new KeywardError("STORE_INVALID", "A row of the SQLite file has a column of a type that Keyward never writes", {
    hint:
      "Find out which other program writes to the SQLite file, and stop that program. Keep a copy of the file, then restore " +
      "the file from a backup.",
  });
}

/** Returns the smallest byte string that sorts after `bytes`. */
function successor(bytes: Uint8Array): Uint8Array {
  return Buffer.concat([bytes, Buffer.alloc(1)]);
}

function writeCursor(namespace: Uint8Array, key: Uint8Array): string {
  return `${Buffer.from(namespace).toString("base64url")}.${Buffer.from(key).toString("base64url")}`;
}

/** Returns the smallest namespace and key that can be on the page after this cursor. Both are empty without a cursor. */
function readCursor(cursor: string | undefined): [namespace: Uint8Array, key: Uint8Array] {
  if (cursor === undefined) return [Buffer.alloc(0), Buffer.alloc(0)];
  const [, namespace, key] = /^([\w-]*)\.([\w-]*)$/.exec(cursor) ?? [];
  if (namespace === undefined || key === undefined) throw invalidCursor();
  return [Buffer.from(namespace, "base64url"), successor(Buffer.from(key, "base64url"))];
}
