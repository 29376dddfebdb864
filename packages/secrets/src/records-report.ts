import type { KeywardErrorCode } from "@keyward/core";
import { isOfRecord } from "./records/record-errors.ts";
import type { SecretsErrorCode } from "./secrets-error.ts";

/** The largest number of problems that are returned. */
const maxProblems = 100;

/** A record that cannot be read, or that is missing. */
export interface RecordProblem {
  /** A description of the record, such as "the server github of the workspace main". Contains no value. */
  readonly record: string;
  /**
   * `RECORD_MISSING` if the record is not stored, although a list or another record refers to it. `RECORD_ROLLED_BACK`
   * if the record was deleted, and someone has put it back. Otherwise the code of the error that the read threw.
   */
  readonly code: KeywardErrorCode | SecretsErrorCode;
}

/** The result of a check of all records. */
export interface RecordsReport {
  /** The number of records that could be decrypted. Records of last uses are not counted. */
  readonly readable: number;
  /** The number of records that cannot be read, or are missing. */
  readonly problemCount: number;
  /** The first 100 problems. */
  readonly problems: readonly RecordProblem[];
  /** The number of stored records that no list and no other record refers to. */
  readonly unlistedCount: number;
  /**
   * Descriptions of the first 100 of these records, such as "the server github of the workspace main". Contain no
   * values.
   */
  readonly unlisted: readonly string[];
}

/** Collects what a check of all records finds. */
export class CheckedRecords {
  readonly #problems: RecordProblem[] = [];
  readonly #unlisted: string[] = [];
  #problemCount = 0;
  #unlistedCount = 0;
  #readable = 0;

  /** Returns what the check has found so far. */
  report(): RecordsReport {
    return {
      readable: this.#readable,
      problemCount: this.#problemCount,
      problems: this.#problems,
      unlistedCount: this.#unlistedCount,
      unlisted: this.#unlisted,
    };
  }

  /** Counts a record that could be read, unless it is `undefined`. Returns the record. */
  count<Stored>(record: Stored | undefined): Stored | undefined {
    if (record !== undefined) this.#readable++;
    return record;
  }

  /**
   * Runs a part of the check, and returns its result. If the record cannot be read, reports the record and returns
   * `undefined`.
   */
  async guarded<Result>(record: string, check: () => Promise<Result>): Promise<Result | undefined> {
    try {
      return await check();
    } catch (error) {
      this.failed(record, error);
      return undefined;
    }
  }

  /** Reports a record that cannot be read. If the error is not about one record, throws the error. */
  failed(record: string, error: unknown): void {
    if (!isOfRecord(error)) throw error;
    this.#report({ record, code: error.code });
  }

  /** Reports a record that is not stored, although a list or another record refers to it. */
  missing(record: string): void {
    this.#report({ record, code: "RECORD_MISSING" });
  }

  /** Reports a record that is stored although it was deleted. */
  putBack(record: string): void {
    this.#report({ record, code: "RECORD_ROLLED_BACK" });
  }

  /** Reports a stored record that no list and no other record refers to. */
  unlisted(record: string): void {
    this.#unlistedCount++;
    if (this.#unlisted.length < maxProblems) this.#unlisted.push(record);
  }

  #report(problem: RecordProblem): void {
    this.#problemCount++;
    if (this.#problems.length < maxProblems) this.#problems.push(problem);
  }
}
