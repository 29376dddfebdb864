import {
  type AtomicStore,
  type BinaryStore,
  type BoundedStore,
  invalidCursor,
  KeywardError,
  type NamespacedStore,
  type Replacement,
  type ReservedSpace,
  requireEntryExpires,
  requireKey,
  requireLimit,
  requireNamespace,
  requireValue,
  type ScannableStore,
  type ScannedRecord,
  type ScanPage,
  type StoredValue,
} from "@keyward/core";
import { Hookified } from "hookified";
import { type KeyvStorageCapability, type KeyvStorageEntry, keyvStorageCapability } from "keyv";
import {
  decodeValue,
  type EncodedChange,
  type EncodedEntry,
  encodeValue,
  entityTag,
  field,
  type Operation,
  partsOf,
  type Space,
} from "./protocol.ts";
import { type HttpStoreOptions, Transport } from "./transport.ts";

/** What one request carries at most. The server's own limits are above. */
const maxRecords = 500;
const maxBytes = 4 * 2 ** 20;
const iteratedAtOnce = 100;

/**
 * One of the two spaces that an API key opens: the whole Keyv storage contract, atomic replacement, and a scan over every
 * namespace. {@link HttpStore} is the space of the records.
 *
 * Every method rejects with a KeywardError: `STORE_UNAVAILABLE` when the server cannot be reached, fails, or refuses the
 * API key, after the time that `timeoutMs` and `retries` allow; `VALUE_INVALID` for what it does not take.
 */
export class HttpSpace extends Hookified implements AtomicStore, ScannableStore, BinaryStore, BoundedStore {
  /** Bytes are kept as they are. */
  readonly values = "bytes";
  /** The namespace that every call but {@link HttpSpace.scan} works in; `undefined` and "" are the same. */
  namespace: string | undefined;
  readonly #transport: Transport;
  readonly #space: Space;

  /** Made by {@link HttpStore} alone. @internal */
  constructor(transport: Transport, space: Space) {
    super();
    this.#transport = transport;
    this.#space = space;
  }

  /** For how many milliseconds after a call requests that write may still be sent for it: ten times `timeoutMs`. */
  get longestCallMs(): number {
    return this.#transport.longestWriteMs;
  }

  /** What Keyv may expect: all methods, and absolute `expires`. */
  get capabilities(): KeyvStorageCapability {
    return keyvStorageCapability(this);
  }

  /** The value under `key`, or `undefined`. */
  async get(key: string): Promise<StoredValue | undefined> {
    return (await this.getMany([key]))[0];
  }

  /** As {@link HttpSpace.get} for each, in the same order. Not from one state of the store. */
  async getMany(keys: readonly string[]): Promise<(StoredValue | undefined)[]> {
    return await this.#getMany(this.#place(), keys);
  }

  /**
   * Stores the value.
   *
   * @param expires when it stops being there, in ms since the epoch by the server's clock; a time that has passed leaves
   * nothing under `key`. A duration, as Keyv 5 passes it, counts from now: see `requireExpires`.
   * @throws KeywardError `VALUE_INVALID` for a value that is neither a well-formed string nor bytes, or an `expires`
   * that is not a number.
   */
  async set(key: string, value: unknown, expires?: number): Promise<boolean> {
    const [stored = false] = await this.setMany([{ key, value, ...(expires === undefined ? {} : { expires }) }]);
    return stored;
  }

  /** As {@link HttpSpace.set} for each, 500 or 4 MiB in a request. Where it rejects, the first of them may be stored. */
  async setMany(entries: readonly KeyvStorageEntry<unknown>[]): Promise<boolean[]> {
    const untilMs = this.#writeUntilMs();
    const encoded = entries.map((given): EncodedEntry => {
      const { key, value } = given;
      const expires = requireEntryExpires(given);
      const entry = { key: requireKey(key), ...encodeValue(requireValue(key, value)) };
      return expires === undefined ? entry : { ...entry, expires };
    });
    return await this.#callMany("set", "entries", encoded, "stored", readBoolean, untilMs);
  }

  /** Removes the record, and says whether there was one. */
  async delete(key: string): Promise<boolean> {
    const [deleted = false] = await this.deleteMany([key]);
    return deleted;
  }

  /** As {@link HttpSpace.delete} for each. */
  async deleteMany(keys: readonly string[]): Promise<boolean[]> {
    return await this.#callMany("delete", "keys", keys.map(requireKey), "deleted", readBoolean);
  }

  /** Whether there is a record under `key`. */
  async has(key: string): Promise<boolean> {
    const [found = false] = await this.hasMany([key]);
    return found;
  }

  /** As {@link HttpSpace.has} for each, in the same order. */
  async hasMany(keys: readonly string[]): Promise<boolean[]> {
    return await this.#callMany("has", "keys", keys.map(requireKey), "found", readBoolean);
  }

  /** Removes every record of the own namespace, and of no other. */
  async clear(): Promise<void> {
    await this.#transport.call("clear", `${this.#place()}}`, partsOf(0));
  }

  /**
   * The records of the own namespace that are there when the iteration begins and when it comes to them. All their keys
   * are held in memory meanwhile; values come as they are needed.
   */
  iterator(): AsyncGenerator<[string, StoredValue], void>;
  iterator<Value>(): AsyncGenerator<Array<string | Awaited<Value> | undefined>, void>;
  async *iterator(): AsyncGenerator<[string, StoredValue], void> {
    const place = this.#place();
    const keys = [
      ...new Set(list(await this.#transport.call("list", `${place}}`, Number.POSITIVE_INFINITY), "keys", readText)),
    ];
    for (let start = 0; start < keys.length; start += iteratedAtOnce) {
      const batch = keys.slice(start, start + iteratedAtOnce);
      const values = await this.#getMany(place, batch);
      for (const [index, key] of batch.entries()) {
        const value = values[index];
        if (value !== undefined) yield [key, value];
      }
    }
  }

  /** Does nothing: connections belong to Node's global agent, or to `fetch`. */
  async disconnect(): Promise<void> {}

  /**
   * Writes `next` where the whole value, type included, is `expected`, and says whether it did. The expiry stays. With
   * `expected` undefined it writes where nothing lies, without an expiry. What is expected travels as its SHA-256.
   *
   * An answer that was lost is asked for again, and `true` and `false` are always right. Where the server was started
   * anew in between and refuses now, nobody can say whether it did it before: the call rejects.
   *
   * @throws KeywardError `VALUE_INVALID` for a value that is neither a well-formed string nor bytes, `STORE_NOT_ATOMIC`
   * when the server's store cannot replace atomically.
   */
  async replace(key: string, expected: StoredValue | undefined, next: StoredValue): Promise<boolean> {
    const [replaced = false] = await this.replaceMany([{ key, expected, next }]);
    return replaced;
  }

  /** As {@link HttpSpace.replace} for each, one after the other, 500 or 4 MiB in a request. */
  async replaceMany(changes: readonly Replacement[]): Promise<boolean[]> {
    const untilMs = this.#writeUntilMs();
    const encoded = changes.map(
      ({ key, expected, next }): EncodedChange => ({
        key: requireKey(key),
        expected: expected === undefined ? null : entityTag(requireValue(key, expected)),
        ...encodeValue(requireValue(key, next)),
      }),
    );
    const read = (replaced: unknown) => {
      if (replaced !== null) return readBoolean(replaced);
      throw new KeywardError("STORE_UNAVAILABLE", "An answer was lost, and the server that gave it is gone", {
        hint: "Read the record to see whether it was replaced.",
      });
    };
    return await this.#callMany("replace", "changes", encoded, "replaced", read, untilMs);
  }

  /**
   * A page of records of every namespace that the API key opens. A cursor goes on after any change to the records, and
   * after a restart of the server.
   *
   * @throws KeywardError `VALUE_INVALID` for a cursor that no scan returned, or a limit that is not a whole number from
   * 1; `STORE_NOT_SCANNABLE` when the server's store cannot be scanned.
   */
  async scan(options: { readonly cursor?: string; readonly limit?: number } = {}): Promise<ScanPage> {
    const { cursor } = options;
    const limit = requireLimit(options.limit);
    if (cursor !== undefined && typeof cursor !== "string") throw invalidCursor();
    const body = JSON.stringify({ space: this.#space, cursor, limit });
    // A page has about the limit, not exactly.
    const answer = await this.#transport.call("scan", body, partsOf(2 * limit + maxRecords));
    const next = field(answer, "cursor");
    if (next !== undefined && typeof next !== "string") throw broken();
    const entries = list(
      answer,
      "entries",
      (entry): ScannedRecord => ({
        namespace: readText(field(entry, "namespace")),
        key: readText(field(entry, "key")),
        value: readValue(entry),
      }),
    );
    return next === undefined ? { entries } : { cursor: next, entries };
  }

  async #getMany(place: string, keys: readonly string[]): Promise<(StoredValue | undefined)[]> {
    const values: (StoredValue | undefined)[] = [];
    // An answer may cover the first keys alone, where the values are large.
    const checked = keys.map(requireKey);
    while (values.length < checked.length) {
      const [batch = []] = batches(checked.slice(values.length, values.length + maxRecords));
      const found = list(await this.#call("get", place, "keys", batch), "values", (value) =>
        value === null ? undefined : readValue(value),
      );
      if (found.length === 0 || found.length > batch.length) throw broken();
      values.push(...found);
    }
    return values;
  }

  /** Sends a list in as many requests as it needs, one after the other, and joins the answers. */
  async #callMany<Result>(
    operation: Operation,
    name: string,
    items: readonly unknown[],
    answered: string,
    read: (value: unknown) => Result,
    untilMs = this.#writeUntilMs(),
  ): Promise<Result[]> {
    const place = this.#place();
    const results: Result[] = [];
    for (const batch of batches(items)) {
      let rest = batch;
      while (rest.length > 0) {
        const part = list(await this.#call(operation, place, name, rest, untilMs), answered, read);
        // Only a replacement may answer for the first alone, where what is there is large.
        if (
          part.length > rest.length ||
          (part.length < rest.length && (operation !== "replace" || part.length === 0))
        ) {
          throw broken();
        }
        results.push(...part);
        rest = rest.slice(part.length);
      }
    }
    return results;
  }

  #call(
    operation: Operation,
    place: string,
    name: string,
    batch: readonly string[],
    writeUntilMs?: number,
  ): Promise<unknown> {
    const body = `${place},${JSON.stringify(name)}:[${batch.join(",")}]}`;
    return this.#transport.call(operation, body, partsOf(batch.length), writeUntilMs);
  }

  /** When a call that begins now sends nothing more, by `performance.now()`: making its requests counts as well. */
  #writeUntilMs(): number {
    return performance.now() + this.longestCallMs;
  }

  /** How the body of an operation on the own namespace begins. */
  #place(): string {
    return JSON.stringify({ space: this.#space, namespace: requireNamespace(this.namespace) }).slice(0, -1);
  }
}

/**
 * A store for Keyv and Keyward on a server that speaks the protocol of `docs/http-kv.md`: it expires, replaces atomically,
 * can be scanned, keeps bytes as they are, and has a reserved space. The server sees what it is given: wrap the store in an
 * `EncryptedStore`, and it sees keys and lengths.
 */
export class HttpStore extends HttpSpace implements ReservedSpace, NamespacedStore {
  readonly #transport: Transport;
  readonly #reserved: HttpSpace;

  /**
   * Opens no connection yet.
   *
   * @param origin where the server is; or another store, whose server and API key this one is to share.
   * @throws KeywardError `STORE_INVALID` for settings that cannot be used, plain `http:` to another machine among them.
   */
  constructor(origin: HttpStoreOptions | HttpStore) {
    const shared = origin instanceof HttpStore;
    const transport = shared ? origin.#transport : new Transport(origin);
    super(transport, "records");
    this.#transport = transport;
    this.#reserved = shared ? origin.#reserved : new HttpSpace(transport, "reserved");
  }

  /** A place beside the records that no key, clear, iteration or scan of theirs reaches. The same for every view. */
  reserved(): HttpSpace {
    return this.#reserved;
  }

  /** A view on one namespace, with the same server and API key; "" is the view on records without a namespace. */
  namespaced(namespace: string): HttpStore {
    const view = new HttpStore(this);
    view.namespace = namespace;
    return view;
  }
}

/** Items as JSON, in batches that one request can carry. */
function* batches(items: readonly unknown[]): Generator<readonly string[], void> {
  let batch: string[] = [];
  let bytes = 0;
  for (const item of items) {
    const text = JSON.stringify(item);
    const length = Buffer.byteLength(text);
    if (batch.length > 0 && (batch.length === maxRecords || bytes + length > maxBytes)) {
      yield batch;
      batch = [];
      bytes = 0;
    }
    batch.push(text);
    bytes += length;
  }
  if (batch.length > 0) yield batch;
}

function list<Result>(answer: unknown, name: string, read: (value: unknown) => Result): Result[] {
  const values = field(answer, name);
  if (Array.isArray(values)) return values.map((value: unknown) => read(value));
  throw broken();
}

function readBoolean(value: unknown): boolean {
  if (typeof value === "boolean") return value;
  throw broken();
}

function readText(value: unknown): string {
  if (typeof value === "string") return value;
  throw broken();
}

function readValue(value: unknown): StoredValue {
  try {
    return decodeValue(value);
  } catch {
    throw broken();
  }
}

function broken(): KeywardError {
  return new KeywardError("STORE_UNAVAILABLE", "The server's answer is not one of the protocol", {
    hint: "Is the url that of a keyward-kv server, of a release that fits?",
  });
}
