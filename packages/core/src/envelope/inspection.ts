import { type KeywardErrorCode, requireKeywardError } from "../errors/errors.ts";
import type { ValueForm } from "../store-interface/record.ts";
import { isStoredValue, type StoredValue } from "../store-interface/store-capabilities.ts";
import { readBody } from "./body.ts";
import { readHeader } from "./header.ts";
import { shapeOf } from "./value-shape.ts";

/** Describes a stored record without a key. The description contains no part of the value or of the encrypted body. */
export type RecordInspection = InspectedEnvelope | BrokenEnvelope | ForeignRecord;

/** An envelope that this release can read. Only decrypting shows whether the envelope was altered. */
export interface InspectedEnvelope {
  /** Marks the record as an envelope. The other kinds are "broken" and "foreign". */
  readonly kind: "envelope";
  /** The version of the envelope format. */
  readonly version: number;
  /** The form of the envelope: "text" or "binary". */
  readonly form: ValueForm;
  /** The id of the key that encrypted the record. */
  readonly keyId: string;
  /** The size of the stored value in bytes. Text is measured as UTF-8. */
  readonly bytes: number;
}

/** A record that begins like an envelope, but is damaged, or was written by a later release. No key can decrypt it. */
export interface BrokenEnvelope {
  /** Marks the record as a broken envelope. The other kinds are "envelope" and "foreign". */
  readonly kind: "broken";
  /** The code of the error with which a read of the record fails. */
  readonly code: KeywardErrorCode;
  /** The reason why the envelope cannot be decrypted. */
  readonly problem: string;
  /** An instruction to a person: what to do about the record. */
  readonly hint: string;
  /** The id of the key in the header, if the header can be read. */
  readonly keyId?: string;
  /** The size of the stored value in bytes. Text is measured as UTF-8. */
  readonly bytes: number;
}

/** A record that Keyward did not encrypt: plaintext, or a record in a foreign format. */
export interface ForeignRecord {
  /** Marks the record as one that Keyward did not encrypt. The other kinds are "envelope" and "broken". */
  readonly kind: "foreign";
  /** The form of the stored value, such as `JSON object { data, iv, tag }`. Contains nothing of the value itself. */
  readonly shape: string;
  /** The size of the stored value in bytes. Text is measured as UTF-8. Absent for an object. */
  readonly bytes?: number;
}

// The errors of an envelope need an address. This module uses only their code, message and hint, so the address does
// not matter.
const anyAddress = { namespace: "", key: "" };

/**
 * Describes a stored value without decrypting it.
 *
 * @param stored the stored value. A store may also return an object, which an application wrote without serialization.
 */
export function inspectStored(stored: unknown): RecordInspection {
  if (!isStoredValue(stored)) return { kind: "foreign", shape: "an object, neither a string nor bytes" };
  const bytes = sizeOf(stored);
  try {
    const header = readHeader(stored, anyAddress);
    if (header === undefined) return { kind: "foreign", shape: shapeOf(stored), bytes };
    readBody(stored, header, anyAddress);
    const { version, form, keyId } = header;
    return { kind: "envelope", version, form, keyId, bytes };
  } catch (thrown) {
    const { code, message, hint, keyId } = requireKeywardError(thrown);
    return { kind: "broken", code, problem: message, hint, ...(keyId === undefined ? {} : { keyId }), bytes };
  }
}

function sizeOf(stored: StoredValue): number {
  return typeof stored === "string" ? Buffer.byteLength(stored) : stored.length;
}
