import type { Census, CensusCounts } from "@keyward/core";

/** Counts of records as `--json` prints them. */
export interface CountsResult {
  readonly records: number;
  /** The number of records under each key, by the id of the key. */
  readonly recordsByKey: Readonly<Record<string, number>>;
  readonly unsealed: number;
  readonly broken: number;
}

/** The census of a store as `--json` prints it. */
export interface CensusResult extends CountsResult {
  /** The counts of each namespace, by its name; "" for the records without a namespace. */
  readonly namespaces: Readonly<Record<string, CountsResult>>;
}

/** Returns the census of a store as `--json` prints it. */
export function censusResult(found: Census): CensusResult {
  // An assignment to "__proto__", which is a valid namespace, would set the prototype of the object.
  const namespaces = [...found.namespaces].map(([name, counts]): [string, CountsResult] => [
    name,
    countsResult(counts),
  ]);
  return { ...countsResult(found), namespaces: Object.fromEntries(namespaces) };
}

function countsResult({ records, keys, unsealed, broken }: CensusCounts): CountsResult {
  return { records, recordsByKey: Object.fromEntries(keys), unsealed, broken };
}
