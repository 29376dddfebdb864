import { timingSafeEqual } from "node:crypto";
import { type Block, BlockTable, lookUpBytes, narrowBytes } from "./block-table.ts";
import type { DecodedText } from "./decoded-text.ts";
import { type Form, formsOf, type NeedleSource, shortestStrongValue } from "./forms.ts";
import { Occurrences, Periods } from "./occurrences.ts";

export type { NeedleSource };

/** A part of a stream that holds a value. */
export interface Hit {
  readonly start: number;
  readonly end: number;
  /** Whether the part consists of digits alone. */
  readonly isDigits: boolean;
  /** Whether the beginning of the value was found too. Otherwise `start` is where the value may begin at the earliest. */
  readonly isWhole: boolean;
}

/** How many bytes of an answer one byte of a value may take, as `\\\\u0041` does in JSON within JSON. */
const longestCharacter = 8;

/** Bytes after a value that may go on with an escape that the value seems to begin. */
const longestEnd = 16;

/** Decoded bytes that more text may still change, except behind a form that ends with the beginning of an escape. */
const longestEscapes = 48;

/** Bytes before a character that may be backslashes, escaped themselves. */
const longestBackslashes = 32;

/** A longer stride would save little time, and needs as many blocks of each form. */
const longestStride = 32;

/** More blocks than this do not fit into the caches of a processor. */
const mostBlocks = 8_192;

/** The forms of the values of one server, prepared once and reused by many calls. */
export class Needles {
  readonly #forms: readonly Form[];
  readonly #stride: number;
  readonly #table: BlockTable;
  readonly #periods = new Periods();
  /** The most bytes that one occurrence of a value takes in an answer, with the bytes after it that make its end certain. */
  readonly reach: number;
  /** The length of the longest form. */
  readonly longestForm: number;
  /** How many bytes of a decoded text {@link findDecoded} needs again when more text has come. */
  readonly reachDecoded: number;

  constructor(values: readonly NeedleSource[]) {
    this.#forms = values.flatMap(formsOf);
    const longestValue = Math.max(0, ...values.map(({ value }) => Buffer.byteLength(value)));
    this.reach = longestCharacter * longestValue + longestEnd;
    this.longestForm = Math.max(0, ...this.#forms.map(({ bytes }) => bytes.length));
    // Behind a form that ends with the beginning of an escape, more such beginnings may follow, so that its end stays uncertain.
    const hasOpenForm = this.#forms.some(({ endsOpen }) => endsOpen);
    this.reachDecoded = Math.max(this.longestForm, hasOpenForm ? this.reach : 0) + longestEscapes;
    const stride = strideOf(this.#forms);
    this.#stride = stride;
    this.#table = new BlockTable(
      this.#forms.flatMap((form, index) => blocksOf(form, index, stride)),
      stride,
    );
  }

  /** Whether nothing is searched for. */
  get isEmpty(): boolean {
    return this.#forms.length === 0;
  }

  /** Finds the forms that are in `bytes`, and that begin before the index `until`. The first byte is at `position` of the stream. */
  find(bytes: Uint8Array, until: number, position: number, hits: Hit[]): void {
    const occurrences = new Occurrences(bytes, this.#periods);
    this.#table.find(bytes, 0, bytes.length, ({ form: index, offset }, block) => {
      const form = this.#forms[index];
      const start = block - offset;
      if (form === undefined || start < 0 || start >= until) return;
      const end = start + form.bytes.length;
      if (end > bytes.length) return;
      if (!(occurrences.overlapsAt(form, start) ?? timingSafeEqual(bytes.subarray(start, end), form.bytes))) return;
      occurrences.add(form, start);
      hits.push({ start: position + start, end: position + end, isDigits: form.isDigits, isWhole: true });
    });
  }

  /** Finds the forms in a decoded text that have changed since its mark. Leaves what more text may still change, unless `isEnd`. */
  findDecoded(text: DecodedText, isEnd: boolean, hits: Hit[]): void {
    const occurrences = new Occurrences(text.bytes, this.#periods);
    let settledLength: number | undefined;
    this.#table.find(text.bytes, 0, text.length, ({ form: index, offset }, block) => {
      const form = this.#forms[index];
      const start = block - offset;
      if (form === undefined) return;
      const end = start + form.bytes.length;
      if (end > text.length || (end <= text.unchanged && !form.endsOpen)) return;
      if (form.endsOpen && !isEnd) {
        // Once for all forms: it reads all that is uncertain, which may be the whole text.
        settledLength ??= text.settledLength;
        if (end > settledLength) return;
      }
      const isWhole = start >= 0 && occurrences.overlapsAt(form, start) === true;
      const hit = isWhole ? wholeHit(text, form, start) : hitIn(text, form, start, hiddenHead(form, this.#stride));
      if (hit?.isWhole === true) occurrences.add(form, start);
      // A longer part may have been passed on in part.
      if (hit !== undefined) hits.push({ ...hit, start: Math.max(hit.start, hit.end - this.reach) });
    });
  }
}

/**
 * The part of the stream that holds a form, if the form is at the index `start` of the decoded text. The first bytes of the form
 * may be absent where an escape was decoded: the text before the value may have ended with `%`, which hides `41` at the beginning
 * of the value. What may hold these bytes is a part of the hit.
 */
function hitIn(text: DecodedText, form: Form, start: number, head: number): Hit | undefined {
  const tail = start + head;
  const last = start + form.bytes.length - 1;
  if (tail < 0 || !timingSafeEqual(text.bytes.subarray(tail, last + 1), form.bytes.subarray(head))) return undefined;
  const end = text.endOf(last);
  if (start >= 0 && timingSafeEqual(text.bytes.subarray(start, tail), form.bytes.subarray(0, head))) {
    return wholeHit(text, form, start);
  }
  const first = firstOfLine(text, Math.max(0, start), tail);
  const tailStart = text.startOf(tail);
  if (tailStart - text.startOf(first) === tail - first) return undefined;
  return {
    start: Math.max(text.startOf(first), tailStart - longestCharacter * head),
    end,
    isDigits: false,
    isWhole: false,
  };
}

/** The part of the stream that holds a form whose bytes are all at the index `start`. */
function wholeHit(text: DecodedText, form: Form, start: number): Hit {
  const end = text.endOf(start + form.bytes.length - 1);
  const isDigits = form.isDigits && end - text.startOf(start) === form.bytes.length;
  return { start: startWithBackslashes(text, start), end, isDigits, isWhole: true };
}

/** Where a character begins in the stream, with the backslashes before it that may belong to it. */
function startWithBackslashes(text: DecodedText, index: number): number {
  const start = text.startOf(index);
  const isEscaped = text.endOf(index) - start > 1;
  const isPunctuation = /[!-/:-@[-`{-~]/.test(String.fromCharCode(text.bytes[index] ?? 0));
  return isEscaped || isPunctuation ? Math.max(text.endOf(index - 1), start - longestBackslashes) : start;
}

/** The least index from `from` on without a line end between it and `to`. A line end that was escaped is none. */
function firstOfLine(text: DecodedText, from: number, to: number): number {
  const isLineEnd = (index: number) => {
    const byte = text.bytes[index];
    return (byte === 0x0a || byte === 0x0d) && text.endOf(index) - text.startOf(index) === 1;
  };
  let first = to;
  while (first > from && !isLineEnd(first - 1)) first--;
  return first;
}

/**
 * How many bytes at the beginning of a form the text before them may hide, because both together look like an escape: all before
 * the middle half, but none of a block. In `\u%46000`, the text `\u%` hides five bytes.
 */
function hiddenHead(form: Form, stride: number): number {
  return form.bytes.length < shortestStrongValue ? 0 : Math.min(form.bytes.length >> 2, firstBlock(form, stride));
}

/** Where the first block of a form begins: in the middle, but where possible not before the middle half. */
function firstBlock({ bytes, isEncoded }: Form, stride: number): number {
  const room = bytes.length - (isEncoded ? lookUpBytes : narrowBytes) - stride + 1;
  const middle = room >> 1;
  return bytes.length < shortestStrongValue ? middle : Math.min(room, Math.max(middle, bytes.length >> 2));
}

/** The longest stride at which blocks from the middle half of each form still meet each occurrence. */
function strideOf(forms: readonly Form[]): number {
  const shortest = Math.min(...forms.map(({ bytes }) => bytes.length));
  const longest = Math.min(longestStride, Math.floor(mostBlocks / forms.length));
  return Math.max(1, Math.min(longest, (shortest >> 1) - narrowBytes + 1));
}

/** As many consecutive blocks as the stride has bytes, from the middle of a form. */
function blocksOf(form: Form, index: number, stride: number): Block[] {
  const { bytes, isEncoded } = form;
  const length = isEncoded ? lookUpBytes : narrowBytes;
  const first = firstBlock(form, stride);
  return Array.from({ length: stride }, (_, step) => ({
    bytes: bytes.subarray(first + step, first + step + length),
    isWide: isEncoded,
    form: index,
    offset: first + step,
  }));
}
