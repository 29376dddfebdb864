import { Buffer, isUtf8 } from "node:buffer";
import { requireValue, type StoredValue } from "@keyward/core";

// Redis keeps bytes and no types. What its bytes look like says which type they have: a binary envelope and what is not
// UTF-8 are bytes, the rest is text. Only a value of which that would be wrong gets a mark in front, so that envelopes,
// and what others wrote, lie there as they are.

const longestVersion = 24;
// Its first byte occurs in no UTF-8.
const textMark = Buffer.from([0xff, ...Buffer.from("kwt")]);
const bytesMark = Buffer.from([0xff, ...Buffer.from("kwb")]);
const markBytes = textMark.length;

/**
 * The bytes for a value. No two values have the same.
 *
 * @throws KeywardError `VALUE_INVALID` for what is neither a well-formed string nor bytes.
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

/** The value of which these are the bytes. */
export function readValue(bytes: Buffer): StoredValue {
  const mark = markOf(bytes);
  if (mark === undefined) return looksLikeText(bytes) ? bytes.toString() : bytes;
  const marked = bytes.subarray(markBytes);
  // A mark that was not needed is not one of ours: it is part of the value.
  if (mark === textMark) return beginsLikeBinaryEnvelope(marked) && isUtf8(marked) ? marked.toString() : bytes;
  return looksLikeText(marked) || markOf(marked) !== undefined ? marked : bytes;
}

function looksLikeText(bytes: Buffer): boolean {
  return !beginsLikeBinaryEnvelope(bytes) && isUtf8(bytes);
}

function beginsLikeBinaryEnvelope(bytes: Buffer): boolean {
  if (bytes[0] !== 0x6b || bytes[1] !== 0x77) return false;
  // The version is looked at byte by byte: this is asked three times of each record that is encrypted again.
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
