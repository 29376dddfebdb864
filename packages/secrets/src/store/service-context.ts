import type { AuditLog } from "../audit/audit-log.ts";
import type { ServiceStore } from "./service-store.ts";

/** What each part of the secrets service works with. */
export interface ServiceContext {
  readonly store: ServiceStore;
  readonly audit: AuditLog;
  /** Called with a problem that does not fail the call, such as a former value that could not be deleted yet. */
  readonly onProblem: (problem: unknown) => void;
}
