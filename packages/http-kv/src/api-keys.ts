import { hash, randomBytes, timingSafeEqual } from "node:crypto";
import { KeywardError } from "@keyward/core";
import { type Scope, scopes } from "./protocol.ts";

/** What the server knows of an API key: all but the key. */
export interface ApiKeyEntry {
  /** The public part of the key, by which it is found, listed and logged. */
  readonly id: string;
  /** The SHA-256 of the whole key, in base64url. */
  readonly hash: string;
  /** Whose records it opens: letters, digits, "-" and "_", up to 64. */
  readonly tenant: string;
  /** Which part of the tenant's records it opens; "" unless given. Nothing else of the tenant can be reached with it. */
  readonly namespace?: string;
  /** What it may do. */
  readonly scopes: readonly Scope[];
  /** When it ends, in ms since the epoch; never unless given. */
  readonly expires?: number;
  /** When it was revoked, in ms since the epoch. */
  readonly revoked?: number;
}

/** Where the server finds API keys. It is asked at each request, so that what it says has effect at once. */
export interface TenantSource {
  /** The key with this id, revoked or not; `undefined` where there is none. A rejection refuses the request. */
  find(id: string): Promise<ApiKeyEntry | undefined>;
}

/** What {@link createApiKey} is told. */
export interface NewApiKey {
  /** Whose records it opens: letters, digits, "-" and "_", up to 64. */
  readonly tenant: string;
  /** Which part of them; "" unless given. */
  readonly namespace?: string;
  /** What it may do; everything unless given. */
  readonly scopes?: readonly Scope[];
  /** When it ends, in ms since the epoch. */
  readonly expires?: number;
}

const keyPattern = /^kv_([A-Za-z0-9]{12})_[A-Za-z0-9_-]{43}$/;
const namePattern = /^[A-Za-z0-9_-]{1,64}$/;

/**
 * Makes an API key of 256 random bits, which is in `apiKey` and nowhere else, and the entry for the server's list.
 *
 * @throws KeywardError `VALUE_INVALID` for a tenant, a namespace, scopes or an expiry that an entry cannot have.
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

/** Whether a text can be an API key. */
export function isApiKey(text: string): boolean {
  return keyPattern.test(text);
}

/** Compared with for ids that are not there, so that they take as long as those that are. */
const noHash = Buffer.alloc(32);

/**
 * The entry of an `Authorization` header, if it holds a key that is good now. Whatever is wrong with one looks the same.
 *
 * One SHA-256 is enough for a key of 256 random bits, which nobody can guess; a slow hash is for passwords.
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

/** A source that never changes. */
export function fixedTenants(entries: readonly ApiKeyEntry[]): TenantSource {
  const byId = new Map(entries.map((entry) => [entry.id, requireEntry(entry)]));
  return { find: async (id) => byId.get(id) };
}

/**
 * @throws KeywardError `VALUE_INVALID` for what is not an entry.
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
  return new KeywardError("VALUE_INVALID", `The entry of an API key has no valid "${name}"`, {
    hint: 'Make entries with createApiKey(). Tenants and namespaces are up to 64 letters, digits, "-" and "_".',
  });
}
