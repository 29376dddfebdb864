import { KeywardError, type KeywardErrorCode } from "../errors/errors.ts";
import { type OptionNames, requireAmount, requireOptions } from "../errors/options.ts";
import type { RecordAddress } from "../store-interface/record.ts";
import type { Checkpoint } from "./checkpoint.ts";

/** The options of {@link reencrypt}. */
export interface ReencryptOptions {
  /**
   * Maximum number of records that the job reads in one page. The first page is small, and later pages grow, unless
   * records are large or their re-encryption takes long. Default: 500.
   */
  readonly batchSize?: number;
  /** Maximum number of pages of records that are in progress at the same time. Default: 4. */
  readonly concurrency?: number;
  /**
   * Maximum number of records that the job processes per second, on average. After a slower period, the job does not
   * exceed this rate to catch up. Default: no limit.
   */
  readonly maxPerSecond?: number;
  /** The range of records to re-encrypt: a value from the list that `rangesOf` returned. Default: all records. */
  readonly range?: string;
  /** If true, the job only counts the records that it would re-encrypt, and writes nothing. Default: false. */
  readonly dryRun?: boolean;
  /**
   * The checkpoint that keeps the progress of the job, so that another run can resume where this run stopped.
   * `fileCheckpoint` keeps the progress in a file. Default: the progress is not kept.
   */
  readonly checkpoint?: Checkpoint;
  /**
   * If this signal is aborted, the job finishes the pages in progress and stops, with `complete: false` in its report.
   */
  readonly signal?: AbortSignal;
  /** Called after each page of records with the progress of the job so far. */
  readonly onProgress?: (progress: ReencryptProgress) => void;
  /**
   * If true, the job removes expired records instead of re-encrypting them. The clock of this process decides whether a
   * record has expired. Use this for a store that does not remove expired records itself. The job then also decrypts
   * the records that are under the primary, because only a decrypted record shows its expiry. Default: false.
   */
  readonly removeExpired?: boolean;
  /** The namespaces to re-encrypt. The name "" selects the records without a namespace. Default: all namespaces. */
  readonly namespaces?: readonly string[];
}

/** The progress of a bulk re-encryption. */
export interface ReencryptProgress {
  /**
   * Number of records that the job has processed. If the primary changes during the job, the job starts over and counts
   * the same records again.
   */
  readonly scanned: number;
  /** Number of records that did not need re-encryption, because they were under the primary key already. */
  readonly current: number;
  /** Number of records that the job re-encrypted. With `dryRun`, the number of records that it would re-encrypt. */
  readonly reencrypted: number;
  /**
   * Number of records that the job did not replace, because another process changed or removed them after the job had
   * read them.
   */
  readonly conflicts: number;
  /**
   * Number of records whose expiry has passed. With `removeExpired`, the job removes these records. Without it, the job
   * re-encrypts them, except records of a foreign format that is not plaintext. Such records stay as they are, because
   * their expiry may be wrong: an option of the format, such as `ttlMs`, may be set wrongly.
   */
  readonly expired: number;
  /** Number of expired records that the job removed. With `dryRun`, the number of records that it would remove. */
  readonly removed: number;
  /**
   * Number of records that cannot be decrypted, or that no format of the store can read. The job does not change these
   * records.
   */
  readonly unreadable: number;
  /**
   * Number of records in a foreign format that cannot detect a wrong key, such as AES-CBC without a MAC. The job does not
   * change these records, unless the option `encryptUnauthenticated` of their format is true.
   */
  readonly unauthenticated: number;
  /** Number of records that the job has processed per second in this run, on average. */
  readonly ratePerSecond: number;
}

/** A record that could not be decrypted. */
export interface UnreadableRecord {
  /** The namespace of the record; "" if it has none. */
  readonly namespace: string;
  /** The key of the record, which may be a secret. */
  readonly key: string;
  /** The id of the encryption key that the record needs. Absent if the record has no readable header. */
  readonly keyId?: string;
  /** The error code of the failed decryption. */
  readonly code: KeywardErrorCode;
}

/** Returns the entry for a record that cannot be decrypted, for the list in a report. */
export function unreadableRecord({ namespace, key }: RecordAddress, { code, keyId }: KeywardError): UnreadableRecord {
  return { namespace, key, code, ...(keyId === undefined ? {} : { keyId }) };
}

/**
 * The result of a bulk re-encryption. If the run resumed from a checkpoint, the counts of records include those of earlier
 * runs; `unreadableRecords`, `durationMs` and `ratePerSecond` cover this run only.
 */
export interface ReencryptReport extends ReencryptProgress {
  /** The id of the primary key, under which the job re-encrypted the records. */
  readonly primary: string;
  /**
   * True if the job has processed all records, and could decrypt each record that was not under the primary. False if
   * the job was stopped, if records are unreadable, or if records stay in a format that cannot detect a wrong key.
   */
  readonly complete: boolean;
  /** The first 1,000 records that could not be decrypted in this run. */
  readonly unreadableRecords: readonly UnreadableRecord[];
  /** Duration of this run in milliseconds. */
  readonly durationMs: number;
}

/** The names of all options of {@link reencrypt}. */
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
  removeExpired: true,
} as const satisfies OptionNames<ReencryptOptions>;

/**
 * Checks the options of `reencrypt` or `migrate`, and returns them. {@link requirePace} checks the options that limit
 * the speed.
 *
 * @param name the function that was called, for the message.
 * @throws KeywardError `VALUE_INVALID` for an unknown option, or an option of the wrong type.
 */
export function requireReencryptOptions(name: string, options: ReencryptOptions): ReencryptOptions {
  const { namespaces, dryRun, removeExpired } = requireOptions(name, options, reencryptOptionNames);
  for (const [option, value] of Object.entries({ dryRun, removeExpired })) {
    if (value === undefined || typeof value === "boolean") continue;
    throw new KeywardError("VALUE_INVALID", `The option "${option}" of ${name} is neither true nor false`, {
      hint: `Set \`${option}\` to true or false, or omit it.`,
    });
  }
  const isList = Array.isArray(namespaces) && namespaces.every((namespace) => typeof namespace === "string");
  if (namespaces !== undefined && !isList) {
    throw new KeywardError("VALUE_INVALID", `The option "namespaces" of ${name} is not a list of namespaces`, {
      hint: 'Set `namespaces` to a list, such as `["sessions"]`.',
    });
  }
  return options;
}

/**
 * Checks the options that limit the speed of a bulk re-encryption, and adds their defaults.
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
