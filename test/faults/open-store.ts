import { RedisStore } from "@keyward/store-redis";
import { SqliteStore } from "@keyward/store-sqlite";

/** Opens a store that several processes share: Redis by its URL, or a SQLite file by its path. */
export function openStore(address: string, busyTimeoutMs = 30_000): RedisStore | SqliteStore {
  if (address.startsWith("redis:")) return new RedisStore(address);
  return new SqliteStore(address, { synchronous: "normal", busyTimeoutMs });
}
