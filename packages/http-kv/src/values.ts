import { createHash } from "node:crypto";
import { setImmediate } from "node:timers/promises";
import type { StoredValue } from "@keyward/core";
import { pieceBytes, Turns, turnBytes } from "./exchange.ts";
import { encodeValue, entityTag } from "./protocol.ts";

// Work on values of up to megabytes, in steps so short that no other request waits long.

/**
 * Returns the {@link entityTag} of a value. If the value is long, other requests run while its hash is computed in
 * steps.
 */
export async function tagInTurns(value: StoredValue): Promise<string> {
  if (value.length <= turnBytes) return entityTag(value);
  const hash = createHash("sha256").update(typeof value === "string" ? "text\0" : "bytes\0");
  // A text is not converted to bytes as a whole: memory outside V8's heap makes V8 collect garbage, and all requests wait.
  for await (const slice of slices(value, pieceBytes)) hash.update(slice);
  return `"${hash.digest("base64url")}"`;
}

/** Yields the bytes of a value in pieces. Other requests can run between two pieces. */
export async function* valuePieces(value: StoredValue): AsyncGenerator<Uint8Array> {
  for await (const slice of slices(value, pieceBytes)) {
    // Copied, since the sender may transfer the memory of a piece.
    yield typeof slice === "string" ? Buffer.from(slice) : slice.slice();
  }
}

/**
 * Joins parts to one JSON text, and yields the bytes of this text in pieces. A part that is a string is added
 * unchanged. For a part with a `value`, the field "text" or "bytes" is added. The braces around this field must be in
 * the string parts.
 */
export async function* jsonPieces(
  parts: Iterable<string | { readonly value: StoredValue }>,
): AsyncGenerator<Uint8Array> {
  let text = "";
  const turns = new Turns();
  for (const part of parts) {
    if (typeof part === "string") text += part;
    else if (part.value.length <= pieceBytes) text += JSON.stringify(encodeValue(part.value)).slice(1, -1);
    else {
      const isText = typeof part.value === "string";
      text += isText ? '"text":"' : '"bytes":"';
      // Base64 of a multiple of three bytes has no padding.
      for await (const slice of slices(part.value, isText ? pieceBytes : 3 * 2 ** 14)) {
        text += typeof slice === "string" ? JSON.stringify(slice).slice(1, -1) : toBase64(slice);
        yield Buffer.from(text);
        text = "";
      }
      text += '"';
    }
    if (text.length < pieceBytes) continue;
    const { length } = text;
    yield Buffer.from(text);
    text = "";
    await turns.worked(length);
  }
  if (text !== "") yield Buffer.from(text);
}

/** Decodes canonical base64. Returns `undefined` for a text that is not canonical base64. */
export async function decodeBase64(text: string): Promise<Buffer | undefined> {
  if (text.length <= turnBytes) return decodeSlice(text);
  const decoded = Buffer.allocUnsafeSlow(Buffer.byteLength(text, "base64"));
  let at = 0;
  for (let start = 0; start < text.length; start += turnBytes) {
    const slice = decodeSlice(text.slice(start, start + turnBytes));
    if (slice === undefined) return undefined;
    at += slice.copy(decoded, at);
    await setImmediate();
  }
  return at === decoded.length ? decoded : undefined;
}

function decodeSlice(text: string): Buffer | undefined {
  const decoded = Buffer.from(text, "base64");
  return decoded.toString("base64") === text ? decoded : undefined;
}

function toBase64(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64");
}

/** Yields a value in slices. No slice splits a character. Other requests can run between two slices. */
async function* slices(value: StoredValue, atOnce: number): AsyncGenerator<StoredValue> {
  const turns = new Turns();
  for (let start = 0; start < value.length; ) {
    let end = start + atOnce;
    if (typeof value === "string" && end < value.length && isLowSurrogate(value.charCodeAt(end))) end--;
    yield typeof value === "string" ? value.slice(start, end) : value.subarray(start, end);
    await turns.worked(end - start);
    start = end;
  }
}

function isLowSurrogate(unit: number): boolean {
  return unit >= 0xdc00 && unit <= 0xdfff;
}
