import type { Hash } from "node:crypto";
import { type Answer, type Incoming, pieceBytes } from "./exchange.ts";
import { listing } from "./listing.ts";
import type { NamespaceRecords } from "./namespace-records.ts";
import { type OperationContext, type Prepared, readKey, readNamespace } from "./operations.ts";
import { headers, invalid, type PathTarget, Refusal, type Scope } from "./protocol.ts";
import { readValue } from "./request-body.ts";
import type { StoredRecord } from "./stored-record.ts";
import { tagInTurns, valuePieces } from "./values.ts";

/** How often the server tries a conditional write if other requests change the record after the server has read it. */
const maxAttempts = 16;

/**
 * Returns the scopes that the API key of a request needs. A conditional write also needs "read", since the answer to
 * the write reveals what is stored.
 */
export function scopesOf(incoming: Incoming, { kind }: PathTarget): readonly Scope[] {
  switch (incoming.method) {
    case "PUT":
      return isConditional(incoming) ? ["read", "write"] : ["write"];
    case "DELETE":
      return ["write"];
    default:
      return kind === "key" ? ["read"] : ["list"];
  }
}

/**
 * Reads and checks a GET, HEAD, PUT or DELETE request for one record, or for all records whose keys have a prefix.
 * Returns a function that does the request.
 *
 * @param digest the hash of the request, to which the body of a PUT is added. `undefined` if no hash is needed.
 * @throws Refusal such as `REQUEST_INVALID` or `TOO_LARGE` for an invalid request; `NOT_ATOMIC` for a conditional PUT
 * if the store cannot replace a value atomically.
 */
export async function prepareKeyRequest(
  incoming: Incoming,
  target: PathTarget,
  context: OperationContext,
  digest: Hash | undefined,
): Promise<Prepared> {
  const { store, tenantNamespace, limits } = context;
  const records = store.records(tenantNamespace, "records", readNamespace(target.namespace, limits));
  if (target.kind === "prefix") return async () => await answerPrefix(incoming, target, records, context);
  const key = readKey(target.key, limits);
  switch (incoming.method) {
    case "GET":
    case "HEAD":
      return async () => await read(incoming, records, key, context);
    case "PUT":
      return await prepareWrite(incoming, records, key, context, digest);
    default:
      return async () => await remove(incoming, records, key);
  }
}

function isConditional(incoming: Incoming): boolean {
  return incoming.header("if-match") !== null || incoming.header("if-none-match") !== null;
}

async function answerPrefix(
  { method }: Incoming,
  { prefix, explicit }: PathTarget & { readonly kind: "prefix" },
  records: NamespaceRecords,
  context: OperationContext,
): Promise<Answer> {
  switch (method) {
    case "GET":
      return await listing(records, "list", prefix, context);
    case "HEAD":
      return { status: 200, headers: {} };
    case "DELETE":
      if (!explicit) throw invalid('To delete all keys with a prefix, end the path with ":"');
      if (prefix === "") await records.clear();
      else await records.deleteAll((key) => key.startsWith(prefix));
      return okay({});
    default:
      throw invalid("The path does not contain the key of a record");
  }
}

async function read(
  incoming: Incoming,
  records: NamespaceRecords,
  key: string,
  { memory }: OperationContext,
): Promise<Answer> {
  const [record] = await records.getRecords([key]);
  if (record === undefined) throw new Refusal("NOT_FOUND", "There is no record with this key");
  const { value } = record;
  const bytes = Buffer.byteLength(value);
  memory.reserve(bytes);
  const etag = await tagInTurns(value);
  const known = { etag, ...timesOf(record) };
  if (matchesAny(incoming.header("if-none-match"), etag, "weakly")) return { status: 304, headers: known };
  const type = typeof value === "string" ? "text/plain;charset=UTF-8" : "application/octet-stream";
  const answered = { ...known, "content-type": type, "content-length": String(bytes) };
  if (incoming.method === "HEAD") return { status: 200, headers: answered };
  return { status: 200, headers: answered, body: bytes <= pieceBytes ? value : valuePieces(value) };
}

/**
 * Returns headers with the time of a record's last write and the seconds until the record expires. The library unstorage
 * returns both as the metadata of an item.
 */
function timesOf({ modified, expires }: StoredRecord): Record<string, string> {
  const written = { "last-modified": new Date(modified).toUTCString() };
  if (expires === undefined) return written;
  return { ...written, [headers.ttl]: String(Math.max(1, Math.ceil((expires - Date.now()) / 1000))) };
}

async function prepareWrite(
  incoming: Incoming,
  records: NamespaceRecords,
  key: string,
  { limits, memory }: OperationContext,
  digest: Hash | undefined,
): Promise<Prepared> {
  const expires = readExpires(incoming);
  const ifMatch = incoming.header("if-match");
  const ifNoneMatch = incoming.header("if-none-match");
  const conditional = isConditional(incoming);
  if (conditional && expires !== undefined) {
    throw invalid("A conditional write cannot set an expiry, because the record keeps its present expiry");
  }
  if (conditional && !records.atomic) {
    throw new Refusal("NOT_ATOMIC", "The server's store cannot compare and replace a value in one step");
  }
  const isBytes = /^application\/octet-stream\s*(?:;|$)/i.test(incoming.header("content-type") ?? "");
  const bounds = { maxBytes: limits.maxValueBytes, timeoutMs: limits.bodyTimeoutMs, memory, digest };
  const value = await readValue(incoming, bounds, isBytes ? "bytes" : "text");
  const written = okay({ etag: await tagInTurns(value) });
  if (!conditional) {
    return async () => {
      const [stored] = await records.setMany([{ key, value, ...(expires === undefined ? {} : { expires }) }]);
      if (stored === false) throw new Error("The store refused the write");
      return written;
    };
  }
  return async (mayHaveBeenDone) => {
    let counted = 0;
    for (let attempt = 1; attempt <= maxAttempts; attempt++) {
      const [current] = await records.getRecords([key]);
      const bytes = current?.value.length ?? 0;
      memory.reserve(Math.max(0, bytes - counted));
      counted = Math.max(counted, bytes);
      const etag = current === undefined ? undefined : await tagInTurns(current.value);
      const holds =
        (ifMatch === null || matchesAny(ifMatch, etag, "strongly")) && !matchesAny(ifNoneMatch, etag, "weakly");
      if (!holds && mayHaveBeenDone) {
        throw new Refusal(
          "UNAVAILABLE",
          "The stored record does not meet the condition of the write, but an earlier attempt may have done the write",
        );
      }
      if (!holds)
        throw new Refusal("PRECONDITION_FAILED", "The stored record does not meet the condition of the write");
      const [replaced] = await records.replaceMany([
        { key, expected: current, next: records.successorOf(current, value) },
      ]);
      if (replaced === true) return written;
    }
    throw new Refusal(
      "UNAVAILABLE",
      `Other requests changed this record during each of ${maxAttempts} attempts to write it`,
      1,
    );
  };
}

async function remove(incoming: Incoming, records: NamespaceRecords, key: string): Promise<Answer> {
  if (isConditional(incoming)) {
    throw new Refusal(
      "NOT_ATOMIC",
      "A DELETE cannot have a condition, because no store can compare and delete in one step",
    );
  }
  await records.deleteMany([key]);
  return okay({});
}

function okay(answered: Record<string, string>): Answer {
  return { status: 200, headers: { "content-type": "text/plain;charset=UTF-8", ...answered }, body: "OK" };
}

/** Returns whether a list of entity tags, or "*", matches the tag of a record. False if `etag` is `undefined` (no record). */
function matchesAny(list: string | null, etag: string | undefined, how: "strongly" | "weakly"): boolean {
  if (list === null || etag === undefined) return false;
  return list.split(",").some((each) => {
    const tag = each.trim();
    return tag === "*" || tag === etag || (how === "weakly" && tag === `W/${etag}`);
  });
}

function readExpires(incoming: Incoming): number | undefined {
  const ttl = incoming.header(headers.ttl);
  const expires = incoming.header(headers.expires);
  if (ttl !== null && expires !== null)
    throw invalid(`A PUT can have either ${headers.ttl} or ${headers.expires}, not both`);
  if (ttl !== null) {
    if (!/^\d{1,15}(?:\.\d+)?$/.test(ttl) || Number(ttl) === 0)
      throw invalid(`${headers.ttl} must be a number of seconds above 0`);
    return Date.now() + Number(ttl) * 1000;
  }
  if (expires === null) return undefined;
  if (!/^\d{1,16}$/.test(expires))
    throw invalid(`${headers.expires} must be an integer, in milliseconds since the epoch`);
  return Number(expires);
}
