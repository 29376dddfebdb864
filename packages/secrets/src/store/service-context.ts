import type { AuditLog } from "../audit/audit-log.ts";
import type { ServiceStore } from "./service-store.ts";

/** The store and the audit that the parts of the secrets service share. */
export interface ServiceContext {
  readonly store: ServiceStore;
  readonly audit: AuditLog;
  /** Called with a problem that does not make a call fail, such as a former value that could not be deleted. */
  readonly onProblem: (problem: unknown) => void;
}
