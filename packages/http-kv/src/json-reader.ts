import { randomUUID } from "node:crypto";
import { ByteBlocks, shortBytes } from "./byte-blocks.ts";
import { TextParts, wholeCharacters } from "./text-parts.ts";

/** Bounds of a JSON document. The bounds are checked on the bytes of the document, before the document is parsed. */
export interface JsonBounds {
  /** Maximum length of the document, in bytes. */
  readonly maxBytes: number;
  /** Maximum nesting depth of lists and objects. */
  readonly maxDepth: number;
  /** Maximum number of brackets, commas and colons in the document, without those in strings. */
  readonly maxParts: number;
  /**
   * Called with the number of bytes that the next part of the document needs in memory. If `weigh` throws, the reader
   * throws the same error.
   */
  readonly weigh: (bytes: number) => void;
}

/** The error for a document that is not JSON, or that exceeds a bound. */
export class JsonRefusal extends Error {
  override readonly name = "JsonRefusal";
  readonly reason: "malformed" | "too deep" | "too large";

  constructor(reason: JsonRefusal["reason"]) {
    super(`The JSON is ${reason}`);
    this.reason = reason;
  }
}

/** A string with more bytes than this is decoded piece by piece as it arrives, so that no single step takes long. */
const longStringBytes = 256;
/** Length of the longest escape, `\uXXXX`. */
const escapeBytes = 6;
const controlCharacter = /[^\x20-\uffff]/;
/**
 * Number of bytes at the start of a string that are checked one by one. The rest is searched natively, which is faster
 * for long strings.
 */
const steppedBytes = 64;
/** About how many bytes V8 needs for one value, in addition to its content. */
const bytesPerPart = 32;

const [quote, backslash, comma, colon, openList, closeList, openObject, closeObject] = [
  0x22, 0x5c, 0x2c, 0x3a, 0x5b, 0x5d, 0x7b, 0x7d,
] as const;

/**
 * Parses a JSON document that arrives in pieces. Each long string is decoded as it arrives, and a short mark takes its
 * place in the document. At the end, `JSON.parse` parses the document with the marks (the outline), and the decoded
 * strings replace the marks. The bounds keep the outline short.
 */
export class JsonReader {
  readonly #bounds: JsonBounds;
  readonly #outline = new ByteBlocks();
  readonly #longStrings: string[] = [];
  /** The beginning of every mark. It is random, so no document contains it. */
  readonly #mark = randomUUID();
  #outlineBytes = 0;
  #long: TextParts | undefined;
  /** The bytes of the current string that are not decoded yet. */
  #open: Uint8Array<ArrayBufferLike> = new Uint8Array();
  #inString = false;
  #escaped = false;
  /** Position of the last escape in the undecoded bytes of the current string, or -1 if these bytes have no escape. */
  #escapeAt = -1;
  #depth = 0;
  #parts = 0;
  #bytes = 0;

  readonly #maxOutlineBytes: number;

  constructor(bounds: JsonBounds) {
    this.#bounds = bounds;
    this.#maxOutlineBytes = (bounds.maxParts + 1) * (longStringBytes + this.#mark.length);
  }

  /**
   * Parses a short JSON document in one step, when all of its bytes have arrived.
   *
   * @throws JsonRefusal if the document is not JSON or exceeds one of `bounds`; an error that {@link JsonBounds.weigh}
   * throws.
   */
  static readWhole(bytes: Uint8Array, bounds: JsonBounds): unknown {
    if (bytes.length > bounds.maxBytes) throw new JsonRefusal("too large");
    let [depth, parts] = [0, 0];
    for (let at = 0; at < bytes.length; at++) {
      const byte = bytes[at];
      if (byte === quote) at = endOfString(bytes, at + 1);
      else if (byte === comma || byte === colon) parts++;
      else if (byte === openList || byte === openObject) {
        parts++;
        if (++depth > bounds.maxDepth) throw new JsonRefusal("too deep");
      } else if (byte === closeList || byte === closeObject) depth--;
    }
    if (parts > bounds.maxParts) throw new JsonRefusal("too large");
    bounds.weigh(2 * bytes.length + bytesPerPart * parts);
    return parse(bytes);
  }

  /**
   * Reads the next bytes of the document.
   *
   * @throws JsonRefusal if the document exceeds one of its {@link JsonBounds}; an error that {@link JsonBounds.weigh}
   * throws.
   */
  write(piece: Uint8Array): void {
    const { maxBytes, weigh } = this.#bounds;
    this.#bytes += piece.length;
    if (this.#bytes > maxBytes) throw new JsonRefusal("too large");
    const partsBefore = this.#parts;
    let outlineBytes = 0;
    const keep = (bytes: Uint8Array) => {
      if (bytes.length === 0) return;
      outlineBytes += bytes.length;
      this.#outlineBytes += bytes.length;
      if (this.#outlineBytes > this.#maxOutlineBytes) throw new JsonRefusal("too large");
      // A long piece is copied as well, because a view would keep the whole piece of the body in memory.
      this.#outline.add(bytes.length < shortBytes ? bytes : new Uint8Array(bytes));
    };
    let from = 0;
    let stringFrom = 0;
    let openBytes = this.#open.length;
    // The position at which the bytewise check of the string began, and the positions that a native search found ahead.
    let steppedFrom = 0;
    let [quoteAt, backslashAt] = [-1, -1];
    for (let at = 0; at < piece.length; at++) {
      if (this.#inString && !this.#escaped && at - steppedFrom >= steppedBytes) {
        if (quoteAt < at) quoteAt = positionOf(quote, piece, at);
        if (backslashAt < at) backslashAt = positionOf(backslash, piece, at);
        at = Math.min(quoteAt, backslashAt);
        if (at === piece.length) break;
      }
      const byte = piece[at];
      if (this.#inString) {
        if (this.#escaped) this.#escaped = false;
        else if (byte === backslash) {
          this.#escaped = true;
          steppedFrom = at;
          this.#escapeAt = openBytes + at - stringFrom;
        } else if (byte === quote) {
          this.#inString = false;
          const length = openBytes + at - stringFrom;
          if (this.#long !== undefined || length > longStringBytes) {
            keep(piece.subarray(from, stringFrom));
            this.#decode(joined(this.#open, piece.subarray(stringFrom, at)));
            keep(Buffer.from(`${this.#mark}${this.#longStrings.length}`));
            this.#longStrings.push(this.#long?.join() ?? "");
            this.#long = undefined;
            from = at;
          } else keep(this.#open);
          this.#open = new Uint8Array();
          openBytes = 0;
        }
        continue;
      }
      if (byte === quote) {
        this.#inString = true;
        this.#escapeAt = -1;
        stringFrom = at + 1;
        steppedFrom = at;
      } else this.#count(byte);
    }
    if (this.#inString) {
      keep(piece.subarray(from, stringFrom));
      this.#open = joined(this.#open, piece.slice(stringFrom));
      if (this.#open.length > longStringBytes) this.#decode(this.#open, false);
    } else keep(piece.subarray(from));
    weigh(2 * outlineBytes + bytesPerPart * (this.#parts - partsBefore));
  }

  /**
   * Returns the parsed document. Call it after the last `write`.
   *
   * @throws JsonRefusal if the document is not JSON.
   */
  end(): unknown {
    if (this.#inString) throw new JsonRefusal("malformed");
    const document = parse(this.#outline.join());
    return this.#longStrings.length === 0 ? document : this.#filled(document);
  }

  #count(byte: number | undefined): void {
    switch (byte) {
      case openList:
      case openObject:
        if (++this.#depth > this.#bounds.maxDepth) throw new JsonRefusal("too deep");
        break;
      case closeList:
      case closeObject:
        this.#depth--;
        return;
      case comma:
      case colon:
        break;
      default:
        return;
    }
    if (++this.#parts > this.#bounds.maxParts) throw new JsonRefusal("too large");
  }

  /**
   * Decodes bytes of a long string. If more bytes follow, a character or escape that is cut off at the end is kept for
   * the next call.
   */
  #decode(bytes: Uint8Array, last = true): void {
    const whole = this.#escapeAt >= 0 && bytes.length - this.#escapeAt < escapeBytes ? this.#escapeAt : bytes.length;
    const end = last ? bytes.length : wholeCharacters(bytes, whole);
    this.#long ??= new TextParts(this.#bounds.weigh);
    try {
      // A string without escapes is not passed to JSON.parse, so the characters that JSON.parse refuses are refused here.
      if (this.#escapeAt >= 0) this.#long.add(bytes.subarray(0, end), withoutEscapes);
      else if (controlCharacter.test(this.#long.add(bytes.subarray(0, end)))) throw new JsonRefusal("malformed");
    } catch (error) {
      throw error instanceof SyntaxError || error instanceof TypeError ? new JsonRefusal("malformed") : error;
    }
    this.#open = bytes.slice(end);
    this.#escapeAt = this.#escapeAt >= end ? this.#escapeAt - end : -1;
  }

  #filled(part: unknown): unknown {
    if (typeof part === "string") {
      return part.startsWith(this.#mark) ? this.#longStrings[Number(part.slice(this.#mark.length))] : part;
    }
    if (Array.isArray(part)) return part.map((each: unknown) => this.#filled(each));
    if (typeof part !== "object" || part === null) return part;
    return Object.fromEntries(Object.entries(part).map(([name, each]) => [this.#filled(name), this.#filled(each)]));
  }
}

/** Returns the position of the quote that ends a string, or the length of `bytes` if no quote ends the string. */
function endOfString(bytes: Uint8Array, start: number): number {
  for (let at = start; ; ) {
    const steppedEnd = at + steppedBytes;
    for (; at < steppedEnd; at++) {
      const byte = bytes[at];
      if (byte === quote || byte === undefined) return at;
      if (byte === backslash) at++;
    }
    const end = bytes.indexOf(quote, at);
    if (end < 0) return bytes.length;
    // After an even number of backslashes, the quote itself is not escaped.
    let escapesFrom = end;
    while (escapesFrom > at && bytes[escapesFrom - 1] === backslash) escapesFrom--;
    if ((end - escapesFrom) % 2 === 0) return end;
    at = end + 1;
  }
}

/** Returns the next position of a byte, or the length of the bytes if there is none. */
function positionOf(byte: number, bytes: Uint8Array, from: number): number {
  const at = bytes.indexOf(byte, from);
  return at < 0 ? bytes.length : at;
}

function joined(one: Uint8Array, other: Uint8Array): Uint8Array {
  if (one.length === 0) return other;
  return Buffer.concat([one, other]);
}

function withoutEscapes(text: string): string {
  const value: unknown = JSON.parse(`"${text}"`);
  return typeof value === "string" ? value : "";
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function parse(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(utf8.decode(bytes));
  } catch {
    throw new JsonRefusal("malformed");
  }
}
