import type { KeywardError } from "../errors/errors.ts";
import { type RecordAddress, recordError } from "../store-interface/record.ts";

/**
 * Returns the error `RECORD_MALFORMED` for an envelope that does not follow the format. `problem` is the reason, with
 * which the message ends, such as "it is cut short".
 */
export function malformedEnvelope(address: RecordAddress, problem: string, keyId?: string): KeywardError {
  return recordError("RECORD_MALFORMED", address, `is a broken envelope: ${problem}`, {
    hint: "The record was cut or altered. Restore it from a backup, or delete it.",
    ...(keyId === undefined ? {} : { keyId }),
  });
}
