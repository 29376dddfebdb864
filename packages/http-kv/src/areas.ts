import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";
import { setImmediate } from "node:timers/promises";
import type { Replacement, ScannedRecord, ScanPage, StoredValue } from "@keyward/core";
import { type AtomicStore, isAtomic, isBinary, isNamespaced, isScannable, KeywardError } from "@keyward/core";
import type { KeyvStorageAdapter } from "keyv";
import type { HeldBytes } from "./bytes-under-way.ts";
import type { KvLimits } from "./limits.ts";
import { entityTag, field, invalid, Refusal, type Space } from "./protocol.ts";
import { ReadSize } from "./read-size.ts";

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

/** What lies beside all areas, whose names have slashes in them. */
const ownNamespace = "keyward-kv";
const deletedAtOnce = 500;
/** How long one request scans, and how long one goes on without letting others have their turn, in ms. */
const longestScanMs = 100;
const longestTurnMs = 10;
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
    const size = new ReadSize(limits);
    const entries: ScannedRecord[] = [];
    let [bytes, advanced] = [0, false];
    let at = cursor === undefined ? undefined : openCursor(key, place, cursor);
    const read = (most: number) => store.scan({ limit: most, ...(at === undefined ? {} : { cursor: at }) });
    const ended = (): AreaPage => (at === undefined ? { entries } : { cursor: sealCursor(key, place, at), entries });
    for (;;) {
      const left = bytes < limits.maxAnswerBytes ? limit - entries.length : 0;
      const ahead = await read(size.records);
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
    return { namespace: found.at.slice(place.length), key: found.key, value: fromStore(this.#store, value) };
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
    if (keys.length === 0) return [];
    const found: readonly unknown[] = await this.#store.getMany(keys.map(this.#inStore));
    return keys.map((_, index) => toValue(this.#store, found[index]));
  }

  async hasMany(keys: readonly string[]): Promise<boolean[]> {
    return keys.length === 0 ? [] : await this.#store.hasMany(keys.map(this.#inStore));
  }

  async setMany(entries: readonly Entry[]): Promise<boolean[]> {
    if (entries.length === 0) return [];
    const stored = await this.#store.setMany(
      entries.map(({ key, value, expires }) => ({
        key: this.#inStore(key),
        value: intoStore(this.#store, value),
        ...(expires === undefined ? {} : { expires }),
      })),
    );
    return stored ?? entries.map(() => true);
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
   * Replaces each value whose tag is the expected one, one after the other.
   *
   * @throws Refusal `NOT_ATOMIC`.
   */
  async replaceTagged(changes: readonly TaggedReplacement[]): Promise<boolean[]> {
    this.#requireAtomic();
    const keys = [...new Set(changes.map(({ key }) => key))];
    const found = await this.getMany(keys);
    const current = new Map(keys.map((key, index) => [key, found[index]]));
    // A value that does not have the tag now was not the expected one at this moment: the refusal is right. What has it
    // is compared once more, whole, by the store, in the same step in which it writes.
    const possible: (Replacement | undefined)[] = changes.map(({ key, expected, next }) => {
      const value = current.get(key);
      if ((value === undefined ? undefined : entityTag(value)) !== expected) return undefined;
      current.set(key, next);
      return { key, expected: value, next };
    });
    const replaced = await this.replaceMany(possible.filter((change) => change !== undefined));
    let next = 0;
    return possible.map((change) => change !== undefined && replaced[next++] === true);
  }

  /**
   * @throws Refusal `NOT_ATOMIC`.
   */
  async replaceMany(changes: readonly Replacement[]): Promise<boolean[]> {
    const store = this.#requireAtomic();
    const stored = changes.map(({ key, expected, next }) => ({
      key: this.#inStore(key),
      expected: expected === undefined ? undefined : intoStore(store, expected),
      next: intoStore(store, next),
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

/** A store of text gets text in any case, marked with its type. */
function intoStore(store: KeyvStorageAdapter, value: StoredValue): StoredValue {
  if (isBinary(store)) return value;
  return typeof value === "string" ? `t${value}` : `b${Buffer.from(value).toString("base64")}`;
}

function fromStore(store: KeyvStorageAdapter, stored: StoredValue): StoredValue {
  if (isBinary(store)) return stored;
  if (typeof stored === "string" && stored.startsWith("t")) return stored.slice(1);
  if (typeof stored === "string" && stored.startsWith("b")) return Buffer.from(stored.slice(1), "base64");
  throw unreadable();
}

/** What a Keyv adapter answers: the value, or an object that holds it, or nothing. */
function toValue(store: KeyvStorageAdapter, answered: unknown): StoredValue | undefined {
  const value = answered instanceof Uint8Array || typeof answered === "string" ? answered : field(answered, "value");
  if (value === undefined || value === null) return undefined;
  if (typeof value === "string" || value instanceof Uint8Array) return fromStore(store, value);
  throw unreadable();
}

function unreadable(): KeywardError {
  return new KeywardError("STORE_INVALID", "The store holds a value that this server did not write", {
    hint: "Give the server a store, or a namespace of one, that nobody else writes to.",
  });
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
