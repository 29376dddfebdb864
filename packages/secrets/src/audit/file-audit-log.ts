import { type EncryptedStore, type EncryptedStoreOptions, KeywardError, requireAmount } from "@keyward/core";
import { revisionField } from "../fields.ts";
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
import { SecretsError } from "../secrets-error.ts";
import { requireChangeFields } from "./audit-entry.ts";
import { auditClosed, cannotWrite } from "./audit-errors.ts";
import type { AuditLog, BegunChange } from "./audit-log.ts";
import { AuditNames } from "./audit-names.ts";
import type { AuditThread } from "./audit-thread.ts";
import { callFieldsOf, whole } from "./call-fields.ts";
import { readCall, readCalls } from "./calls-page.ts";
import { ChainWriter, type WrittenEntry } from "./chain-writer.ts";
import { readChanges } from "./changes-page.ts";
import { entryId, type PageSource } from "./entries-page.ts";
import { type AuditFile, type OpenAudit, openAudit, openThread } from "./open-audit-file.ts";
import { isWorkspace, serviceWorkspace } from "./record-key.ts";
import { Retention } from "./retention.ts";

/** The options of {@link openAuditLog}. */
export interface AuditLogOptions extends AuditFile {
  /** Registers this process in the audit file as a replica, so that a rotation waits for it. Default: false. */
  readonly replica?: EncryptedStoreOptions["replica"] | undefined;
  /**
   * How long an entry may wait to be written, in milliseconds. After this time, changes and calls are refused. Default:
   * 10,000.
   */
  readonly longestWaitMs?: number | undefined;
  /**
   * The largest number of entries that may wait to be written. At this number, further changes and calls are refused.
   * Default: 10,000.
   */
  readonly maxWaiting?: number | undefined;
  /** How long one attempt to write waits for a lock of another process, in milliseconds. Default: 5,000. */
  readonly busyTimeoutMs?: number | undefined;
  /**
   * The largest size of the file in bytes, without its `-wal`. If the file is full, changes and calls are refused until
   * retention has removed entries. Default: no bound but the disk.
   */
  readonly maxBytes?: number | undefined;
}

/**
 * Opens the audit in a SQLite file, which several processes may use at once. A missing file is created, with a mode
 * that gives access to its owner only. A separate thread writes the file. Call `close()` when the process stops.
 *
 * @example
 * const audit = openAuditLog({ path: "audit.db", keys });
 * const caller = { tokenId: "local", owner: "ana", role: "operator", address: undefined } as const;
 * const change = await audit.begin({ action: "service.initialize", workspace: undefined, caller });
 * await change.end("done");
 * console.log((await audit.changes(undefined, {}, {})).items[0]?.outcome); // done
 * await audit.close();
 */
export function openAuditLog(options: AuditLogOptions): AuditLog {
  return new FileAuditLog(options);
}

class FileAuditLog implements AuditLog {
  readonly #path: string;
  readonly #audit: OpenAudit;
  /**
   * The thread that selects pages, so that a filter over many rows does not delay entries. It starts at the first page.
   */
  readonly #pages: AuditThread;
  readonly #names: AuditNames;
  readonly #writer: ChainWriter;
  readonly #retention: Retention;
  #closing: Promise<void> | undefined;

  constructor(options: AuditLogOptions) {
    const { path, longestWaitMs = 10_000, maxWaiting = 10_000, busyTimeoutMs, maxBytes } = options;
    requireAmount("longestWaitMs", longestWaitMs, "milliseconds");
    requireAmount("maxWaiting", maxWaiting, "records");
    if (busyTimeoutMs !== undefined) requireAmount("busyTimeoutMs", busyTimeoutMs, "milliseconds", { least: 0 });
    if (maxBytes !== undefined) requireAmount("maxBytes", maxBytes, "bytes");
    this.#path = path;
    this.#audit = openAudit({ ...options, create: true });
    this.#pages = openThread({ ...options, create: true });
    const { thread, table, encrypted } = this.#audit;
    this.#retention = new Retention(thread, table, encrypted);
    this.#names = new AuditNames(encrypted);
    this.#writer = new ChainWriter({ path, table, encrypted, names: this.#names, longestWaitMs, maxWaiting });
  }

  get encrypted(): EncryptedStore {
    return this.#audit.encrypted;
  }

  async begin(change: Change): Promise<BegunChange> {
    const workspace = requireWorkspace(change.workspace);
    const draft = { kind: "change", at: Date.now(), ...requireChangeFields(change) } as const;
    const written = await this.#writer.write(workspace, draft, true);
    let ending: Promise<void> | undefined;
    return {
      id: entryId(written),
      end: (outcome, revision) => {
        ending ??= this.#end(workspace, written, outcome, revision);
        return ending;
      },
    };
  }

  async changes(workspace: string | undefined, filter: ChangeFilter, page: PageRequest): Promise<Page<RecordedChange>> {
    this.#requireOpen();
    return await this.#reading(readChanges(this.#source(), requireWorkspace(workspace), filter, page));
  }

  requireWritable(): void {
    this.#writer.requireWritable();
  }

  async recordCall(call: Call): Promise<void> {
    const fields = callFieldsOf(call);
    // Pages are ordered by the time of the entries, so a call that took long is on the newest page when it ends.
    const draft = { kind: "call", at: whole(call.at) + fields.durationMs, ...fields } as const;
    await this.#writer.write(requireWorkspace(call.workspace), draft, false);
  }

  async calls(workspace: string, filter: CallFilter, page: PageRequest): Promise<Page<RecordedCall>> {
    this.#requireOpen();
    return await this.#reading(readCalls(this.#source(), requireWorkspace(workspace), filter, page));
  }

  async call(workspace: string, id: string): Promise<RecordedCall | undefined> {
    this.#requireOpen();
    return await this.#reading(readCall(this.#source(), requireWorkspace(workspace), id));
  }

  async removeBefore(workspace: string | undefined, time: number): Promise<number> {
    this.#requireOpen();
    return await this.#reading(this.#retention.removeBefore(requireWorkspace(workspace), time));
  }

  async ready(): Promise<void> {
    this.#requireOpen();
    const failure = this.#writer.failure;
    if (failure !== undefined) throw cannotWrite(this.#path, failure);
    try {
      await this.#audit.encrypted.ready();
      await this.#audit.thread.request<void>({ method: "check" });
    } catch (error) {
      throw cannotWrite(this.#path, error);
    }
  }

  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #end(
    workspace: string,
    { chain, sequence }: WrittenEntry,
    outcome: Exclude<ChangeOutcome, "unknown">,
    revision: number | undefined,
  ): Promise<void> {
    const recorded = revision === undefined ? {} : { revision: revisionField.parse(revision) };
    const draft = { kind: "outcome", at: Date.now(), change: sequence, outcome, ...recorded } as const;
    const written = await this.#writer.write(workspace, draft, false);
    if (written.chain !== chain) throw new RangeError("The outcome of a change is in another chain than the change");
  }

  async #close(): Promise<void> {
    try {
      await this.#writer.close();
    } finally {
      await this.#pages.close();
      await this.#audit.encrypted.disconnect();
    }
  }

  #source(): PageSource {
    return { thread: this.#pages, encrypted: this.#audit.encrypted, names: this.#names };
  }

  #requireOpen(): void {
    if (this.#closing !== undefined) throw auditClosed(this.#path);
  }

  async #reading<Result>(result: Promise<Result>): Promise<Result> {
    try {
      return await result;
    } catch (error) {
      if (!(error instanceof KeywardError)) throw error;
      const { message, hint } = error;
      const code = error.code === "STORE_UNAVAILABLE" ? "AUDIT_UNAVAILABLE" : "AUDIT_INVALID";
      throw new SecretsError(code, `The audit file ${this.#path} cannot be used: ${message}`, { hint, cause: error });
    }
  }
}

function requireWorkspace(workspace: string | undefined): string {
  if (workspace === undefined) return serviceWorkspace;
  if (isWorkspace(workspace) && workspace !== serviceWorkspace) return workspace;
  throw new SecretsError("FIELD_INVALID", "The id of a workspace must have 1 to 32 lower-case letters and digits", {
    hint: "Pass the id of the workspace, and not its name.",
  });
}
