import { setImmediate as nextTurn } from "node:timers/promises";
import {
  type AtomicStore,
  type BinaryStore,
  type BoundedStore,
  type DescribedStore,
  invalidCursor,
  KeywardError,
  type NamespacedStore,
  type OptionNames,
  type Replacement,
  type ReservedSpace,
  requireAmount,
  requireEntryExpires,
  requireKey,
  requireLimit,
  requireNamespace,
  requireOptions,
  requireValue,
  type ScannableStore,
  type ScanPage,
  type StoredValue,
} from "@keyward/core";
import { Hookified } from "hookified";
import { type KeyvStorageCapability, type KeyvStorageEntry, keyvStorageCapability } from "keyv";
import { Connection, type Prepare } from "./connection.ts";
import type { Synchronous } from "./database-file.ts";

/** Settings of a {@link SqliteStore}. */
export interface SqliteStoreOptions {
  /**
   * "full" (default): a write is acknowledged when it is on the disk, and survives a power loss. "normal": it survives a
   * crash of the process, but a power loss or a crash of the system can undo the last writes that were acknowledged.
   * The file stays consistent either way.
   */
  readonly synchronous?: Synchronous;
  /** How long a call waits for other processes that have the file locked, in ms up to 2^30; 5,000 unless given. */
  readonly busyTimeoutMs?: number;
  /** How often expired rows are removed, in ms up to 2^30; 60,000 unless given, 0 for never. They are absent for readers at once. */
  readonly sweepMs?: number;
}

/** Which of the two spaces of a file a row belongs to. */
const spaces = { records: 0, reserved: 1 } as const;
type Space = (typeof spaces)[keyof typeof spaces];

const iteratedAtOnce = 256;
const clearedAtOnce = 2_000;
/** Values of which a piece of work gets no more, in bytes: they are in memory, or overwritten, all at once. */
const mostBytesAtOnce = 2 * 2 ** 20;

const here = "space = ? AND namespace = ? AND key = ?";
const alive = "(expires IS NULL OR expires > ?)";
// Read as bytes and decoded here: node:sqlite of Node 22 cuts a TEXT at its first NUL.
const value = "typeof(entries.value) AS type, CAST(entries.value AS BLOB) AS bytes";

const statements = {
  get: `SELECT ${value} FROM entries WHERE ${here} AND ${alive}`,
  getMany: `SELECT given.key AS position, ${value} FROM json_each(?) AS given CROSS JOIN entries
    WHERE space = ? AND namespace = ? AND entries.key = CAST(given.value AS BLOB) AND ${alive}`,
  has: `SELECT 1 FROM entries WHERE ${here} AND ${alive}`,
  hasMany: `SELECT given.key AS position FROM json_each(?) AS given CROSS JOIN entries
    WHERE space = ? AND namespace = ? AND entries.key = CAST(given.value AS BLOB) AND ${alive}`,
  set: `INSERT INTO entries (space, namespace, key, value, expires) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (space, namespace, key) DO UPDATE SET value = excluded.value, expires = excluded.expires`,
  delete: `DELETE FROM entries WHERE ${here} RETURNING ${alive} AS alive`,
  some: `SELECT id, octet_length(value) AS size FROM entries
    WHERE space = ? AND namespace = ? AND id <= ? LIMIT ${clearedAtOnce}`,
  deleteRow: "DELETE FROM entries WHERE id = ?",
  replace: `UPDATE entries SET value = ? WHERE ${here} AND value = ? AND ${alive}`,
  insert: `INSERT INTO entries (space, namespace, key, value) VALUES (?, ?, ?, ?)
    ON CONFLICT (space, namespace, key) DO UPDATE SET value = excluded.value, expires = NULL WHERE expires <= ?`,
  newest: "SELECT max(id) AS id FROM entries",
  iterate: `SELECT key, ${value} FROM entries
    WHERE space = ? AND namespace = ? AND key >= ? AND id <= ? AND ${alive} ORDER BY key LIMIT ?`,
  scan: `SELECT namespace, key, ${value} FROM entries
    WHERE space = ? AND (namespace, key) >= (?, ?) AND ${alive} ORDER BY namespace, key LIMIT ?`,
} as const;

type Row = ReturnType<ReturnType<Prepare>["get"]>;

/**
 * One of the two spaces of a file: the whole Keyv storage contract, atomic replacement, and a scan over every namespace.
 * {@link SqliteStore} is the space of the records.
 *
 * Every method rejects with a KeywardError: `VALUE_INVALID` for keys and namespaces that are not well-formed strings,
 * `STORE_UNAVAILABLE` when the file stays locked, cannot be used, or is disconnected, `STORE_INVALID` when it is damaged
 * or its schema has something that this package did not make.
 */
export class SqliteSpace
  extends Hookified
  implements AtomicStore, ScannableStore, BinaryStore, BoundedStore, DescribedStore
{
  /** Bytes are kept as they are, as BLOB. */
  readonly values = "bytes";
  /** The namespace that every call but {@link SqliteSpace.scan} works in; `undefined` and "" are the same. */
  namespace: string | undefined;
  readonly #connection: Connection;
  readonly #space: Space;

  /** A {@link SqliteStore} makes its own. */
  constructor(connection: Connection, space: Space) {
    super();
    this.#connection = connection;
    this.#space = space;
  }

  /** For how many milliseconds a call goes on trying at most; `clear` and `iterator`, each of their steps. */
  get longestCallMs(): number {
    return this.#connection.longestCallMs;
  }

  /** What errors call it. */
  get description(): string {
    return `SqliteStore ${JSON.stringify(this.#connection.path)}`;
  }

  /** What Keyv may expect: all methods, and absolute `expires`. */
  get capabilities(): KeyvStorageCapability {
    return keyvStorageCapability(this);
  }

  /** The value under `key`, or `undefined`. */
  async get(key: string): Promise<StoredValue | undefined> {
    const place = this.#place(key);
    const row = await this.#connection.read((prepare) => prepare(statements.get).get(...place, Date.now()));
    return row === undefined ? undefined : readValue(row);
  }

  /** As {@link SqliteSpace.get} for each, in the same order, from one state of the file. */
  async getMany(keys: readonly string[]): Promise<(StoredValue | undefined)[]> {
    const found = await this.#findMany(statements.getMany, keys);
    return keys.map((_, position) => {
      const row = found.get(position);
      return row === undefined ? undefined : readValue(row);
    });
  }

  /**
   * Stores the value.
   *
   * @param expires when it stops being there, in ms since the epoch; a time that has passed leaves nothing under `key`. A
   * duration, as Keyv 5 passes it, counts from now: see `requireExpires`.
   * @throws KeywardError `VALUE_INVALID` for a value that is neither a well-formed string nor bytes, or an `expires`
   * that is not a number.
   */
  async set(key: string, value: unknown, expires?: number): Promise<boolean> {
    await this.#connection.write(this.#write({ key, value, ...(expires === undefined ? {} : { expires }) }));
    return true;
  }

  /** As {@link SqliteSpace.set} for each, in one transaction: all are stored, or, where it rejects, none. */
  async setMany(entries: readonly KeyvStorageEntry<unknown>[]): Promise<boolean[]> {
    const writes = entries.map((entry) => this.#write(entry));
    await this.#connection.write((prepare) => {
      for (const write of writes) write(prepare);
    });
    return writes.map(() => true);
  }

  /** Removes the record, and says whether there was one. */
  async delete(key: string): Promise<boolean> {
    return this.#connection.write(this.#removal(key));
  }

  /** As {@link SqliteSpace.delete} for each, in one transaction. */
  async deleteMany(keys: readonly string[]): Promise<boolean[]> {
    const removals = keys.map((key) => this.#removal(key));
    return this.#connection.write((prepare) => removals.map((remove) => remove(prepare)));
  }

  /** Whether there is a record under `key`. */
  async has(key: string): Promise<boolean> {
    const place = this.#place(key);
    return this.#connection.read((prepare) => prepare(statements.has).get(...place, Date.now()) !== undefined);
  }

  /** As {@link SqliteSpace.has} for each, in the same order, from one state of the file. */
  async hasMany(keys: readonly string[]): Promise<boolean[]> {
    const found = await this.#findMany(statements.hasMany, keys);
    return keys.map((_, position) => found.has(position));
  }

  /**
   * Removes every record that the own namespace has now, and of no other, in small transactions: where it rejects, some
   * may be removed.
   */
  async clear(): Promise<void> {
    const place = this.#namespacePlace();
    const newest = await this.#connection.read((prepare) => prepare(statements.newest).get()?.["id"] ?? 0);
    for (;;) {
      const removed = await this.#connection.write((prepare) => {
        const rows = upTo(prepare(statements.some).iterate(...place, newest), ({ size }) => Number(size));
        for (const row of rows) prepare(statements.deleteRow).run(row["id"] ?? 0);
        return rows.length;
      });
      if (removed === 0) return;
      await nextTurn();
    }
  }

  /** The records of the own namespace that are there when the iteration begins and when it comes to them, by key. */
  iterator(): AsyncGenerator<[string, StoredValue], void>;
  iterator<Value>(): AsyncGenerator<Array<string | Awaited<Value> | undefined>, void>;
  async *iterator(): AsyncGenerator<[string, StoredValue], void> {
    const place = this.#namespacePlace();
    // Rows that come later have higher ids: without this bound, a loop that writes what it reads might never end.
    const newest = await this.#connection.read((prepare) => prepare(statements.newest).get()?.["id"] ?? 0);
    let start: Uint8Array = Buffer.alloc(0);
    for (;;) {
      const rows = await this.#connection.read((prepare) =>
        upTo(
          prepare(statements.iterate).iterate(...place, start, newest, Date.now(), iteratedAtOnce),
          ({ bytes }) => readBytes(bytes).length,
        ),
      );
      for (const row of rows) yield [readText(row["key"]), readValue(row)];
      const last = rows.at(-1);
      if (last === undefined) return;
      start = successor(readBytes(last["key"]));
    }
  }

  /** Does nothing: the connection belongs to the store that opened it. */
  async disconnect(): Promise<void> {}

  /**
   * Writes `next` where the whole value, type included, is `expected`, and says whether it did. The expiry stays. With
   * `expected` undefined it writes where nothing lies, without an expiry.
   *
   * @throws KeywardError `VALUE_INVALID` for a value that is neither a well-formed string nor bytes.
   */
  async replace(key: string, expected: StoredValue | undefined, next: StoredValue): Promise<boolean> {
    return this.#connection.write(this.#replacement({ key, expected, next }));
  }

  /** As {@link SqliteSpace.replace} for each, in one transaction. */
  async replaceMany(changes: readonly Replacement[]): Promise<boolean[]> {
    const replacements = changes.map((change) => this.#replacement(change));
    return this.#connection.write((prepare) => replacements.map((replace) => replace(prepare)));
  }

  /**
   * A page of records of every namespace, by namespace and key. A cursor goes on after any change to the records, in
   * any process.
   *
   * @throws KeywardError `VALUE_INVALID` for a cursor that no scan returned, or a limit that is not a whole number from 1.
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
    const place = this.#namespacePlace();
    const given = JSON.stringify(keys.map(requireKey));
    const rows = await this.#connection.read((prepare) => prepare(sql).all(given, ...place, Date.now()));
    return new Map(rows.map((row) => [row["position"], row]));
  }

  // Each of the following checks at once, and returns what is to be done on the connection, perhaps more than once.

  #write(entry: KeyvStorageEntry<unknown>): (prepare: Prepare) => void {
    const { key } = entry;
    const place = this.#place(key);
    const stored = requireValue(key, entry.value);
    const until = requireEntryExpires(entry);
    return (prepare) => {
      if (until !== undefined && until <= Date.now()) prepare(statements.delete).get(...place, Date.now());
      else prepare(statements.set).run(...place, stored, until ?? null);
    };
  }

  #removal(key: string): (prepare: Prepare) => boolean {
    const place = this.#place(key);
    return (prepare) => prepare(statements.delete).get(...place, Date.now())?.["alive"] === 1;
  }

  #replacement({ key, expected, next }: Replacement): (prepare: Prepare) => boolean {
    const place = this.#place(key);
    const stored = requireValue(key, next);
    if (expected === undefined) {
      return (prepare) => prepare(statements.insert).run(...place, stored, Date.now()).changes === 1;
    }
    const compared = requireValue(key, expected);
    return (prepare) => prepare(statements.replace).run(stored, ...place, compared, Date.now()).changes === 1;
  }

  #namespacePlace(): [Space, Uint8Array] {
    return [this.#space, Buffer.from(requireNamespace(this.namespace))];
  }

  #place(key: string): [Space, Uint8Array, Uint8Array] {
    return [...this.#namespacePlace(), Buffer.from(requireKey(key))];
  }
}

/**
 * A durable store for Keyv and Keyward in one SQLite file, which several processes may use at once: it expires, replaces
 * atomically, can be scanned, keeps bytes as they are, and has a reserved space.
 *
 * A sweep in the background that fails is told by the event `sweep:error` of the store, and tried again.
 */
export class SqliteStore extends SqliteSpace implements ReservedSpace, NamespacedStore {
  readonly #connection: Connection;
  readonly #reserved: SqliteSpace;
  readonly #isView: boolean;

  /**
   * Opens a file, which is made, readable by its owner alone, where there is none.
   *
   * @param origin the path of the file; ":memory:" for a database that ends with this store; or another store, whose
   * connection this one is to share, and whose options then hold.
   * @throws KeywardError `STORE_INVALID` for a file that is damaged, belongs to another application or to a later
   * release, has a trigger or another thing in its schema that this package did not make, or was prepared by another user,
   * and is left as it was; `STORE_UNAVAILABLE` when it cannot be opened; `VALUE_INVALID` for an option that is unknown or
   * out of range, and for an origin that is neither a path nor a store.
   */
  constructor(origin: string | SqliteStore, options: SqliteStoreOptions = {}) {
    const { sweepMs, ...settings } = requireSettings(options);
    const connection =
      typeof origin === "string" ? new Connection({ path: origin, ...settings }) : requireStore(origin).#connection;
    super(connection, spaces.records);
    this.#connection = connection;
    this.#isView = typeof origin !== "string";
    if (typeof origin === "string") {
      this.#reserved = new SqliteSpace(connection, spaces.reserved);
      if (sweepMs > 0) connection.sweepEvery(sweepMs, (error) => this.#tellOfSweep(error));
    } else {
      this.#reserved = origin.#reserved;
    }
  }

  #tellOfSweep(error: unknown): void {
    try {
      this.emit("sweep:error", error);
    } catch {
      // No caller could catch what a listener throws here, and a sweep that failed is no reason to end the process.
      process.emitWarning('A listener of "sweep:error" threw', { type: "KeywardWarning", code: "KEYWARD_LISTENER" });
    }
  }

  /**
   * Closes the connection that the store shares with its views and its reserved space: they reject every later call. On a
   * view it does nothing.
   */
  override async disconnect(): Promise<void> {
    if (!this.#isView) this.#connection.close();
  }

  /** A place beside the records that no key, clear, iteration or scan of theirs reaches. The same for every view. */
  reserved(): SqliteSpace {
    return this.#reserved;
  }

  /** A view on one namespace, over the same connection; "" is the view on records without a namespace. */
  namespaced(namespace: string): SqliteStore {
    const view = new SqliteStore(this);
    view.namespace = namespace;
    return view;
  }

  /**
   * Removes expired rows now, instead of with the next sweep in the background, and says how many there were.
   *
   * @throws KeywardError `STORE_UNAVAILABLE` or `STORE_INVALID`.
   */
  async sweep(): Promise<number> {
    return this.#connection.sweep();
  }
}

const optionNames: OptionNames<SqliteStoreOptions> = { synchronous: true, busyTimeoutMs: true, sweepMs: true };

function requireSettings(options: SqliteStoreOptions): Required<SqliteStoreOptions> {
  const {
    synchronous = "full",
    busyTimeoutMs = 5_000,
    sweepMs = 60_000,
  } = requireOptions("SqliteStore", options, optionNames);
  if (synchronous !== "full" && synchronous !== "normal") {
    throw new KeywardError("VALUE_INVALID", 'synchronous is neither "full" nor "normal"', {
      hint: 'Leave it out for "full".',
    });
  }
  return {
    synchronous,
    busyTimeoutMs: requireAmount("busyTimeoutMs", busyTimeoutMs, "milliseconds", { least: 0 }),
    sweepMs: requireAmount("sweepMs", sweepMs, "milliseconds", { least: 0 }),
  };
}

function requireStore(origin: SqliteStore): SqliteStore {
  if (origin instanceof SqliteStore) return origin;
  throw new KeywardError("VALUE_INVALID", "The origin of a SqliteStore is neither a path nor another SqliteStore", {
    hint: 'Pass the path of a file, such as "records.db".',
  });
}

/** The first of the rows, one at least, until their values have so many bytes. */
function upTo(rows: Iterable<NonNullable<Row>>, sizeOf: (row: NonNullable<Row>) => number): NonNullable<Row>[] {
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
  throw new KeywardError("STORE_INVALID", "A row of the store holds what this package never wrote", {
    hint: "Check who else writes to the file, and restore it from a backup.",
  });
}

/** The least byte string that comes after the given one. */
function successor(bytes: Uint8Array): Uint8Array {
  return Buffer.concat([bytes, Buffer.alloc(1)]);
}

function writeCursor(namespace: Uint8Array, key: Uint8Array): string {
  return `${Buffer.from(namespace).toString("base64url")}.${Buffer.from(key).toString("base64url")}`;
}

/** Where a page begins: the place itself is the first that may be in it. */
function readCursor(cursor: string | undefined): [namespace: Uint8Array, key: Uint8Array] {
  if (cursor === undefined) return [Buffer.alloc(0), Buffer.alloc(0)];
  const [, namespace, key] = /^([\w-]*)\.([\w-]*)$/.exec(cursor) ?? [];
  if (namespace === undefined || key === undefined) throw invalidCursor();
  return [Buffer.from(namespace, "base64url"), successor(Buffer.from(key, "base64url"))];
}
