import { HeldBytes } from "./held-bytes.ts";
import { NearbyDecoder } from "./nearby-decoder.ts";
import type { Hit, Needles } from "./needles.ts";

const lineFeed = 0x0a;
const carriageReturn = 0x0d;
const replacement = Buffer.from("REDACTED");

/** How much of a line that has not ended is held back. */
const longestHeldLine = 64 * 1024;

/** Pieces of together at most this size become one. To copy them takes less time than to pass on one more. */
const joinedBytes = 16 * 1024;

/**
 * Redacts one answer as it arrives: each form of a value becomes `REDACTED`, or zeros if the value consists of digits.
 *
 * How much is held back depends on lengths alone, so nobody can learn from the sizes of the pieces what a value begins with.
 * With the framing `lines`, the line that has not ended is held back, up to 64 KiB. With `bytes`, as many bytes as
 * the longest form of a value may take, less one. What is passed on is the same however the answer was divided into chunks.
 */
export class Redactor {
  readonly #needles: Needles;
  readonly #isLines: boolean;
  readonly #decoder: NearbyDecoder;
  readonly #held = new HeldBytes();
  /** Hits that have not been replaced yet. */
  #hits: Hit[] = [];
  /** The end of the last hit that was replaced, and whether zeros replaced it. */
  #coveredUntil = 0;
  #isCoveredByZeros = false;
  #count = 0;

  constructor(needles: Needles, options: { readonly framing: "lines" | "bytes" }) {
    this.#needles = needles;
    this.#isLines = options.framing === "lines";
    this.#decoder = new NearbyDecoder(needles);
  }

  /** How many times a value was replaced so far. */
  get hits(): number {
    return this.#count;
  }

  /**
   * Takes the next bytes of the answer. Returns the pieces that may be passed on now, perhaps none. The sizes of the pieces depend
   * on lengths alone. Where a value was replaced, there is one piece. The caller must not change `chunk` later, because a piece
   * may be a part of it.
   */
  write(chunk: Uint8Array): Uint8Array[] {
    if (chunk.length === 0) return [];
    if (this.#needles.isEmpty) return [chunk];
    const bytes = Buffer.from(chunk.buffer, chunk.byteOffset, chunk.length);
    const position = this.#held.end;
    this.#search(bytes, position);
    const boundary = this.#boundary(bytes);
    const passed = Math.max(0, boundary - position);
    // What is passed on at once is not copied.
    this.#held.add(bytes.subarray(0, passed));
    const pieces = this.#passOn(boundary);
    this.#held.addForLong(bytes.subarray(passed));
    return pieces;
  }

  /** Ends the answer. Returns the rest. */
  end(): Uint8Array[] {
    this.#decoder.end(this.#hits);
    return this.#passOn(this.#held.end);
  }

  #search(chunk: Buffer, position: number): void {
    const before = this.#held.last(this.#decoder.reach);
    const longest = this.#needles.longestForm - 1;
    if (before.length > 0) {
      // A form that begins in what is held, and ends in the new bytes.
      const head = before.subarray(Math.max(0, before.length - longest));
      const seam = Buffer.concat([head, chunk.subarray(0, longest)]);
      this.#needles.find(seam, head.length, position - head.length, this.#hits);
    }
    this.#needles.find(chunk, chunk.length, position, this.#hits);
    this.#decoder.search(before, chunk, position, this.#hits);
  }

  /** Position up to which the bytes may be passed on when `chunk` has come. */
  #boundary(chunk: Buffer): number {
    const end = this.#held.end + chunk.length;
    if (!this.#isLines) return Math.max(this.#held.start, end - this.#needles.reach + 1);
    const lineEnd = Math.max(chunk.lastIndexOf(lineFeed), chunk.lastIndexOf(carriageReturn));
    const longest = Math.max(longestHeldLine, this.#needles.reach);
    return Math.max(this.#held.start, lineEnd === -1 ? 0 : this.#held.end + lineEnd + 1, end - longest);
  }

  /** Takes the bytes before a position out of what is held, and replaces the hits that begin there. */
  #passOn(boundary: number): Uint8Array[] {
    const pieces: Uint8Array[] = [];
    const hits = this.#takeHits(boundary);
    const isCovered = this.#coveredUntil > this.#held.start;
    const isFew = boundary - this.#held.start <= joinedBytes;
    for (const hit of hits) {
      this.#held.takeUntil(Math.min(boundary, this.#coveredUntil));
      this.#held.takeUntil(hit.start, pieces);
      this.#replace(hit, pieces);
    }
    this.#held.takeUntil(Math.min(boundary, this.#coveredUntil));
    this.#held.takeUntil(boundary, pieces);
    const isJoined = pieces.length > 1 && (isFew || isCovered || hits.length > 0);
    return isJoined ? [Buffer.concat(pieces)] : pieces;
  }

  /** The hits that begin before a position of the stream, in order. */
  #takeHits(end: number): Hit[] {
    if (this.#hits.length === 0) return [];
    const wholeEnds = new Set(this.#hits.filter(({ isWhole }) => isWhole).map((hit) => hit.end));
    // What was passed on already is not replaced any more.
    const hits = this.#hits.filter((hit) => hit.end > this.#held.start && (hit.isWhole || !wholeEnds.has(hit.end)));
    this.#hits = hits.filter(({ start }) => start >= end);
    return hits.filter(({ start }) => start < end).sort(byStart);
  }

  #replace({ start, end, isDigits }: Hit, pieces: Uint8Array[]): void {
    if (end <= this.#coveredUntil) return;
    const isNew = start >= this.#coveredUntil;
    if (isDigits && (isNew || this.#isCoveredByZeros)) {
      pieces.push(Buffer.alloc(end - Math.max(start, this.#coveredUntil), "0"));
    } else if (isNew || this.#isCoveredByZeros) {
      pieces.push(replacement);
    }
    if (isNew) this.#count++;
    this.#isCoveredByZeros = isDigits && (isNew || this.#isCoveredByZeros);
    this.#coveredUntil = end;
  }
}

/** Redacts a short text, such as a header. */
export function redactText(needles: Needles, text: string): { readonly text: string; readonly hits: number } {
  const redactor = new Redactor(needles, { framing: "bytes" });
  // Node.js reads each byte of a header as a character. So such a text is bytes, and any other text is not.
  const encoding = /^[\0-\xff]*$/.test(text) ? "latin1" : "utf8";
  const pieces = [...redactor.write(Buffer.from(text, encoding)), ...redactor.end()];
  return { text: Buffer.concat(pieces).toString(encoding), hits: redactor.hits };
}

function byStart(one: Hit, other: Hit): number {
  return one.start - other.start || other.end - one.end;
}
