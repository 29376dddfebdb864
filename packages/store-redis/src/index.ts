export type { ClusterSource, RedisSource } from "./ioredis-connection.ts";
export {
  type KeyvRedisAdapter,
  type KeyvRedisOptions,
  type KeyvRedisStore,
  type KeyvValkeyAdapter,
  keyvRedis,
} from "./keyv-redis.ts";
export type { NodeRedisAdapter } from "./node-redis-connection.ts";
export type { PlaceInRedis, RecordLayout, RecordSpace } from "./record-space.ts";
export { type RedisSpace, RedisStore, type RedisStoreOptions } from "./redis-store.ts";
