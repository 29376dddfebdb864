import type { KeywardError } from "../errors/errors.ts";
import { type RecordAddress, recordError } from "../store-interface/record.ts";

/**
 * Returns the error `RECORD_MALFORMED` for an envelope that breaks the format. `problem` is the end of the message,
 * after "A record is a broken envelope: ".
 */
export function malformedEnvelope(address: RecordAddress, problem: string, keyId?: string): KeywardError {
  return recordError("RECORD_MALFORMED", address, `is a broken envelope: ${problem}`, {
    hint: "The record was cut or altered. Restore it from a backup, or delete it.",
    ...(keyId === undefined ? {} : { keyId }),
  });
}
