export { type ApiKeyEntry, createApiKey, type NewApiKey, type TenantSource } from "./api-keys.ts";
export { HttpSpace, HttpStore } from "./http-store.ts";
export { createKvHandler, type KvHandler } from "./kv-handler.ts";
export { type KvServerOptions, type RunningKvServer, startKvServer } from "./kv-node-server.ts";
export type { KvHandlerOptions, KvLogEntry } from "./kv-server.ts";
export type { KvLimits } from "./limits.ts";
export { type Scope, scopes } from "./protocol.ts";
export { fileTenants, type TenantsFile } from "./tenants-file.ts";
export type { HttpStoreOptions } from "./transport.ts";
