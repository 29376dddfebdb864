import { KeywardError } from "@keyward/core";
import { SecretsError } from "../secrets-error.ts";

/**
 * Returns whether an error is about one record, which cannot be read or changed. Then other records may be readable. False
 * if the store or the audit does not answer.
 */
export function isOfRecord(error: unknown): error is KeywardError | SecretsError {
  if (error instanceof SecretsError) return error.code !== "AUDIT_UNAVAILABLE";
  return error instanceof KeywardError && error.code !== "STORE_UNAVAILABLE";
}
