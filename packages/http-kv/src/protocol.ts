/**
 * The HTTP KV protocol: the names, encodings and errors that client and server share. `docs/http-kv.md` specifies the
 * protocol in prose.
 */
import { createHash } from "node:crypto";
import type { StoredValue } from "@keyward/core";

/** The names, in lower case, of the protocol's headers that HTTP itself does not define. */
export const headers = {
  /**
   * Header with the time until the record expires, in seconds: in a PUT, the time from the write; in an answer, the time
   * from the answer.
   */
  ttl: "x-ttl",
  /** Header of a PUT with the time at which the record expires, in milliseconds since the epoch. */
  expires: "x-expires",
  /**
   * Header with a random key that is the same in all attempts of a write. If several attempts with this key reach a server process,
   * the process does the write only once.
   */
  idempotencyKey: "idempotency-key",
  /** Header of a write that is sent again: "1" if an earlier attempt may already have done the write. */
  repeated: "x-repeated",
  /**
   * Header with the token of a server process. In an answer, the token names the process that sent the answer. In a
   * write, the token names the only process that may do the write.
   */
  server: "x-server",
} as const;

/** The names of the operations. A client requests an operation with `POST /<name>`. */
export const operations = ["get", "has", "set", "delete", "replace", "clear", "list", "scan"] as const;

/** The name of an operation, such as "get": one of {@link operations}. */
export type Operation = (typeof operations)[number];

/** The scopes that an API key can have. */
export const scopes = ["read", "write", "list"] as const;

/**
 * A scope of an API key: "read" allows reading values, "write" allows storing and deleting values, "list" allows
 * listing keys.
 */
export type Scope = (typeof scopes)[number];

/**
 * The scopes that an API key needs for each operation. A replacement also needs "read", because the answer reveals
 * whether the expected value is stored.
 */
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

/**
 * The spaces that an API key gives access to: "records" for the application's records, "reserved" for Keyward's own.
 */
export const spaces = ["records", "reserved"] as const;

/** The name of a space of records: one of {@link spaces}. */
export type Space = (typeof spaces)[number];

/** Maximum nesting depth of the JSON in requests and answers: an object with a list of objects. */
export const maxDepth = 3;

/**
 * Returns how many brackets, commas and colons the JSON body of an operation or of its answer may have, if the body has at
 * most `records` records. A body with more is refused.
 */
export function partsOf(records: number): number {
  return 16 + 9 * records;
}

/** The codes with which the server refuses requests, and the HTTP status of each code. */
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

/** The code of a refusal, such as `NOT_FOUND`: one of the names in {@link statuses}. */
export type RefusalCode = keyof typeof statuses;

/** The body of every answer of status 400 and above. */
export interface RefusalBody {
  readonly code: RefusalCode;
  /** A description of the error for people. It contains no key of a record, no value and no API key. */
  readonly message: string;
  /**
   * The id of the server's log entry about the error. Only a body with the code INTERNAL or UNAVAILABLE can have an id.
   */
  readonly id?: string;
}

/**
 * An error that the server throws to refuse a request. The property `code` determines the HTTP status of the answer,
 * which is 400 or above.
 */
export class Refusal extends Error {
  override readonly name = "Refusal";
  readonly code: RefusalCode;
  /** How long the client should wait before it sends the request again, in seconds. */
  readonly retryAfterSeconds: number | undefined;

  /** @param cause the error that the server logs. The client does not get this error. */
  constructor(code: RefusalCode, message: string, retryAfterSeconds?: number, cause?: unknown) {
    super(message, { cause });
    this.code = code;
    this.retryAfterSeconds = retryAfterSeconds;
  }
}

/** A value in JSON: text unchanged, bytes as canonical base64 with padding. */
export type EncodedValue = { readonly text: string } | { readonly bytes: string };

/** The space and the namespace on which an operation works. Default: the space "records" and the namespace "". */
export interface EncodedPlace {
  readonly space?: Space;
  readonly namespace?: string;
}

/** One record in the body of the operation `set`, which stores records. */
export type EncodedEntry = EncodedValue & {
  readonly key: string;
  /** Time at which the record expires, in milliseconds since the epoch. */
  readonly expires?: number;
};

/** One replacement in the body of the operation `replace`. */
export type EncodedChange = EncodedValue & {
  readonly key: string;
  /** The replacement is done only if the stored value has this entity tag. `null`: only if there is no record. */
  readonly expected: string | null;
  /** Time at which the record expires, in milliseconds since the epoch. `null`: never. Absent: the record keeps its expiry. */
  readonly expires?: number | null;
};

/** One record in the answer to the operation `scan`. */
export type EncodedRecord = EncodedValue & { readonly namespace: string; readonly key: string };

/** For each operation, the JSON object that the server sends as its answer. */
export interface Answers {
  /**
   * The value of each key in the order of the keys, or `null` for a key without a record. The server may omit the
   * values of the last keys. The client then requests these keys again.
   */
  readonly get: { readonly values: readonly (EncodedValue | null)[] };
  readonly has: { readonly found: readonly boolean[] };
  readonly set: { readonly stored: readonly boolean[] };
  readonly delete: { readonly deleted: readonly boolean[] };
  /**
   * For each change, whether the server replaced the value. `null` means that this attempt of the request did not
   * replace the value, but an earlier attempt may have replaced it. Only the answer to a request with the header
   * `x-repeated` can have `null`.
   */
  readonly replace: { readonly replaced: readonly (boolean | null)[] };
  readonly clear: Readonly<Record<never, never>>;
  readonly list: { readonly keys: readonly string[] };
  readonly scan: { readonly cursor?: string; readonly entries: readonly EncodedRecord[] };
}

/**
 * Returns the strong entity tag of a value, with its quotes. Two different values, such as a text and its bytes, have
 * the same tag only if SHA-256 collides. A comparison of tags is therefore as exact as a comparison of the values, and
 * a client that replaces a value does not need to send the old value.
 */
export function entityTag(value: StoredValue): string {
  const hash = createHash("sha256");
  if (typeof value === "string") hash.update("text\0").update(value, "utf8");
  else hash.update("bytes\0").update(value);
  return `"${hash.digest("base64url")}"`;
}

/** Encodes the value of a record as a JSON object. */
export function encodeValue(value: StoredValue): EncodedValue {
  if (typeof value === "string") return { text: value };
  return { bytes: Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString("base64") };
}

/**
 * Decodes the value of a record from its JSON form, an {@link EncodedValue}.
 *
 * @throws Refusal `REQUEST_INVALID` if `encoded` has neither well-formed `text` nor `bytes` in canonical base64, or has
 * both.
 */
export function decodeValue(encoded: unknown): StoredValue {
  const text = field(encoded, "text");
  const bytes = field(encoded, "bytes");
  if (typeof text === "string" && bytes === undefined && text.isWellFormed()) return text;
  if (typeof bytes === "string" && text === undefined) {
    const decoded = Buffer.from(bytes, "base64");
    if (decoded.toString("base64") === bytes) return decoded;
  }
  throw invalid('A value must be a field "text" of well-formed Unicode, or a field "bytes" of canonical base64');
}

/**
 * Returns the path and query for a record's key, relative to the URL of the server. The key is encoded as one segment,
 * so a "/" in the key does not divide the path. No segment can be "", "." or "..", so these keys are put into the query.
 */
export function keyPath(key: string, namespace = ""): string {
  const query = namespace === "" ? [] : [`namespace=${encodeURIComponent(namespace)}`];
  const inPath = key !== "" && key !== "." && key !== "..";
  if (!inPath) query.unshift(`key=${encodeURIComponent(key)}`);
  return `/${inPath ? encodeURIComponent(key) : ""}${query.length === 0 ? "" : `?${query.join("&")}`}`;
}

/** The target of a path: one key, or all keys that begin with a prefix. */
export type PathTarget =
  | { readonly kind: "key"; readonly key: string; readonly namespace: string }
  | {
      readonly kind: "prefix";
      readonly prefix: string;
      readonly namespace: string;
      /** Whether the path ends with ":". Only such a prefix can be deleted, so a truncated path never deletes everything. */
      readonly explicit: boolean;
    };

/**
 * Returns the target of a URL, which is a record's key or a prefix of keys. `path` is percent-encoded, and `query` has
 * no "?". As in unstorage, a path that ends with an unencoded "/" or ":" is a prefix. If a key itself ends with "/" or
 * ":", its path ends with %2F or %3A.
 *
 * @throws Refusal `REQUEST_INVALID` for percent-encoded bytes that are not UTF-8, for unknown or repeated parameters,
 * and for a key both in the path and in the query.
 */
export function readPath(path: string, query: string): PathTarget {
  const parameters = readQuery(query);
  const namespace = parameters.get("namespace") ?? "";
  const named = parameters.get("key");
  const encoded = path.slice(1);
  if (named !== undefined) {
    if (encoded !== "") throw invalid("The URL has the key of a record both in the path and in the query");
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
      throw invalid('The query may have only the parameters "key" and "namespace", each at most once');
    }
    parameters.set(name, decodeEscapes(value));
  }
  return parameters;
}

/** Decodes percent-encoding. Unlike in a form, a "+" stays a "+". */
function decodeEscapes(encoded: string): string {
  try {
    return decodeURIComponent(encoded);
  } catch {
    throw invalid("The URL has percent-encoded bytes that are not UTF-8");
  }
}

/** Returns a field of a parsed JSON value, or `undefined` if the value is not an object or has no such field. */
export function field(value: unknown, name: string): unknown {
  return typeof value === "object" && value !== null && Object.hasOwn(value, name)
    ? Reflect.get(value, name)
    : undefined;
}

/** Returns a refusal with the code `REQUEST_INVALID`. */
export function invalid(message: string): Refusal {
  return new Refusal("REQUEST_INVALID", message);
}

/**
 * Returns the code, message and id in the body of a refusal, or `undefined` if the body does not follow the protocol.
 */
export function readRefusal(body: unknown): RefusalBody | undefined {
  const [code, message, id] = [field(body, "code"), field(body, "message"), field(body, "id")];
  if (!isRefusalCode(code) || typeof message !== "string") return undefined;
  return typeof id === "string" ? { code, message, id } : { code, message };
}

function isRefusalCode(code: unknown): code is RefusalCode {
  return typeof code === "string" && Object.hasOwn(statuses, code);
}
