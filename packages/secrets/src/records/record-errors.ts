import { KeywardError } from "@keyward/core";
import { SecretsError } from "../secrets-error.ts";

/**
 * Returns whether an error is about one record, which cannot be read or changed. Then other records may be readable. False
 * if the store, the provider of the keys or the audit does not answer.
 */
export function isOfRecord(error: unknown): error is KeywardError | SecretsError {
  if (error instanceof SecretsError) return error.code !== "AUDIT_UNAVAILABLE";
  return error instanceof KeywardError && error.code !== "STORE_UNAVAILABLE" && error.code !== "PROVIDER_UNAVAILABLE";
}

/**
 * Does a part of some work, and returns its result. If an error is about one record, reports the error and returns
 * `undefined`, so that one record does not stop the other parts.
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
