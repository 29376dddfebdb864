import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import {
  type AtomicStore,
  type BoundedStore,
  KeywardError,
  type RangedStore,
  type Replacement,
  requireEntryExpires,
  requireKey,
  requireLimit,
  requireNamespace,
  type ScannedRecord,
  type ScanPage,
  type StoredValue,
} from "@keyward/core";
import { Hookified } from "hookified";
import { type KeyvStorageCapability, type KeyvStorageEntry, keyvStorageCapability } from "keyv";
import type { Answer, Connection, Request } from "./connection.ts";
import { rangesOfSlots, scanKeys } from "./key-scan.ts";

/** The place of a record, and the key of Redis that it is stored under. */
export interface PlaceInRedis {
  /** "" for none. */
  readonly namespace: string;
  /** The record's key in its namespace. */
  readonly key: string;
  /** The key of Redis. */
  readonly at: string;
}

/** How records are written as keys and values of Redis. */
export interface RecordLayout {
  /**
   * What the keys of a namespace begin with.
   *
   * @throws KeywardError `VALUE_INVALID` for a namespace that cannot be written.
   */
  startOf(namespace: string): string;
  /** The place that a key stands for; `undefined` where it is none of this layout. */
  placeOf(redisKey: Buffer): PlaceInRedis | undefined;
  /** What `MATCH` takes for the keys of one namespace and perhaps some others, or for those of all. */
  patternOf(namespace?: string): string;
  /**
   * The bytes for a value.
   *
   * @throws KeywardError `VALUE_INVALID` for what is no value.
   */
  writeValue(key: string, value: unknown): Buffer;
  /** The value of bytes. */
  readValue(bytes: Buffer): StoredValue;
}

const iteratedAtOnce = 256;
/** How many values an iteration reads first, and how many bytes they should have from then on. */
const firstIterated = 4;
const lightBytes = 2 * 2 ** 20;
const clearedAtOnce = 1000;

// What SET … IFEQ … KEEPTTL does, for servers that do not have it. Both are sent the old value whole: a digest of it would
// save little (see the README), and make the comparison one that somebody who can write to the store may be able to deceive.
const replaceScript = scriptOf(`if redis.call("GET", KEYS[1]) ~= ARGV[1] then return 0 end
redis.call("SET", KEYS[1], ARGV[2], "KEEPTTL")
return 1`);

// The same for many records of one server, new or old, since most of what a command costs is not its work. A server
// answers no other client while a script runs: each has few records, and few bytes.
const replaceManyScript = scriptOf(`local replaced = {}
for i, key in ipairs(KEYS) do
  replaced[i] = redis.call("SET", key, ARGV[2 * i], "IFEQ", ARGV[2 * i - 1], "KEEPTTL") and 1 or 0
end
return replaced`);
const replaceManyOlderScript = scriptOf(`local replaced = {}
for i, key in ipairs(KEYS) do
  replaced[i] = 0
  if redis.call("GET", key) == ARGV[2 * i - 1] then
    redis.call("SET", key, ARGV[2 * i], "KEEPTTL")
    replaced[i] = 1
  end
end
return replaced`);
const mostAtOnce = 64;
const mostBytesAtOnce = 256 * 1024;

/**
 * Records of one layout on a connection: the whole Keyv storage contract, atomic replacement, and a scan over every
 * namespace.
 *
 * Every method rejects with a KeywardError: `VALUE_INVALID` for keys and namespaces that are not well-formed strings,
 * `STORE_UNAVAILABLE` when the server does not answer in time, refuses, or the store is disconnected, `STORE_INVALID`
 * when something else than a record lies under one of its keys.
 */
export class RecordSpace extends Hookified implements AtomicStore, RangedStore, BoundedStore {
  /** The namespace that every call but {@link RecordSpace.scan} works in; `undefined` and "" are the same. */
  namespace: string | undefined;
  readonly #connection: Connection;
  readonly #layout: RecordLayout;

  /** Made by a `RedisStore` or `keyvRedis`. */
  constructor(connection: Connection, layout: RecordLayout) {
    super();
    this.#connection = connection;
    this.#layout = layout;
  }

  /** For how many milliseconds after a call commands of it may still be sent: `timeoutMs`. */
  get longestCallMs(): number {
    return this.#connection.timeoutMs;
  }

  /** What Keyv may expect: all methods, and absolute `expires`. */
  get capabilities(): KeyvStorageCapability {
    return keyvStorageCapability(this);
  }

  /** The value under `key`, or `undefined`. */
  async get(key: string): Promise<StoredValue | undefined> {
    const [value] = await this.getMany([key]);
    return value;
  }

  /** As {@link RecordSpace.get} for each, in the same order, in one round trip. */
  async getMany(keys: readonly string[]): Promise<(StoredValue | undefined)[]> {
    const start = this.#start();
    return await this.#read(keys.map((key) => start + requireKey(key)));
  }

  /**
   * Stores the value.
   *
   * @param expires when it stops being there, in ms since the epoch by the clock of the server; a time that has passed
   * leaves nothing under `key`. A duration, as Keyv 5 passes it, counts from now: see `requireExpires`.
   * @throws KeywardError `VALUE_INVALID` for a value of a wrong type, or an `expires` that is not a number.
   */
  async set(key: string, value: unknown, expires?: number): Promise<boolean> {
    await this.#connection.send([
      this.#write(this.#start(), { key, value, ...(expires === undefined ? {} : { expires }) }),
    ]);
    return true;
  }

  /** As {@link RecordSpace.set} for each, in one round trip. Where it rejects, some may be stored. */
  async setMany(entries: readonly KeyvStorageEntry<unknown>[]): Promise<boolean[]> {
    const start = this.#start();
    // The last value of a key wins, also where a Cluster redirects one of the commands.
    const writes = new Map(entries.map((entry) => [entry.key, this.#write(start, entry)]));
    await this.#connection.send([...writes.values()]);
    return entries.map(() => true);
  }

  /** Removes the record, and says whether there was one. */
  async delete(key: string): Promise<boolean> {
    const [deleted = false] = await this.deleteMany([key]);
    return deleted;
  }

  /** As {@link RecordSpace.delete} for each, in one round trip. */
  async deleteMany(keys: readonly string[]): Promise<boolean[]> {
    const start = this.#start();
    const once = [...new Set(keys)];
    const removed = await this.#connection.send(once.map((key) => unlink(start + requireKey(key))));
    const found = new Set(once.filter((_, index) => removed[index] === 1));
    // Of a key that is given twice, the first finds the record.
    return keys.map((key) => found.delete(key));
  }

  /** Whether there is a record under `key`. */
  async has(key: string): Promise<boolean> {
    const [found = false] = await this.hasMany([key]);
    return found;
  }

  /** As {@link RecordSpace.has} for each, in the same order, in one round trip. */
  async hasMany(keys: readonly string[]): Promise<boolean[]> {
    const start = this.#start();
    const replies = await this.#connection.send(
      keys.map((key) => ({ name: "EXISTS", given: [start + requireKey(key)], writes: false, answer: "number" })),
    );
    return replies.map((reply) => reply === 1);
  }

  /** Removes every record that the own namespace has now, and of no other, some at a time: the server is not held up. */
  async clear(): Promise<void> {
    for await (const keys of this.#ownKeys(clearedAtOnce))
      await this.#connection.send(keys.map(({ at }) => unlink(at)));
  }

  /**
   * The records of the own namespace: all that are there throughout, each once. It remembers the keys that it has
   * yielded; {@link RecordSpace.scan} does not.
   */
  iterator(): AsyncGenerator<[string, StoredValue], void>;
  iterator<Value>(): AsyncGenerator<Array<string | Awaited<Value> | undefined>, void>;
  async *iterator(): AsyncGenerator<[string, StoredValue], void> {
    const yielded = new Set<string>();
    let atOnce = firstIterated;
    for await (const found of this.#ownKeys(iteratedAtOnce)) {
      const fresh = found.filter(({ key }) => !yielded.has(key) && yielded.add(key));
      for (let start = 0; start < fresh.length; ) {
        const batch = fresh.slice(start, start + atOnce);
        const values = await this.#read(batch.map(({ at }) => at));
        for (const [index, { key }] of batch.entries()) {
          const value = values[index];
          if (value !== undefined) yield [key, value];
        }
        start += batch.length;
        // As many as are light, going by the last ones: those of a page may have hundreds of megabytes.
        const bytes = values.reduce((sum, value) => sum + (value?.length ?? 0), 0);
        const light = bytes === 0 ? iteratedAtOnce : Math.floor((batch.length * lightBytes) / bytes);
        atOnce = Math.max(1, Math.min(atOnce * 2, light, iteratedAtOnce));
      }
    }
  }

  /** Does nothing: the connection belongs to the store that opened it. */
  async disconnect(): Promise<void> {}

  /**
   * Writes `next` where the whole value, type included, is `expected`, and says whether it did. The time left stays. With
   * `expected` undefined it writes where nothing lies, without an expiry.
   *
   * @throws KeywardError `VALUE_INVALID` for a value of a wrong type.
   */
  async replace(key: string, expected: StoredValue | undefined, next: StoredValue): Promise<boolean> {
    const [replaced = false] = await this.replaceMany([{ key, expected, next }]);
    return replaced;
  }

  /** As {@link RecordSpace.replace} for each, in one round trip. One refused replacement does not stop the others. */
  async replaceMany(changes: readonly Replacement[]): Promise<boolean[]> {
    const start = this.#start();
    const replacements = changes.map((change) => this.#replacement(start, change));
    const replaced: boolean[] = [];
    for (const wave of wavesOf(changes)) {
      const groups = this.#connection.isCluster ? wave.map((index) => [index]) : groupsOf(wave, replacements);
      const replies = await this.#connection.send(
        groups.flatMap((group) => requestFor(group.flatMap((index) => replacements[index] ?? []))),
      );
      for (const [position, group] of groups.entries()) {
        const reply = replies[position];
        const each: unknown[] = Array.isArray(reply) ? reply : [reply];
        for (const [at, index] of group.entries()) replaced[index] = isDone(each[at]);
      }
    }
    return replaced;
  }

  /**
   * A page of records of every namespace, in no order; it can be empty and not be the last. A cursor goes on after any
   * change to the records, a restart, a failover or a move of slots, in any process.
   *
   * @param options `range` is one of {@link RecordSpace.ranges}: only its records are read.
   * @throws KeywardError `VALUE_INVALID` for a cursor that no scan returned, a range that is none, or a limit that is not
   * a whole number from 1.
   */
  async scan(
    options: { readonly cursor?: string; readonly limit?: number; readonly range?: string } = {},
  ): Promise<ScanPage> {
    const { cursor: from, range } = options;
    const limit = requireLimit(options.limit);
    const { keys, cursor } = await scanKeys(
      this.#connection,
      { pattern: this.#layout.patternOf(), ...(range === undefined ? {} : { range }) },
      from,
      limit,
    );
    const places: PlaceInRedis[] = [];
    for (const at of keys) {
      const place = this.#layout.placeOf(at);
      if (place !== undefined) places.push(place);
    }
    const values = await this.#readPresent(places.map(({ at }) => at));
    const entries: ScannedRecord[] = [];
    for (const [index, { namespace, key }] of places.entries()) {
      const value = values[index];
      if (value !== undefined) entries.push({ namespace, key, value });
    }
    return cursor === undefined ? { entries } : { cursor, entries };
  }

  /**
   * At most `count` ranges of about equal size for {@link RecordSpace.scan}: sets of the slots of a Cluster, by which
   * keys are divided on a single server too. With a prefix in braces all records lie in one of them.
   *
   * @throws KeywardError `VALUE_INVALID` for a count that is not a whole number from 1.
   */
  async ranges(count: number): Promise<readonly string[]> {
    if (!Number.isSafeInteger(count) || count < 1) {
      throw new KeywardError("VALUE_INVALID", "The count of ranges is not a whole number from 1", {
        hint: "Pass one such as 16.",
      });
    }
    return rangesOfSlots(count);
  }

  #start(): string {
    return this.#layout.startOf(requireNamespace(this.namespace));
  }

  async *#ownKeys(limit: number): AsyncGenerator<{ readonly key: string; readonly at: string }[]> {
    const namespace = requireNamespace(this.namespace);
    const pattern = this.#layout.patternOf(namespace);
    let cursor: string | undefined;
    do {
      const page = await scanKeys(this.#connection, { pattern }, cursor, limit);
      cursor = page.cursor;
      yield page.keys.flatMap((at) => {
        const place = this.#layout.placeOf(at);
        return place?.namespace === namespace ? [place] : [];
      });
    } while (cursor !== undefined);
  }

  async #read(at: readonly string[]): Promise<(StoredValue | undefined)[]> {
    const replies = await this.#connection.send(
      at.map((key) => ({ name: "GET", given: [key], writes: false, answer: "bytes" })),
    );
    return replies.map((reply) => (Buffer.isBuffer(reply) ? this.#layout.readValue(reply) : undefined));
  }

  /** As `#read` for keys that are there, in fewer commands where they are on one server. */
  async #readPresent(at: readonly string[]): Promise<(StoredValue | undefined)[]> {
    if (this.#connection.isCluster) return await this.#read(at);
    const requests: Request[] = [];
    for (let first = 0; first < at.length; first += mostAtOnce) {
      requests.push({ name: "MGET", given: at.slice(first, first + mostAtOnce), writes: false, answer: "many-bytes" });
    }
    const replies = (await this.#connection.send(requests)).flat();
    const values = at.map((_, index) => {
      const reply = replies[index];
      return Buffer.isBuffer(reply) ? this.#layout.readValue(reply) : undefined;
    });
    // MGET answers what is no string as if it were not there.
    if (!values.includes(undefined)) return values;
    const missing = at.flatMap((_, index) => (values[index] === undefined ? [index] : []));
    const again = await this.#read(missing.map((index) => at[index] ?? ""));
    for (const [position, index] of missing.entries()) values[index] = again[position];
    return values;
  }

  #write(start: string, entry: KeyvStorageEntry<unknown>): Request {
    const { key, value } = entry;
    const at = start + requireKey(key);
    const bytes = this.#layout.writeValue(key, value);
    const until = requireEntryExpires(entry);
    if (until === undefined) return { name: "SET", given: [at, bytes], writes: true, answer: "written" };
    if (until <= Date.now()) return unlink(at);
    // Redis drops a record after the millisecond it is given; ours is absent in the one in which it expires.
    return { name: "SET", given: [at, bytes, "PXAT", String(until - 1)], writes: true, answer: "written" };
  }

  #replacement(start: string, { key, expected, next }: Replacement): BytesReplacement {
    const at = start + requireKey(key);
    const written = this.#layout.writeValue(key, next);
    return expected === undefined ? { at, written } : { at, written, compared: this.#layout.writeValue(key, expected) };
  }
}

/** A replacement as it is sent; without `compared` nothing may be there. */
interface BytesReplacement {
  readonly at: string;
  readonly written: Buffer;
  readonly compared?: Buffer;
}

/** Positions of replacements that go into one script; what is written where nothing is goes alone. */
function groupsOf(wave: readonly number[], replacements: readonly BytesReplacement[]): number[][] {
  const groups: number[][] = [];
  let group: number[] = [];
  let bytes = 0;
  for (const index of wave) {
    const { compared, written } = replacements[index] ?? {};
    if (compared === undefined || written === undefined) {
      groups.push([index]);
      continue;
    }
    const size = compared.length + written.length;
    if (group.length === 0 || group.length === mostAtOnce || bytes + size > mostBytesAtOnce) {
      group = [];
      bytes = 0;
      groups.push(group);
    }
    group.push(index);
    bytes += size;
  }
  return groups;
}

/** A script of the server, which knows it by its digest once it was sent. */
interface Script {
  readonly text: string;
  readonly digest: string;
}

function scriptOf(text: string): Script {
  return { text, digest: createHash("sha1").update(text).digest("hex") };
}

function evaluationOf(
  { text, digest }: Script,
  keys: readonly string[],
  values: readonly Buffer[],
  answer: Answer,
): Request {
  const given = [digest, String(keys.length), ...keys, ...values];
  return { name: "EVALSHA", given, writes: true, answer, script: text };
}

function requestFor(replacements: readonly BytesReplacement[]): Request[] {
  const [only] = replacements;
  if (only === undefined) return [];
  if (replacements.length > 1) {
    const keys = replacements.map(({ at }) => at);
    const values = replacements.flatMap(({ compared, written }) => (compared === undefined ? [] : [compared, written]));
    const olderForm = evaluationOf(replaceManyOlderScript, keys, values, "many-numbers");
    return [{ ...evaluationOf(replaceManyScript, keys, values, "many-numbers"), olderForm }];
  }
  const { at, written, compared } = only;
  if (compared === undefined) {
    return [{ name: "SET", given: [at, written, "NX"], writes: true, answer: "written-or-not" }];
  }
  return [
    {
      name: "SET",
      given: [at, written, "IFEQ", compared, "KEEPTTL"],
      writes: true,
      answer: "written-or-not",
      olderForm: evaluationOf(replaceScript, [at], [compared, written], "number"),
    },
  ];
}

/** Positions of the changes, such that no wave has a key twice: a Cluster may redirect one command past another. */
function wavesOf(changes: readonly Replacement[]): number[][] {
  const waves: number[][] = [];
  const seen = new Map<string, number>();
  for (const [index, { key }] of changes.entries()) {
    const number = seen.get(key) ?? 0;
    seen.set(key, number + 1);
    waves[number] ??= [];
    waves[number].push(index);
  }
  return waves;
}

/** What `SET … IFEQ`, the script and `SET … NX` answer when they wrote. */
function isDone(reply: unknown): boolean {
  return reply === 1 || String(reply) === "OK";
}

function unlink(at: string): Request {
  return { name: "UNLINK", given: [at], writes: true, answer: "number" };
}
