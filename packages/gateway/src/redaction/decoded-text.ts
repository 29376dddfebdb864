import { entities } from "./entities.ts";

const percent = 0x25;
const ampersand = 0x26;
const semicolon = 0x3b;
const backslash = 0x5c;
const lowerU = 0x75;
const lowerX = 0x78;

/** No escape is longer than this many bytes of decoded text: `&#x10FFFF;`. */
const longestEscape = 10;

/** The span of a byte that was not decoded: its end follows from its start. */
const plain = -1;

/** The value of each hex digit, and -1 for other bytes. */
const hexValue = new Int8Array(256).fill(-1);
for (let digit = 0; digit < 16; digit++) {
  hexValue[digit.toString(16).charCodeAt(0)] = digit;
  hexValue[digit.toString(16).toUpperCase().charCodeAt(0)] = digit;
}

/** 1 for the bytes between the `&` and the `;` of an entity. */
const isPartOfEntity = Uint8Array.from({ length: 256 }, (_, byte) =>
  /[#\da-z]/i.test(String.fromCharCode(byte)) ? 1 : 0,
);

/** The beginning of an escape. */
const openEscape = /^(?:\\(?:u[\da-f]{0,3}|x[\da-f]?)?|%[\da-f]?|&(?:#(?:x[\da-f]{0,6}|\d{0,7})|[a-z\d]{0,8})?)$/i;

/** Whether a byte begins an escape: `\`, `%` or `&`. */
export function isOpener(byte: number | undefined): boolean {
  return byte === backslash || byte === percent || byte === ampersand;
}

/**
 * The text of a stream with its escapes decoded, and for each decoded byte where it came from.
 *
 * Decodes JSON (`\u00e9`, `\/`, `\"`), percent-encoding (`%2D`) and HTML entities (`&amp;`, `&#39;`, `&#x27;`), in any mixture
 * and at any depth: the result of an escape may be part of the next one, so `%252D`, `\\\\u002d` and `\u0026#45;` all become
 * `-`. A backslash before any other character is dropped. So a text and each escaped form of the text decode to the same bytes.
 * What was decoded depends on the bytes alone, not on how they were divided into calls of {@link append}.
 */
export class DecodedText {
  #bytes: Buffer;
  #length = 0;
  #unchanged = 0;
  #begin = 0;
  /** The index of the last opener that may still begin an escape, or -1. */
  #opener = -1;
  /** For each span of bytes with a common origin: its first index, and the start and end of its origin in the stream. */
  readonly #spanIndex: Int32Array;
  readonly #spanStart: Float64Array;
  readonly #spanEnd: Float64Array;
  #spans = 0;

  /** @param capacity how many bytes are appended before the next call of {@link keepLast} */
  constructor(capacity: number) {
    // The search reads up to 16 bytes beyond the end.
    this.#bytes = Buffer.allocUnsafeSlow((capacity + 19) & ~3);
    this.#spanIndex = new Int32Array(capacity);
    this.#spanStart = new Float64Array(capacity);
    this.#spanEnd = new Float64Array(capacity);
  }

  /** The decoded bytes. Those from {@link length} on have no meaning. */
  get bytes(): Buffer {
    return this.#bytes;
  }

  get length(): number {
    return this.#length;
  }

  /** The bytes before this index are those of the last call of {@link mark}. */
  get unchanged(): number {
    return this.#unchanged;
  }

  /** How many bytes no later byte can change. */
  get settledLength(): number {
    let length = this.#length;
    for (let open = this.#openEscape(length); open < length; open = this.#openEscape(length)) {
      // What is open may become any character, also one that goes on with an escape before it.
      length = open;
    }
    return length;
  }

  mark(): void {
    this.#unchanged = this.#length;
  }

  clear(): void {
    this.keepLast(0);
  }

  /** Forgets all but the last `count` bytes. */
  keepLast(count: number): void {
    const dropped = this.#length - count;
    if (dropped <= 0) return;
    this.#begin = this.endOf(dropped - 1);
    this.#opener = Math.max(-1, this.#opener - dropped);
    this.#bytes.copyWithin(0, dropped, this.#length);
    this.#length = count;
    this.#unchanged = count;
    const first = count === 0 ? this.#spans : this.#spanOf(dropped);
    for (let span = first; span < this.#spans; span++) {
      const index = (this.#spanIndex[span] ?? 0) - dropped;
      const start = this.#spanStart[span] ?? 0;
      const end = this.#spanEnd[span] ?? plain;
      this.#spanIndex[span - first] = Math.max(0, index);
      this.#spanStart[span - first] = end === plain ? start - Math.min(0, index) : start;
      this.#spanEnd[span - first] = end;
    }
    this.#spans -= first;
  }

  /** Where the byte at `index` begins in the stream. */
  startOf(index: number): number {
    const span = this.#spanOf(index);
    const start = this.#spanStart[span] ?? 0;
    return this.#spanEnd[span] === plain ? start + index - (this.#spanIndex[span] ?? 0) : start;
  }

  /** Where the byte at `index` ends in the stream. For -1, where the stream begins of which this is the decoded text. */
  endOf(index: number): number {
    if (index < 0) return this.#begin;
    const end = this.#spanEnd[this.#spanOf(index)];
    return end === undefined || end === plain ? this.startOf(index) + 1 : end;
  }

  /** Decodes the bytes of `raw` from index `from` to `to`. The first of them is at `position` of the stream. */
  append(raw: Uint8Array, from: number, to: number, position: number): void {
    if (this.#length === 0) this.#begin = position;
    const offset = position - from;
    let index = from;
    while (index < to) {
      if (this.#opener === -1 || this.#length - this.#opener >= longestEscape) {
        index = this.#appendPlain(raw, index, to, offset);
        if (index === to) return;
        const next = this.#appendSimpleEscape(raw, index, to, offset);
        if (next !== index) {
          index = next;
          continue;
        }
      }
      this.#push(raw[index] ?? 0, offset + index);
      index++;
    }
  }

  /** Copies the bytes before the next opener. */
  #appendPlain(raw: Uint8Array, from: number, to: number, offset: number): number {
    const bytes = this.#bytes;
    let length = this.#length;
    let index = from;
    for (; index < to; index++) {
      const byte = raw[index] ?? 0;
      if (byte === backslash || byte === percent || byte === ampersand) break;
      bytes[length++] = byte;
    }
    if (index > from) {
      this.#beginSpan(offset + from, plain);
      this.#length = length;
    }
    return index;
  }

  /**
   * Decodes an escape that is whole, and whose result cannot be part of another one, as most are. Or takes an opener as it is, if
   * no escape begins there. Returns the index behind it, or `from` if the bytes have to be pushed one by one.
   */
  #appendSimpleEscape(raw: Uint8Array, from: number, to: number, offset: number): number {
    const opener = raw[from];
    let last = from;
    let code = -1;
    let next = from;
    if (opener === percent) {
      if (from + 3 > to) return from;
      code = hexNumber(raw, from + 1, 2);
      next = from + 3;
      if (code < 0 && (isOpener(raw[from + 1]) || isOpener(raw[from + 2]))) return from;
    } else if (opener === ampersand) {
      next = from + 1;
      while (next < to && next < from + longestEscape && isPartOfEntity[raw[next] ?? 0] === 1) next++;
      if (next === to || isOpener(raw[next])) return from;
      if (raw[next] === semicolon) {
        code = entityCode(latin1Text(raw, from + 1, next)) ?? -1;
        next++;
      }
    } else {
      while (last + 1 < to && raw[last + 1] === backslash) last++;
      if (last + 1 === to || raw[last + 1] === lowerX) return from;
      // The character is copied as it is, without the backslash.
      if (raw[last + 1] !== lowerU) return last + 1;
      if (last + 6 > to) return from;
      code = hexNumber(raw, last + 2, 4);
      next = last + 6;
      if (code < 0) return from;
    }
    if (code < 0) {
      this.#write(opener ?? 0, offset + from, plain);
      return from + 1;
    }
    if (isOpener(code) || (code > 0x7f && opener !== percent)) return from;
    this.#write(code, offset + last, offset + next);
    return next;
  }

  /** Adds a byte and decodes what the byte completes. */
  #push(byte: number, start: number): void {
    this.#dropBackslash(byte);
    this.#write(byte, start, plain);
    if (isOpener(byte)) this.#opener = this.#length - 1;
    // A loop instead of a recursion: the text decides how many escapes one byte completes.
    while (this.#decodeLast()) if (isOpener(this.#bytes[this.#length - 1])) this.#opener = this.#length - 1;
  }

  /** Drops a backslash before a character, except where `\u` or `\x` begins. */
  #dropBackslash(next: number): void {
    if (this.#length === 0 || this.#bytes[this.#length - 1] !== backslash) return;
    if (next !== lowerU && next !== lowerX) this.#truncate(this.#length - 1);
  }

  /** Decodes the escape that ends with the last byte, if there is one. */
  #decodeLast(): boolean {
    const bytes = this.#bytes;
    const length = this.#length;
    const last = bytes[length - 1];
    if (last === undefined || length < 3) return false;
    if (last === semicolon) {
      for (let first = length - 3; first >= Math.max(0, length - longestEscape); first--) {
        if (bytes[first] !== ampersand) continue;
        const code = entityCode(latin1Text(bytes, first + 1, length - 1));
        return code !== undefined && this.#replaceFrom(first, code);
      }
      return false;
    }
    if (hexValue[last] === -1) return false;
    if (bytes[length - 3] === percent) {
      const byte = hexNumber(bytes, length - 2, 2);
      if (byte >= 0) return this.#replaceFrom(length - 3, byte, true);
    }
    if (length >= 4 && bytes[length - 4] === backslash && bytes[length - 3] === lowerX) {
      const byte = hexNumber(bytes, length - 2, 2);
      if (byte >= 0) return this.#replaceFrom(length - 4, byte, true);
    }
    if (length >= 6 && bytes[length - 6] === backslash && bytes[length - 5] === lowerU) {
      const code = hexNumber(bytes, length - 4, 4);
      if (code >= 0) return this.#replaceFrom(length - 6, code);
    }
    return false;
  }

  /** Replaces the bytes from `first` on with a character, or with a single byte. */
  #replaceFrom(first: number, code: number, isByte = false): boolean {
    let start = this.startOf(first);
    const end = this.endOf(this.#length - 1);
    this.#truncate(first);
    let character = code;
    if (!isByte && code >= 0xdc00 && code <= 0xdfff) {
      const high = this.#highSurrogate();
      if (high !== undefined) {
        character = 0x10000 + ((high & 0x3ff) << 10) + (code & 0x3ff);
        start = this.startOf(this.#length - 3);
        this.#truncate(this.#length - 3);
      }
    }
    if (isByte || character <= 0x7f) {
      this.#dropBackslash(character);
      this.#write(character, start, end);
      return true;
    }
    this.#dropBackslash(-1);
    for (const byte of utf8(character)) this.#write(byte, start, end);
    return true;
  }

  /** The high surrogate that the last three bytes are, in the form that {@link utf8} gives to a surrogate. */
  #highSurrogate(): number | undefined {
    const index = this.#length - 3;
    const second = this.#bytes[index + 1] ?? 0;
    const third = this.#bytes[index + 2] ?? 0;
    if (index < 0 || this.#bytes[index] !== 0xed || second < 0xa0 || second > 0xaf) return undefined;
    return 0xd000 | ((second & 0x3f) << 6) | (third & 0x3f);
  }

  /** Where an escape begins that has not ended before `length`, or `length`. */
  #openEscape(length: number): number {
    for (let index = Math.max(0, length - longestEscape + 1); index < length; index++) {
      if (openEscape.test(latin1Text(this.#bytes, index, length))) return index;
    }
    return length;
  }

  #write(byte: number, start: number, end: number): void {
    this.#beginSpan(start, end);
    this.#bytes[this.#length++] = byte;
  }

  #beginSpan(start: number, end: number): void {
    const last = this.#spans - 1;
    if (end === plain && last >= 0 && this.#spanEnd[last] === plain) {
      if ((this.#spanStart[last] ?? 0) + this.#length - (this.#spanIndex[last] ?? 0) === start) return;
    }
    this.#spanIndex[this.#spans] = this.#length;
    this.#spanStart[this.#spans] = start;
    this.#spanEnd[this.#spans++] = end;
  }

  #truncate(length: number): void {
    this.#length = length;
    if (length < this.#unchanged) this.#unchanged = length;
    if (this.#opener >= length) this.#opener = this.#openerBefore(length);
    while (this.#spans > 0 && (this.#spanIndex[this.#spans - 1] ?? 0) >= length) this.#spans--;
  }

  /** The last opener that may begin an escape which goes on behind `length`, or -1. */
  #openerBefore(length: number): number {
    for (let index = length - 1; index >= Math.max(0, length - longestEscape); index--) {
      if (isOpener(this.#bytes[index])) return index;
    }
    return -1;
  }

  /** The last span that begins at `index` or before. */
  #spanOf(index: number): number {
    let low = 0;
    let high = this.#spans - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if ((this.#spanIndex[middle] ?? 0) <= index) low = middle;
      else high = middle - 1;
    }
    return low;
  }
}

/** The number of `count` hex digits, or -1. */
function hexNumber(bytes: Uint8Array, from: number, count: number): number {
  let number = 0;
  for (let index = from; index < from + count; index++) {
    const digit = hexValue[bytes[index] ?? 0] ?? -1;
    if (digit < 0) return -1;
    number = number * 16 + digit;
  }
  return number;
}

function latin1Text(bytes: Uint8Array, from: number, to: number): string {
  let text = "";
  for (let index = from; index < to; index++) text += String.fromCharCode(bytes[index] ?? 0);
  return text;
}

/** The code point of an entity, given without `&` and `;`. */
function entityCode(name: string): number | undefined {
  const digits = /^#(?:x([\da-f]{1,6})|(\d{1,7}))$/i.exec(name);
  if (digits === null) return entities.get(name);
  const code = digits[1] === undefined ? Number(digits[2]) : Number.parseInt(digits[1], 16);
  return code <= 0x10ffff ? code : undefined;
}

/** UTF-8, also of a surrogate, which has no UTF-8 of its own. */
function utf8(code: number): number[] {
  if (code <= 0x7ff) return [0xc0 | (code >> 6), 0x80 | (code & 0x3f)];
  if (code <= 0xffff) return [0xe0 | (code >> 12), 0x80 | ((code >> 6) & 0x3f), 0x80 | (code & 0x3f)];
  return [0xf0 | (code >> 18), 0x80 | ((code >> 12) & 0x3f), 0x80 | ((code >> 6) & 0x3f), 0x80 | (code & 0x3f)];
}
