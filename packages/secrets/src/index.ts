export { Caller, type CallerFields } from "./access/caller.ts";
export { hasRight, type Right, rolesWithRight } from "./access/rights.ts";
export type { AuditLog, BegunChange } from "./audit/audit-log.ts";
export type {
  CallerInfo,
  Change,
  ChangeAction,
  ChangeCaller,
  ChangeCondition,
  ChangeFilter,
  ChangeOutcome,
  InjectionRule,
  IssuedToken,
  NewSecret,
  NewToken,
  Page,
  PageRequest,
  RecordedChange,
  Role,
  SecretChange,
  SecretInfo,
  ServerInfo,
  ServerKind,
  TokenInfo,
  WorkspaceInfo,
} from "./model.ts";
export { scopeOfServiceRecord, serviceNamespace } from "./records/record-keys.ts";
export { type Initialization, type KeyCensus, SecretsAdmin, type SecretsAdminOptions } from "./secrets-admin.ts";
export { SecretsError, type SecretsErrorCode, type SecretsErrorDetails } from "./secrets-error.ts";
export type { NewServer, ServerChange } from "./servers/servers.ts";
export type { ExpiringSecret, SweepOptions, SweepReport } from "./sweep.ts";
