import type { StoredValue } from "@keyward/core";
import type { Area, DividedStore, Entry, Part, TaggedReplacement } from "./areas.ts";
import type { HeldBytes } from "./bytes-under-way.ts";
import type { KvLimits } from "./limits.ts";
import {
  type Answers,
  decodeValue,
  encodeValue,
  field,
  invalid,
  type Operation,
  Refusal,
  type Space,
  spaces,
} from "./protocol.ts";
import { ReadSize } from "./read-size.ts";

/** What an operation works with. */
export interface OperationContext {
  readonly store: DividedStore;
  readonly area: Area;
  readonly limits: KvLimits;
  /** What the request holds in memory. */
  readonly held: HeldBytes;
  /** Whether an earlier attempt at the same write may have been done, and nobody here knows. */
  readonly mayHaveBeenDone: boolean;
}

const defaultScanLimit = 1_000;

/** All operations but `list`, whose answer is a stream. */
export type AnsweredOperation = Exclude<Operation, "list">;

/** Does what a `POST` asks for. */
export async function perform(
  operation: AnsweredOperation,
  body: unknown,
  context: OperationContext,
): Promise<Answers[AnsweredOperation]> {
  const part = partOf(body, context);
  const { limits } = context;
  switch (operation) {
    case "get":
      return { values: await get(part, readKeys(body, limits), context) };
    case "has":
      return { found: await part.hasMany(readKeys(body, limits)) };
    case "set":
      return { stored: await part.setMany(readEntries(body, limits)) };
    case "delete":
      return { deleted: await part.deleteMany(readKeys(body, limits)) };
    case "replace": {
      const replaced = await part.replaceTagged(readChanges(body, limits));
      return { replaced: replaced.map((done) => (!done && context.mayHaveBeenDone ? null : done)) };
    }
    case "clear":
      await part.clear();
      return {};
    case "scan":
      return await scan(body, context);
    default:
      return operation satisfies never;
  }
}

/** The records that an operation is about. */
export function partOf(body: unknown, { store, area, limits }: OperationContext): Part {
  return store.part(area, readSpace(body), readNamespace(field(body, "namespace") ?? "", limits));
}

async function get(
  part: Part,
  keys: readonly string[],
  { limits, held }: Pick<OperationContext, "limits" | "held">,
): Promise<Answers["get"]["values"]> {
  const values: Answers["get"]["values"][number][] = [];
  const size = new ReadSize(limits);
  let bytes = 0;
  while (values.length < keys.length && bytes < limits.maxAnswerBytes) {
    const found = await part.getMany(keys.slice(values.length, values.length + size.records));
    const foundBytes = found.reduce((sum, value) => sum + (value?.length ?? 0), 0);
    if (values.length === 0) held.add(foundBytes);
    // What is there already is answered; the client asks for the rest again.
    else if (!held.fits(foundBytes)) break;
    for (const value of found) values.push(value === undefined ? null : encodeValue(value));
    bytes += foundBytes;
    size.learn(foundBytes);
  }
  return values;
}

async function scan(body: unknown, { store, area, limits, held }: OperationContext): Promise<Answers["scan"]> {
  const cursor = field(body, "cursor");
  const limit = field(body, "limit") ?? Math.min(defaultScanLimit, limits.maxBatch);
  if (cursor !== undefined && typeof cursor !== "string") throw invalid("A cursor is text");
  if (typeof limit !== "number" || !Number.isSafeInteger(limit) || limit < 1) {
    throw invalid("The limit of a scan is a whole number from 1");
  }
  const page = await store.scan(area, readSpace(body), {
    cursor,
    limit: Math.min(limit, limits.maxBatch),
    limits,
    held,
  });
  const entries = page.entries.map(({ namespace, key, value }) => ({ namespace, key, ...encodeValue(value) }));
  return page.cursor === undefined ? { entries } : { cursor: page.cursor, entries };
}

function readSpace(body: unknown): Space {
  const space = field(body, "space") ?? "records";
  const known = spaces.find((each) => each === space);
  if (known === undefined) throw invalid("The space is neither records nor reserved");
  return known;
}

function readKeys(body: unknown, limits: KvLimits): string[] {
  return readBatch(body, "keys", limits).map((key) => readKey(key, limits));
}

function readEntries(body: unknown, limits: KvLimits): Entry[] {
  return readBatch(body, "entries", limits).map((entry) => {
    const expires = field(entry, "expires");
    if (expires !== undefined && (typeof expires !== "number" || !Number.isFinite(expires))) {
      throw invalid("An expiry is a number of ms since the epoch");
    }
    return { ...readKeyed(entry, limits), ...(expires === undefined ? {} : { expires }) };
  });
}

function readChanges(body: unknown, limits: KvLimits): TaggedReplacement[] {
  return readBatch(body, "changes", limits).map((change) => {
    const expected = field(change, "expected");
    if (expected !== null && typeof expected !== "string") throw invalid("What is expected is an entity tag or null");
    const { key, value } = readKeyed(change, limits);
    return { key, expected: expected ?? undefined, next: value };
  });
}

function readKeyed(entry: unknown, limits: KvLimits): { readonly key: string; readonly value: StoredValue } {
  return { key: readKey(field(entry, "key"), limits), value: requireSize(decodeValue(entry), limits) };
}

function readBatch(body: unknown, name: string, { maxBatch }: KvLimits): readonly unknown[] {
  const batch = field(body, name);
  if (!Array.isArray(batch)) throw invalid(`The body has no list "${name}"`);
  if (batch.length > maxBatch) throw new Refusal("TOO_LARGE", `A batch has at most ${maxBatch} records`);
  return batch;
}

/**
 * @throws Refusal `REQUEST_INVALID`, `TOO_LARGE`.
 */
export function readKey(key: unknown, limits: KvLimits): string {
  return requireName(key, "A key", limits);
}

/**
 * @throws Refusal `REQUEST_INVALID`, `TOO_LARGE`.
 */
export function readNamespace(namespace: unknown, limits: KvLimits): string {
  return requireName(namespace, "A namespace", limits);
}

function requireName(name: unknown, what: string, { maxKeyBytes }: KvLimits): string {
  if (typeof name !== "string" || !name.isWellFormed()) throw invalid(`${what} is not well-formed text`);
  if (Buffer.byteLength(name) > maxKeyBytes) throw new Refusal("TOO_LARGE", `${what} has at most ${maxKeyBytes} bytes`);
  return name;
}

/**
 * @throws Refusal `TOO_LARGE`.
 */
export function requireSize(value: StoredValue, { maxValueBytes }: KvLimits): StoredValue {
  if (Buffer.byteLength(value) <= maxValueBytes) return value;
  throw new Refusal("TOO_LARGE", `A value has at most ${maxValueBytes} bytes`);
}
