import { KeywardError } from "../errors/errors.ts";
import type { ReencryptProgress } from "./reencryption-options.ts";

/** The counts of a bulk re-encryption that are stored in its checkpoint. */
export type ReencryptCounts = Omit<ReencryptProgress, "ratePerSecond">;

/** The counts at the beginning of a bulk re-encryption: all are 0. */
export const noCounts: ReencryptCounts = {
  scanned: 0,
  current: 0,
  reencrypted: 0,
  conflicts: 0,
  expired: 0,
  unreadable: 0,
  unauthenticated: 0,
  removed: 0,
};

// A checkpoint of an earlier release lacks the counts `unauthenticated` and `removed`.
const countNames = Object.keys(noCounts).filter((name) => name !== "unauthenticated" && name !== "removed");

/** Adds two sets of counts, and returns the sums. */
export function addCounts(one: ReencryptCounts, other: ReencryptCounts): ReencryptCounts {
  return {
    scanned: one.scanned + other.scanned,
    current: one.current + other.current,
    reencrypted: one.reencrypted + other.reencrypted,
    conflicts: one.conflicts + other.conflicts,
    expired: one.expired + other.expired,
    unreadable: one.unreadable + other.unreadable,
    unauthenticated: one.unauthenticated + other.unauthenticated,
    removed: one.removed + other.removed,
  };
}

/** The progress of a bulk re-encryption that is stored in its checkpoint. */
export interface SavedProgress {
  /** The id of the primary, the key that the job encrypts with. */
  readonly primary: string;
  /** The name of the job that the checkpoint belongs to: the property `job` of the checkpoint. */
  readonly job?: string;
  readonly namespaces: readonly string[] | null;
  readonly range?: string;
  /** True if the job removes expired records. */
  readonly removeExpired?: boolean;
  /** The cursor of the first page that is not done. */
  readonly cursor: string;
  readonly counts: ReencryptCounts;
}

/** The beginning of each text that {@link formatProgress} returns. */
const beginning = '{"keyward":"reencrypt"';

/** Returns the text to store in a checkpoint for this progress. */
export function formatProgress(progress: SavedProgress): string {
  return JSON.stringify({ keyward: "reencrypt", ...progress });
}

/**
 * Parses the text of a checkpoint.
 *
 * @throws KeywardError `CHECKPOINT_INVALID` if the text is not the progress of a bulk re-encryption.
 */
export function parseProgress(text: string): SavedProgress {
  let saved: unknown;
  try {
    saved = JSON.parse(text);
  } catch {
    // The message of the parser quotes the text.
    throw noProgress(text);
  }
  if (!isSavedProgress(saved)) throw noProgress(text);
  return { ...saved, counts: addCounts(noCounts, { ...noCounts, ...saved.counts }) };
}

/** Returns whether {@link parseProgress} can parse `text` as the progress of a bulk re-encryption. */
export function isSavedProgressText(text: string): boolean {
  try {
    parseProgress(text);
    return true;
  } catch (error) {
    if (error instanceof KeywardError) return false;
    throw error;
  }
}

/**
 * Returns the error `CHECKPOINT_INVALID`, for a checkpoint whose text is not the progress of this re-encryption.
 *
 * @param cause the error of the store, if the store rejected the cursor in the checkpoint.
 */
export function invalidCheckpoint(cause?: KeywardError): KeywardError {
  return new KeywardError(
    "CHECKPOINT_INVALID",
    "The content of the checkpoint was not written by this re-encryption of this store",
    {
      cause,
      hint: "If another job uses this checkpoint, pass another checkpoint. Otherwise remove the checkpoint. The job then starts over. No record is lost.",
    },
  );
}

/**
 * Returns the error for a checkpoint whose text is not the progress of a re-encryption, for example because its path
 * leads to another file.
 */
function noProgress(text: string): KeywardError {
  const isDamaged = text.startsWith(beginning);
  return new KeywardError("CHECKPOINT_INVALID", "The content of the checkpoint was not written by a re-encryption", {
    hint: isDamaged
      ? "The checkpoint is damaged. Remove the checkpoint. The job then starts over. No record is lost."
      : "This is not a checkpoint, so keep it. Pass the path of a file that does not exist yet, or of the checkpoint of this job.",
  });
}

function isSavedProgress(saved: unknown): saved is SavedProgress {
  if (typeof saved !== "object" || saved === null) return false;
  if (!("keyward" in saved && saved.keyward === "reencrypt" && "primary" in saved && "namespaces" in saved))
    return false;
  if (!("cursor" in saved && typeof saved.cursor === "string" && "counts" in saved)) return false;
  if ("job" in saved && typeof saved.job !== "string") return false;
  if ("range" in saved && typeof saved.range !== "string") return false;
  if ("removeExpired" in saved && typeof saved.removeExpired !== "boolean") return false;
  const counts: unknown = saved.counts;
  return (
    typeof counts === "object" &&
    counts !== null &&
    Object.entries({ ...noCounts, ...counts }).every(([, count]) => isCount(count)) &&
    countNames.every((name) => name in counts)
  );
}

function isCount(value: unknown): boolean {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}
