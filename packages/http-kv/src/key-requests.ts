import type { StoredValue } from "@keyward/core";
import type { Part } from "./areas.ts";
import { type OperationContext, readKey, readNamespace, requireSize } from "./operations.ts";
import { entityTag, headers, invalid, type PathTarget, Refusal } from "./protocol.ts";
import { decodeText, readBody } from "./request-body.ts";

/** How often a conditional write is tried again when others write in between. */
const maxAttempts = 16;

/** About how much of a listing is sent at once. */
const bytesAtOnce = 2 ** 14;

/** What a request works with, whose answer may be a stream. */
export interface KeyRequestContext extends OperationContext {
  /** Told of what goes wrong after an answer has begun. */
  readonly failed: (error: unknown) => void;
}

/** Answers GET, HEAD, PUT and DELETE, on one key or on all that begin with a prefix. */
export async function answerKeyRequest(
  request: Request,
  target: PathTarget,
  context: KeyRequestContext,
): Promise<Response> {
  const { store, area, limits, failed } = context;
  const part = store.part(area, "records", readNamespace(target.namespace, limits));
  if (target.kind === "prefix") return await answerPrefix(request, target, part, failed);
  const key = readKey(target.key, limits);
  switch (request.method) {
    case "GET":
    case "HEAD":
      return await read(request, part, key, context);
    case "PUT":
      return await write(request, part, key, context);
    default:
      return await remove(request, part, key);
  }
}

async function answerPrefix(
  request: Request,
  { prefix, explicit }: PathTarget & { readonly kind: "prefix" },
  part: Part,
  failed: (error: unknown) => void,
): Promise<Response> {
  switch (request.method) {
    case "GET":
      return await listing(part, "list", prefix, failed);
    case "HEAD":
      return new Response(null);
    case "DELETE":
      if (!explicit) throw invalid('To delete all keys with a prefix, end the path with ":"');
      if (prefix === "") await part.clear();
      else await part.deleteAll((key) => key.startsWith(prefix));
      return new Response("OK");
    default:
      throw invalid("The path names no key");
  }
}

/** The keys as JSON, sent as the store finds them: a bare list, as unstorage has it, or the answer of the operation. */
export async function listing(
  part: Part,
  form: "list" | "operation",
  prefix: string,
  failed: (error: unknown) => void,
): Promise<Response> {
  const keys = part.keys();
  // A store that cannot be listed says so here, while there still is a status to answer with.
  const first = await keys.next();
  async function* json(): AsyncGenerator<Uint8Array> {
    try {
      let text = form === "list" ? "[" : '{"keys":[';
      let separator = "";
      for (let each = first; each.done !== true; each = await keys.next()) {
        if (!each.value.startsWith(prefix)) continue;
        text += `${separator}${JSON.stringify(each.value)}`;
        separator = ",";
        if (text.length < bytesAtOnce) continue;
        yield Buffer.from(text);
        text = "";
      }
      yield Buffer.from(`${text}${form === "list" ? "]" : "]}"}`);
    } catch (error) {
      failed(error);
      // The connection breaks, so that nobody takes a part of the list for the whole.
      throw error;
    } finally {
      await keys.return(undefined);
    }
  }
  return new Response(ReadableStream.from(json()), { headers: { "content-type": "application/json" } });
}

async function read(request: Request, part: Part, key: string, { held }: KeyRequestContext): Promise<Response> {
  const [value] = await part.getMany([key]);
  if (value === undefined) throw new Refusal("NOT_FOUND", "There is nothing under this key");
  held.add(Buffer.byteLength(value));
  const etag = entityTag(value);
  if (matchesAny(request.headers.get("if-none-match"), etag, "weakly")) {
    return new Response(null, { status: 304, headers: { etag } });
  }
  const type = typeof value === "string" ? "text/plain;charset=UTF-8" : "application/octet-stream";
  const body = typeof value === "string" ? Buffer.from(value) : new Uint8Array(value);
  return new Response(request.method === "HEAD" ? null : body, {
    headers: { etag, "content-type": type, "content-length": String(body.length) },
  });
}

async function write(
  request: Request,
  part: Part,
  key: string,
  { limits, held, mayHaveBeenDone }: KeyRequestContext,
): Promise<Response> {
  const expires = readExpires(request.headers);
  const ifMatch = request.headers.get("if-match");
  const ifNoneMatch = request.headers.get("if-none-match");
  const conditional = ifMatch !== null || ifNoneMatch !== null;
  if (conditional && expires !== undefined) {
    throw invalid("A conditional write keeps the expiry that is there, and cannot set one");
  }
  if (conditional && !part.atomic) throw new Refusal("NOT_ATOMIC", "The server's store cannot write on a condition");
  const bytes = await readBody(request, { maxBytes: limits.maxValueBytes, timeoutMs: limits.bodyTimeoutMs, held });
  const isBytes = /^application\/octet-stream\s*(?:;|$)/i.test(request.headers.get("content-type") ?? "");
  const value: StoredValue = requireSize(isBytes ? bytes : decodeText(bytes), limits);
  const written = new Response("OK", { headers: { etag: entityTag(value) } });
  if (!conditional) {
    const [stored] = await part.setMany([{ key, value, ...(expires === undefined ? {} : { expires }) }]);
    if (stored === false) throw new Error("The store refused the write");
    return written;
  }
  for (let attempt = 1; attempt <= maxAttempts; attempt++) {
    const [current] = await part.getMany([key]);
    const etag = current === undefined ? undefined : entityTag(current);
    const holds =
      (ifMatch === null || matchesAny(ifMatch, etag, "strongly")) && !matchesAny(ifNoneMatch, etag, "weakly");
    if (!holds && mayHaveBeenDone) {
      throw new Refusal("UNAVAILABLE", "The condition is not met now, and an earlier attempt may have been done");
    }
    if (!holds) throw new Refusal("PRECONDITION_FAILED", "What lies under the key does not meet the condition");
    const [replaced] = await part.replaceMany([{ key, expected: current, next: value }]);
    if (replaced === true) return written;
  }
  throw new Refusal("UNAVAILABLE", "Others write to this key all the time", 1);
}

async function remove(request: Request, part: Part, key: string): Promise<Response> {
  if (request.headers.has("if-match") || request.headers.has("if-none-match")) {
    throw new Refusal("NOT_ATOMIC", "A deletion cannot have a condition: no store can do that in one step");
  }
  await part.deleteMany([key]);
  return new Response("OK");
}

/** Whether a list of entity tags, or "*", names what lies there; `undefined` is nothing. */
function matchesAny(list: string | null, etag: string | undefined, how: "strongly" | "weakly"): boolean {
  if (list === null || etag === undefined) return false;
  return list.split(",").some((each) => {
    const tag = each.trim();
    return tag === "*" || tag === etag || (how === "weakly" && tag === `W/${etag}`);
  });
}

function readExpires(given: Headers): number | undefined {
  const ttl = given.get(headers.ttl);
  const expires = given.get(headers.expires);
  if (ttl !== null && expires !== null) throw invalid(`Only one of ${headers.ttl} and ${headers.expires} can be given`);
  if (ttl !== null) {
    if (!/^\d{1,15}(?:\.\d+)?$/.test(ttl) || Number(ttl) === 0)
      throw invalid(`${headers.ttl} is a number of seconds above 0`);
    return Date.now() + Number(ttl) * 1000;
  }
  if (expires === null) return undefined;
  if (!/^\d{1,16}$/.test(expires)) throw invalid(`${headers.expires} is a whole number of ms since the epoch`);
  return Number(expires);
}
