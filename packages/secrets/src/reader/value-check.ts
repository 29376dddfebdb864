import { SecretsError } from "../secrets-error.ts";
import type { ReadBatch } from "../store/service-store.ts";
import { valueRecord } from "./value-reading.ts";

/**
 * Checks the record of a value, and returns whether the record exists. Never returns the value.
 *
 * @param expected the name of the secret and the origin of its value, from the record of the server.
 * @throws SecretsError `RECORD_INVALID` if the record has another name or origin; the errors of
 * {@link ReadBatch.record}.
 */
export function hasValue(
  batch: ReadBatch,
  key: string,
  expected: { readonly name: string; readonly origin: string },
): boolean {
  const record = batch.record(valueRecord, key)?.value;
  if (record === undefined) return false;
  if (record.name === expected.name && record.origin === expected.origin) return true;
  throw new SecretsError("RECORD_INVALID", "The value of a secret belongs to another secret or another origin", {
    hint: "Someone who can write to the store may have put back an old record. Find out who, and set the secret again.",
  });
}
