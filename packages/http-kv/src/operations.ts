import type { StoredValue } from "@keyward/core";
import { type Answer, jsonAnswer, pieceBytes, Turns } from "./exchange.ts";
import type { KvLimits } from "./limits.ts";
import { listing } from "./listing.ts";
import type { RequestMemory } from "./memory-budget.ts";
import type { MultiTenantStore } from "./multi-tenant-store.ts";
import type { NamespaceRecords, RecordWrite } from "./namespace-records.ts";
import {
  encodeValue,
  field,
  invalid,
  maxDepth,
  type Operation,
  partsOf,
  Refusal,
  type Space,
  spaces,
} from "./protocol.ts";
import { ReadSize } from "./read-size.ts";
import { replaceTagged, type TaggedReplacement } from "./tagged-replacements.ts";
import type { TenantNamespace } from "./tenant-namespace.ts";
import { decodeBase64, jsonPieces } from "./values.ts";

/** The data that the server needs to do a request. */
export interface OperationContext {
  readonly store: MultiTenantStore;
  readonly tenantNamespace: TenantNamespace;
  readonly limits: KvLimits;
  /** The memory that the request has reserved. */
  readonly memory: RequestMemory;
  /** Whether the API key has the scope "read". If not, an answer must not reveal which records exist. */
  readonly mayRead: boolean;
  /** Logs an error that happens after the answer has begun. */
  readonly failed: (error: unknown) => void;
}

/**
 * A function that carries out a request, which the server has already read and checked. The argument `mayHaveBeenDone` is
 * true if the request is a write, and an earlier attempt may already have done this write.
 */
export type Prepared = (mayHaveBeenDone: boolean) => Promise<Answer>;

const defaultScanLimit = 1_000;
/** Number of characters in the longest form of a byte in JSON, `\\u0000`. */
const escapedBytes = 6;
/** Number of bytes that a body may have for its field names and brackets. */
const bytesAround = 1_024;
/** Maximum length of a cursor, in bytes. */
const cursorBytes = 16_384;

/** The fields of each operation's body, in addition to `space` and `namespace`. */
const fields: Readonly<Record<Operation, readonly string[]>> = {
  get: ["keys"],
  has: ["keys"],
  set: ["entries"],
  delete: ["keys"],
  replace: ["changes"],
  clear: [],
  list: [],
  scan: ["cursor", "limit"],
};

/**
 * Returns the maximum length in bytes, nesting depth and number of brackets, commas and colons of an operation's body.
 */
export function bodyBounds(
  operation: Operation,
  { maxBodyBytes, maxKeyBytes, maxBatch }: KvLimits,
): { readonly maxBytes: number; readonly maxDepth: number; readonly maxParts: number } {
  const nameBytes = escapedBytes * maxKeyBytes + 8;
  const [records, bytes] = (() => {
    switch (operation) {
      case "clear":
      case "list":
        return [0, 0];
      case "scan":
        return [0, cursorBytes];
      case "get":
      case "has":
      case "delete":
        return [maxBatch, maxBatch * nameBytes];
      case "set":
      case "replace":
        return [maxBatch, maxBodyBytes];
    }
  })();
  return {
    maxBytes: Math.min(maxBodyBytes, bytesAround + nameBytes + bytes),
    maxDepth,
    // One more record, so that the refusal of a batch that is one too long can state the maximum.
    maxParts: partsOf(records + 1),
  };
}

/**
 * Checks the body of an operation, and returns a function that does the operation.
 *
 * @throws Refusal `REQUEST_INVALID` if the body is invalid; `TOO_LARGE` if a record's key, a namespace, a value or the
 * number of records exceeds a limit; `OVERLOADED` if the free part of `maxBytesInMemory` is too little for the values
 * in the body.
 */
export async function prepareOperation(
  operation: Operation,
  body: unknown,
  context: OperationContext,
): Promise<Prepared> {
  requireFields(body, ["space", "namespace", ...fields[operation]]);
  const { store, tenantNamespace, limits, memory, mayRead } = context;
  const space = readSpace(body);
  const records = store.records(tenantNamespace, space, readNamespace(field(body, "namespace") ?? "", limits));
  switch (operation) {
    case "get": {
      const keys = readKeys(body, limits);
      return async () => await get(records, keys, context);
    }
    case "has": {
      const keys = readKeys(body, limits);
      return async () => jsonAnswer({ found: await records.hasMany(keys) });
    }
    case "set": {
      const entries = await readEntries(body, context);
      return async () => jsonAnswer({ stored: await records.setMany(entries) });
    }
    case "delete": {
      const keys = readKeys(body, limits);
      return async () => {
        const deleted = await records.deleteMany(keys);
        return jsonAnswer({ deleted: mayRead ? deleted : keys.map(() => true) });
      };
    }
    case "replace": {
      const changes = await readChanges(body, context);
      return async (mayHaveBeenDone) => {
        const replaced = await replaceTagged(records, changes, { limits, memory });
        return jsonAnswer({ replaced: replaced.map((done) => (!done && mayHaveBeenDone ? null : done)) });
      };
    }
    case "clear":
      return async () => {
        await records.clear();
        return jsonAnswer({});
      };
    case "list":
      return async () => await listing(records, "operation", "", context);
    case "scan": {
      const options = readScan(body, limits);
      return async () => await scan(space, options, context);
    }
    default:
      return operation satisfies never;
  }
}

async function get(
  records: NamespaceRecords,
  keys: readonly string[],
  { limits, memory }: OperationContext,
): Promise<Answer> {
  const values: (StoredValue | undefined)[] = [];
  const size = new ReadSize(limits, memory);
  let bytes = 0;
  while (values.length < keys.length && bytes < limits.maxAnswerBytes) {
    const found = await size.reading((count) => records.getMany(keys.slice(values.length, values.length + count)));
    const foundBytes = found.reduce((sum, value) => sum + (value?.length ?? 0), 0);
    if (values.length === 0) memory.reserve(foundBytes);
    // The answer has only the values so far; the client requests the rest again.
    else if (!memory.tryReserve(foundBytes)) break;
    values.push(...found);
    bytes += foundBytes;
    size.adapt(foundBytes);
  }
  if (bytes <= pieceBytes) {
    return jsonAnswer({ values: values.map((value) => (value === undefined ? null : encodeValue(value))) });
  }
  function* parts() {
    yield '{"values":[';
    for (const [index, value] of values.entries()) {
      if (index > 0) yield ",";
      if (value === undefined) yield "null";
      else {
        yield "{";
        yield { value };
        yield "}";
      }
    }
    yield "]}";
  }
  return { status: 200, headers: { "content-type": "application/json" }, body: jsonPieces(parts()) };
}

interface ScanOptions {
  readonly cursor: string | undefined;
  readonly limit: number;
}

function readScan(body: unknown, { maxBatch }: KvLimits): ScanOptions {
  const cursor = field(body, "cursor");
  const limit = field(body, "limit") ?? Math.min(defaultScanLimit, maxBatch);
  if (cursor !== undefined && typeof cursor !== "string") throw invalid("The cursor of a scan must be a string");
  if (typeof limit !== "number" || !Number.isSafeInteger(limit) || limit < 1 || field(body, "limit") === null) {
    throw invalid("The limit of a scan must be an integer of at least 1");
  }
  return { cursor, limit: Math.min(limit, maxBatch) };
}

async function scan(space: Space, options: ScanOptions, context: OperationContext): Promise<Answer> {
  const { store, tenantNamespace, limits, memory } = context;
  const { cursor, entries } = await store.scan(tenantNamespace, space, { ...options, limits, memory });
  const bytes = entries.reduce((sum, { value }) => sum + value.length, 0);
  if (bytes <= pieceBytes) {
    const encoded = entries.map(({ namespace, key, value }) => ({ namespace, key, ...encodeValue(value) }));
    return jsonAnswer(cursor === undefined ? { entries: encoded } : { cursor, entries: encoded });
  }
  function* parts() {
    yield cursor === undefined ? '{"entries":[' : `{"cursor":${JSON.stringify(cursor)},"entries":[`;
    for (const [index, { namespace, key, value }] of entries.entries()) {
      if (index > 0) yield ",";
      yield `${JSON.stringify({ namespace, key }).slice(0, -1)},`;
      yield { value };
      yield "}";
    }
    yield "]}";
  }
  return { status: 200, headers: { "content-type": "application/json" }, body: jsonPieces(parts()) };
}

/**
 * Refuses unknown fields, because an unknown field may be misspelt, and the request would do something else without it.
 * Only the `nullable` fields may be `null`.
 */
function requireFields(given: unknown, known: readonly string[], nullable: readonly string[] = []): void {
  if (typeof given !== "object" || given === null || Array.isArray(given))
    throw invalid("The body, or an element of its list, is not a JSON object");
  for (const name of Object.keys(given)) {
    if (!known.includes(name)) throw invalid(`The body has an unknown field. The known fields are ${known.join(", ")}`);
    if (field(given, name) === null && !nullable.includes(name))
      throw invalid(`The field "${name}" is null. Omit the field instead`);
  }
}

function readSpace(body: unknown): Space {
  const space = field(body, "space") ?? "records";
  const known = spaces.find((each) => each === space);
  if (known === undefined) throw invalid('The field "space" is neither "records" nor "reserved"');
  return known;
}

function readKeys(body: unknown, limits: KvLimits): string[] {
  return readBatch(body, "keys", limits).map((key) => readKey(key, limits));
}

async function readEntries(body: unknown, context: OperationContext): Promise<RecordWrite[]> {
  const entries: RecordWrite[] = [];
  const turns = new Turns();
  for (const entry of readBatch(body, "entries", context.limits)) {
    requireFields(entry, ["key", "text", "bytes", "expires"]);
    const expires = requireTime(field(entry, "expires"));
    const keyed = await readKeyed(entry, context);
    entries.push({ ...keyed, ...(expires === undefined ? {} : { expires }) });
    await turns.worked(keyed.value.length);
  }
  return entries;
}

async function readChanges(body: unknown, context: OperationContext): Promise<TaggedReplacement[]> {
  const changes: TaggedReplacement[] = [];
  const turns = new Turns();
  for (const change of readBatch(body, "changes", context.limits)) {
    requireFields(change, ["key", "expected", "text", "bytes", "expires"], ["expected", "expires"]);
    const expected = field(change, "expected");
    if (expected !== null && typeof expected !== "string")
      throw invalid('The field "expected" must be an entity tag or null');
    const given = field(change, "expires");
    const expires = given === null ? null : requireTime(given);
    const { key, value } = await readKeyed(change, context);
    changes.push({ key, expected: expected ?? undefined, next: value, expires });
    await turns.worked(value.length);
  }
  return changes;
}

function requireTime(expires: unknown): number | undefined {
  if (expires === undefined || (typeof expires === "number" && Number.isFinite(expires))) return expires;
  throw invalid('The field "expires" must be a number of milliseconds since the epoch');
}

async function readKeyed(
  entry: unknown,
  { limits, memory }: OperationContext,
): Promise<{ readonly key: string; readonly value: StoredValue }> {
  return { key: readKey(field(entry, "key"), limits), value: requireSize(await readValue(entry, memory), limits) };
}

/** Reads the value of a record: `text` that is well-formed, or `bytes` in canonical base64, but not both. */
async function readValue(entry: unknown, memory: RequestMemory): Promise<StoredValue> {
  const text = field(entry, "text");
  const bytes = field(entry, "bytes");
  if (typeof text === "string" && bytes === undefined && text.isWellFormed()) return text;
  if (typeof bytes === "string" && text === undefined) {
    memory.reserve(Buffer.byteLength(bytes, "base64"));
    const decoded = await decodeBase64(bytes);
    if (decoded !== undefined) return decoded;
  }
  throw invalid('A value must be a field "text" of well-formed Unicode, or a field "bytes" of canonical base64');
}

function readBatch(body: unknown, name: string, { maxBatch }: KvLimits): readonly unknown[] {
  const batch = field(body, name);
  if (!Array.isArray(batch)) throw invalid(`The field "${name}" of the body is missing or is not a list`);
  if (batch.length > maxBatch) throw new Refusal("TOO_LARGE", `A batch may have at most ${maxBatch} records`);
  return batch;
}

/**
 * Checks the key of a record, and returns the key.
 *
 * @throws Refusal `REQUEST_INVALID` if the key is not well-formed text; `TOO_LARGE` if it is longer than `maxKeyBytes`.
 */
export function readKey(key: unknown, limits: KvLimits): string {
  return requireName(key, "The key of a record", limits);
}

/**
 * Checks the namespace of a record, and returns the namespace.
 *
 * @throws Refusal `REQUEST_INVALID` if the namespace is not well-formed text; `TOO_LARGE` if it is longer than
 * `maxKeyBytes`.
 */
export function readNamespace(namespace: unknown, limits: KvLimits): string {
  return requireName(namespace, "A namespace", limits);
}

function requireName(name: unknown, what: string, { maxKeyBytes }: KvLimits): string {
  if (typeof name !== "string" || !name.isWellFormed()) throw invalid(`${what} is not well-formed text`);
  if (Buffer.byteLength(name) > maxKeyBytes)
    throw new Refusal("TOO_LARGE", `${what} may have at most ${maxKeyBytes} bytes`);
  return name;
}

/**
 * Checks the length of a value.
 *
 * @throws Refusal `TOO_LARGE` if the value is longer than `maxValueBytes`.
 */
function requireSize(value: StoredValue, { maxValueBytes }: KvLimits): StoredValue {
  if (Buffer.byteLength(value) <= maxValueBytes) return value;
  throw new Refusal("TOO_LARGE", `A value may have at most ${maxValueBytes} bytes`);
}
