import { KeywardError } from "@keyward/core";
import { type AuditEntry, columnsOf, firstHash, hashAfter, namesOf, tryToParseEntry } from "./audit-entry.ts";
import { tagsUnder } from "./audit-names.ts";
import type { EntryTags, StoredChainRow, StoredEntryRow } from "./audit-rows.ts";
import type { ChainHead, ChainProof } from "./chain-proof.ts";

/** A problem of one chain, and the sequence number of its entry. */
export interface ChainProblem {
  readonly sequence: number | undefined;
  readonly problem: string;
}

/** The hashes of entries of one chain in the anchors, by sequence number. */
export type AnchoredHashes = ReadonlyMap<number, ReadonlySet<string>>;

const mostListed = 1_000;

/** Verifies one chain, from its first entry in the file to its last. */
export class ChainWalk {
  readonly workspace: string;
  readonly chain: string;
  /** The last entry that was read, or the last one that retention removed. */
  last: { readonly sequence: number; readonly hash: Uint8Array } = { sequence: 0, hash: firstHash };
  isClosed = false;
  /** The number of entries that were read. */
  entries = 0;
  /** The first problems of the chain, at most 1,000. */
  readonly problems: ChainProblem[] = [];
  problemCount = 0;
  /** The hashes in the anchors for entries that the walk has not reached, by sequence number. */
  readonly #anchored: Map<number, ReadonlySet<string>>;
  #lastRow = 0;
  #removedUpTo = 0;

  constructor(workspace: string, chain: string, anchored: AnchoredHashes = new Map()) {
    this.workspace = workspace;
    this.chain = chain;
    this.#anchored = new Map(anchored);
  }

  /** Begins after the entries that retention removed. */
  begin(removed: ChainProof | undefined, row: StoredChainRow): void {
    if (row.hasRemoved && removed === undefined) {
      this.#note(undefined, "the record of the removed entries cannot be read");
    }
    if (removed !== undefined) {
      this.last = { sequence: removed.sequence, hash: Buffer.from(removed.hash, "hex") };
      this.#removedUpTo = removed.sequence;
    }
    if (row.first !== this.#removedUpTo + 1) this.#note(undefined, "the number of the first entry was changed");
    for (const sequence of this.#anchored.keys()) {
      if (sequence < this.#removedUpTo) this.#anchored.delete(sequence);
    }
    this.#compareWithAnchors();
  }

  /** Checks the next row of the chain against its decrypted entry, and returns this entry. */
  step(row: StoredEntryRow, decrypted: unknown, lookup: Uint8Array | undefined): AuditEntry | undefined {
    this.entries++;
    const { sequence } = row;
    if (sequence !== this.last.sequence + 1) {
      this.#note(this.last.sequence + 1, `entries are missing before the entry ${sequence}`);
    }
    if (row.id <= this.#lastRow) this.#note(sequence, "the rows of the chain are in another order than its entries");
    this.#lastRow = Math.max(this.#lastRow, row.id);
    const isNext = sequence === this.last.sequence + 1;
    const former = this.last.hash;
    // After a problem the walk continues with the hash in the row, so that one edit is one problem.
    this.last = { sequence, hash: row.hash };
    if (typeof decrypted !== "string") {
      const reason = decrypted instanceof KeywardError ? decrypted.message : "there is no text";
      this.#note(sequence, `the entry cannot be read: ${reason}`);
      return undefined;
    }
    if (isNext && Buffer.compare(hashAfter(former, decrypted), row.hash) !== 0) {
      this.#note(sequence, "the hash does not follow from the entry and the hash before it");
    }
    const entry = tryToParseEntry(decrypted);
    if (entry === undefined) this.#note(sequence, "the entry is not in a form that this release reads");
    else this.#compareColumns(row, entry, lookup);
    this.#compareWithAnchors();
    return entry;
  }

  #compareColumns(row: StoredEntryRow, entry: AuditEntry, lookup: Uint8Array | undefined): void {
    const { sequence } = row;
    const isPlace = entry.workspace === this.workspace && entry.chain === this.chain && entry.sequence === sequence;
    if (!isPlace || !row.sameWorkspace) this.#note(sequence, "the entry belongs to another place");
    if ((entry.kind === "chain-opened") !== (sequence === 1))
      this.#note(sequence, "the opening entry is not the first");
    if (this.isClosed) this.#note(sequence, "the entry is after the closing entry");
    if (entry.kind === "chain-closed") this.isClosed = true;
    const columns = columnsOf(entry);
    const isSame =
      row.time === columns.time &&
      row.kind === columns.kind &&
      row.status === columns.status &&
      row.durationMs === columns.durationMs &&
      row.bytes === columns.bytes &&
      row.change === columns.change;
    if (!isSame) this.#note(sequence, "a column differs from the entry");
    if (row.missingName) this.#note(sequence, "a name of the entry is not in the dictionary");
    else if (lookup !== undefined && !sameTags(row, tagsUnder(lookup, namesOf(entry)))) {
      this.#note(sequence, "a name in the columns differs from the entry");
    }
  }

  /** Returns whether the last entry that was read is the entry in the head of the chain. */
  endsAt(head: ChainHead | undefined): boolean {
    return head?.sequence === this.last.sequence && head.hash === Buffer.from(this.last.hash).toString("hex");
  }

  /** Adds a problem that explains how the last entry differs from the head of the chain. */
  reportEnd(head: ChainHead | undefined): void {
    if (head === undefined) this.#note(undefined, "the head of the chain cannot be read");
    else if (head.sequence > this.last.sequence) {
      this.#note(this.last.sequence + 1, `entries are missing at the end, up to the entry ${head.sequence}`);
    } else this.#note(head.sequence, "the head of the chain is older than its last entry, or differs from it");
  }

  /** True if the chain has entries in the file, and none of them is a closing entry. */
  get isOpen(): boolean {
    return this.entries > 0 && !this.isClosed;
  }

  /** Adds a problem for each anchor whose entry the walk has not reached. */
  finish(): void {
    for (const sequence of this.#anchored.keys()) {
      this.#note(sequence, "the entry of the anchor is missing: the file was put back to an older state");
    }
  }

  #note(sequence: number | undefined, problem: string): void {
    this.problemCount++;
    if (this.problems.length < mostListed) this.problems.push({ sequence, problem });
  }

  #compareWithAnchors(): void {
    const { sequence, hash } = this.last;
    const anchored = this.#anchored.get(sequence);
    if (anchored === undefined) return;
    this.#anchored.delete(sequence);
    // Anchors that differ from each other cannot all be right.
    if (anchored.size > 1 || !anchored.has(Buffer.from(hash).toString("hex"))) {
      this.#note(sequence, "the entry differs from the anchor");
    }
  }
}

function sameTags(row: EntryTags, tags: EntryTags): boolean {
  return (
    row.server === tags.server && row.token === tags.token && row.owner === tags.owner && row.action === tags.action
  );
}
