import type { KeyvRedisAdapter, KeyvValkeyAdapter } from "@keyward/store-redis";

// The types of these two adapters belong to Keyv 5 and are not compatible with those of Keyv 6.

/** Creates an adapter of `@keyv/redis` 5. */
export const KeyvRedis5 = await adaptersOf("keyv-redis-5");
/** Creates an adapter of `@keyv/valkey` 1. */
export const KeyvValkey = await adaptersOf("@keyv/valkey");

async function adaptersOf(name: string): Promise<(...given: unknown[]) => KeyvRedisAdapter & KeyvValkeyAdapter> {
  const module: { default: new () => unknown } = await import(name);
  return (...given) => Reflect.construct(module.default, given);
}
