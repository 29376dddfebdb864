import { resolve } from "node:path";
import {
  type AtomicStore,
  type KeywardError,
  type NamespacedStore,
  type OptionNames,
  packageNotLoaded,
  type ReservedSpace,
  requireOptions,
  type ScannableStore,
  SourceParameters,
  type WrappableStore,
} from "@keyward/core";
import { redisConnectionFrom } from "./redis-connection-from.ts";
import { correct, invalidSource, schemeOf, subject } from "./store-source.ts";

/**
 * A store that {@link storeFrom} has made, which is a Keyv 6 storage adapter. Pass it to `createKeyv` or `EncryptedStore`
 * of `@keyward/core`.
 */
export type NamedStore = Extract<WrappableStore, { readonly hasMany: unknown }> &
  AtomicStore &
  ScannableStore &
  ReservedSpace &
  NamespacedStore & {
    /** Closes the connection of the store. */
    disconnect(): Promise<void>;
  };

/** Options of {@link storeFrom}, for settings that must not be written into the source. */
export interface StoreFromOptions {
  /**
   * Environment variables, for the API key of an HTTP KV server and the credentials of Redis Sentinels. Default:
   * `process.env`.
   */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** The folder that a relative path in the source starts from. Default: the working directory of the process. */
  readonly folder?: string;
}

const optionNames: OptionNames<StoreFromOptions> = { env: true, folder: true };

type Opener = (source: string, options: Required<StoreFromOptions>) => Promise<NamedStore>;

/** The functions that make the store for a source, by the scheme of the source. */
const openers: ReadonlyMap<string, Opener> = new Map<string, Opener>([
  ["memory", openMemory],
  ["sqlite", openSqlite],
  ["redis", openRedis],
  ["rediss", openRedis],
  ["https", openHttpKv],
  ["http", openHttpKv],
]);

/**
 * Returns the store for a source of records. The source is a text, such as `sqlite:sessions.sqlite`. So an application
 * can use different stores in development, CI and production, and only this text differs. Each source needs one
 * package, which you install, and which `storeFrom` loads:
 *
 * - `memory:`: `@keyward/store-memory`
 * - `sqlite:sessions.sqlite`: `@keyward/store-sqlite`
 * - `redis://host:6379`, `rediss://host:6379`: `@keyward/store-redis`
 * - `https://kv.example.com`: `@keyward/http-kv`
 *
 * Stores connect with their first call, so `storeFrom` does not check whether a server answers.
 *
 * @example
 * import { createKeyv } from "@keyward/core";
 * import { envKeys } from "@keyward/keys-env";
 * import { storeFrom } from "@keyward/stores-from";
 *
 * const store = await storeFrom(process.env["APP_STORE"] ?? "memory:");
 * const sessions = createKeyv({ store, keys: envKeys("APP_ENCRYPTION_KEY"), namespace: "sessions" });
 *
 * @param source The source of records, usually the value of an environment variable. If the source is `undefined` or
 * empty, `storeFrom` rejects.
 * @throws KeywardError `VALUE_INVALID` for an invalid source, an unknown parameter and an unknown option.
 * @throws KeywardError `STORE_INVALID` if the package of the store is not installed or cannot be loaded.
 * @throws KeywardError with the code of the store, if the store refuses a value in the source.
 */
export async function storeFrom(source: string | undefined, options: StoreFromOptions = {}): Promise<NamedStore> {
  const { env = process.env, folder = "" } = requireOptions("storeFrom", options, optionNames);
  const text = typeof source === "string" ? source.trim() : "";
  const open = openers.get(schemeOf(text, [...openers.keys()]));
  if (open === undefined) throw invalidSource("does not begin with a known scheme");
  return await open(text, { env, folder });
}

async function openMemory(source: string): Promise<NamedStore> {
  if (source !== "memory:") throw invalidSource('has more text after "memory:"', 'Write the source as "memory:".');
  const { MemoryStore } = await import("@keyward/store-memory").catch(notLoaded("@keyward/store-memory"));
  return new MemoryStore();
}

async function openSqlite(source: string, { folder }: Required<StoreFromOptions>): Promise<NamedStore> {
  const path = source.slice("sqlite:".length);
  if (path === "" || path.startsWith("//")) {
    const hint = "Write the path of the file directly after the colon, such as sqlite:/var/lib/app/sessions.sqlite.";
    throw invalidSource(path === "" ? "has no path" : "begins with sqlite://, which names a host", hint);
  }
  const { SqliteStore } = await import("@keyward/store-sqlite").catch(notLoaded("@keyward/store-sqlite"));
  // A database in memory, and an empty path, are not files.
  return new SqliteStore(path === ":memory:" ? path : resolve(folder, path));
}

async function openRedis(source: string, { env }: Required<StoreFromOptions>): Promise<NamedStore> {
  const { origin, prefix, timeoutMs } = redisConnectionFrom(source, env);
  const { RedisStore } = await import("@keyward/store-redis").catch(notLoaded("@keyward/store-redis"));
  return new RedisStore(origin, {
    ...(prefix === undefined ? {} : { prefix }),
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
  });
}

async function openHttpKv(source: string, { env }: Required<StoreFromOptions>): Promise<NamedStore> {
  const [url = "", query = ""] = splitAtFirst(source, "?");
  const parameters = new SourceParameters(query, { subject, hint: correct });
  const settings = parameters.numbers("timeoutMs", "retries");
  const variable = parameters.text("apiKeyIn") ?? "KEYWARD_KV_API_KEY";
  parameters.requireNothingLeft("https");
  const apiKey = env[variable];
  if (apiKey === undefined || apiKey === "") throw noApiKey(variable);
  const { HttpStore } = await import("@keyward/http-kv").catch(notLoaded("@keyward/http-kv"));
  return new HttpStore({ url, apiKey, ...settings });
}

function splitAtFirst(text: string, separator: string): readonly string[] {
  const at = text.indexOf(separator);
  return at === -1 ? [text] : [text.slice(0, at), text.slice(at + separator.length)];
}

function noApiKey(variable: string): KeywardError {
  // The name may be an API key that was passed by mistake.
  const shown = /^[A-Z][A-Z0-9_]{0,63}$/.test(variable) ? variable : "in the parameter `apiKeyIn`";
  return invalidSource(
    `needs an API key, but the environment variable ${shown} is not set`,
    "Set the environment variable to an API key of the HTTP KV server. If the API key is in another environment " +
      "variable, add the parameter `apiKeyIn` with the name of that variable.",
  );
}

function notLoaded(name: string): (cause: unknown) => never {
  return packageNotLoaded(name, "This source of records", "STORE_INVALID");
}
