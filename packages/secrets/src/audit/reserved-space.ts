import {
  type AtomicStore,
  type BinaryStore,
  invalidCursor,
  type Replacement,
  requireEntryExpires,
  requireExpires,
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
import type { AuditThread } from "./audit-thread.ts";

/**
 * The reserved space of an audit file: a small table of Keyward's own records, such as the check record and the heartbeats
 * of replicas.
 */
export class AuditReservedSpace extends Hookified implements AtomicStore, ScannableStore, BinaryStore {
  readonly values = "bytes";
  namespace: string | undefined;
  readonly #thread: AuditThread;

  constructor(thread: AuditThread) {
    super();
    this.#thread = thread;
  }

  get capabilities(): KeyvStorageCapability {
    return keyvStorageCapability(this);
  }

  async get(key: string): Promise<StoredValue | undefined> {
    return (await this.getMany([key]))[0];
  }

  async getMany(keys: readonly string[]): Promise<(StoredValue | undefined)[]> {
    const values = await this.#thread.request<(Uint8Array | undefined)[]>({
      method: "reservedRead",
      keys: keys.map((key) => this.#place(key)),
    });
    return values.map((value) => (value === undefined ? undefined : decode(value)));
  }

  async has(key: string): Promise<boolean> {
    return (await this.get(key)) !== undefined;
  }

  async hasMany(keys: readonly string[]): Promise<boolean[]> {
    return (await this.getMany(keys)).map((value) => value !== undefined);
  }

  async set(key: string, value: unknown, expires?: number): Promise<boolean> {
    const record = { key: this.#place(key), value: encode(key, value), expires: requireExpires(key, expires) ?? null };
    await this.#thread.request<void>({ method: "reservedWrite", records: [record] });
    return true;
  }

  async setMany(entries: readonly KeyvStorageEntry<unknown>[]): Promise<boolean[]> {
    const records = entries.map((entry) => ({
      key: this.#place(entry.key),
      value: encode(entry.key, entry.value),
      expires: requireEntryExpires(entry) ?? null,
    }));
    await this.#thread.request<void>({ method: "reservedWrite", records });
    return entries.map(() => true);
  }

  async delete(key: string): Promise<boolean> {
    return (await this.deleteMany([key]))[0] === true;
  }

  async deleteMany(keys: readonly string[]): Promise<boolean[]> {
    return this.#thread.request<boolean[]>({ method: "reservedDelete", keys: keys.map((key) => this.#place(key)) });
  }

  async clear(): Promise<void> {
    const namespace = requireNamespace(this.namespace);
    for await (const page of this.#pages()) {
      const keys = page.filter((record) => record.namespace === namespace).map(({ place }) => place);
      if (keys.length > 0) await this.#thread.request<boolean[]>({ method: "reservedDelete", keys });
    }
  }

  iterator(): AsyncGenerator<[string, StoredValue], void>;
  iterator<Value>(): AsyncGenerator<Array<string | Awaited<Value> | undefined>, void>;
  async *iterator(): AsyncGenerator<[string, StoredValue], void> {
    const namespace = requireNamespace(this.namespace);
    for await (const page of this.#pages()) {
      for (const record of page) if (record.namespace === namespace) yield [record.key, record.value];
    }
  }

  async replace(
    key: string,
    expected: StoredValue | undefined,
    next: StoredValue,
    expires?: number | null,
  ): Promise<boolean> {
    return (await this.replaceMany([{ key, expected, next, expires }]))[0] === true;
  }

  async replaceMany(changes: readonly Replacement[]): Promise<boolean[]> {
    return this.#thread.request<boolean[]>({
      method: "reservedReplace",
      changes: changes.map(({ key, expected, next, expires }) => ({
        key: this.#place(key),
        expected: expected === undefined ? undefined : encode(key, expected),
        next: encode(key, next),
        expires: requireNewExpires(key, expires),
      })),
    });
  }

  async scan(options: { readonly cursor?: string; readonly limit?: number } = {}): Promise<ScanPage> {
    const limit = requireLimit(options.limit);
    if (options.cursor !== undefined) parsePlace(options.cursor);
    const records = await this.#page(options.cursor, limit);
    const last = records.length === limit ? records.at(-1) : undefined;
    return {
      ...(last === undefined ? {} : { cursor: last.place }),
      entries: records.map(({ namespace, key, value }) => ({ namespace, key, value })),
    };
  }

  async *#pages(): AsyncGenerator<ReservedRecord[], void> {
    const limit = 500;
    let after: string | undefined;
    for (;;) {
      const page = await this.#page(after, limit);
      yield page;
      const last = page.at(-1);
      if (last === undefined || page.length < limit) return;
      after = last.place;
    }
  }

  async #page(after: string | undefined, limit: number): Promise<ReservedRecord[]> {
    const rows = await this.#thread.request<{ readonly key: string; readonly value: Uint8Array }[]>({
      method: "reservedScan",
      after,
      limit,
    });
    return rows.map((row) => ({ place: row.key, ...parsePlace(row.key), value: decode(row.value) }));
  }

  /** Returns the key of the row of a record: its namespace and its key. */
  #place(key: string): string {
    return JSON.stringify([requireNamespace(this.namespace), requireKey(key)]);
  }
}

interface ReservedRecord {
  readonly place: string;
  readonly namespace: string;
  readonly key: string;
  readonly value: StoredValue;
}

function parsePlace(place: string): { readonly namespace: string; readonly key: string } {
  let parts: unknown;
  try {
    parts = JSON.parse(place);
  } catch {
    throw invalidCursor();
  }
  if (!Array.isArray(parts)) throw invalidCursor();
  const [namespace, key]: unknown[] = parts;
  if (typeof namespace !== "string" || typeof key !== "string") throw invalidCursor();
  return { namespace, key };
}

// The first byte of a stored value says whether the value is text.
const textMark = 1;

function encode(key: string, given: unknown): Uint8Array {
  const value = requireValue(key, given);
  const bytes = Buffer.from(value);
  return Buffer.concat([Buffer.of(typeof value === "string" ? textMark : 0), bytes]);
}

function decode(stored: Uint8Array): StoredValue {
  const bytes = stored.subarray(1);
  return stored[0] === textMark ? Buffer.from(bytes).toString() : Uint8Array.from(bytes);
}
