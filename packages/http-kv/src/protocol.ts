/**
 * The protocol that client and server speak: names, encodings and errors, each defined here once. `docs/http-kv.md`
 * says the same in prose.
 */
import { createHash } from "node:crypto";
import type { StoredValue } from "@keyward/core";

/** The headers that are not HTTP's own, in lower case. */
export const headers = {
  /** On a PUT: how long the value is to stay, in seconds. */
  ttl: "x-ttl",
  /** On a PUT: when the value ends, in ms since the epoch. */
  expires: "x-expires",
  /** On a write: a name that the client gives it, so that it is done once however often it is sent. */
  idempotencyKey: "idempotency-key",
  /** On a write: that an earlier attempt under the same name may have been done. */
  repeated: "x-repeated",
  /** On an answer: a token of the process that gave it. On a write: that only this process may do it. */
  server: "x-server",
} as const;

/** What a `POST` may name as its path. */
export const operations = ["get", "has", "set", "delete", "replace", "clear", "list", "scan"] as const;

/** One of {@link operations}. */
export type Operation = (typeof operations)[number];

/** What an API key may be allowed. */
export const scopes = ["read", "write", "list"] as const;

/** One of {@link scopes}: "read" values, "write" and delete them, "list" keys. */
export type Scope = (typeof scopes)[number];

/** The scopes that each operation needs. A replacement says whether a value is the expected one, and so reads. */
export const neededScopes: Readonly<Record<Operation, readonly Scope[]>> = {
  get: ["read"],
  has: ["read"],
  set: ["write"],
  delete: ["write"],
  replace: ["read", "write"],
  clear: ["write"],
  list: ["list"],
  scan: ["read", "list"],
};

/** The places for records that an API key opens: those of users, and the one beside them that no user key reaches. */
export const spaces = ["records", "reserved"] as const;

/** One of {@link spaces}. */
export type Space = (typeof spaces)[number];

/** How deep the JSON of requests and answers is: an object, a list in it, and an object in that. */
export const maxDepth = 3;

/** How many brackets, commas and colons the JSON of so many records has at most. */
export function partsOf(records: number): number {
  return 16 + 8 * records;
}

/** The codes of refusals, and the HTTP status of each. */
export const statuses = {
  REQUEST_INVALID: 400,
  UNAUTHORIZED: 401,
  FORBIDDEN: 403,
  NOT_FOUND: 404,
  METHOD_NOT_ALLOWED: 405,
  REQUEST_TIMEOUT: 408,
  PRECONDITION_FAILED: 412,
  TOO_LARGE: 413,
  MISDIRECTED: 421,
  RATE_LIMITED: 429,
  INTERNAL: 500,
  NOT_ATOMIC: 501,
  NOT_SCANNABLE: 501,
  OVERLOADED: 503,
  UNAVAILABLE: 503,
} as const;

/** One of the codes in {@link statuses}. */
export type RefusalCode = keyof typeof statuses;

/** The body of every answer of status 400 and above. */
export interface RefusalBody {
  readonly code: RefusalCode;
  /** For people. Holds no key of a record, no value and no API key. */
  readonly message: string;
  /** With INTERNAL and UNAVAILABLE: the id under which the server logged what happened. */
  readonly id?: string;
}

/** An answer of status 400 or above, thrown on the server and read by the client. */
export class Refusal extends Error {
  override readonly name = "Refusal";
  readonly code: RefusalCode;
  /** When to try again, in seconds. */
  readonly retryAfterSeconds: number | undefined;

  /** @param cause is for the log of the server alone. */
  constructor(code: RefusalCode, message: string, retryAfterSeconds?: number, cause?: unknown) {
    super(message, { cause });
    this.code = code;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

/** A value as JSON has it: text as it is, bytes as canonical base64 with padding. */
export type EncodedValue = { readonly text: string } | { readonly bytes: string };

/** Where an operation works. Absent is "records", and the records without a namespace. */
export interface EncodedPlace {
  readonly space?: Space;
  readonly namespace?: string;
}

/** One record to set. */
export type EncodedEntry = EncodedValue & {
  readonly key: string;
  /** When it ends, in ms since the epoch. */
  readonly expires?: number;
};

/** One conditional write. */
export type EncodedChange = EncodedValue & {
  readonly key: string;
  /** The entity tag of what must lie there; `null`: nothing may. */
  readonly expected: string | null;
};

/** One record of a scan. */
export type EncodedRecord = EncodedValue & { readonly namespace: string; readonly key: string };

/** The JSON with which each operation is answered. */
export interface Answers {
  /** For the first of the keys, in order; the server may leave off the rest, and the client asks again. */
  readonly get: { readonly values: readonly (EncodedValue | null)[] };
  readonly has: { readonly found: readonly boolean[] };
  readonly set: { readonly stored: readonly boolean[] };
  readonly delete: { readonly deleted: readonly boolean[] };
  /** `null`: it is refused now, but may have been done before. Only where the request is `x-repeated`. */
  readonly replace: { readonly replaced: readonly (boolean | null)[] };
  readonly clear: Readonly<Record<never, never>>;
  readonly list: { readonly keys: readonly string[] };
  readonly scan: { readonly cursor?: string; readonly entries: readonly EncodedRecord[] };
}

/**
 * The strong entity tag of a value, quotes included. Two values have the same one only if they are the same, type
 * included: finding two that do not is finding a collision of SHA-256. So a comparison of tags is as exact as one of the
 * values, and the client need not send the old value to have it replaced.
 */
export function entityTag(value: StoredValue): string {
  const hash = createHash("sha256");
  if (typeof value === "string") hash.update("text\0").update(value, "utf8");
  else hash.update("bytes\0").update(value);
  return `"${hash.digest("base64url")}"`;
}

export function encodeValue(value: StoredValue): EncodedValue {
  if (typeof value === "string") return { text: value };
  return { bytes: Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString("base64") };
}

/**
 * @throws Refusal `REQUEST_INVALID` where there is neither a well-formed text nor canonical base64.
 */
export function decodeValue(encoded: unknown): StoredValue {
  const text = field(encoded, "text");
  const bytes = field(encoded, "bytes");
  if (typeof text === "string" && bytes === undefined && text.isWellFormed()) return text;
  if (typeof bytes === "string" && text === undefined) {
    const decoded = Buffer.from(bytes, "base64");
    if (decoded.toString("base64") === bytes) return decoded;
  }
  throw invalid(`A value is neither {"text"}, well-formed, nor {"bytes"}, in canonical base64`);
}

/**
 * The path of a key below the mount. It is encoded as one segment, so that nothing in it is taken for a path; the keys
 * that a URL cannot hold even so go into the query.
 */
export function keyPath(key: string, namespace = ""): string {
  const query = namespace === "" ? [] : [`namespace=${encodeURIComponent(namespace)}`];
  const inPath = key !== "" && key !== "." && key !== "..";
  if (!inPath) query.unshift(`key=${encodeURIComponent(key)}`);
  return `/${inPath ? encodeURIComponent(key) : ""}${query.length === 0 ? "" : `?${query.join("&")}`}`;
}

/** What a path below the mount stands for: one key, or all that begin with a prefix. */
export type PathTarget =
  | { readonly kind: "key"; readonly key: string; readonly namespace: string }
  | {
      readonly kind: "prefix";
      readonly prefix: string;
      readonly namespace: string;
      /** Whether it ends with ":", which a deletion must say, so that no path that was cut short deletes everything. */
      readonly explicit: boolean;
    };

/**
 * Reads a path and its query (without "?") as the client wrote them, still encoded. A path that ends with a bare "/" or
 * ":" is a prefix, as unstorage has it; a key that does ends with %2F or %3A.
 *
 * @throws Refusal `REQUEST_INVALID` for escapes that are not UTF-8, and parameters that are unknown or given twice.
 */
export function readPath(path: string, query: string): PathTarget {
  const parameters = readQuery(query);
  const namespace = parameters.get("namespace") ?? "";
  const named = parameters.get("key");
  const encoded = path.slice(1);
  if (named !== undefined) {
    if (encoded !== "") throw invalid("A key stands both in the path and in the query");
    return { kind: "key", key: named, namespace };
  }
  const explicit = encoded.endsWith(":");
  if (explicit || encoded === "" || encoded.endsWith("/")) {
    const prefix = decodeEscapes(explicit ? encoded.slice(0, -1) : encoded);
    return {
      kind: "prefix",
      prefix: prefix === "" || prefix.endsWith("/") ? prefix : `${prefix}/`,
      namespace,
      explicit,
    };
  }
  return { kind: "key", key: decodeEscapes(encoded), namespace };
}

function readQuery(query: string): Map<string, string> {
  const parameters = new Map<string, string>();
  if (query === "") return parameters;
  for (const pair of query.split("&")) {
    const [, name = "", value = ""] = /^([^=]*)=(.*)$/.exec(pair) ?? [];
    if ((name !== "key" && name !== "namespace") || parameters.has(name)) {
      throw invalid("The query may have key and namespace, once each");
    }
    parameters.set(name, decodeEscapes(value));
  }
  return parameters;
}

/** Not as forms decode: a "+" is a "+". */
function decodeEscapes(encoded: string): string {
  try {
    return decodeURIComponent(encoded);
  } catch {
    throw invalid("The URL holds escapes that are not UTF-8");
  }
}

/** A field of what came as JSON; `undefined` where there is none. */
export function field(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null && Object.hasOwn(value, name)
    ? Reflect.get(value, name)
    : undefined;
}

export function invalid(message: string): Refusal {
  return new Refusal("REQUEST_INVALID", message);
}

/** Reads the body of a refusal; `undefined` for one that no server of this protocol wrote. */
export function readRefusal(body: unknown): RefusalBody | undefined {
  const [code, message, id] = [field(body, "code"), field(body, "message"), field(body, "id")];
  if (!isRefusalCode(code) || typeof message !== "string") return undefined;
  return typeof id === "string" ? { code, message, id } : { code, message };
}

function isRefusalCode(code: unknown): code is RefusalCode {
  return typeof code === "string" && Object.hasOwn(statuses, code);
}
