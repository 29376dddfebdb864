import {
  type AtomicStore,
  type BinaryStore,
  type BoundedStore,
  type DescribedStore,
  invalidCursor,
  KeywardError,
  type Replacement,
  type ReservedSpace,
  requireKey,
  requireLimit,
  type ScannableStore,
  type ScanPage,
  type StoredValue,
} from "@keyward/core";
import { Hookified } from "hookified";
import { type KeyvStorageCapability, type KeyvStorageEntry, keyvStorageCapability } from "keyv";
import type { ChainRemoval, NewEntryRow, RecordsPage } from "./audit-rows.ts";
import type { AuditThread } from "./audit-thread.ts";
import { auditNamespace, parseRecordKey, registryKey } from "./record-key.ts";
import { AuditReservedSpace } from "./reserved-space.ts";

/**
 * The columns that the table writes, or the removal that it makes, together with the encrypted records of one batch.
 */
export type PlannedWrite =
  | {
      readonly kind: "append";
      readonly entries: ReadonlyMap<string, Omit<NewEntryRow, "entry">>;
      /** The number of each chain by the key of its head. */
      readonly numbers: ReadonlyMap<string, number>;
    }
  | { readonly kind: "remove"; readonly removal: Omit<ChainRemoval, "removed"> };

/**
 * An audit file as a store that `EncryptedStore` can wrap, so that rotation, re-encryption, census and retirement
 * process the file like any other store. Its records are the entries, the names that entries refer to, and the heads of
 * the chains.
 *
 * Only the audit log adds entries, and only retention removes entries. So `set`, `delete` and `clear` reject for all
 * other callers.
 *
 * @example
 * const table = auditStore("audit.db");
 * console.log(table.namespace, (await census(table)).records); // keyward-audit 0
 * await table.disconnect();
 */
export class AuditTable
  extends Hookified
  implements AtomicStore, ScannableStore, BinaryStore, BoundedStore, DescribedStore, ReservedSpace
{
  /** Marks the store as one that keeps bytes unchanged. */
  readonly values = "bytes";
  /** Maximum duration of a call in milliseconds. */
  readonly longestCallMs: number;
  readonly #thread: AuditThread;
  readonly #planned = new Map<string, PlannedWrite>();

  /** Only the audit calls this constructor. To open a file, call {@link auditStore}. */
  constructor(thread: AuditThread, longestCallMs: number) {
    super();
    this.#thread = thread;
    this.longestCallMs = longestCallMs;
  }

  /** The name of the store in errors. */
  get description(): string {
    return `AuditTable ${JSON.stringify(this.#thread.path)}`;
  }

  /** The capabilities that Keyv reads. */
  get capabilities(): KeyvStorageCapability {
    return keyvStorageCapability(this);
  }

  /** The namespace of all records of the file: `keyward-audit`. It cannot be changed. */
  get namespace(): string {
    return auditNamespace;
  }

  set namespace(namespace: string | undefined) {
    if (namespace === auditNamespace) return;
    throw new KeywardError("NAMESPACE_CONFLICT", "An audit file has only the namespace keyward-audit", {
      hint: 'Use the namespace "keyward-audit", or another store for other records.',
    });
  }

  /** Returns the reserved space of the file, where Keyward keeps its own records. */
  reserved(): AuditReservedSpace {
    return new AuditReservedSpace(this.#thread);
  }

  /** Returns the stored value of a record; `undefined` if there is none. */
  async get(key: string): Promise<StoredValue | undefined> {
    return (await this.getMany([key]))[0];
  }

  /** Returns the stored values of records, in the order of `keys`. */
  async getMany(keys: readonly string[]): Promise<(StoredValue | undefined)[]> {
    return this.#thread.request<(StoredValue | undefined)[]>({ method: "read", keys: keys.map(requireKey) });
  }

  /** Returns whether there is a record. */
  async has(key: string): Promise<boolean> {
    return (await this.get(key)) !== undefined;
  }

  /** Returns for each key whether there is a record. */
  async hasMany(keys: readonly string[]): Promise<boolean[]> {
    return (await this.getMany(keys)).map((value) => value !== undefined);
  }

  /**
   * Runs `write`. During `write`, an `EncryptedStore` over this table may set the records of the planned write. Not
   * public.
   *
   * @param keys the keys of these records.
   */
  async whilePlanned<Result>(
    keys: readonly string[],
    planned: PlannedWrite,
    write: () => Promise<Result>,
  ): Promise<Result> {
    for (const key of keys) this.#planned.set(key, planned);
    try {
      return await write();
    } finally {
      for (const key of keys) this.#planned.delete(key);
    }
  }

  /**
   * Writes a record for the audit log. Rejects for all other callers.
   *
   * @throws KeywardError `STORE_INVALID` for a record that does not come from the audit log.
   */
  async set(key: string, value: unknown): Promise<boolean> {
    return (await this.setMany([{ key, value }]))[0] === true;
  }

  /**
   * Writes the records of one planned write, in one transaction. Resolves to `false` for every record if nothing was
   * written: the dictionary lacks a name, or another process has taken the number of a chain or removed entries of the
   * chain.
   *
   * @throws KeywardError `STORE_INVALID` for records that do not come from the audit log.
   */
  async setMany(entries: readonly KeyvStorageEntry<unknown>[]): Promise<boolean[]> {
    const first = entries[0];
    const planned = first === undefined ? undefined : this.#planned.get(first.key);
    if (planned === undefined || entries.some(({ key }) => this.#planned.get(key) !== planned)) throw onlyFromTheLog();
    const isWritten = await (planned.kind === "append"
      ? this.#append(planned, entries)
      : this.#remove(planned.removal, entries));
    return entries.map(() => isWritten);
  }

  /**
   * Rejects, because only retention removes entries.
   *
   * @throws KeywardError `STORE_INVALID`.
   */
  async delete(_key: string): Promise<boolean> {
    throw onlyFromTheLog();
  }

  /**
   * Rejects, because only retention removes entries.
   *
   * @throws KeywardError `STORE_INVALID`.
   */
  async deleteMany(_keys: readonly string[]): Promise<boolean[]> {
    throw onlyFromTheLog();
  }

  /**
   * Rejects, because only retention removes entries.
   *
   * @throws KeywardError `STORE_INVALID`.
   */
  async clear(): Promise<void> {
    throw onlyFromTheLog();
  }

  /** Yields the key and the stored value of each record. */
  iterator(): AsyncGenerator<[string, StoredValue], void>;
  iterator<Value>(): AsyncGenerator<Array<string | Awaited<Value> | undefined>, void>;
  async *iterator(): AsyncGenerator<[string, StoredValue], void> {
    let cursor: string | undefined;
    do {
      const page = await this.scan({ limit: 500, ...(cursor === undefined ? {} : { cursor }) });
      for (const { key, value } of page.entries) yield [key, value];
      cursor = page.cursor;
    } while (cursor !== undefined);
  }

  /** Writes `next` if the stored value equals `expected`. Returns whether `next` was written. */
  async replace(
    key: string,
    expected: StoredValue | undefined,
    next: StoredValue,
    expires?: number | null,
  ): Promise<boolean> {
    return (await this.replaceMany([{ key, expected, next, expires }]))[0] === true;
  }

  /** Makes replacements in one transaction, and returns for each whether it was made. */
  async replaceMany(changes: readonly Replacement[]): Promise<boolean[]> {
    return this.#thread.request<boolean[]>({
      method: "replace",
      changes: changes.map(({ key, expected, next, expires }) => {
        if (typeof expires === "number") throw onlyFromTheLog();
        return {
          key: requireKey(key),
          expected: expected === undefined ? undefined : requireBytes(expected),
          next: requireBytes(next),
        };
      }),
    });
  }

  /** Returns a page of records, ordered by table and row. A cursor stays valid in every process that uses the file. */
  async scan(options: { readonly cursor?: string; readonly limit?: number } = {}): Promise<ScanPage> {
    const { cursor } = options;
    if (cursor !== undefined && !/^[0-5]\.\d{1,15}$/.test(cursor)) throw invalidCursor();
    const page = await this.#thread.request<RecordsPage>({
      method: "scan",
      cursor,
      limit: requireLimit(options.limit),
    });
    return {
      ...(page.next === undefined ? {} : { cursor: page.next }),
      entries: page.records.map(({ key, value }) => ({ namespace: auditNamespace, key, value })),
    };
  }

  /** Closes the file, and ends the thread that reads and writes the file. */
  async disconnect(): Promise<void> {
    await this.#thread.close();
  }

  async #append(
    planned: Extract<PlannedWrite, { kind: "append" }>,
    records: readonly KeyvStorageEntry<unknown>[],
  ): Promise<boolean> {
    const names = [];
    const heads = [];
    const entries = [];
    let registry: Uint8Array | undefined;
    for (const { key: text, value } of records) {
      const bytes = requireBytes(value);
      const row = planned.entries.get(text);
      if (row !== undefined) {
        entries.push({ ...row, entry: bytes });
        continue;
      }
      const key = parseRecordKey(text);
      const number = planned.numbers.get(text);
      if (key?.kind === "name") names.push({ workspace: key.workspace, tag: key.tag, name: bytes });
      else if (text === registryKey) registry = bytes;
      else if (key?.kind === "head" && number !== undefined) {
        heads.push({ workspace: key.workspace, chain: key.chain, number, head: bytes });
      } else throw onlyFromTheLog();
    }
    const batch = { names, heads, entries, registry };
    const missing = await this.#thread.request<string[]>({ method: "append", batch });
    return missing.length === 0;
  }

  async #remove(
    removal: Omit<ChainRemoval, "removed">,
    [record]: readonly KeyvStorageEntry<unknown>[],
  ): Promise<boolean> {
    const removed = requireBytes(record?.value);
    return (await this.#thread.request<number>({ method: "remove", removal: { ...removal, removed } })) > 0;
  }
}

function requireBytes(value: unknown): Uint8Array {
  if (value instanceof Uint8Array) return value;
  throw new KeywardError("VALUE_INVALID", "An audit file keeps only encrypted records, which are bytes", {
    hint: "Use a keyring with a key. The audit is never stored in plaintext.",
  });
}

function onlyFromTheLog(): KeywardError {
  return new KeywardError(
    "STORE_INVALID",
    "Only the audit log can write to an audit file, and no operation of the store can change or delete an entry",
    {
      hint: "To add an entry, record the change or the call with the audit log. To remove old entries, call `removeBefore` of the audit log.",
    },
  );
}
