import { KeywardError, type WrappableStore } from "@keyward/core";

/** Returns the eviction policies of the Redis servers behind a store, except `noeviction`; an empty list for another store. */
async function evictingPolicies(store: WrappableStore): Promise<readonly string[]> {
  if (!hasPolicies(store)) return [];
  const policies = await store.evictionPolicies();
  return [...new Set(policies)].filter((policy) => policy !== "noeviction");
}

/**
 * Checks that the store never deletes records by itself because its memory is full.
 *
 * @throws KeywardError `STORE_INVALID` if the store is a Redis server that may evict records.
 */
export async function requireNoEviction(store: WrappableStore): Promise<void> {
  const [policy] = await evictingPolicies(store);
  if (policy === undefined) return;
  const shown = policy === "" ? "does not say its `maxmemory-policy`" : `has the \`maxmemory-policy\` ${policy}`;
  throw new KeywardError(
    "STORE_INVALID",
    `The Redis of the store service ${shown}, so it may delete secrets and revoked tokens when its memory is full`,
    {
      hint: "Set `maxmemory-policy noeviction` in the configuration of Redis. Use a Redis of its own for the service.",
    },
  );
}

interface EvictingStore {
  evictionPolicies(): Promise<readonly string[]>;
}

function hasPolicies(store: WrappableStore): store is WrappableStore & EvictingStore {
  return "evictionPolicies" in store && typeof store.evictionPolicies === "function";
}
