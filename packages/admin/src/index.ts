export { type AdminApiOptions, createAdminApi } from "./api/admin-api.ts";
export type { ApiEnvironment } from "./api/api-environment.ts";
export type { ApiLimits } from "./api/api-limits.ts";
export type { SecretsService } from "./api/secrets-service.ts";
export type { SeenState, StatedServer, StateOfServer } from "./api/server-states.ts";
export { type AdminServerOptions, type RunningAdminServer, startAdminServer } from "./server/admin-server.ts";
