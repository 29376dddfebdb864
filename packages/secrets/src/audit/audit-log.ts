import type { EncryptedStore } from "@keyward/core";
import type {
  Call,
  CallFilter,
  Change,
  ChangeFilter,
  ChangeOutcome,
  Page,
  PageRequest,
  RecordedCall,
  RecordedChange,
} from "../model.ts";

/** A change whose beginning is recorded, and whose outcome is not recorded yet. */
export interface BegunChange {
  /** The id of the entry. */
  readonly id: string;
  /**
   * Records how the change ended. Resolves when the outcome is durable.
   *
   * @param revision the revision of the server or workspace after the change, if the change has one.
   */
  end(outcome: Exclude<ChangeOutcome, "unknown">, revision?: number): Promise<void>;
}

/**
 * Where the changes and calls are recorded. The service records the beginning of a change before it makes the change,
 * so that no change is without an entry, even if the process is killed.
 */
export interface AuditLog {
  /** The store that has the encrypted entries, for a census. `undefined` if the entries are elsewhere. */
  readonly encrypted?: EncryptedStore | undefined;
  /**
   * Records the beginning of a change. Resolves when the entry is durable.
   *
   * @throws SecretsError `AUDIT_UNAVAILABLE` if the entry cannot be written. The change must not be made then.
   */
  begin(change: Change): Promise<BegunChange>;
  /**
   * Returns a page of the changes of one workspace, newest first.
   *
   * @param workspace the id of the workspace; `undefined` for the changes of the installation.
   */
  changes(workspace: string | undefined, filter: ChangeFilter, page: PageRequest): Promise<Page<RecordedChange>>;
  /**
   * Checks that calls can be recorded, before a call is made. Reads only memory, so each call can ask.
   *
   * @throws SecretsError `AUDIT_UNAVAILABLE` if entries have waited too long to be written, or too many wait. The call must
   * not be made then.
   */
  requireWritable(): void;
  /**
   * Records a call after its answer. Resolves when the entry is durable. The path is shortened, and texts are cut to the
   * bounds of an entry, so that no content of a request keeps its call from being recorded.
   *
   * @throws SecretsError `AUDIT_UNAVAILABLE` if the entry is not durable in time. It is written as soon as the file can be
   * written again, unless this process has closed the audit, or twice as many entries wait as may.
   */
  recordCall(call: Call): Promise<void>;
  /**
   * Returns a page of the calls of one workspace, the call that ended last first.
   *
   * @param workspace the id of the workspace.
   */
  calls(workspace: string, filter: CallFilter, page: PageRequest): Promise<Page<RecordedCall>>;
  /**
   * Returns a call of one workspace; `undefined` if the audit does not have it.
   *
   * @throws SecretsError `AUDIT_INVALID` if its entry cannot be read.
   */
  call(workspace: string, id: string): Promise<RecordedCall | undefined>;
  /**
   * Removes the entries of a workspace that are older than a time, in small batches, after it has verified them. Returns how
   * many were removed.
   *
   * @param time in milliseconds since the epoch, at least a day ago.
   * @throws SecretsError `FIELD_INVALID` for a later time; `AUDIT_INVALID` if entries do not verify, which are kept, or if
   * the clock of the machine seems to be ahead. Other entries have been removed then.
   */
  removeBefore(workspace: string | undefined, time: number): Promise<number>;
  /** Resolves if entries can be written. */
  ready(): Promise<void>;
  /** Writes the closing entry of each chain of this process, and closes the file. */
  close(): Promise<void>;
}
