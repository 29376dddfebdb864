import { hash, randomBytes, timingSafeEqual } from "node:crypto";
import { KeywardError } from "@keyward/core";
import { type Scope, scopes } from "./protocol.ts";

/** The server's entry for an API key. The entry contains a hash of the API key instead of the API key itself. */
export interface ApiKeyEntry {
  /** The id of the API key, which is a part of the key and not secret. Listings and logs show this id. */
  readonly id: string;
  /** The SHA-256 of the whole API key, in base64url. */
  readonly hash: string;
  /** The tenant whose records the API key gives access to: 1 to 64 letters, digits, "-" and "_". */
  readonly tenant: string;
  /**
   * The one namespace of the tenant to which the API key gives access. Default: "".
   */
  readonly namespace?: string;
  /** The scopes of the API key: "read", "write", "list", or several of them. */
  readonly scopes: readonly Scope[];
  /** Time at which the API key expires, in milliseconds since the epoch. Default: never. */
  readonly expires?: number;
  /** Time at which the API key was revoked, in milliseconds since the epoch. Missing if the API key is not revoked. */
  readonly revoked?: number;
}

/**
 * A source of the entries of API keys. For each request, the server calls `find`, so a changed entry takes effect at
 * once.
 */
export interface TenantSource {
  /**
   * Returns the entry of the API key with this id, even if the key is revoked, or `undefined` if there is no such key. If
   * the returned promise rejects, the server refuses the request.
   */
  find(id: string): Promise<ApiKeyEntry | undefined>;
}

/** Options of {@link createApiKey}. */
export interface NewApiKey {
  /** The tenant whose records the API key gives access to: 1 to 64 letters, digits, "-" and "_". */
  readonly tenant: string;
  /** The one namespace of the tenant to which the API key gives access. Default: "". */
  readonly namespace?: string;
  /** The scopes of the API key. Default: "read", "write" and "list". */
  readonly scopes?: readonly Scope[];
  /** Time at which the API key expires, in milliseconds since the epoch. Default: never. */
  readonly expires?: number;
}

const keyPattern = /^kv_([A-Za-z0-9]{12})_[A-Za-z0-9_-]{43}$/;
const namePattern = /^[A-Za-z0-9_-]{1,64}$/;

/**
 * Makes an API key of 256 random bits, and the entry with which the server accepts the API key. The returned `apiKey`
 * is the API key itself. The returned `entry` contains only the SHA-256 of the API key.
 *
 * @throws KeywardError `VALUE_INVALID` for an invalid tenant, namespace, scope or expiry.
 * @example
 * const { apiKey, entry } = createApiKey({ tenant: "acme", scopes: ["read"] });
 * const handler = createKvHandler({ store: new MemoryStore(), tenants: [entry] });
 */
export function createApiKey(options: NewApiKey): { readonly apiKey: string; readonly entry: ApiKeyEntry } {
  const { tenant, namespace = "", scopes: allowed = scopes, expires } = options;
  const id = randomBytes(6).toString("hex");
  const apiKey = `kv_${id}_${randomBytes(32).toString("base64url")}`;
  const entry = {
    id,
    hash: hashOf(apiKey).toString("base64url"),
    tenant,
    namespace,
    scopes: [...allowed],
    ...(expires === undefined ? {} : { expires }),
  };
  return { apiKey, entry: requireEntry(entry) };
}

/** Returns whether a text has the form of an API key. */
export function isApiKey(text: string): boolean {
  return keyPattern.test(text);
}

/** An API key with an unknown id is compared with this hash, so that its refusal takes as long as that of a known id. */
const noHash = Buffer.alloc(32);

/**
 * Returns the entry of the API key in an `Authorization` header, or `undefined` if the key is missing, unknown, altered,
 * expired or revoked.
 *
 * A single SHA-256 of the key is enough, since the 256 random bits of the key cannot be guessed. Only passwords need a slow hash.
 */
export async function authenticate(
  authorization: string | null,
  source: TenantSource,
  now: number,
): Promise<ApiKeyEntry | undefined> {
  const apiKey = /^Bearer +([^ ]+) *$/i.exec(authorization ?? "")?.[1];
  const id = apiKey === undefined ? undefined : keyPattern.exec(apiKey)?.[1];
  if (apiKey === undefined || id === undefined) return undefined;
  const entry = await source.find(id);
  const expected = entry === undefined ? noHash : Buffer.from(entry.hash, "base64url");
  const actual = hashOf(apiKey);
  const matches = expected.length === actual.length && timingSafeEqual(actual, expected);
  if (entry === undefined || !matches || entry.revoked !== undefined) return undefined;
  return entry.expires === undefined || now < entry.expires ? entry : undefined;
}

/**
 * Returns a {@link TenantSource} that finds API keys in a list of entries. The list never changes.
 *
 * @throws KeywardError `VALUE_INVALID` for an invalid entry.
 */
export function fixedTenants(entries: readonly ApiKeyEntry[]): TenantSource {
  const byId = new Map(entries.map((entry) => [entry.id, requireEntry(entry)]));
  return { find: async (id) => byId.get(id) };
}

/**
 * Checks the entry of an API key, and returns it without unknown properties.
 *
 * @throws KeywardError `VALUE_INVALID` if a field of the entry is missing or invalid.
 */
export function requireEntry(given: unknown): ApiKeyEntry {
  const entry: Record<string, unknown> = typeof given === "object" && given !== null ? { ...given } : {};
  const { id, hash, tenant, namespace = "", scopes: allowed, expires, revoked } = entry;
  const isTime = (time: unknown) => time === undefined || (typeof time === "number" && Number.isFinite(time));
  if (typeof id !== "string" || !/^[A-Za-z0-9]{12}$/.test(id)) throw invalidEntry("id");
  if (typeof hash !== "string" || !/^[A-Za-z0-9_-]{43}$/.test(hash)) throw invalidEntry("hash");
  if (typeof tenant !== "string" || !namePattern.test(tenant)) throw invalidEntry("tenant");
  if (typeof namespace !== "string" || (namespace !== "" && !namePattern.test(namespace))) {
    throw invalidEntry("namespace");
  }
  if (!Array.isArray(allowed) || allowed.length === 0 || !allowed.every(isScope)) throw invalidEntry("scopes");
  if (!isTime(expires)) throw invalidEntry("expires");
  if (!isTime(revoked)) throw invalidEntry("revoked");
  return {
    id,
    hash,
    tenant,
    namespace,
    scopes: allowed,
    ...(typeof expires === "number" ? { expires } : {}),
    ...(typeof revoked === "number" ? { revoked } : {}),
  };
}

function isScope(scope: unknown): scope is Scope {
  return scopes.some((known) => known === scope);
}

function hashOf(apiKey: string): Buffer {
  return hash("sha256", apiKey, "buffer");
}

function invalidEntry(name: string): KeywardError {
  return new KeywardError("VALUE_INVALID", `The field "${name}" in the entry of an API key is missing or invalid`, {
    hint: 'If you passed this field to `createApiKey()`, pass a valid value: "tenant" and "namespace" have up to 64 letters, digits, "-" and "_". If you wrote the entry yourself, make it with `createApiKey()` instead.',
  });
}
