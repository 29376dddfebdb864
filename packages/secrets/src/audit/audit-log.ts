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
 * The log of changes and calls. The service records the beginning of a change before it makes the change. So every
 * change has an entry, even if the process is killed.
 */
export interface AuditLog {
  /** The store with the encrypted entries, for a census. `undefined` if the entries are not in a store. */
  readonly encrypted?: EncryptedStore | undefined;
  /**
   * Records the beginning of a change. Resolves when the entry is durable.
   *
   * @throws SecretsError `AUDIT_UNAVAILABLE` if the entry cannot be written. In this case, do not make the change.
   */
  begin(change: Change): Promise<BegunChange>;
  /**
   * Returns a page of the changes of one workspace, newest first.
   *
   * @param workspace the id of the workspace; `undefined` for the changes of the installation.
   */
  changes(workspace: string | undefined, filter: ChangeFilter, page: PageRequest): Promise<Page<RecordedChange>>;
  /**
   * Checks that calls can be recorded. Call it before each call: it reads only memory.
   *
   * @throws SecretsError `AUDIT_UNAVAILABLE` if entries have waited too long to be written, or too many wait. In this
   * case, do not make the call.
   */
  requireWritable(): void;
  /**
   * Records a call after its answer. Resolves when the entry is durable. Shortens the path, and cuts long texts, so
   * that no request can prevent the recording of its call.
   *
   * @throws SecretsError `AUDIT_UNAVAILABLE` if the entry is not durable in time. The entry is still written as soon as
   * the file can be written again, unless this process has closed the audit, or twice the allowed number of entries
   * already wait.
   */
  recordCall(call: Call): Promise<void>;
  /**
   * Returns a page of the calls of one workspace. The call that ended last is the first.
   *
   * @param workspace the id of the workspace.
   */
  calls(workspace: string, filter: CallFilter, page: PageRequest): Promise<Page<RecordedCall>>;
  /**
   * Returns a call of one workspace by its id; `undefined` if the audit has no such call.
   *
   * @throws SecretsError `AUDIT_INVALID` if the entry of the call cannot be read.
   */
  call(workspace: string, id: string): Promise<RecordedCall | undefined>;
  /**
   * Verifies the entries of a workspace that are older than `time`, and removes them in small batches. Returns the
   * number of removed entries.
   *
   * @param time in milliseconds since the epoch, at least a day ago.
   * @throws SecretsError `FIELD_INVALID` for a later time; `AUDIT_INVALID` if the verification of entries fails, or if
   * the clock of the machine seems to be ahead. Entries whose verification fails are kept. The other entries are
   * removed before the error is thrown.
   */
  removeBefore(workspace: string | undefined, time: number): Promise<number>;
  /** Resolves if entries can be written. */
  ready(): Promise<void>;
  /** Writes the closing entry of each chain of this process, and closes the file. */
  close(): Promise<void>;
}
