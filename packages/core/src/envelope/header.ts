import { type KeywardError, requireKeywardError } from "../errors/errors.ts";
import { type RecordAddress, recordError, type ValueForm } from "../store-interface/record.ts";
import type { StoredValue } from "../store-interface/store-capabilities.ts";
import { asBuffer } from "../store-interface/stored-bytes.ts";
import { malformedEnvelope } from "./malformed-envelope.ts";

/** The envelope versions that this release reads. */
export type EnvelopeVersion = 1;

/** The header of an envelope: the part that is not encrypted. */
export interface EnvelopeHeader {
  readonly version: EnvelopeVersion;
  readonly form: ValueForm;
  readonly keyId: string;
  /** The characters of the header in the envelope: "kw1." or "kw1:", the key id, and "." or ":". */
  readonly written: string;
}

const anyVersionPattern = /^kw([0-9]+)([.:])/;
const versionOnePattern = /^kw1([.:])([A-Za-z0-9_-]{1,32})\1/;
/** Maximum length of a header, in characters. */
const longestHeader = 4 + 32 + 1;

/**
 * The headers that were read last, the latest first. Most records of a store have the same header, and comparing a
 * record with these headers is faster than parsing its header.
 */
let recentHeaders: readonly EnvelopeHeader[] = [];
const maxRecentHeaders = 4;

function remember(header: EnvelopeHeader): EnvelopeHeader {
  recentHeaders = [header, ...recentHeaders.slice(0, maxRecentHeaders - 1)];
  return header;
}

/** Returns the header of a new envelope, as the characters with which the envelope begins. */
export function writeHeader(form: ValueForm, keyId: string): string {
  return form === "text" ? `kw1.${keyId}.` : `kw1:${keyId}:`;
}

/**
 * Reads the header of an envelope. Returns `undefined` for a value that does not begin like an envelope of any version.
 *
 * @throws KeywardError `ENVELOPE_UNSUPPORTED` for an envelope of another version than 1; `RECORD_MALFORMED` for a
 * broken header.
 */
export function readHeader(stored: StoredValue, address: RecordAddress): EnvelopeHeader | undefined {
  const isString = typeof stored === "string";
  const beginning = isString ? stored : firstCharacters(stored, longestHeader);
  for (const recent of recentHeaders) {
    // A header ends with its separator, so a value that begins with the whole of a header has exactly that header.
    if (beginning.startsWith(recent.written) && !(isString && recent.form === "binary")) return recent;
  }
  if (!beginning.startsWith("kw")) return undefined;
  const match = versionOnePattern.exec(isString ? stored.slice(0, longestHeader) : beginning);
  const [written, separator, keyId] = match ?? [];
  if (written !== undefined && keyId !== undefined) {
    if (separator === ":" && isString) throw binaryInString(address, keyId);
    const form = separator === "." ? "text" : "binary";
    return remember({ version: 1, form, keyId: detached(keyId), written: detached(written) });
  }
  const anyVersion = anyVersionPattern.exec(
    typeof stored === "string" ? stored : firstCharacters(stored, lengthOfVersion(stored) + 1),
  );
  if (anyVersion === null) return undefined;
  if (anyVersion[1] === "1")
    throw malformedEnvelope(address, "its key id must have 1 to 32 characters of A-Z a-z 0-9 _ -");
  throw recordError("ENVELOPE_UNSUPPORTED", address, `is an envelope of version ${anyVersion[1]?.slice(0, 8)}`, {
    hint: "A later release of Keyward wrote the record. Update Keyward in this process.",
  });
}

/** Returns the key id in the header of an envelope; `undefined` for another value and for a broken header. */
export function keyIdIn(stored: StoredValue, address: RecordAddress): string | undefined {
  try {
    return readHeader(stored, address)?.keyId;
  } catch (error) {
    requireKeywardError(error);
    return undefined;
  }
}

/** Returns the error for a binary envelope that a store returned as a string. */
export function binaryInString(address: RecordAddress, keyId: string): KeywardError {
  return malformedEnvelope(address, "its binary form is stored as a string", keyId);
}

/** Copies part of a string. A slice would keep the whole record in memory. */
function detached(slice: string): string {
  return Buffer.from(slice, "latin1").toString("latin1");
}

function firstCharacters(bytes: Uint8Array, length: number): string {
  return asBuffer(bytes).toString("latin1", 0, length);
}

/** Returns the length of "kw" and the digits after it. */
function lengthOfVersion(bytes: Uint8Array): number {
  let length = 2;
  for (let byte = bytes[length]; byte !== undefined && byte >= 0x30 && byte <= 0x39; byte = bytes[length]) length++;
  return length;
}
