import { KeywardError } from "@keyward/core";
import type { KeyvStorageAdapter } from "keyv";
import { field } from "./protocol.ts";

/** The stores that `keyward-kv` can open. Each is in a separate package, which is loaded only if it is used. */
const stores = {
  sqlite: { package: "@keyward/store-sqlite", name: "SqliteStore" },
  redis: { package: "@keyward/store-redis", name: "RedisStore" },
  memory: { package: "@keyward/store-memory", name: "MemoryStore" },
} as const;

/** The kinds of store that the option `--store` of `keyward-kv serve` accepts. */
export const storeKinds: readonly string[] = Object.keys(stores);

/**
 * Opens the store in which `keyward-kv serve` keeps the records.
 *
 * @throws KeywardError `STORE_INVALID` if the package of the store is not installed or does not work with this version
 * of `keyward-kv`, or if the URL of the Redis server is missing; an error that the constructor of the store throws.
 */
export async function openStore(kind: string, file: string, redisUrl: string | undefined): Promise<KeyvStorageAdapter> {
  switch (kind) {
    case "sqlite":
      return await make(stores.sqlite, [file]);
    case "redis":
      if (redisUrl === undefined) {
        throw unusable(
          "--store redis needs the URL of a Redis server",
          "Pass the URL with `--redis-url`, or set the environment variable `KEYWARD_KV_REDIS_URL` to the URL.",
        );
      }
      return await make(stores.redis, [redisUrl]);
    default:
      return await make(stores.memory, []);
  }
}

async function make(
  store: (typeof stores)[keyof typeof stores],
  parameters: readonly unknown[],
): Promise<KeyvStorageAdapter> {
  let module: unknown;
  try {
    module = await import(store.package);
  } catch (cause) {
    throw unusable(`${store.package} is not installed`, `Run \`npm install ${store.package}\`.`, cause);
  }
  const Store = field(module, store.name);
  const made: unknown = typeof Store === "function" ? Reflect.construct(Store, parameters) : undefined;
  if (isStore(made)) return made;
  throw unusable(
    `The installed version of ${store.package} does not work with keyward-kv`,
    `Install ${store.package} in the same version as @keyward/http-kv.`,
  );
}

function isStore(made: unknown): made is KeyvStorageAdapter {
  return field(made, "namespace") === undefined && typeof made === "object" && made !== null && "capabilities" in made;
}

function unusable(message: string, hint: string, cause?: unknown): KeywardError {
  return new KeywardError("STORE_INVALID", message, { hint, cause });
}
