export { Caller, type CallerFields } from "./access/caller.ts";
export { hasRight, type Right, rolesWithRight } from "./access/rights.ts";
export { auditAnchor, hasAuditChains } from "./audit/audit-anchor.ts";
export type {
  AuditEntry,
  CallEntry,
  CallFields,
  ChainClosedEntry,
  ChainOpenedEntry,
  ChangeEntry,
  ChangeFields,
  EntryCaller,
  EntryPlace,
  OutcomeEntry,
} from "./audit/audit-entry.ts";
export type { AuditLog, BegunChange } from "./audit/audit-log.ts";
export type { AuditTable } from "./audit/audit-table.ts";
export type { AnchoredHead, AuditAnchor, ChainProof } from "./audit/chain-proof.ts";
export { type ExportAuditOptions, exportAudit } from "./audit/export-audit.ts";
export { type AuditLogOptions, openAuditLog } from "./audit/file-audit-log.ts";
export { type AuditFile, auditStore } from "./audit/open-audit-file.ts";
export { auditNamespace, auditScope } from "./audit/record-key.ts";
export {
  type AuditProblem,
  type AuditVerification,
  type OpenChain,
  type VerifyAuditOptions,
  verifyAudit,
} from "./audit/verify-audit.ts";
export type { Initialization } from "./initializations.ts";
export type { ServiceState } from "./installation.ts";
export type {
  Call,
  CallExplanation,
  CalledSecret,
  CallerInfo,
  CallFilter,
  CallOutcome,
  CallRefusal,
  Change,
  ChangeAction,
  ChangeCaller,
  ChangeCondition,
  ChangeFilter,
  ChangeOutcome,
  ExplainedCall,
  ExplainedSecret,
  InjectionRule,
  IssuedToken,
  NewSecret,
  NewToken,
  Page,
  PageRequest,
  RecordedCall,
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
export type { RecordProblem, RecordsReport } from "./records-report.ts";
export { type KeyCensus, SecretsAdmin, type SecretsAdminOptions } from "./secrets-admin.ts";
export { SecretsError, type SecretsErrorCode, type SecretsErrorDetails } from "./secrets-error.ts";
export type { NewServer, ServerChange } from "./servers/servers.ts";
export type { ExpiringSecret, SweepOptions, SweepReport } from "./sweep.ts";
