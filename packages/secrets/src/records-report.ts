import type { KeywardErrorCode } from "@keyward/core";
import { isOfRecord } from "./records/record-errors.ts";
import type { SecretsErrorCode } from "./secrets-error.ts";

/** The largest number of problems that are returned. */
const maxProblems = 100;

/** A record that cannot be read, or that is missing. */
export interface RecordProblem {
  /** The record, for people, such as "the server github of the workspace main". Never has a value. */
  readonly record: string;
  /**
   * `RECORD_MISSING` for a record that should be stored; `RECORD_ROLLED_BACK` for one that was deleted, and that someone has put
   * back; otherwise the code of the error.
   */
  readonly code: KeywardErrorCode | SecretsErrorCode;
}

/** What a check of all records has found. */
export interface RecordsReport {
  /** The number of records that were decrypted, without those about last uses. */
  readonly readable: number;
  /** The number of records that cannot be read, or are missing. */
  readonly problemCount: number;
  /** The first 100 problems. */
  readonly problems: readonly RecordProblem[];
  /** The number of records that are stored, although no list and no other record names them. */
  readonly unlistedCount: number;
  /** The first 100 of these records, for people, such as "the server github of the workspace main". Never has a value. */
  readonly unlisted: readonly string[];
}

/** Collects what a check of all records finds. */
export class CheckedRecords {
  readonly #problems: RecordProblem[] = [];
  readonly #unlisted: string[] = [];
  #problemCount = 0;
  #unlistedCount = 0;
  #readable = 0;

  /** What was found so far. */
  report(): RecordsReport {
    return {
      readable: this.#readable,
      problemCount: this.#problemCount,
      problems: this.#problems,
      unlistedCount: this.#unlistedCount,
      unlisted: this.#unlisted,
    };
  }

  /** Counts a record that was read, and returns the record. */
  count<Stored>(record: Stored | undefined): Stored | undefined {
    if (record !== undefined) this.#readable++;
    return record;
  }

  /** Does a part of the check. Reports a record that cannot be read, and returns `undefined` then. */
  async guarded<Result>(record: string, check: () => Promise<Result>): Promise<Result | undefined> {
    try {
      return await check();
    } catch (error) {
      this.failed(record, error);
      return undefined;
    }
  }

  /** Reports a record that cannot be read. Throws an error that is not about one record. */
  failed(record: string, error: unknown): void {
    if (!isOfRecord(error)) throw error;
    this.#report({ record, code: error.code });
  }

  /** Reports a record that should be stored. */
  missing(record: string): void {
    this.#report({ record, code: "RECORD_MISSING" });
  }

  /** Reports a record that is stored although it was deleted. */
  putBack(record: string): void {
    this.#report({ record, code: "RECORD_ROLLED_BACK" });
  }

  /** Reports a record that no list and no other record names. */
  unlisted(record: string): void {
    this.#unlistedCount++;
    if (this.#unlisted.length < maxProblems) this.#unlisted.push(record);
  }

  #report(problem: RecordProblem): void {
    this.#problemCount++;
    if (this.#problems.length < maxProblems) this.#problems.push(problem);
  }
}
