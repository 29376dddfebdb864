export { type ApiKeyEntry, createApiKey, type NewApiKey, type TenantSource } from "./api-keys.ts";
export { HttpSpace, HttpStore } from "./http-store.ts";
export { createKvHandler, type KvHandler, type KvHandlerOptions, type KvLogEntry } from "./kv-handler.ts";
export type { KvLimits } from "./limits.ts";
export { type Scope, scopes } from "./protocol.ts";
export { fileTenants } from "./tenants-file.ts";
export type { HttpStoreOptions } from "./transport.ts";
