import { Buffer, isUtf8 } from "node:buffer";
import { requireValue, type StoredValue } from "@keyward/core";

// Redis stores bytes without a type, so the type of a value is derived from its bytes. A binary envelope, or bytes that
// are not UTF-8, are bytes; all others are text. A value for which this rule is wrong gets a mark in front. So
// envelopes, and values that other programs wrote, are stored unchanged.

const longestVersion = 24;
// The first byte of a mark never occurs in UTF-8.
const textMark = Buffer.from([0xff, ...Buffer.from("kwt")]);
const bytesMark = Buffer.from([0xff, ...Buffer.from("kwb")]);
const markBytes = textMark.length;

/**
 * Returns the bytes that Redis stores for a value. Two different values never have the same bytes.
 *
 * @throws KeywardError `VALUE_INVALID` if the value is neither a well-formed string nor bytes.
 */
export function writeValue(key: string, value: unknown): Buffer {
  const stored = requireValue(key, value);
  if (typeof stored === "string") {
    const bytes = Buffer.from(stored);
    return beginsLikeBinaryEnvelope(bytes) ? Buffer.concat([textMark, bytes]) : bytes;
  }
  const bytes = Buffer.isBuffer(stored) ? stored : Buffer.from(stored.buffer, stored.byteOffset, stored.byteLength);
  return looksLikeText(bytes) || markOf(bytes) !== undefined ? Buffer.concat([bytesMark, bytes]) : bytes;
}

/** Converts the bytes that Redis stores to the value of a record: text or bytes. */
export function readValue(bytes: Buffer): StoredValue {
  const mark = markOf(bytes);
  if (mark === undefined) return looksLikeText(bytes) ? bytes.toString() : bytes;
  const marked = bytes.subarray(markBytes);
  // Keyward never writes an unnecessary mark. So another program wrote these bytes, and the mark is part of the value.
  if (mark === textMark) return beginsLikeBinaryEnvelope(marked) && isUtf8(marked) ? marked.toString() : bytes;
  return looksLikeText(marked) || markOf(marked) !== undefined ? marked : bytes;
}

function looksLikeText(bytes: Buffer): boolean {
  return !beginsLikeBinaryEnvelope(bytes) && isUtf8(bytes);
}

function beginsLikeBinaryEnvelope(bytes: Buffer): boolean {
  if (bytes[0] !== 0x6b || bytes[1] !== 0x77) return false;
  // Byte by byte for speed: each re-encrypted record is checked three times.
  let at = 2;
  while (at < longestVersion - 1 && isDigit(bytes[at])) at++;
  return at > 2 && bytes[at] === 0x3a;
}

function isDigit(byte: number | undefined): boolean {
  return byte !== undefined && byte >= 0x30 && byte <= 0x39;
}

function markOf(bytes: Buffer): Buffer | undefined {
  if (bytes[0] !== 0xff) return undefined;
  const beginning = bytes.subarray(0, markBytes);
  if (beginning.equals(textMark)) return textMark;
  return beginning.equals(bytesMark) ? bytesMark : undefined;
}
