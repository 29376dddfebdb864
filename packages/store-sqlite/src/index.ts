export { type SqliteSpace, SqliteStore, type SqliteStoreOptions } from "./sqlite-store.ts";
