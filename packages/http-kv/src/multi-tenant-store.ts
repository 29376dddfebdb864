import { randomBytes } from "node:crypto";
import { setImmediate } from "node:timers/promises";
import { isNamespaced, isScannable, KeywardError, type ScannedRecord, type ScanPage } from "@keyward/core";
import type { KeyvStorageAdapter } from "keyv";
import type { KvLimits } from "./limits.ts";
import type { RequestMemory } from "./memory-budget.ts";
import { NamespaceRecords } from "./namespace-records.ts";
import { Refusal, type Space } from "./protocol.ts";
import { ReadSize } from "./read-size.ts";
import { cursorKeyBytes, ScanCursors } from "./scan-cursors.ts";
import { unpackRecord } from "./stored-record.ts";
import { storagePrefix, type TenantNamespace } from "./tenant-namespace.ts";

/**
 * Prefix of the server's own records. The prefix contains no slash, unlike the storage prefix of every tenant
 * namespace.
 */
const serverNamespace = "keyward-kv";
/** How long one request may scan, in milliseconds. */
const longestScanMs = 100;

/**
 * Divides the server's store among tenant namespaces. A tenant namespace is one namespace of one tenant. An API key gives
 * access to one tenant namespace.
 */
export class MultiTenantStore {
  readonly #store: KeyvStorageAdapter;
  #cursors: Promise<ScanCursors> | undefined;

  /**
   * Checks the server's store, without calling the store.
   *
   * @throws KeywardError `STORE_INVALID` if the property `capabilities.expires` of the store is not true. In a Keyv 6
   * storage adapter, this property is true.
   */
  constructor(store: KeyvStorageAdapter) {
    if (store.capabilities?.expires !== true) {
      throw new KeywardError("STORE_INVALID", "The store of the HTTP KV server is not a Keyv 6 storage adapter", {
        hint: "If the store is a Map, wrap it in KeyvMemoryAdapter. If it is an adapter for Keyv 5, wrap it in KeyvBridgeAdapter. Both are exports of keyv.",
      });
    }
    this.#store = store;
  }

  /** Resolves if the store can be reached. Otherwise, rejects with the store's error. */
  async reach(): Promise<void> {
    await this.#recordsUnder(serverNamespace).hasMany(["health"]);
  }

  /** Returns the records of one namespace within a tenant namespace. `namespace` is the name that a client chose. */
  records(tenantNamespace: TenantNamespace, space: Space, namespace: string): NamespaceRecords {
    return this.#recordsUnder(`${storagePrefix(tenantNamespace, space)}${namespace}`);
  }

  /**
   * Returns a page of a scan over all namespaces that clients use within a tenant namespace. The page has at most
   * `limit` records. The page has fewer records, perhaps none, if `maxAnswerBytes`, the maximum duration of a scan or
   * the memory limit is reached first.
   *
   * The scan also reads the records of other tenants and skips them. The returned cursor is encrypted, since the
   * store's cursor may contain the key of another tenant's record. Because the server needs time to read the records of
   * other tenants, a page may end earlier. These records do not affect the page in any other way.
   *
   * @throws Refusal `NOT_SCANNABLE` if the store cannot be scanned; `REQUEST_INVALID` for a cursor of another tenant
   * namespace or space; `OVERLOADED` if the free part of `maxBytesInMemory` is too little for the first records.
   */
  async scan(
    tenantNamespace: TenantNamespace,
    space: Space,
    {
      cursor,
      limit,
      limits,
      memory,
    }: { cursor: string | undefined; limit: number; limits: KvLimits; memory: RequestMemory },
  ): Promise<ScanPage> {
    const store = this.#store;
    if (!isScannable(store)) throw new Refusal("NOT_SCANNABLE", "The server's store cannot be scanned");
    const prefix = storagePrefix(tenantNamespace, space);
    const cursors = await this.#scanCursors();
    const endMs = performance.now() + longestScanMs;
    const size = new ReadSize(limits, memory);
    const entries: ScannedRecord[] = [];
    let [bytes, advanced] = [0, false];
    let at = cursor === undefined ? undefined : cursors.decrypt(prefix, cursor);
    const read = (count: number) => store.scan({ limit: count, ...(at === undefined ? {} : { cursor: at }) });
    const ended = (): ScanPage => (at === undefined ? { entries } : { cursor: cursors.encrypt(prefix, at), entries });
    for (;;) {
      const left = bytes < limits.maxAnswerBytes ? limit - entries.length : 0;
      const ahead = await size.reading(read);
      const end = this.#endOf(ahead, prefix, left, limits.maxAnswerBytes - bytes);
      if (end !== undefined && left === 0) return ended();
      // Only the store can make a cursor for the middle of a page, so a shorter page is read again.
      const page = end === undefined ? ahead : await read(end);
      const own = page.entries.flatMap((found) => this.#recordUnder(prefix, found) ?? []);
      const ownBytes = own.reduce((sum, { value }) => sum + value.length, 0);
      if (!advanced) memory.reserve(ownBytes);
      else if (!memory.tryReserve(ownBytes)) return ended();
      entries.push(...own);
      bytes += ownBytes;
      at = page.cursor;
      advanced = true;
      if (at === undefined || end !== undefined || performance.now() >= endMs) return ended();
      size.adapt(page.entries.reduce((sum, { value }) => sum + value.length, 0));
      await setImmediate();
    }
  }

  /**
   * Returns the index of the first record under the prefix that no longer fits into a page of `limit` records and about
   * `maxBytes` bytes. Returns `undefined` if all records fit.
   */
  #endOf({ entries }: ScanPage, prefix: string, limit: number, maxBytes: number): number | undefined {
    let [records, bytes] = [0, 0];
    for (const [index, found] of entries.entries()) {
      const record = this.#recordUnder(prefix, found);
      if (record === undefined) continue;
      if (records === limit || bytes >= maxBytes) return index;
      records++;
      bytes += record.value.length;
    }
    return undefined;
  }

  #recordsUnder(prefix: string): NamespaceRecords {
    const store = this.#store;
    // A store with views on namespaces separates them itself. In any other store, the prefix is a part of the key.
    return isNamespaced(store)
      ? new NamespaceRecords(store.namespaced(prefix), "")
      : new NamespaceRecords(store, `${prefix.length}:${prefix}`);
  }

  /**
   * Returns a scanned record with the key and namespace that the client uses for it. Returns `undefined` if the record
   * is not stored under the prefix.
   */
  #recordUnder(prefix: string, { namespace, key, value }: ScannedRecord): ScannedRecord | undefined {
    const found = isNamespaced(this.#store) ? { prefix: namespace, key } : splitKey(key);
    if (found === undefined || !found.prefix.startsWith(prefix)) return undefined;
    return {
      namespace: found.prefix.slice(prefix.length),
      key: found.key,
      value: unpackRecord(this.#store, value).value,
    };
  }

  #scanCursors(): Promise<ScanCursors> {
    this.#cursors ??= this.#findCursorKey().then(
      (key) => new ScanCursors(key),
      (error: unknown) => {
        this.#cursors = undefined;
        throw error;
      },
    );
    return this.#cursors;
  }

  /**
   * Returns the key that encrypts cursors. The server makes the key once and keeps it in the store, so cursors stay valid
   * after a restart.
   */
  async #findCursorKey(): Promise<Uint8Array> {
    const own = this.#recordsUnder(serverNamespace);
    const made = randomBytes(cursorKeyBytes);
    const [known] = await own.getMany(["cursor key"]);
    if (known === undefined) {
      // If several servers start at once, only one of them stores its key.
      if (own.atomic) {
        await own.replaceMany([{ key: "cursor key", expected: undefined, next: own.successorOf(undefined, made) }]);
      } else await own.setMany([{ key: "cursor key", value: made }]);
    }
    const kept = known ?? (await own.getMany(["cursor key"]))[0];
    if (kept instanceof Uint8Array && kept.length === cursorKeyBytes) return kept;
    throw new KeywardError(
      "STORE_INVALID",
      "The store of the HTTP KV server lost or changed the encryption key for scan cursors",
      {
        hint: "Check that the store keeps bytes unchanged, and that no other program writes to the store.",
      },
    );
  }
}

/**
 * Splits a stored key of the form "<length of the prefix>:<prefix><key>", which the server uses if the store does not
 * separate namespaces itself.
 */
function splitKey(stored: string): { readonly prefix: string; readonly key: string } | undefined {
  const [start, digits] = /^(\d+):/.exec(stored) ?? [];
  if (start === undefined) return undefined;
  const end = start.length + Number(digits);
  return { prefix: stored.slice(start.length, end), key: stored.slice(end) };
}
