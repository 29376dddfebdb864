import { Buffer, isUtf8 } from "node:buffer";
import type { KeywardError } from "../errors/errors.ts";
import type { RecordAddress, RecordContent } from "../store-interface/record.ts";
import type { StoredValue } from "../store-interface/store-capabilities.ts";
import { malformedEnvelope } from "./malformed-envelope.ts";

// plain = flags(1) ‖ [expires u48be] ‖ [length u32be] ‖ value ‖ zero padding, as in docs/envelope.md.

const isText = 1;
const hasExpiry = 2;
const isPadded = 4;
/**
 * The character before a text that has no padding and no expiry. It is the flags byte, and the only byte before the
 * text.
 */
const textMark = String.fromCharCode(isText);

/** A value longer than this many UTF-16 units or bytes is encrypted by a separate call of the cipher. */
const longValue = 4096;

/**
 * The plaintext of an envelope: flags, expiry and value. A long value is a separate piece, `rest`, so that its bytes
 * are not copied.
 */
export interface Plaintext {
  readonly first: StoredValue;
  readonly rest?: StoredValue;
}

/**
 * Returns the plaintext that contains a value and its expiry, in the layout of the envelope.
 *
 * @param expires an integer between 0 and 2^48 - 1, in milliseconds since the epoch; `undefined` for no expiry.
 * @param padTo the plaintext is padded to a multiple of this number of bytes; `undefined` for no padding.
 */
export function layOutPlaintext(value: StoredValue, expires: number | undefined, padTo: number | undefined): Plaintext {
  const isString = typeof value === "string";
  // A long value stays a separate piece, so that it is never copied. For a short value, a second call of the cipher
  // takes longer than the copy.
  const isSeparate = padTo === undefined && value.length > longValue;
  // The cipher encodes this string itself, which is faster than encoding it here.
  if (isString && !isSeparate && expires === undefined && padTo === undefined) return { first: textMark + value };
  const valueBytes = isSeparate ? 0 : isString ? Buffer.byteLength(value) : value.length;
  const valueAt = 1 + (expires === undefined ? 0 : 6) + (padTo === undefined ? 0 : 4);
  const length = valueAt + valueBytes;
  const plain = Buffer.allocUnsafe(padTo === undefined ? length : Math.ceil(length / padTo) * padTo);
  plain[0] = (isString ? isText : 0) | (expires === undefined ? 0 : hasExpiry) | (padTo === undefined ? 0 : isPadded);
  if (expires !== undefined) plain.writeUIntBE(expires, 1, 6);
  if (padTo !== undefined) plain.writeUInt32BE(valueBytes, valueAt - 4);
  if (isSeparate) return { first: plain, rest: value };
  if (isString) plain.write(value, valueAt, "utf8");
  else plain.set(value, valueAt);
  if (plain.length > length) plain.fill(0, length);
  return { first: plain };
}

/**
 * Reads the value and the expiry out of a decrypted plaintext.
 *
 * @throws KeywardError `RECORD_MALFORMED` if the flags, the fields, the padding or the UTF-8 of the plaintext are not
 * valid.
 */
export function readPlaintext(plain: Buffer, address: RecordAddress, keyId: string): RecordContent {
  const { flags, valueAt, valueEnd, expires } = readLayout(plain, address, keyId);
  const value = flags & isText ? readText(plain, valueAt, valueEnd, address, keyId) : plain.subarray(valueAt, valueEnd);
  return expires === undefined ? { value } : { value, expires };
}

/** A record after decryption, but before its value is decoded from the plaintext. */
export interface Decrypted {
  /** The whole plaintext as the envelope contains it: flags, expiry, value and padding. */
  readonly bytes: Buffer;
  /** When the record expires, in milliseconds since the epoch; `undefined` if the record does not expire. */
  readonly expires: number | undefined;
  /** True if the plaintext has padding. If the store has no option `padTo`, re-encryption removes the padding. */
  readonly padded: boolean;
}

/**
 * Makes the same checks as {@link readPlaintext}, but does not decode the value.
 *
 * @throws KeywardError with the code of {@link readPlaintext}.
 */
export function checkPlaintext(plain: Buffer, address: RecordAddress, keyId: string): Decrypted {
  const { flags, valueAt, valueEnd, expires } = readLayout(plain, address, keyId);
  // The byte of the flags is ASCII, so the usual text is checked without a new Buffer for the value.
  const value = valueAt === 1 && valueEnd === plain.length ? plain : plain.subarray(valueAt, valueEnd);
  if (flags & isText && !isUtf8(value)) throw notUtf8(address, keyId);
  return { bytes: plain, expires, padded: (flags & isPadded) !== 0 };
}

interface Layout {
  readonly flags: number;
  readonly valueAt: number;
  readonly valueEnd: number;
  readonly expires: number | undefined;
}

function readLayout(plain: Buffer, address: RecordAddress, keyId: string): Layout {
  const flags = plain[0] ?? 0;
  if (flags > (isText | hasExpiry | isPadded)) {
    throw malformedEnvelope(address, "it has flags of a later release", keyId);
  }
  const expiresAt = 1;
  const lengthAt = expiresAt + (flags & hasExpiry ? 6 : 0);
  const valueAt = lengthAt + (flags & isPadded ? 4 : 0);
  let valueEnd = plain.length;
  if (valueEnd < valueAt) throw malformedEnvelope(address, "it is cut short", keyId);
  if (flags & isPadded) {
    valueEnd = valueAt + plain.readUInt32BE(lengthAt);
    if (valueEnd > plain.length || !plain.subarray(valueEnd).every((byte) => byte === 0)) {
      throw malformedEnvelope(address, "its padding does not match the length of its value", keyId);
    }
  }
  return { flags, valueAt, valueEnd, expires: flags & hasExpiry ? plain.readUIntBE(expiresAt, 6) : undefined };
}

function readText(plain: Buffer, from: number, to: number, address: RecordAddress, keyId: string): string {
  const text = plain.toString("utf8", from, to);
  // Node decodes an ill-formed sequence to U+FFFD, which hardly any valid text contains.
  if (text.includes("\ufffd") && !isUtf8(plain.subarray(from, to))) throw notUtf8(address, keyId);
  return text;
}

function notUtf8(address: RecordAddress, keyId: string): KeywardError {
  return malformedEnvelope(address, "its text is not UTF-8", keyId);
}
