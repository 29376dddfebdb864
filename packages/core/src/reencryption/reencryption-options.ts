import type { KeywardError, KeywardErrorCode } from "../errors/errors.ts";
import { type OptionNames, requireAmount } from "../errors/options.ts";
import type { RecordAddress } from "../store-interface/record.ts";
import type { Checkpoint } from "./checkpoint.ts";

/** The options of {@link reencrypt}. */
export interface ReencryptOptions {
  /** Maximum number of records in a page. Pages start small, and shrink if records are large or slow. Default: 500. */
  readonly batchSize?: number;
  /** Maximum number of pages in progress at a time. Default: 4. */
  readonly concurrency?: number;
  /**
   * Maximum number of records to look at in a second, on average. After a time in which the job was slower, it does not
   * exceed this rate to catch up. Default: no limit.
   */
  readonly maxPerSecond?: number;
  /** The range of records to re-encrypt, as one of the values that `rangesOf` returned. Default: all records. */
  readonly range?: string;
  /** Counts the records that the job would re-encrypt, and writes nothing. Default: false. */
  readonly dryRun?: boolean;
  /**
   * Keeps the progress of the job, so that another run can resume where this run stopped. See `fileCheckpoint`.
   * Default: the progress is not kept.
   */
  readonly checkpoint?: Checkpoint;
  /** Stops the job after the pages in progress. The report then has `complete: false`. */
  readonly signal?: AbortSignal;
  /** Called after each page. */
  readonly onProgress?: (progress: ReencryptProgress) => void;
  /** The namespaces to re-encrypt; "" stands for the records without a namespace. Default: all. */
  readonly namespaces?: readonly string[];
}

/** The progress of a bulk re-encryption. */
export interface ReencryptProgress {
  /** Number of records looked at. If the primary changes, the job starts over and counts records twice. */
  readonly scanned: number;
  /** Number of records that were under the primary already. */
  readonly current: number;
  /** Number of records that were re-encrypted, or that would be re-encrypted if this is a `dryRun`. */
  readonly reencrypted: number;
  /** Number of records that another process changed or removed first. The job does not replace them. */
  readonly conflicts: number;
  /** Number of records whose expiry has passed. They are re-encrypted like the others. */
  readonly expired: number;
  /**
   * Number of records that cannot be decrypted, or are in a foreign format and cannot be decoded. The job does not
   * change them.
   */
  readonly unreadable: number;
  /** Number of records looked at per second, in this run. */
  readonly ratePerSecond: number;
}

/** A record that could not be decrypted. */
export interface UnreadableRecord {
  /** The namespace of the record; "" if it has none. */
  readonly namespace: string;
  /** The key of the record, which may be a secret. */
  readonly key: string;
  /** The id of the encryption key that the record needs, if its header can be read. */
  readonly keyId?: string;
  /** The error code of the failed decryption. */
  readonly code: KeywardErrorCode;
}

/** Returns the entry in a report for a record that cannot be decrypted. */
export function unreadableRecord({ namespace, key }: RecordAddress, { code, keyId }: KeywardError): UnreadableRecord {
  return { namespace, key, code, ...(keyId === undefined ? {} : { keyId }) };
}

/**
 * The result of a bulk re-encryption. If the run resumed from a checkpoint, the counts of records include those of earlier
 * runs; `unreadableRecords`, `durationMs` and `ratePerSecond` cover this run only.
 */
export interface ReencryptReport extends ReencryptProgress {
  /** The id of the key that encrypts the records now. */
  readonly primary: string;
  /** True if every record was looked at and could be decrypted. False if the job was stopped or records are unreadable. */
  readonly complete: boolean;
  /** The first 1,000 records that could not be decrypted in this run. */
  readonly unreadableRecords: readonly UnreadableRecord[];
  /** Duration of this run in milliseconds. */
  readonly durationMs: number;
}

/** The name of every option of a bulk re-encryption. */
export const reencryptOptionNames = {
  batchSize: true,
  concurrency: true,
  maxPerSecond: true,
  range: true,
  dryRun: true,
  checkpoint: true,
  signal: true,
  onProgress: true,
  namespaces: true,
} as const satisfies OptionNames<ReencryptOptions>;

/**
 * Checks the options for the speed of a bulk re-encryption, and adds their defaults.
 *
 * @throws KeywardError `VALUE_INVALID`.
 */
export function requirePace(pace: Pick<ReencryptOptions, "batchSize" | "concurrency" | "maxPerSecond">): {
  readonly batchSize: number;
  readonly concurrency: number;
  readonly maxPerSecond: number | undefined;
} {
  const { batchSize = 500, concurrency = 4, maxPerSecond } = pace;
  requireAmount("batchSize", batchSize, "records");
  requireAmount("concurrency", concurrency, "pages");
  if (maxPerSecond !== undefined) requireAmount("maxPerSecond", maxPerSecond, "records");
  return { batchSize, concurrency, maxPerSecond };
}
