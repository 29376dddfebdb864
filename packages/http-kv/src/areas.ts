import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";
import { setImmediate } from "node:timers/promises";
import type { ScannedRecord, ScanPage, StoredValue } from "@keyward/core";
import { type AtomicStore, isAtomic, isNamespaced, isScannable, KeywardError } from "@keyward/core";
import type { KeyvStorageAdapter } from "keyv";
import type { HeldBytes } from "./bytes-under-way.ts";
import { turnBytes } from "./exchange.ts";
import type { KvLimits } from "./limits.ts";
import { field, invalid, Refusal, type Space } from "./protocol.ts";
import { ReadSize } from "./read-size.ts";
import { packRecord, type StoredRecord, unpackRecord } from "./stored-record.ts";
import { tagInTurns } from "./values.ts";

/** A replacement of a record that was read; `undefined`: nothing may be there. */
export interface RecordReplacement {
  readonly key: string;
  readonly expected: StoredRecord | undefined;
  readonly next: StoredValue;
}

/** What an API key opens: a part of the store that nothing else reaches. */
export interface Area {
  readonly tenant: string;
  readonly namespace: string;
}

/** One record to set. */
export interface Entry {
  readonly key: string;
  readonly value: StoredValue;
  readonly expires?: number;
}

/** A replacement of a value that is known by its entity tag; `undefined`: nothing may lie there. */
export interface TaggedReplacement {
  readonly key: string;
  readonly expected: string | undefined;
  readonly next: StoredValue;
}

/** A page of a scan over one area. */
export interface AreaPage {
  readonly cursor?: string;
  readonly entries: readonly ScannedRecord[];
}

/** A replacement as the store gets it. */
interface PackedReplacement {
  readonly key: string;
  readonly expected: StoredRecord | undefined;
  readonly next: StoredRecord;
}

/** How often a replacement is tried again when others write in between. */
const mostAttempts = 16;

/** What lies beside all areas, whose names have slashes in them. */
const ownNamespace = "keyward-kv";
const deletedAtOnce = 500;
/** How long one request scans, and how long one goes on without letting others have their turn, in ms. */
const longestScanMs = 100;
const longestTurnMs = 10;
/** A time in 2001, in ms since the epoch: it has passed, as have those before it. */
const earliestTime = 10 ** 12 + 1;
const cursorPadding = 256;
const nonceBytes = 12;
const tagBytes = 16;

/** Divides one store among areas. */
export class DividedStore {
  readonly #store: KeyvStorageAdapter;
  #cursorKey: Promise<Uint8Array> | undefined;

  /**
   * @throws KeywardError `STORE_INVALID` for a store that takes no absolute expiries.
   */
  constructor(store: KeyvStorageAdapter) {
    if (store.capabilities?.expires !== true) {
      throw new KeywardError("STORE_INVALID", "The store is not a Keyv 6 storage adapter", {
        hint: "Wrap a Map in KeyvMemoryAdapter and an adapter for Keyv 5 in KeyvBridgeAdapter, both of keyv.",
      });
    }
    this.#store = store;
  }

  /** Resolves if the store answers, and rejects as it does. */
  async reach(): Promise<void> {
    await this.#part(ownNamespace).hasMany(["health"]);
  }

  /** The records of one namespace that the user of an area chose. */
  part(area: Area, space: Space, namespace: string): Part {
    return this.#part(`${placeOf(area, space)}${namespace}`);
  }

  /**
   * A page of `limit` records of all namespaces of an area; fewer where their bytes, the time or a lack of room end it, and
   * then perhaps none. It reads over the records of others. Where the scan stands in the whole store is sealed, and where
   * a page ends does not depend on what others store, unless it was the time that ended it.
   *
   * @throws Refusal `NOT_SCANNABLE`; `REQUEST_INVALID` for a cursor of another area; `OVERLOADED`.
   */
  async scan(
    area: Area,
    space: Space,
    { cursor, limit, limits, held }: { cursor: string | undefined; limit: number; limits: KvLimits; held: HeldBytes },
  ): Promise<AreaPage> {
    const store = this.#store;
    if (!isScannable(store)) throw new Refusal("NOT_SCANNABLE", "The server's store cannot be scanned");
    const place = placeOf(area, space);
    const key = await this.#keyOfCursors();
    const endMs = performance.now() + longestScanMs;
    const size = new ReadSize(limits, held);
    const entries: ScannedRecord[] = [];
    let [bytes, advanced] = [0, false];
    let at = cursor === undefined ? undefined : openCursor(key, place, cursor);
    const read = (most: number) => store.scan({ limit: most, ...(at === undefined ? {} : { cursor: at }) });
    const ended = (): AreaPage => (at === undefined ? { entries } : { cursor: sealCursor(key, place, at), entries });
    for (;;) {
      const left = bytes < limits.maxAnswerBytes ? limit - entries.length : 0;
      const ahead = await size.reading(read);
      const end = this.#endOf(ahead, place, left, limits.maxAnswerBytes - bytes);
      if (end !== undefined && left === 0) return ended();
      // Only the store itself can say where it stands in the middle of a page.
      const page = end === undefined ? ahead : await read(end);
      const own = page.entries.flatMap((found) => this.#recordIn(place, found) ?? []);
      const ownBytes = own.reduce((sum, { value }) => sum + value.length, 0);
      if (!advanced) held.add(ownBytes);
      else if (!held.fits(ownBytes)) return ended();
      entries.push(...own);
      bytes += ownBytes;
      at = page.cursor;
      advanced = true;
      if (at === undefined || end !== undefined || performance.now() >= endMs) return ended();
      size.learn(page.entries.reduce((sum, { value }) => sum + value.length, 0));
      await setImmediate();
    }
  }

  /** Where in a page the first own record comes that is one too many; `undefined` where there is none. */
  #endOf({ entries }: ScanPage, place: string, limit: number, maxBytes: number): number | undefined {
    let [records, bytes] = [0, 0];
    for (const [index, found] of entries.entries()) {
      const record = this.#recordIn(place, found);
      if (record === undefined) continue;
      if (records === limit || bytes >= maxBytes) return index;
      records++;
      bytes += record.value.length;
    }
    return undefined;
  }

  #part(place: string): Part {
    const store = this.#store;
    // A store that hands out views keeps them apart itself; in any other, the place is a part of the key.
    return isNamespaced(store) ? new Part(store.namespaced(place), "") : new Part(store, `${place.length}:${place}`);
  }

  #recordIn(place: string, { namespace, key, value }: ScannedRecord): ScannedRecord | undefined {
    const found = isNamespaced(this.#store) ? { at: namespace, key } : splitKey(key);
    if (found === undefined || !found.at.startsWith(place)) return undefined;
    return { namespace: found.at.slice(place.length), key: found.key, value: unpackRecord(this.#store, value).value };
  }

  /** Made once for each store and kept in it, so that a cursor outlives the server. */
  #keyOfCursors(): Promise<Uint8Array> {
    this.#cursorKey ??= this.#findCursorKey().catch((error: unknown) => {
      this.#cursorKey = undefined;
      throw error;
    });
    return this.#cursorKey;
  }

  async #findCursorKey(): Promise<Uint8Array> {
    const own = this.#part(ownNamespace);
    const made = randomBytes(32);
    const [known] = await own.getMany(["cursor key"]);
    if (known === undefined) {
      // Of several servers that start at once, one makes it.
      if (own.atomic) await own.replaceMany([{ key: "cursor key", expected: undefined, next: made }]);
      else await own.setMany([{ key: "cursor key", value: made }]);
    }
    const kept = known ?? (await own.getMany(["cursor key"]))[0];
    if (kept instanceof Uint8Array && kept.length === made.length) return kept;
    throw new KeywardError("STORE_INVALID", "The store does not keep what the server needs for its cursors", {
      hint: "Check whether the store keeps bytes, and who else writes to it.",
    });
  }
}

/** The records of one namespace, in whatever store they lie. */
export class Part {
  readonly #store: KeyvStorageAdapter;
  readonly #prefix: string;

  constructor(store: KeyvStorageAdapter, prefix: string) {
    this.#store = store;
    this.#prefix = prefix;
  }

  /** Whether values can be replaced only while they are what was read. */
  get atomic(): boolean {
    return isAtomic(this.#store);
  }

  async getMany(keys: readonly string[]): Promise<(StoredValue | undefined)[]> {
    return (await this.getRecords(keys)).map((record) => record?.value);
  }

  /** As {@link Part.getMany}, with what the server keeps beside each value. */
  async getRecords(keys: readonly string[]): Promise<(StoredRecord | undefined)[]> {
    if (keys.length === 0) return [];
    const found: readonly unknown[] = await this.#store.getMany(keys.map(this.#inStore));
    return keys.map((_, index) => toRecord(this.#store, found[index]));
  }

  async hasMany(keys: readonly string[]): Promise<boolean[]> {
    return keys.length === 0 ? [] : await this.#store.hasMany(keys.map(this.#inStore));
  }

  /** Stores them in batches that keep no other request waiting for long. */
  async setMany(entries: readonly Entry[]): Promise<boolean[]> {
    const results: boolean[] = [];
    for (let start = 0; start < entries.length; ) {
      if (start > 0) await setImmediate();
      let [end, bytes] = [start, 0];
      while (end < entries.length && (end === start || bytes < turnBytes)) bytes += entries[end++]?.value.length ?? 0;
      const batch = entries.slice(start, end);
      const stored = await this.#store.setMany(
        batch.map(({ key, value, expires }) => ({
          key: this.#inStore(key),
          value: packRecord(this.#store, { value, modified: Date.now(), expires }),
          // Below, a store takes it for a duration, as Keyv 5 passes them; the protocol has times alone.
          ...(expires === undefined ? {} : { expires: Math.max(expires, earliestTime) }),
        })),
      );
      results.push(...(stored ?? batch.map(() => true)));
      start = end;
    }
    return results;
  }

  async deleteMany(keys: readonly string[]): Promise<boolean[]> {
    return keys.length === 0 ? [] : await this.#store.deleteMany(keys.map(this.#inStore));
  }

  /** Every key, as the store's own iterator comes to it. */
  async *keys(): AsyncGenerator<string> {
    const entries = this.#store.iterator?.();
    if (entries === undefined) throw new Refusal("NOT_SCANNABLE", "The server's store cannot be listed");
    let turnEndsMs = performance.now() + longestTurnMs;
    for await (const [key] of entries) {
      if (performance.now() >= turnEndsMs) {
        await setImmediate();
        turnEndsMs = performance.now() + longestTurnMs;
      }
      if (typeof key === "string" && key.startsWith(this.#prefix)) yield key.slice(this.#prefix.length);
    }
  }

  async clear(): Promise<void> {
    if (this.#prefix === "") await this.#store.clear();
    else await this.deleteAll(() => true);
  }

  /** Deletes all keys of which this is so. */
  async deleteAll(chosen: (key: string) => boolean): Promise<void> {
    let batch: string[] = [];
    for await (const key of this.keys()) {
      if (!chosen(key)) continue;
      batch.push(key);
      if (batch.length < deletedAtOnce) continue;
      await this.deleteMany(batch);
      batch = [];
    }
    await this.deleteMany(batch);
  }

  /**
   * Replaces each value whose tag is the expected one, one after the other. To compare, it reads what is there: it ends
   * early, not before the first, where that is more than an answer may have or than there is room for.
   *
   * @throws Refusal `NOT_ATOMIC`; `OVERLOADED` before anything was replaced.
   */
  async replaceTagged(
    changes: readonly TaggedReplacement[],
    { limits, held }: { readonly limits: KvLimits; readonly held: HeldBytes },
  ): Promise<boolean[]> {
    this.#requireAtomic();
    const size = new ReadSize(limits, held);
    const results: boolean[] = [];
    let bytes = 0;
    while (results.length < changes.length && bytes < limits.maxAnswerBytes) {
      const { batch, keys, found } = await size.reading(async (records) => {
        const batch = changes.slice(results.length, results.length + records);
        const keys = [...new Set(batch.map(({ key }) => key))];
        return { batch, keys, found: await this.getRecords(keys) };
      });
      const foundBytes = found.reduce((sum, record) => sum + (record?.value.length ?? 0), 0);
      if (results.length === 0) held.add(foundBytes);
      else if (!held.fits(foundBytes)) break;
      results.push(...(await this.#replaceBatch(batch, new Map(keys.map((key, index) => [key, found[index]])), held)));
      bytes += foundBytes;
      size.learn(foundBytes);
    }
    return results;
  }

  async #replaceBatch(
    changes: readonly TaggedReplacement[],
    current: Map<string, StoredRecord | undefined>,
    held: HeldBytes,
  ): Promise<boolean[]> {
    const done = changes.map(() => false);
    let open = [...changes.keys()];
    for (let attempt = 1; open.length > 0; attempt++) {
      const refused = await this.#replaceOnce(changes, open, current, done);
      if (attempt === mostAttempts) break;
      // Somebody wrote in between, but perhaps the value that was there, or another expiry: that is no reason to refuse.
      // What comes after it for the same key is looked at again as well.
      const again = new Set<string>();
      open = open.filter((index) => {
        const key = changes[index]?.key ?? "";
        if (refused.has(index)) again.add(key);
        return done[index] === false && again.has(key);
      });
      for (const key of again) {
        const [record] = await this.getRecords([key]);
        if (!held.fits(record?.value.length ?? 0)) return done;
        current.set(key, record);
      }
    }
    return done;
  }

  /** Does what can be done now of the changes at these positions, and returns the positions that the store refused. */
  async #replaceOnce(
    changes: readonly TaggedReplacement[],
    open: readonly number[],
    current: Map<string, StoredRecord | undefined>,
    done: boolean[],
  ): Promise<ReadonlySet<number>> {
    // A value that does not have the tag now was not the expected one at this moment: the refusal is right. What has it
    // is compared once more, whole, by the store, in the same step in which it writes.
    const tags = new Map<string, string | undefined>();
    const possible: (PackedReplacement & { readonly index: number })[] = [];
    for (const index of open) {
      const change = changes[index];
      if (change === undefined) continue;
      const { key, expected, next } = change;
      const there = current.get(key);
      if (!tags.has(key)) tags.set(key, there === undefined ? undefined : await tagInTurns(there.value));
      if (tags.get(key) !== expected) continue;
      const successor = this.#successor(there, next);
      possible.push({ index, key, expected: there, next: successor });
      current.set(key, successor);
      tags.set(key, await tagInTurns(next));
    }
    const replaced = await this.#replacePacked(possible);
    const refused = new Set<number>();
    for (const [at, { index }] of possible.entries()) {
      if (replaced[at] === true) done[index] = true;
      else refused.add(index);
    }
    return refused;
  }

  /** What a replacement leaves: a record that ends when the one before it ends. */
  #successor(expected: StoredRecord | undefined, next: StoredValue): StoredRecord {
    const record = { value: next, modified: Date.now(), expires: expected?.expires };
    return { ...record, stored: packRecord(this.#store, record) };
  }

  /**
   * Replaces records that are still what was read.
   *
   * @throws Refusal `NOT_ATOMIC`.
   */
  async replaceMany(changes: readonly RecordReplacement[]): Promise<boolean[]> {
    return await this.#replacePacked(
      changes.map(({ key, expected, next }) => ({ key, expected, next: this.#successor(expected, next) })),
    );
  }

  async #replacePacked(changes: readonly PackedReplacement[]): Promise<boolean[]> {
    const store = this.#requireAtomic();
    const stored = changes.map(({ key, expected, next }) => ({
      key: this.#inStore(key),
      expected: expected?.stored,
      next: next.stored,
    }));
    if (stored.length === 0) return [];
    if (store.replaceMany !== undefined) return await store.replaceMany(stored);
    const replaced: boolean[] = [];
    for (const { key, expected, next } of stored) replaced.push(await store.replace(key, expected, next));
    return replaced;
  }

  #requireAtomic(): AtomicStore {
    if (isAtomic(this.#store)) return this.#store;
    throw new Refusal("NOT_ATOMIC", "The server's store cannot write on a condition in one step");
  }

  readonly #inStore = (key: string): string => `${this.#prefix}${key}`;
}

/** Where the records of an area lie. Tenants and namespaces of areas have no slashes, so no place begins another. */
export function placeOf({ tenant, namespace }: Area, space: Space): string {
  return `${tenant}/${namespace}/${space}/`;
}

function splitKey(stored: string): { readonly at: string; readonly key: string } | undefined {
  const [start, digits] = /^(\d+):/.exec(stored) ?? [];
  if (start === undefined) return undefined;
  const end = start.length + Number(digits);
  return { at: stored.slice(start.length, end), key: stored.slice(end) };
}

/** What a Keyv adapter answers: the value, or an object that holds it, or nothing. */
function toRecord(store: KeyvStorageAdapter, answered: unknown): StoredRecord | undefined {
  const stored = answered instanceof Uint8Array || typeof answered === "string" ? answered : field(answered, "value");
  return stored === undefined || stored === null ? undefined : unpackRecord(store, stored);
}

/** Padded, so that its length does not tell that of a key of somebody else. */
function sealCursor(key: Uint8Array, place: string, cursor: string): string {
  const text = Buffer.from(cursor);
  const padded = Buffer.alloc(Math.ceil((text.length + 4) / cursorPadding) * cursorPadding);
  padded.writeUInt32BE(text.length);
  text.copy(padded, 4);
  const nonce = randomBytes(nonceBytes);
  const cipher = createCipheriv("aes-256-gcm", key, nonce, { authTagLength: tagBytes }).setAAD(Buffer.from(place));
  return Buffer.concat([nonce, cipher.update(padded), cipher.final(), cipher.getAuthTag()]).toString("base64url");
}

function openCursor(key: Uint8Array, place: string, cursor: string): string {
  const sealed = Buffer.from(cursor, "base64url");
  try {
    const decipher = createDecipheriv("aes-256-gcm", key, sealed.subarray(0, nonceBytes), { authTagLength: tagBytes })
      .setAAD(Buffer.from(place))
      .setAuthTag(sealed.subarray(-tagBytes));
    const padded = Buffer.concat([decipher.update(sealed.subarray(nonceBytes, -tagBytes)), decipher.final()]);
    return padded.toString("utf8", 4, 4 + padded.readUInt32BE());
  } catch {
    throw invalid("The cursor is not one that a scan returned");
  }
}
