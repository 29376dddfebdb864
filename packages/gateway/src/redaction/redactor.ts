import { lookUpBytes } from "./block-table.ts";
import { NearbyDecoder } from "./nearby-decoder.ts";
import type { Hit, Needles } from "./needles.ts";

const lineFeed = 0x0a;
const carriageReturn = 0x0d;
const replacement = Buffer.from("REDACTED");

/** How much of a line that has not ended is held back. */
const longestHeldLine = 64 * 1024;

const smallBuffer = 4 * 1024;

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
  /** What is held back is in `#buffer` from `#first` to `#last`. The byte at `#first` is at `#position` of the stream. */
  #buffer: Buffer = Buffer.alloc(0);
  #first = 0;
  #last = 0;
  #position = 0;
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

  /** Takes the next bytes of the answer. Returns what may be passed on now, perhaps nothing. */
  write(chunk: Uint8Array): Uint8Array {
    if (this.#needles.isEmpty) return chunk;
    const newFrom = this.#append(chunk);
    this.#search(newFrom);
    return this.#passOn(this.#boundary(newFrom));
  }

  /** Ends the answer. Returns the rest. */
  end(): Uint8Array {
    this.#decoder.end(this.#hits);
    return this.#passOn(this.#last);
  }

  /** Adds bytes to the buffer. Returns the index of the first of them. Bytes that were passed on are never written again. */
  #append(chunk: Uint8Array): number {
    const held = this.#last - this.#first;
    if (this.#last + chunk.length + lookUpBytes > this.#buffer.length) {
      const needed = held + chunk.length + lookUpBytes;
      const size = needed < smallBuffer ? smallBuffer : chunk.length < held ? 2 * needed : needed;
      const buffer = Buffer.allocUnsafeSlow(size);
      this.#buffer.copy(buffer, 0, this.#first, this.#last);
      this.#buffer = buffer;
      this.#first = 0;
      this.#last = held;
    }
    const newFrom = this.#last;
    this.#buffer.set(chunk, newFrom);
    this.#last += chunk.length;
    return newFrom;
  }

  #search(newFrom: number): void {
    const offset = this.#position - this.#first;
    const part = { bytes: this.#buffer, first: this.#first, from: newFrom, to: this.#last, offset };
    this.#needles.find(part, this.#hits);
    this.#decoder.search(part, this.#hits);
  }

  /** The index up to which the bytes may be passed on. */
  #boundary(newFrom: number): number {
    if (!this.#isLines) return Math.max(this.#first, this.#last - this.#needles.reach + 1);
    const added = this.#buffer.subarray(newFrom, this.#last);
    const lineEnd = Math.max(added.lastIndexOf(lineFeed), added.lastIndexOf(carriageReturn));
    const longest = Math.max(longestHeldLine, this.#needles.reach);
    return Math.max(this.#first, lineEnd === -1 ? 0 : newFrom + lineEnd + 1, this.#last - longest);
  }

  /** Takes the bytes up to the index `boundary` out of the buffer, and replaces the hits that begin there. */
  #passOn(boundary: number): Uint8Array {
    const from = this.#first;
    const end = this.#position + boundary - from;
    const hits = this.#takeHits(end);
    const pieces: Uint8Array[] = [];
    let next = Math.max(this.#position, this.#coveredUntil);
    const copyUntil = (until: number) => {
      if (until > next) pieces.push(this.#buffer.subarray(from + next - this.#position, from + until - this.#position));
    };
    for (const hit of hits) {
      copyUntil(Math.min(hit.start, end));
      this.#replace(hit, pieces);
      next = Math.max(next, this.#coveredUntil);
    }
    copyUntil(end);
    this.#first = boundary;
    this.#position = end;
    return pieces.length === 1 && pieces[0] !== undefined ? pieces[0] : Buffer.concat(pieces);
  }

  /** The hits that begin before a position of the stream, in order. */
  #takeHits(end: number): Hit[] {
    if (this.#hits.length === 0) return [];
    const wholeEnds = new Set(this.#hits.filter(({ isWhole }) => isWhole).map((hit) => hit.end));
    const hits = this.#hits.filter((hit) => hit.isWhole || !wholeEnds.has(hit.end));
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
  const pieces = [redactor.write(Buffer.from(text, encoding)), redactor.end()];
  return { text: Buffer.concat(pieces).toString(encoding), hits: redactor.hits };
}

function byStart(one: Hit, other: Hit): number {
  return one.start - other.start || other.end - one.end;
}
