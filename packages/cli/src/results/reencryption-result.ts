import type { KeywardErrorCode, ReencryptReport, UnreadableRecord } from "@keyward/core";

/** Unreadable records with one code, in one namespace, under one key. */
export interface UnreadableGroup {
  readonly namespace: string;
  /** The id of the key that the records need; `null` if they have no readable header. */
  readonly keyId: string | null;
  readonly code: KeywardErrorCode;
  readonly records: number;
}

/** The report of a re-encryption as `--json` prints it: without the keys of records, which may be secrets. */
export interface ReencryptionResult extends Omit<ReencryptReport, "ratePerSecond" | "unreadableRecords"> {
  readonly recordsPerSecond: number;
  /** Counts the first 1,000 unreadable records. */
  readonly unreadableGroups: readonly UnreadableGroup[];
}

/** Returns the report of a re-encryption as `--json` prints it. */
export function reencryptionResult(report: ReencryptReport): ReencryptionResult {
  const { primary, complete, scanned, current, reencrypted, conflicts, expired, removed } = report;
  const { unreadable, unauthenticated, unreadableRecords, durationMs, ratePerSecond } = report;
  return {
    primary,
    complete,
    scanned,
    current,
    reencrypted,
    conflicts,
    expired,
    removed,
    unreadable,
    unauthenticated,
    unreadableGroups: groupsOf(unreadableRecords),
    durationMs: Math.round(durationMs),
    recordsPerSecond: Math.round(ratePerSecond),
  };
}

/** Counts unreadable records by their namespace, key id and code. */
export function groupsOf(records: readonly UnreadableRecord[]): readonly UnreadableGroup[] {
  const groups = new Map<string, UnreadableGroup>();
  for (const { namespace, keyId = null, code } of records) {
    const id = JSON.stringify([namespace, keyId, code]);
    groups.set(id, { namespace, keyId, code, records: (groups.get(id)?.records ?? 0) + 1 });
  }
  return [...groups.values()];
}
