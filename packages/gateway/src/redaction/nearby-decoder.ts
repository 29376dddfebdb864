import { lookUpBytes } from "./block-table.ts";
import { DecodedText, isOpener } from "./decoded-text.ts";
import type { Hit, Needles, StreamPart } from "./needles.ts";

/** How many bytes are decoded at a time. */
const decodedAtOnce = 2 * 1024;

/** Bytes without an opener that an escape within escapes may go on for: `\\u005cu005cu002d` has one opener. */
const longestNestedEscape = 32;

/** Bytes far from escapes that are decoded, because starting again after them costs more. */
const joinedGap = 256;

/**
 * Searches a stream for escaped forms. Decodes only what is near an escape: a form without an escape is found in the bytes as
 * they are, and each other form is as near to one of its escapes as the longest form is long.
 */
export class NearbyDecoder {
  readonly #needles: Needles;
  readonly #distance: number;
  #text: DecodedText | undefined;
  /** Position of the stream up to which bytes were decoded. */
  #decodedUntil = 0;
  #lastOpener = Number.NEGATIVE_INFINITY;

  constructor(needles: Needles) {
    this.#needles = needles;
    this.#distance = needles.longestForm + longestNestedEscape;
  }

  search(part: StreamPart, hits: Hit[]): void {
    const { bytes, first, to, offset } = part;
    let index = part.from;
    while (index < to) {
      let start = index;
      let end = this.#endOfNearby(part, index);
      if (end <= index) {
        const opener = nextOpener(bytes, index, to);
        if (opener === -1) return;
        const decodedUntil = this.#decodedUntil - offset;
        start = Math.max(first, opener - this.#distance);
        if (start > decodedUntil) this.#text?.clear();
        else start = decodedUntil;
        this.#lastOpener = opener + offset;
        end = this.#endOfNearby(part, opener);
      }
      this.#decode(part, start, end, hits);
      index = end;
    }
  }

  /** Finds what the end of the stream makes certain. */
  end(hits: Hit[]): void {
    if (this.#text !== undefined) this.#needles.findDecoded(this.#text, true, hits);
  }

  /** The index up to which each byte is near an opener that stands before. Remembers the last opener. */
  #endOfNearby({ bytes, to, offset }: StreamPart, from: number): number {
    let end = Math.min(to, this.#lastOpener - offset + this.#distance + joinedGap + 1);
    for (let index = from; index < end; index++) {
      if (!isOpener(bytes[index])) continue;
      this.#lastOpener = index + offset;
      end = Math.min(to, index + this.#distance + joinedGap + 1);
    }
    return end;
  }

  #decode({ bytes, offset }: StreamPart, from: number, to: number, hits: Hit[]): void {
    const kept = this.#distance + lookUpBytes;
    this.#text ??= new DecodedText(kept + decodedAtOnce);
    const text = this.#text;
    for (let start = from; start < to; start += decodedAtOnce) {
      text.mark();
      text.append(bytes, start, Math.min(to, start + decodedAtOnce), start + offset);
      this.#needles.findDecoded(text, false, hits);
      text.keepLast(kept);
    }
    this.#decodedUntil = to + offset;
  }
}

/** The index of the next `\`, `%` or `&`, or -1. */
function nextOpener(bytes: Buffer, from: number, to: number): number {
  const text = bytes.subarray(from, to);
  let next = -1;
  for (const opener of ["\\", "%", "&"]) {
    // Each search ends where a former one has found an opener.
    const found = (next === -1 ? text : text.subarray(0, next)).indexOf(opener, 0, "latin1");
    if (found !== -1) next = found;
  }
  return next === -1 ? -1 : from + next;
}
