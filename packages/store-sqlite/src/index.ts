export type { SqliteSpace } from "./sqlite-space.ts";
export { SqliteStore, type SqliteStoreOptions } from "./sqlite-store.ts";
