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
  requireNewExpires,
  type ScannedRecord,
  type ScanPage,
  type StoredValue,
} from "@keyward/core";
import { Hookified } from "hookified";
import { type KeyvStorageCapability, type KeyvStorageEntry, keyvStorageCapability } from "keyv";
import type { Answer, Connection, Request } from "./connection.ts";
import { rangesOfSlots, scanKeys } from "./key-scan.ts";

/** The address of a record (its namespace and key), and the key in Redis under which the record is stored. */
export interface PlaceInRedis {
  /** Namespace of the record; "" for no namespace. */
  readonly namespace: string;
  /** Key of the record in its namespace. */
  readonly key: string;
  /** Key in Redis under which the record is stored. */
  readonly at: string;
}

/** Converts addresses and values of records to keys and values of Redis, and back. */
export interface RecordLayout {
  /**
   * Returns the text with which all keys of a namespace begin in Redis.
   *
   * @throws KeywardError `VALUE_INVALID` if keys of this layout cannot contain the namespace.
   */
  startOf(namespace: string): string;
  /**
   * Returns the address (namespace and key) of the record that Redis stores under `redisKey`. Returns `undefined` if
   * `redisKey` does not belong to this layout.
   */
  placeOf(redisKey: Buffer): PlaceInRedis | undefined;
  /**
   * Returns a pattern for the option `MATCH` of SCAN, which matches all keys of a namespace. Without an argument, the
   * pattern matches the keys of all namespaces. The pattern may match other keys too.
   */
  patternOf(namespace?: string): string;
  /**
   * Returns the bytes that Redis stores for a value.
   *
   * @throws KeywardError `VALUE_INVALID` if this layout cannot store a value of this type.
   */
  writeValue(key: string, value: unknown): Buffer;
  /** Converts the bytes that Redis stores to the value of a record. */
  readValue(bytes: Buffer): StoredValue;
}

const iteratedAtOnce = 256;
/** Number of values in the first batch that an iteration reads. */
const firstIterated = 4;
/** Number of bytes that the values of a later batch should have together at most. */
const lightBytes = 2 * 2 ** 20;
const clearedAtOnce = 1000;

// Equivalent to SET … IFEQ … KEEPTTL, for servers that do not have IFEQ. Both forms send the whole old value. A digest
// would save little (see the README), and an attacker who can write to the store could create a collision.
const replaceScript = scriptOf(`if redis.call("GET", KEYS[1]) ~= ARGV[1] then return 0 end
redis.call("SET", KEYS[1], ARGV[2], "KEEPTTL")
return 1`);

// These scripts replace many records of one server: one for newer servers and one for older servers. A script costs
// less than a command for each record, because most of the cost of a command is overhead. A server serves no other
// client while a script runs, so each script has few records and few bytes.
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

// These scripts replace records of which at least one gets a new expiry, again for newer and for older servers. A record
// has one more argument than in the scripts above: "KEEPTTL", the time of PXAT, or "" for a record that never expires.
const expiryFunction = `local function expiryOf(word)
  if word == "" then return end
  if word == "KEEPTTL" then return word end
  return "PXAT", word
end
local replaced = {}`;
const replaceUntilScript = scriptOf(`${expiryFunction}
for i, key in ipairs(KEYS) do
  local old, new, word = ARGV[3 * i - 2], ARGV[3 * i - 1], ARGV[3 * i]
  replaced[i] = redis.call("SET", key, new, "IFEQ", old, expiryOf(word)) and 1 or 0
end
return replaced`);
const replaceUntilOlderScript = scriptOf(`${expiryFunction}
for i, key in ipairs(KEYS) do
  local old, new, word = ARGV[3 * i - 2], ARGV[3 * i - 1], ARGV[3 * i]
  replaced[i] = 0
  if redis.call("GET", key) == old then
    redis.call("SET", key, new, expiryOf(word))
    replaced[i] = 1
  end
end
return replaced`);
const mostAtOnce = 64;
const mostBytesAtOnce = 256 * 1024;

/**
 * A set of records in Redis, with Keyv's storage adapter methods, atomic replacement, and a scan over every namespace.
 * Base class of the stores of this package.
 *
 * A method that fails rejects with a KeywardError of one of these codes:
 *
 * - `VALUE_INVALID`: a key or a namespace is not a well-formed string.
 * - `STORE_UNAVAILABLE`: the server does not reply in time or refuses the command, or the store is disconnected.
 * - `STORE_INVALID`: a key of the store in Redis has a value that is not a string, such as a list.
 */
export class RecordSpace extends Hookified implements AtomicStore, RangedStore, BoundedStore {
  /**
   * The namespace whose records the methods read and write. Only {@link RecordSpace.scan} ignores this property, and
   * reads the records of every namespace. `undefined` and "" both mean no namespace.
   */
  namespace: string | undefined;
  readonly #connection: Connection;
  readonly #layout: RecordLayout;

  /**
   * Only `RedisStore` and `keyvRedis` call this constructor. To create a store, use `new RedisStore()` or
   * `keyvRedis()`.
   */
  constructor(connection: Connection, layout: RecordLayout) {
    super();
    this.#connection = connection;
    this.#layout = layout;
  }

  /**
   * Maximum duration of a call in milliseconds: the option `timeoutMs`. A call that takes longer rejects, and the store
   * sends no more commands for that call.
   */
  get longestCallMs(): number {
    return this.#connection.timeoutMs;
  }

  /**
   * The capabilities that Keyv reads: the store has all methods of a storage adapter, and `expires` is an absolute time.
   */
  get capabilities(): KeyvStorageCapability {
    return keyvStorageCapability(this);
  }

  /** Returns the value of `key`, or `undefined` if `key` has no record. */
  async get(key: string): Promise<StoredValue | undefined> {
    const [value] = await this.getMany([key]);
    return value;
  }

  /**
   * Returns one value per key, in the order of `keys`, in one round trip. The value is `undefined` for a key without a
   * record.
   */
  async getMany(keys: readonly string[]): Promise<(StoredValue | undefined)[]> {
    const start = this.#start();
    return await this.#read(keys.map((key) => start + requireKey(key)));
  }

  /**
   * Stores `value` as the value of `key`.
   *
   * @param expires when the record expires, in milliseconds since the epoch by the server's clock. Default: never. A
   * time in the past removes the record. A number up to 10^12 counts as a duration from now in milliseconds, because
   * Keyv 5 passes durations (`requireExpires` of `@keyward/core` has the exact rule).
   * @throws KeywardError `VALUE_INVALID` if the store cannot keep `value` (a KeyvRedisStore keeps only well-formed
   * strings, and a RedisStore keeps bytes too), or if `expires` is not a number.
   */
  async set(key: string, value: unknown, expires?: number): Promise<boolean> {
    await this.#connection.send([
      this.#write(this.#start(), { key, value, ...(expires === undefined ? {} : { expires }) }),
    ]);
    return true;
  }

  /**
   * Stores all entries like {@link RecordSpace.set}, in one round trip. If the call rejects, some entries may be
   * stored.
   */
  async setMany(entries: readonly KeyvStorageEntry<unknown>[]): Promise<boolean[]> {
    const start = this.#start();
    // The last value of a key wins, even if a Cluster redirects one of the commands.
    const writes = new Map(entries.map((entry) => [entry.key, this.#write(start, entry)]));
    await this.#connection.send([...writes.values()]);
    return entries.map(() => true);
  }

  /** Removes the record of `key`, and returns whether the record existed. */
  async delete(key: string): Promise<boolean> {
    const [deleted = false] = await this.deleteMany([key]);
    return deleted;
  }

  /** Removes the records of all `keys` in one round trip. Returns for each key whether its record existed. */
  async deleteMany(keys: readonly string[]): Promise<boolean[]> {
    const start = this.#start();
    const once = [...new Set(keys)];
    const removed = await this.#connection.send(once.map((key) => unlink(start + requireKey(key))));
    const found = new Set(once.filter((_, index) => removed[index] === 1));
    // If a key is passed twice, its first position is reported as removed.
    return keys.map((key) => found.delete(key));
  }

  /** Returns whether `key` has a record. */
  async has(key: string): Promise<boolean> {
    const [found = false] = await this.hasMany([key]);
    return found;
  }

  /** Returns for each key whether the key has a record, in the order of `keys`, in one round trip. */
  async hasMany(keys: readonly string[]): Promise<boolean[]> {
    const start = this.#start();
    const replies = await this.#connection.send(
      keys.map((key) => ({ name: "EXISTS", given: [start + requireKey(key)], writes: false, answer: "number" })),
    );
    return replies.map((reply) => reply === 1);
  }

  /**
   * Removes every record that this store's namespace has at the start of the call. Records of other namespaces stay.
   * The records are removed in batches, so that the server is not blocked.
   */
  async clear(): Promise<void> {
    for await (const keys of this.#ownKeys(clearedAtOnce))
      await this.#connection.send(keys.map(({ at }) => unlink(at)));
  }

  /**
   * Yields the key and value of each record of this store's namespace, in no particular order. A record that exists
   * during the whole iteration is yielded exactly once. For this, the iterator keeps all yielded keys in memory.
   * {@link RecordSpace.scan} keeps no keys in memory.
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
        // The size of the last values limits the next batch, because the values of a page may have hundreds of
        // megabytes.
        const bytes = values.reduce((sum, value) => sum + (value?.length ?? 0), 0);
        const light = bytes === 0 ? iteratedAtOnce : Math.floor((batch.length * lightBytes) / bytes);
        atOnce = Math.max(1, Math.min(atOnce * 2, light, iteratedAtOnce));
      }
    }
  }

  /** Does nothing. The connection closes when the RedisStore that opened it disconnects. */
  async disconnect(): Promise<void> {}

  /**
   * Writes `next` only if the stored value equals `expected`, and returns whether `next` was written. A string never equals
   * bytes. If `expected` is `undefined`, `next` is written only if there is no record.
   *
   * @param expires when the record expires, in milliseconds since the epoch by the server's clock; `null` for never. A
   * time in the past removes the record. Default: the record keeps its expiry, and a new record never expires. A
   * duration, which is a number that {@link RecordSpace.set} counts from now, is refused.
   * @throws KeywardError `VALUE_INVALID` if a value has a wrong type, or if `expires` is a duration, or neither a
   * number nor `null`.
   */
  async replace(
    key: string,
    expected: StoredValue | undefined,
    next: StoredValue,
    expires?: number | null,
  ): Promise<boolean> {
    const [replaced = false] = await this.replaceMany([{ key, expected, next, expires }]);
    return replaced;
  }

  /**
   * Makes several replacements like {@link RecordSpace.replace}, in one round trip if no key occurs twice. Returns for
   * each of the `changes` whether its `next` was written. A change whose `next` is not written does not affect the
   * other changes.
   */
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
   * Returns a page of records of every namespace, in no particular order, and the cursor of the next page. The last
   * page has no cursor. Earlier pages may be empty. A cursor stays valid while records change, and after a restart, a
   * failover or a move of slots. Every process can use the cursor.
   *
   * @param options `range`: a range that {@link RecordSpace.ranges} returned. The scan then returns only the records in
   * that range. Default: all records.
   * @throws KeywardError `VALUE_INVALID` if `cursor` is not a cursor of a scan, if `range` is not a range of `ranges`,
   * or if `limit` is not an integer of at least 1.
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
   * Divides all records into at most `count` ranges of about equal size, so that several processes can share the work
   * of a {@link RecordSpace.scan}. Each process then scans a part of the ranges. A range is a set of slots, as in a
   * Redis Cluster. On a single server, the store computes the slot of each key itself. If the prefix of the store is in
   * braces, all keys have the same slot, so one range contains all records.
   *
   * @throws KeywardError `VALUE_INVALID` if `count` is not an integer of at least 1.
   */
  async ranges(count: number): Promise<readonly string[]> {
    if (!Number.isSafeInteger(count) || count < 1) {
      throw new KeywardError("VALUE_INVALID", 'The argument "count" of ranges() is not an integer of at least 1', {
        hint: "Pass the number of ranges that you want, such as 16.",
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

  /** Returns the values of keys that a scan has found. Reads them with MGET if all keys are on a single server. */
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
    // MGET returns null for a value of another type, so missing values are read again with GET, which fails for those.
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
    return { name: "SET", given: [at, bytes, ...expiresAt(until)], writes: true, answer: "written" };
  }

  #replacement(start: string, { key, expected, next, expires }: Replacement): BytesReplacement {
    const at = start + requireKey(key);
    const written = this.#layout.writeValue(key, next);
    const until = requireNewExpires(key, expires);
    const expiry = typeof until === "number" ? expiresAt(until) : neverExpires;
    if (expected === undefined) return { at, written, expiry };
    const compared = this.#layout.writeValue(key, expected);
    return { at, written, compared, expiry: until === undefined ? keepsExpiry : expiry };
  }
}

/** A replacement whose values are bytes. If it has no `compared`, it is written only if there is no record. */
interface BytesReplacement {
  readonly at: string;
  readonly written: Buffer;
  readonly compared?: Buffer;
  readonly expiry: Expiry;
}

/** The last arguments of a SET, which decide when the record expires. */
type Expiry = readonly string[];

const keepsExpiry: Expiry = ["KEEPTTL"];
const neverExpires: Expiry = [];

/**
 * Returns the arguments of SET with which a record expires at this time. If the server's clock has reached the time, SET removes
 * the record and replies OK.
 */
function expiresAt(until: number): Expiry {
  // Redis removes a key after the given millisecond. A record of Keyward is absent during that millisecond already.
  // Redis refuses 0 with the error code with which an older server refuses IFEQ.
  return ["PXAT", String(Math.max(1, until - 1))];
}

/**
 * Divides the replacements of a wave, which are sent together, into groups. Returns the positions of the replacements in
 * each group. Each group is sent as one script. A replacement that expects no record is sent alone.
 */
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

/** A Lua script. After a server has received its text once, the digest is enough to run the script. */
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
  values: readonly (string | Buffer)[],
  answer: Answer,
): Request {
  const given = [digest, String(keys.length), ...keys, ...values];
  return { name: "EVALSHA", given, writes: true, answer, script: text };
}

function requestFor(replacements: readonly BytesReplacement[]): Request[] {
  const [only] = replacements;
  if (only === undefined) return [];
  if (replacements.length > 1) {
    const keepAll = replacements.every(({ expiry }) => expiry === keepsExpiry);
    const keys = replacements.map(({ at }) => at);
    const values = replacements.flatMap((each) => (keepAll ? valuesOf(each) : [...valuesOf(each), wordOf(each)]));
    const [newer, older] = keepAll
      ? [replaceManyScript, replaceManyOlderScript]
      : [replaceUntilScript, replaceUntilOlderScript];
    const olderForm = evaluationOf(older, keys, values, "many-numbers");
    return [{ ...evaluationOf(newer, keys, values, "many-numbers"), olderForm }];
  }
  const { at, written, compared, expiry } = only;
  if (compared === undefined) {
    return [{ name: "SET", given: [at, written, "NX", ...expiry], writes: true, answer: "written-or-not" }];
  }
  return [
    {
      name: "SET",
      given: [at, written, "IFEQ", compared, ...expiry],
      writes: true,
      answer: "written-or-not",
      olderForm:
        expiry === keepsExpiry
          ? evaluationOf(replaceScript, [at], [compared, written], "number")
          : evaluationOf(replaceUntilOlderScript, [at], [compared, written, wordOf(only)], "many-numbers"),
    },
  ];
}

function valuesOf({ compared, written }: BytesReplacement): Buffer[] {
  return compared === undefined ? [] : [compared, written];
}

/** Returns the expiry as one argument of a script. */
function wordOf({ expiry }: BytesReplacement): string {
  return expiry.at(-1) ?? "";
}

/**
 * Divides the positions of the changes into waves that are sent one after the other. No wave has a key twice, because a
 * Cluster may redirect a command and so change the order of two commands.
 */
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

/** Returns whether `SET … IFEQ`, `SET … NX` or a script replied that it wrote. */
function isDone(reply: unknown): boolean {
  return reply === 1 || String(reply) === "OK";
}

function unlink(at: string): Request {
  return { name: "UNLINK", given: [at], writes: true, answer: "number" };
}
