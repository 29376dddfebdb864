import type { EncryptedStore } from "@keyward/core";
import type { Change, ChangeFilter, ChangeOutcome, Page, PageRequest, RecordedChange } from "../model.ts";

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
