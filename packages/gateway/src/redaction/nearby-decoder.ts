import { DecodedText } from "./decoded-text.ts";
import { EscapedBytes } from "./escaped-bytes.ts";
import type { Hit, Needles } from "./needles.ts";

/** How many bytes are decoded at a time. They fit into the fastest cache of a processor. */
const decodedAtOnce = 4 * 1024;

/** Bytes without an opener that an escape within escapes may go on for: `\\u005cu005cu002d` has one opener. */
const longestNestedEscape = 32;

/** Bytes far from escapes that are decoded, because starting again after them costs more. */
const joinedGap = 256;

/**
 * Searches a stream for escaped forms. Decodes only what is near an escape: a form without an escape is found in the bytes as
 * they are, and each other form is as near to one of its escapes as the longest form is long.
 */
export class NearbyDecoder {
  /** How many bytes before a chunk are needed to search the chunk. */
  readonly reach: number;
  readonly #needles: Needles;
  #text: DecodedText | undefined;
  /** Position of the stream up to which bytes were decoded. */
  #decodedUntil = 0;

  constructor(needles: Needles) {
    this.#needles = needles;
    this.reach = needles.longestForm + longestNestedEscape;
  }

  /** Searches the chunk that begins at `position` of the stream. `before` has the last bytes before the chunk. */
  search(before: Buffer, chunk: Buffer, position: number, hits: Hit[]): void {
    const escaped = new EscapedBytes(chunk);
    let index = this.#text === undefined ? 0 : this.#decode(this.#text, escaped, 0, position, hits);
    for (let opener = escaped.nextOpener(index); opener < chunk.length; opener = escaped.nextOpener(index)) {
      const text = this.#textBefore(opener, before, chunk, position);
      index = this.#decode(text, escaped, opener, position, hits);
    }
  }

  /** Finds what the end of the stream makes certain. */
  end(hits: Hit[]): void {
    if (this.#text !== undefined) this.#needles.findDecoded(this.#text, true, hits);
  }

  /** The text with the bytes that are near an opener, and stand before. */
  #textBefore(opener: number, before: Buffer, chunk: Buffer, position: number): DecodedText {
    this.#text ??= new DecodedText();
    const text = this.#text;
    const near = Math.max(opener - this.reach, -before.length);
    const start = Math.max(near, this.#decodedUntil - position);
    if (near > this.#decodedUntil - position) text.clear();
    text.mark();
    if (start < 0) text.appendPlain(before, before.length + start, before.length, position + start);
    text.appendPlain(chunk, Math.max(0, start), opener, position + Math.max(0, start));
    return text;
  }

  /** Decodes from an index on, as long as bytes are near an opener. Returns the index of the first byte that was not decoded. */
  #decode(text: DecodedText, chunk: EscapedBytes, from: number, position: number, hits: Hit[]): number {
    const plainLimit = this.reach + joinedGap;
    let index = from;
    while (index < chunk.bytes.length && text.plainBytes < plainLimit) {
      const to = Math.min(chunk.bytes.length, index + decodedAtOnce);
      index = text.append(chunk, index, to, position + index, plainLimit);
      this.#needles.findDecoded(text, false, hits);
      text.keepLast(this.#needles.reachDecoded);
      text.mark();
    }
    if (index > from) this.#decodedUntil = position + index;
    return index;
  }
}
