import { KeywardError } from "@keyward/core";
import { SecretsError } from "../secrets-error.ts";

/**
 * Returns true if an error is about one record that cannot be read or changed, so that other records may still be
 * readable. Returns false if the store, the key provider or the audit does not answer.
 */
export function isOfRecord(error: unknown): error is KeywardError | SecretsError {
  if (error instanceof SecretsError) return error.code !== "AUDIT_UNAVAILABLE";
  return error instanceof KeywardError && error.code !== "STORE_UNAVAILABLE" && error.code !== "PROVIDER_UNAVAILABLE";
}

/**
 * Runs `work`, and returns its result. If `work` throws an error about one record, passes the error to `report` and
 * returns `undefined`, so that this record does not stop the rest of a job. Throws any other error.
 */
export async function orReport<Result>(
  work: () => Result | Promise<Result>,
  report: (problem: unknown) => void,
): Promise<Result | undefined> {
  try {
    return await work();
  } catch (error) {
    if (!isOfRecord(error)) throw error;
    report(error);
    return undefined;
  }
}
