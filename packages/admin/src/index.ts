export { type AdminApiOptions, createAdminApi } from "./api/admin-api.ts";
export type { ApiLimits } from "./api/api-limits.ts";
