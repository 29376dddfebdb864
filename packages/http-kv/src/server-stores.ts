import { KeywardError } from "@keyward/core";
import type { KeyvStorageAdapter } from "keyv";
import { field } from "./protocol.ts";

/** The stores that the executable can open. Each is a package of its own, and is loaded only when it is asked for. */
const stores = {
  sqlite: { package: "@keyward/store-sqlite", name: "SqliteStore" },
  redis: { package: "@keyward/store-redis", name: "RedisStore" },
  memory: { package: "@keyward/store-memory", name: "MemoryStore" },
} as const;

/** What `--store` may be. */
export const storeKinds: readonly string[] = Object.keys(stores);

/**
 * Opens a store.
 *
 * @throws KeywardError `STORE_INVALID` where its package is not installed; what the store throws.
 */
export async function openStore(kind: string, file: string, redisUrl: string | undefined): Promise<KeyvStorageAdapter> {
  switch (kind) {
    case "sqlite":
      return await make(stores.sqlite, [file]);
    case "redis":
      if (redisUrl === undefined) throw unusable("No Redis server is named", "Pass --redis-url.");
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
    throw unusable(`${store.package} is not installed`, `Install it: npm install ${store.package}`, cause);
  }
  const Store = field(module, store.name);
  const made: unknown = typeof Store === "function" ? Reflect.construct(Store, parameters) : undefined;
  if (isStore(made)) return made;
  throw unusable(`${store.package} is of a release that does not fit`, "Install the release of this package.");
}

function isStore(made: unknown): made is KeyvStorageAdapter {
  return field(made, "namespace") === undefined && typeof made === "object" && made !== null && "capabilities" in made;
}

function unusable(message: string, hint: string, cause?: unknown): KeywardError {
  return new KeywardError("STORE_INVALID", message, { hint, cause });
}
