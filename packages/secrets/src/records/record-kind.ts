import type { z } from "zod";
import type { RecentRecords } from "./recent-records.ts";

/** A kind of record: how its decrypted value is checked, and how an older version of a record is noticed. */
export interface RecordKind<Value> {
  /** The name of the kind, for errors. */
  readonly name: string;
  readonly schema: z.ZodType<Value>;
  /**
   * The cache, for a kind of record that each call reads. There is none for values of secrets, because they would stay
   * in memory.
   */
  readonly recent?: RecentRecords<Value>;
  /**
   * Returns the identity of the object that the record describes, and the revision of the record. If a record has a
   * lower revision than one that was read before with the same `identity`, someone has put back an older version.
   * `undefined` for a kind without revisions.
   */
  readonly revisionOf?: (value: Value) => { readonly identity: string; readonly revision: number };
}

/** A record as it was read. `ServiceStore.swap` replaces the record only if its stored text is still the same. */
export interface StoredRecord<Value> {
  readonly key: string;
  /** The decrypted text. */
  readonly text: string;
  readonly value: Value;
}
