// What the main thread and the worker thread send to each other. All values can be cloned.

/** The columns of an entry's row that refer to no name. */
export interface EntryColumns {
  /** In milliseconds since the epoch. */
  readonly time: number;
  /** See `kindNumbers`. */
  readonly kind: number;
  readonly status: number | undefined;
  readonly durationMs: number | undefined;
  readonly bytes: number | undefined;
  /**
   * For the outcome of a change: the sequence number of the change in the same chain. For a call: its number, see
   * `numberOfCall`.
   */
  readonly change: number | undefined;
  readonly hash: Uint8Array;
}

/** The tags of the names that an entry refers to. */
export interface EntryTags {
  readonly server: string | undefined;
  readonly token: string | undefined;
  readonly owner: string | undefined;
  readonly action: string | undefined;
}

/** A new row of the table of entries. */
export interface NewEntryRow extends EntryColumns, EntryTags {
  readonly workspace: string;
  readonly chain: string;
  readonly sequence: number;
  readonly entry: Uint8Array;
}

/** What one transaction appends. */
export interface AppendBatch {
  readonly names: readonly { readonly workspace: string; readonly tag: string; readonly name: Uint8Array }[];
  readonly entries: readonly NewEntryRow[];
  readonly heads: readonly {
    readonly workspace: string;
    readonly chain: string;
    readonly number: number;
    readonly head: Uint8Array;
  }[];
  /** The new record that counts the chains, if the batch begins chains. */
  readonly registry: Uint8Array | undefined;
}

/** A row as it is in the file, for its verification. */
export interface StoredEntryRow extends EntryColumns, EntryTags {
  readonly id: number;
  readonly sequence: number;
  /** False if the chain or a name belongs to another workspace than the column `workspace`. */
  readonly sameWorkspace: boolean;
  /** True if a column refers to a name that is not in the dictionary. */
  readonly missingName: boolean;
}

/** A row of the table of hash chains. `workspace` is `undefined` if the workspace of the chain is missing in the file. */
export interface StoredChainRow {
  /** The number of the chain in the file, from 1. */
  readonly id: number;
  readonly workspace: string | undefined;
  readonly chain: string;
  /** The sequence number of the first entry that retention has kept. */
  readonly first: number;
  readonly hasRemoved: boolean;
}

/** The place of an entry. */
export interface EntryAt {
  readonly chain: string;
  readonly sequence: number;
}

/** The filter for a page of changes or calls. Names are passed as tags. */
export interface EntriesQuery {
  readonly workspace: string;
  readonly kind: number;
  readonly owner?: string | undefined;
  readonly server?: string | undefined;
  readonly action?: string | undefined;
  readonly token?: string | undefined;
  /** The smallest and the largest value of the column `status`. */
  readonly status?: { readonly least: number; readonly most: number } | undefined;
  readonly from: number | undefined;
  readonly until: number | undefined;
  /** The place of the last entry on the previous page. */
  readonly before: (EntryAt & { readonly time: number }) | undefined;
  readonly limit: number;
}

/** An entry on a page, and where its outcome is if the entry is a change. */
export interface EntryRow extends EntryAt {
  readonly time: number;
  /** The sequence number of the outcome in the same chain; `undefined` if there is no outcome. */
  readonly outcome: number | undefined;
}

/** The place of an entry in the order of the rows. */
export interface RowPlace {
  readonly id: number;
  readonly workspace: string;
  readonly chain: string;
  readonly sequence: number;
}

/** A removal of the beginning of a chain, with the encrypted record that proves it. */
export interface ChainRemoval {
  readonly workspace: string;
  readonly chain: string;
  /** The sequence number of the first entry of the chain that is still in the file. */
  readonly first: number;
  /** The sequence number of the last entry to remove. */
  readonly last: number;
  readonly removed: Uint8Array;
}

/** A conditional write of a record; `expected` is `undefined` if there must be no record. */
export interface RecordReplacement {
  readonly key: string;
  readonly expected: Uint8Array | undefined;
  readonly next: Uint8Array;
}

/** A conditional write of a record of the reserved space. `expires` as in `AtomicStore.replace`. */
export interface ReservedReplacement extends RecordReplacement {
  readonly expires: number | null | undefined;
}

/** A record of the reserved space. */
export interface ReservedRecordRow {
  readonly key: string;
  readonly value: Uint8Array;
  /** In milliseconds since the epoch; `null` for never. */
  readonly expires: number | null;
}

/** One page of a scan. */
export interface RecordsPage {
  readonly records: readonly { readonly key: string; readonly value: Uint8Array }[];
  readonly next: string | undefined;
}

/** A request of the main thread to the worker thread. */
export type AuditRequest =
  | { readonly method: "check" }
  | { readonly method: "append"; readonly batch: AppendBatch }
  | { readonly method: "read"; readonly keys: readonly string[] }
  | { readonly method: "replace"; readonly changes: readonly RecordReplacement[] }
  | { readonly method: "scan"; readonly cursor: string | undefined; readonly limit: number }
  | { readonly method: "entries"; readonly query: EntriesQuery }
  | { readonly method: "call"; readonly workspace: string; readonly kind: number; readonly number: number }
  | {
      readonly method: "places";
      readonly workspace: string | undefined;
      readonly after: number;
      readonly limit: number;
    }
  | { readonly method: "chains"; readonly after: number; readonly limit: number }
  | { readonly method: "chainsOf"; readonly workspace: string; readonly after: number; readonly limit: number }
  | { readonly method: "chainEntries"; readonly chain: number; readonly after: number; readonly limit: number }
  | { readonly method: "integrity" }
  | { readonly method: "remove"; readonly removal: ChainRemoval }
  | { readonly method: "reservedRead"; readonly keys: readonly string[] }
  | {
      readonly method: "reservedWrite";
      readonly records: readonly ReservedRecordRow[];
    }
  | { readonly method: "reservedDelete"; readonly keys: readonly string[] }
  | { readonly method: "reservedClear" }
  | { readonly method: "reservedReplace"; readonly changes: readonly ReservedReplacement[] }
  | { readonly method: "reservedScan"; readonly after: string | undefined; readonly limit: number }
  | { readonly method: "close" };

/** A request to the worker thread, as it is sent. */
export interface SentRequest {
  readonly id: number;
  readonly request: AuditRequest;
  /** The time of `process.hrtime.bigint()` after which a write must not begin. */
  readonly latestStart: bigint;
}

/** What the worker thread answers to a request. */
export type AuditAnswer =
  | { readonly id: number; readonly result: unknown }
  | {
      readonly id: number;
      readonly problem: { readonly kind: "refused" | "unavailable"; readonly message: string; readonly hint: string };
      /** The message and the code of SQLite's or the system's error. */
      readonly cause: string | undefined;
    };
