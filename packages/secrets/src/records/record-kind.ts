import type { z } from "zod";
import type { RecentRecords } from "./recent-records.ts";

/** A kind of record: how its decrypted value is checked, and by what two records under one key are told apart. */
export interface RecordKind<Value> {
  /** The name of the kind, for errors. */
  readonly name: string;
  readonly schema: z.ZodType<Value>;
  /** For a kind that each call reads. Not for values of secrets, which would stay in memory. */
  readonly recent?: RecentRecords<Value>;
  /**
   * Returns what the record is about and its revision. A record with a lower revision than one that was read before, for
   * the same `identity`, was put back by someone. `undefined` for a kind without revisions.
   */
  readonly revisionOf?: (value: Value) => { readonly identity: string; readonly revision: number };
}

/** A record as it was read, which can be swapped only if it is still the stored one. */
export interface StoredRecord<Value> {
  readonly key: string;
  /** The decrypted text. */
  readonly text: string;
  readonly value: Value;
}
