import { lookUpBytes } from "./block-table.ts";
import { entities } from "./entities.ts";
import { type EscapedBytes, isOpener } from "./escaped-bytes.ts";

const percent = 0x25;
const ampersand = 0x26;
const semicolon = 0x3b;
const backslash = 0x5c;
const lowerU = 0x75;
const lowerX = 0x78;
const upperX = 0x58;
const numberSign = 0x23;

/** Bytes that are read one by one for the next escape. In more bytes, a native search is faster. */
const nearBytes = 24;

/** No escape is longer than this many bytes of decoded text: `&#x10FFFF;`. */
const longestEscape = 10;

/** The spans that a text has room for at first. Most texts have few escapes. */
const firstSpans = 32;

/** The value of each hex digit, and -1 for other bytes. */
const hexValue = new Int8Array(256).fill(-1);
for (let digit = 0; digit < 16; digit++) {
  hexValue[digit.toString(16).charCodeAt(0)] = digit;
  hexValue[digit.toString(16).toUpperCase().charCodeAt(0)] = digit;
}

/** 1 for the bytes that may stand between the `&` and the `;` of an entity, or in another escape behind the opener. */
const isPartOfEscape = Uint8Array.from({ length: 256 }, (_, byte) =>
  /[#\da-z]/i.test(String.fromCharCode(byte)) ? 1 : 0,
);

/** No named entity that is decoded has a longer name, without `&` and `;`. */
const longestName = 6;

const entityNames: ReadonlyMap<number, number> = new Map(
  [...entities].map(([name, code]) => [keyOf(Buffer.from(name), 0, name.length), code]),
);

/** The beginning of an escape. */
const openEscape = /^(?:\\(?:u[\da-f]{0,3}|x[\da-f]?)?|%[\da-f]?|&(?:#(?:x[\da-f]{0,6}|\d{0,7})|[a-z\d]{0,8})?)$/i;

/** 1 for the bytes that begin an escape. */
const openers = Uint8Array.from({ length: 256 }, (_, byte) => (isOpener(byte) ? 1 : 0));

/**
 * The text of a stream with its escapes decoded, and for each decoded byte where it came from.
 *
 * Decodes JSON (`\u00e9`, `\/`, `\"`), percent-encoding (`%2D`) and HTML entities (`&amp;`, `&#39;`, `&#x27;`), in any mixture
 * and at any depth: the result of an escape may be part of the next one, so `%252D`, `\\\\u002d` and `\u0026#45;` all become
 * `-`. A backslash before any other character is dropped. So a text and each escaped form of the text decode to the same bytes.
 * What was decoded depends on the bytes alone, not on how they were divided into calls of {@link append}.
 */
export class DecodedText {
  #bytes = Buffer.alloc(lookUpBytes);
  #length = 0;
  #unchanged = 0;
  #begin = 0;
  /** The index of the last opener that may still begin an escape, or -1. */
  #opener = -1;
  /** How many bytes of the stream came after the last escape. */
  #plainBytes = 0;
  /**
   * For each span: its first index, and the start and the end in the stream of what was decoded to the byte at this index. The
   * other bytes of a span follow one by one from this end on.
   */
  #spanIndex = new Int32Array(firstSpans);
  #spanStart = new Float64Array(firstSpans);
  #spanEnd = new Float64Array(firstSpans);
  #spans = 0;

  /** The decoded bytes. Those from {@link length} on have no meaning. There are at least {@link lookUpBytes} of them. */
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

  /** How many bytes of the stream came after the last escape. */
  get plainBytes(): number {
    return this.#plainBytes;
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
      // Of the first span, bytes may be dropped. The next one is then where the span begins.
      const index = Math.max(dropped, this.#spanIndex[span] ?? 0);
      this.#spanStart[span - first] = span === first ? this.startOf(index) : (this.#spanStart[span] ?? 0);
      this.#spanEnd[span - first] = span === first ? this.endOf(index) : (this.#spanEnd[span] ?? 0);
      this.#spanIndex[span - first] = index - dropped;
    }
    this.#spans -= first;
  }

  /** Where the byte at `index` begins in the stream. */
  startOf(index: number): number {
    const span = this.#spanOf(index);
    const distance = index - (this.#spanIndex[span] ?? 0);
    return distance === 0 ? (this.#spanStart[span] ?? 0) : (this.#spanEnd[span] ?? 0) + distance - 1;
  }

  /** Where the byte at `index` ends in the stream. For -1, where the stream begins of which this is the decoded text. */
  endOf(index: number): number {
    if (index < 0) return this.#begin;
    const span = this.#spanOf(index);
    return (this.#spanEnd[span] ?? 0) + index - (this.#spanIndex[span] ?? 0);
  }

  /**
   * Appends the bytes of `raw` from index `from` to `to`, none of which is an opener. The first of them is at `position` of the
   * stream. They do not count as {@link plainBytes}, because an escape comes after them.
   */
  appendPlain(raw: Uint8Array, from: number, to: number, position: number): void {
    this.#opener = -1;
    this.#plainBytes = 0;
    if (from >= to) return;
    if (this.#length === 0) this.#begin = position;
    this.#reserve(to - from);
    this.#beginSpan(position, position + 1);
    this.#bytes.set(raw.subarray(from, to), this.#length);
    this.#length += to - from;
  }

  /**
   * Decodes the bytes from index `from` to `to`. The first of them is at `position` of the stream. Stops where {@link plainBytes}
   * reaches `plainLimit`. Returns the index behind the last byte that was decoded.
   */
  append(escaped: EscapedBytes, from: number, to: number, position: number, plainLimit: number): number {
    const raw = escaped.bytes;
    if (this.#length === 0) this.#begin = position;
    this.#reserve(to - from);
    const offset = position - from;
    let escapeEnd = from - this.#plainBytes;
    let index = from;
    while (index < to) {
      if (this.#opener === -1 || this.#length - this.#opener >= longestEscape) {
        const limit = Math.min(to, escapeEnd + plainLimit);
        index = this.#appendUntilOpener(escaped, index, limit, offset);
        if (index >= limit) break;
        const next = this.#appendSimpleEscape(raw, index, to, offset);
        if (next !== index) {
          index = next;
          escapeEnd = next;
          continue;
        }
      }
      this.#push(raw[index] ?? 0, offset + index);
      index++;
      escapeEnd = index;
    }
    this.#plainBytes = index - escapeEnd;
    return index;
  }

  /** Copies the bytes before the next opener. */
  #appendUntilOpener(escaped: EscapedBytes, from: number, to: number, offset: number): number {
    const raw = escaped.bytes;
    const bytes = this.#bytes;
    const shift = this.#length - from;
    const near = Math.min(to, from + nearBytes);
    let index = from;
    for (; index < near; index++) {
      const byte = raw[index] ?? 0;
      if (openers[byte] === 1) break;
      bytes[index + shift] = byte;
    }
    if (index === near && near < to) {
      index = Math.min(to, escaped.nextOpener(near));
      bytes.set(raw.subarray(near, index), near + shift);
    }
    if (index > from) {
      this.#beginSpan(offset + from, offset + from + 1);
      this.#length = index + shift;
    }
    return index;
  }

  /**
   * Decodes an escape that is whole, and whose result cannot be part of another one, as most are. Or takes an opener as it is, if
   * no escape begins there. Returns the index behind it, or `from` if the bytes have to be pushed one by one.
   */
  #appendSimpleEscape(raw: Uint8Array, from: number, to: number, offset: number): number {
    const opener = raw[from] ?? 0;
    let last = from;
    let code = -1;
    let next = from;
    if (opener === backslash) {
      while (last + 1 < to && raw[last + 1] === backslash) last++;
      if (last + 1 === to || raw[last + 1] === lowerX) return from;
      // The character is copied as it is, without the backslash.
      if (raw[last + 1] !== lowerU) return last + 1;
      if (last + 6 > to) return from;
      code = hexNumber(raw, last + 2, 4);
      next = last + 6;
      if (code < 0) return from;
    } else if (opener === percent) {
      if (from + 3 > to) return from;
      code = hexNumber(raw, from + 1, 2);
      next = from + 3;
      if (code < 0 && (isOpener(raw[from + 1]) || isOpener(raw[from + 2]))) return from;
    } else {
      next = from + 1;
      while (next < to && next < from + longestEscape && isPartOfEscape[raw[next] ?? 0] === 1) next++;
      if (next === to || isOpener(raw[next])) return from;
      if (raw[next] === semicolon) {
        code = entityCode(raw, from + 1, next);
        next++;
      }
    }
    if (code < 0) {
      this.#write(opener, offset + from, offset + from + 1);
      return from + 1;
    }
    if (isOpener(code)) return from;
    if (code <= 0x7f || opener === percent) this.#write(code, offset + last, offset + next);
    else this.#writeCharacter(code, offset + last, offset + next);
    return next;
  }

  /** Adds a byte and decodes what the byte completes. */
  #push(byte: number, start: number): void {
    this.#dropBackslash(byte);
    this.#write(byte, start, start + 1);
    if (isOpener(byte)) this.#opener = this.#length - 1;
    else if (isPartOfEscape[byte] === 0 && byte !== semicolon) this.#opener = -1;
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
        const code = entityCode(bytes, first + 1, length - 1);
        return code >= 0 && this.#replaceFrom(first, code);
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
    const start = this.startOf(first);
    const end = this.endOf(this.#length - 1);
    this.#truncate(first);
    if (!isByte && code > 0x7f) {
      this.#writeCharacter(code, start, end);
    } else {
      this.#dropBackslash(code);
      this.#write(code, start, end);
    }
    return true;
  }

  /** Writes a character beyond ASCII as UTF-8. A surrogate that completes a pair replaces both. */
  #writeCharacter(code: number, start: number, end: number): void {
    const high = code >= 0xdc00 && code <= 0xdfff ? this.#highSurrogate() : undefined;
    if (high === undefined) {
      this.#dropBackslash(-1);
      this.#writeUtf8(code, start, end);
      return;
    }
    const pairStart = this.startOf(this.#length - 3);
    this.#truncate(this.#length - 3);
    this.#dropBackslash(-1);
    this.#writeUtf8(0x10000 + ((high & 0x3ff) << 10) + (code & 0x3ff), pairStart, end);
  }

  /** Writes UTF-8, also of a surrogate, which has no UTF-8 of its own. */
  #writeUtf8(code: number, start: number, end: number): void {
    if (code <= 0x7ff) {
      this.#write(0xc0 | (code >> 6), start, end);
    } else {
      if (code <= 0xffff) {
        this.#write(0xe0 | (code >> 12), start, end);
      } else {
        this.#write(0xf0 | (code >> 18), start, end);
        this.#write(0x80 | ((code >> 12) & 0x3f), start, end);
      }
      this.#write(0x80 | ((code >> 6) & 0x3f), start, end);
    }
    this.#write(0x80 | (code & 0x3f), start, end);
  }

  /** The high surrogate that the last three bytes are, in the form that {@link #writeUtf8} gives to a surrogate. */
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
      if (openEscape.test(this.#bytes.toString("latin1", index, length))) return index;
    }
    return length;
  }

  #write(byte: number, start: number, end: number): void {
    this.#beginSpan(start, end);
    this.#bytes[this.#length++] = byte;
  }

  /** Begins a span at the end of the text, unless the byte that comes goes on with the last one. */
  #beginSpan(start: number, end: number): void {
    const last = this.#spans - 1;
    if (end === start + 1 && last >= 0) {
      if ((this.#spanEnd[last] ?? 0) + this.#length - (this.#spanIndex[last] ?? 0) - 1 === start) return;
    }
    if (this.#spans === this.#spanIndex.length) this.#growSpans();
    this.#spanIndex[this.#spans] = this.#length;
    this.#spanStart[this.#spans] = start;
    this.#spanEnd[this.#spans++] = end;
  }

  #growSpans(): void {
    const count = 2 * this.#spans;
    const [index, start, end] = [this.#spanIndex, this.#spanStart, this.#spanEnd];
    this.#spanIndex = new Int32Array(count);
    this.#spanStart = new Float64Array(count);
    this.#spanEnd = new Float64Array(count);
    this.#spanIndex.set(index);
    this.#spanStart.set(start);
    this.#spanEnd.set(end);
  }

  /** Makes room for some bytes, and for those that a look-up reads behind the last one. */
  #reserve(count: number): void {
    const needed = this.#length + count + lookUpBytes;
    if (needed <= this.#bytes.length) return;
    const bytes = Buffer.allocUnsafeSlow(Math.max(needed, 2 * this.#bytes.length));
    this.#bytes.copy(bytes, 0, 0, this.#length);
    this.#bytes = bytes;
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

/** The code point of an entity, given without `&` and `;`, or -1. */
function entityCode(bytes: Uint8Array, from: number, to: number): number {
  if (bytes[from] !== numberSign) return entityNames.get(keyOf(bytes, from, to)) ?? -1;
  const isHex = bytes[from + 1] === lowerX || bytes[from + 1] === upperX;
  const first = isHex ? from + 2 : from + 1;
  if (to === first || to - first > (isHex ? 6 : 7)) return -1;
  if (isHex) {
    const code = hexNumber(bytes, first, to - first);
    return code <= 0x10ffff ? code : -1;
  }
  let code = 0;
  for (let index = first; index < to; index++) {
    const digit = (bytes[index] ?? 0) - 0x30;
    if (digit < 0 || digit > 9) return -1;
    code = 10 * code + digit;
  }
  return code <= 0x10ffff ? code : -1;
}

/** A number that no other name of up to 6 characters has, or -1 for a longer name. */
function keyOf(bytes: Uint8Array, from: number, to: number): number {
  if (to - from > longestName) return -1;
  let key = 1;
  for (let index = from; index < to; index++) key = 256 * key + (bytes[index] ?? 0);
  return key;
}
