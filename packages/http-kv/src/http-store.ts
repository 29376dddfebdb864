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
  requireNewExpires,
  requireValue,
  type ScannableStore,
  type ScannedRecord,
  type ScanPage,
  type StoredValue,
} from "@keyward/core";
import { Hookified } from "hookified";
import { type KeyvStorageCapability, type KeyvStorageEntry, keyvStorageCapability } from "keyv";
import { AnswerFields } from "./answer-fields.ts";
import {
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

/** Maximum number of records, and of bytes, that the client sends in one request. The server's default limits are higher. */
const maxRecords = 500;
const maxBytes = 4 * 2 ** 20;
const iteratedAtOnce = 100;

/**
 * One of the two spaces that an API key gives access to. An {@link HttpStore} is the space of the records, and its
 * method `reserved()` returns the reserved space, which has Keyward's own records. A space is a Keyv storage adapter
 * that can also replace values atomically and scan all its namespaces.
 *
 * Every method rejects with a KeywardError. The code is `STORE_UNAVAILABLE` if the server cannot be reached, fails, or
 * refuses the API key. The code is `VALUE_INVALID` for an argument that the server or this class refuses.
 *
 * @example
 * const space: HttpSpace = new HttpStore({ url, apiKey }).reserved();
 * await space.set("key", "value");
 */
export class HttpSpace extends Hookified implements AtomicStore, ScannableStore, BinaryStore, BoundedStore {
  /** The store keeps bytes unchanged, so Keyward does not convert them to text. */
  readonly values = "bytes";
  /**
   * The namespace whose records all methods read and write, except {@link HttpSpace.scan}, which reads all namespaces.
   * `undefined` means the same as "".
   */
  namespace: string | undefined;
  readonly #transport: Transport;
  readonly #space: Space;
  readonly #fields: AnswerFields;

  /** Called only by {@link HttpStore}. @internal */
  constructor(transport: Transport, space: Space) {
    super();
    this.#transport = transport;
    this.#space = space;
    this.#fields = new AnswerFields(transport.url);
  }

  /**
   * Maximum time from the start of a call until the call sends its last write to the server, in milliseconds: ten times
   * `timeoutMs`.
   */
  get longestCallMs(): number {
    return this.#transport.longestWriteMs;
  }

  /**
   * The capabilities of the store, which Keyv reads: all methods of a storage adapter, and `expires` as an absolute
   * time.
   */
  get capabilities(): KeyvStorageCapability {
    return keyvStorageCapability(this);
  }

  /** Returns the value of `key`, or `undefined` if there is no record. */
  async get(key: string): Promise<StoredValue | undefined> {
    return (await this.getMany([key]))[0];
  }

  /**
   * Returns the value of each key in the order of the keys, or `undefined` for a key without a record. The values may
   * be read at different points in time.
   */
  async getMany(keys: readonly string[]): Promise<(StoredValue | undefined)[]> {
    return await this.#getMany(this.#bodyStart(), keys);
  }

  /**
   * Stores a value.
   *
   * @param expires time at which the record expires, in milliseconds since the epoch by the server's clock. Default:
   * never. A time in the past removes the record. A number above 2 and up to 10^12 is a duration from now, in
   * milliseconds, because Keyv 5 passes durations.
   * @throws KeywardError `VALUE_INVALID` for a value that is neither a well-formed string nor bytes, or an `expires`
   * that is not a number.
   */
  async set(key: string, value: unknown, expires?: number): Promise<boolean> {
    const [stored = false] = await this.setMany([{ key, value, ...(expires === undefined ? {} : { expires }) }]);
    return stored;
  }

  /**
   * Stores several values, in requests of at most 500 values and 4 MiB each. Returns, for each value, whether it was
   * stored. If the call rejects, some of the values may already be stored.
   */
  async setMany(entries: readonly KeyvStorageEntry<unknown>[]): Promise<boolean[]> {
    const untilMs = this.#writeUntilMs();
    const encoded = entries.map((given): EncodedEntry => {
      const { key, value } = given;
      const expires = requireEntryExpires(given);
      const entry = { key: requireKey(key), ...encodeValue(requireValue(key, value)) };
      return expires === undefined ? entry : { ...entry, expires };
    });
    return await this.#callMany("set", "entries", encoded, "stored", this.#fields.boolean, untilMs);
  }

  /** Deletes the record of `key`, and returns whether there was a record. */
  async delete(key: string): Promise<boolean> {
    const [deleted = false] = await this.deleteMany([key]);
    return deleted;
  }

  /** Deletes the record of each key. Returns, for each key, whether there was a record. */
  async deleteMany(keys: readonly string[]): Promise<boolean[]> {
    return await this.#callMany("delete", "keys", keys.map(requireKey), "deleted", this.#fields.boolean);
  }

  /** Returns whether `key` has a record. */
  async has(key: string): Promise<boolean> {
    const [found = false] = await this.hasMany([key]);
    return found;
  }

  /** Returns for each key whether the key has a record, in the order of `keys`. */
  async hasMany(keys: readonly string[]): Promise<boolean[]> {
    return await this.#callMany("has", "keys", keys.map(requireKey), "found", this.#fields.boolean);
  }

  /** Deletes all records of the namespace {@link HttpSpace.namespace}. */
  async clear(): Promise<void> {
    await this.#transport.call("clear", `${this.#bodyStart()}}`, partsOf(0));
  }

  /**
   * Iterates over the records of the namespace {@link HttpSpace.namespace}. All keys are read at the beginning and kept
   * in memory. The values are read in batches of 100. A record is yielded if it exists both when the keys are read and
   * when its value is read.
   */
  iterator(): AsyncGenerator<[string, StoredValue], void>;
  iterator<Value>(): AsyncGenerator<Array<string | Awaited<Value> | undefined>, void>;
  async *iterator(): AsyncGenerator<[string, StoredValue], void> {
    const bodyStart = this.#bodyStart();
    const keys = [
      ...new Set(
        this.#fields.list(
          await this.#transport.call("list", `${bodyStart}}`, Number.POSITIVE_INFINITY),
          "keys",
          this.#fields.text,
        ),
      ),
    ];
    for (let start = 0; start < keys.length; start += iteratedAtOnce) {
      const batch = keys.slice(start, start + iteratedAtOnce);
      const values = await this.#getMany(bodyStart, batch);
      for (const [index, key] of batch.entries()) {
        const value = values[index];
        if (value !== undefined) yield [key, value];
      }
    }
  }

  /** Does nothing, since the connections belong to Node's global agent, or to the function in the option `fetch`. */
  async disconnect(): Promise<void> {}

  /**
   * Replaces the value of `key` with `next` if the stored value has the content and type of `expected`. Returns whether
   * the value was replaced. If `expected` is `undefined`, `next` is stored only if there is no record. The request contains
   * the SHA-256 of `expected` instead of the value.
   *
   * If an answer is lost, the replacement is sent again with the same idempotency key, so `true` and `false` are always
   * correct. If the server restarts between two attempts and refuses the later attempt, the call rejects, because the
   * earlier attempt may have succeeded.
   *
   * @param expires when the record expires, in milliseconds since the epoch by the server's clock; `null` for never. A
   * time in the past removes the record. Default: the record keeps its expiry, and a new record never expires.
   * @throws KeywardError `VALUE_INVALID` for a value that is neither a well-formed string nor bytes, for an `expires` that
   * is neither a number nor `null`, and if the server is too old to know `expires`; `STORE_NOT_ATOMIC` if the server's store
   * cannot replace a value atomically; `STORE_UNAVAILABLE` if the outcome is unknown.
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
   * Does several replacements in the order of `changes`, each like {@link HttpSpace.replace}. Returns, for each change,
   * whether the value was replaced. The changes are sent in requests of at most 500 changes and 4 MiB each.
   */
  async replaceMany(changes: readonly Replacement[]): Promise<boolean[]> {
    const untilMs = this.#writeUntilMs();
    const encoded = changes.map(({ key, expected, next, expires }): EncodedChange => {
      const until = requireNewExpires(key, expires);
      const change = {
        key: requireKey(key),
        expected: expected === undefined ? null : entityTag(requireValue(key, expected)),
        ...encodeValue(requireValue(key, next)),
      };
      return until === undefined ? change : { ...change, expires: until };
    });
    const read = (replaced: unknown) => {
      if (replaced !== null) return this.#fields.boolean(replaced);
      throw new KeywardError(
        "STORE_UNAVAILABLE",
        `It is unknown whether the HTTP KV server ${this.#transport.url} replaced the record, because an earlier attempt failed or its answer was lost`,
        { hint: "Read the record to see whether it was replaced." },
      );
    };
    return await this.#callMany("replace", "changes", encoded, "replaced", read, untilMs);
  }

  /**
   * Returns a page of the records of all namespaces. A cursor stays valid after any change to the records, and after a
   * restart of the server.
   *
   * @param options.cursor the cursor that the call for the previous page returned. Default: return the first page.
   * @param options.limit about how many records to return, an integer of at least 1.
   * @throws KeywardError `VALUE_INVALID` for a cursor that no scan returned, or an invalid limit; `STORE_NOT_SCANNABLE`
   * if the server's store cannot be scanned.
   */
  async scan(options: { readonly cursor?: string; readonly limit?: number } = {}): Promise<ScanPage> {
    const { cursor } = options;
    const limit = requireLimit(options.limit);
    if (cursor !== undefined && typeof cursor !== "string") throw invalidCursor();
    const body = JSON.stringify({ space: this.#space, cursor, limit });
    // A page may have more records than the limit.
    const answer = await this.#transport.call("scan", body, partsOf(2 * limit + maxRecords));
    const next = field(answer, "cursor");
    if (next !== undefined && typeof next !== "string") throw this.#fields.malformed();
    const entries = this.#fields.list(
      answer,
      "entries",
      (entry): ScannedRecord => ({
        namespace: this.#fields.text(field(entry, "namespace")),
        key: this.#fields.text(field(entry, "key")),
        value: this.#fields.value(entry),
      }),
    );
    return next === undefined ? { entries } : { cursor: next, entries };
  }

  async #getMany(bodyStart: string, keys: readonly string[]): Promise<(StoredValue | undefined)[]> {
    const values: (StoredValue | undefined)[] = [];
    // If the values are large, an answer has only the first of them.
    const checked = keys.map(requireKey);
    while (values.length < checked.length) {
      const [batch = []] = batches(checked.slice(values.length, values.length + maxRecords));
      const found = this.#fields.list(await this.#call("get", bodyStart, "keys", batch), "values", (value) =>
        value === null ? undefined : this.#fields.value(value),
      );
      if (found.length === 0 || found.length > batch.length) throw this.#fields.malformed();
      values.push(...found);
    }
    return values;
  }

  /** Sends a list of items in as many requests as necessary, one after the other, and joins the results. */
  async #callMany<Result>(
    operation: Operation,
    name: string,
    items: readonly unknown[],
    answered: string,
    read: (value: unknown) => Result,
    untilMs = this.#writeUntilMs(),
  ): Promise<Result[]> {
    const bodyStart = this.#bodyStart();
    const results: Result[] = [];
    for (const batch of batches(items)) {
      let rest = batch;
      while (rest.length > 0) {
        const part = this.#fields.list(await this.#call(operation, bodyStart, name, rest, untilMs), answered, read);
        // Only the answer to replacements may be incomplete: the server reads the stored values, which may be large.
        if (
          part.length > rest.length ||
          (part.length < rest.length && (operation !== "replace" || part.length === 0))
        ) {
          throw this.#fields.malformed();
        }
        results.push(...part);
        rest = rest.slice(part.length);
      }
    }
    return results;
  }

  #call(
    operation: Operation,
    bodyStart: string,
    name: string,
    batch: readonly string[],
    writeUntilMs?: number,
  ): Promise<unknown> {
    const body = `${bodyStart},${JSON.stringify(name)}:[${batch.join(",")}]}`;
    return this.#transport.call(operation, body, partsOf(batch.length), writeUntilMs);
  }

  /** Returns the time, by `performance.now()`, after which a call that begins now sends no more writes. */
  #writeUntilMs(): number {
    return performance.now() + this.longestCallMs;
  }

  /** Returns the beginning of a request's body: the space and the namespace. */
  #bodyStart(): string {
    return JSON.stringify({ space: this.#space, namespace: requireNamespace(this.namespace) }).slice(0, -1);
  }
}

/**
 * A store for Keyv and Keyward that keeps its records on an HTTP KV server (`docs/http-kv.md`). The store has expiry,
 * atomic replacement, scans, and a reserved space for Keyward's own records. The store keeps bytes unchanged.
 *
 * The server can read the values. To hide the values, wrap the store in an `EncryptedStore`. The server then sees only
 * the keys and the lengths of the values.
 *
 * @example
 * const store = new HttpStore({ url, apiKey }); // such as https://kv.example.com, and a key that createApiKey made
 * const flows = createKeyv({ store, keys: Keyring.generate(), namespace: "flows" });
 * await flows.set("42", { step: "checkout" });
 */
export class HttpStore extends HttpSpace implements ReservedSpace, NamespacedStore {
  readonly #transport: Transport;
  readonly #reserved: HttpSpace;

  /**
   * Makes a store, without connecting to the server. The first call of a method connects.
   *
   * @param origin the options, or another `HttpStore` whose server and API key the new store also uses.
   * @throws KeywardError `STORE_INVALID` for an invalid URL or API key, and for plain `http:` to another machine
   * without `allowPlainHttp`; `VALUE_INVALID` for an unknown option, or an invalid `timeoutMs` or `retries`.
   */
  constructor(origin: HttpStoreOptions | HttpStore) {
    const shared = origin instanceof HttpStore;
    const transport = shared ? origin.#transport : new Transport(origin);
    super(transport, "records");
    this.#transport = transport;
    this.#reserved = shared ? origin.#reserved : new HttpSpace(transport, "reserved");
  }

  /**
   * Returns the reserved space, in which Keyward keeps its own records. No other method of this store reads or changes
   * records in the reserved space, not even `clear`. All stores that `namespaced` returns share one reserved space.
   */
  reserved(): HttpSpace {
    return this.#reserved;
  }

  /**
   * Returns a store for one namespace, with the server and API key of this store. The namespace "" has the records that
   * were stored without a namespace.
   */
  namespaced(namespace: string): HttpStore {
    const view = new HttpStore(this);
    view.namespace = namespace;
    return view;
  }
}

/** Encodes items as JSON, and yields them in batches. Each batch fits into one request. */
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
