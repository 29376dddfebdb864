import { isUtf8 } from "node:buffer";
import { McpRefusedError } from "./mcp-refused-error.ts";

const quote = 0x22;
const backslash = 0x5c;
const openObject = 0x7b;
const closeObject = 0x7d;
const openArray = 0x5b;
const closeArray = 0x5d;
const comma = 0x2c;
const colon = 0x3a;
const minus = 0x2d;
const zero = 0x30;
const nine = 0x39;

/** Matches the plain characters of a JSON string. Characters below U+0020 are not allowed. */
const plain = /[\x20\x21\x23-\x5b\x5d-\xff]*/y;
const hexadecimal = /[0-9A-Fa-f]{4}/y;

/** The kind of a JSON value. */
export type JsonKind = "object" | "array" | "string" | "number" | "boolean" | "null";

/**
 * Reads the bytes of one JSON document step by step, and accepts the same documents as `JSON.parse`. Creates only the values
 * that the code asks for, so a body takes little more memory than its text.
 */
export class JsonScanner {
  readonly #bytes: Buffer;
  /** The bytes as a string with one character per byte, because a string is searched faster than a buffer. */
  readonly #text: string;
  readonly #maxDepth: number;
  #at = 0;
  #depth = 0;

  /** @throws McpRefusedError `BODY_INVALID` if the bytes are not UTF-8. */
  constructor(bytes: Uint8Array, { maxDepth }: { readonly maxDepth: number }) {
    this.#bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#maxDepth = maxDepth;
    if (!isUtf8(this.#bytes)) throw new McpRefusedError("BODY_INVALID", "The body is not text in UTF-8");
    this.#text = this.#bytes.toString("latin1");
    this.#skipSpace();
  }

  /** Returns the kind of the value at the current position. */
  kind(): JsonKind {
    const byte = this.#text.charCodeAt(this.#at);
    if (byte === openObject) return "object";
    if (byte === openArray) return "array";
    if (byte === quote) return "string";
    if (byte === 0x74 || byte === 0x66) return "boolean";
    if (byte === 0x6e) return "null";
    if (byte === minus || isDigit(byte)) return "number";
    throw this.#invalid();
  }

  /** Skips a value of any kind. */
  skip(): void {
    const kind = this.kind();
    if (kind === "object") this.#members(this.#skipKey, this.#skipValue);
    else if (kind === "array") this.#elements();
    else if (kind === "string") this.#skipString();
    else if (kind === "number") this.#skipNumber();
    else if (kind === "null") this.#skipLiteral("null");
    else this.#skipLiteral(this.#text.charCodeAt(this.#at) === 0x74 ? "true" : "false");
  }

  /** Calls a function with the key of each member of an object. The function must read or skip the value of the member. */
  members(onMember: (key: string) => void): void {
    let key = "";
    this.#members(
      () => {
        key = this.string();
      },
      () => onMember(key),
    );
  }

  /** Reads a string. */
  string(): string {
    return String(this.#parsed(this.#skipKey));
  }

  /** Reads a number. */
  number(): number {
    return Number(this.#parsed(() => this.#skipNumber()));
  }

  /** Checks that the document ends here. @throws McpRefusedError `BODY_INVALID` if anything but white space follows. */
  end(): void {
    this.#skipSpace();
    if (this.#at < this.#text.length) throw this.#invalid();
  }

  readonly #skipKey = () => this.#skipString();
  readonly #skipValue = () => this.skip();

  /** Parses the bytes that `skip` skips. `skip` has checked them, so `JSON.parse` cannot fail. */
  #parsed(skip: () => void): unknown {
    const start = this.#at;
    skip();
    return JSON.parse(this.#bytes.toString("utf8", start, this.#at));
  }

  #members(onKey: () => void, onValue: () => void): void {
    this.#enter();
    if (this.#accept(closeObject)) {
      this.#depth--;
      return;
    }
    do {
      this.#skipSpace();
      if (this.#text.charCodeAt(this.#at) !== quote) throw this.#invalid();
      onKey();
      this.#skipSpace();
      if (!this.#accept(colon)) throw this.#invalid();
      this.#skipSpace();
      onValue();
      this.#skipSpace();
    } while (this.#accept(comma));
    if (!this.#accept(closeObject)) throw this.#invalid();
    this.#depth--;
  }

  #elements(): void {
    this.#enter();
    if (this.#accept(closeArray)) {
      this.#depth--;
      return;
    }
    do {
      this.#skipSpace();
      this.skip();
      this.#skipSpace();
    } while (this.#accept(comma));
    if (!this.#accept(closeArray)) throw this.#invalid();
    this.#depth--;
  }

  #enter(): void {
    this.#at++;
    this.#depth++;
    if (this.#depth > this.#maxDepth) {
      throw new McpRefusedError("BODY_TOO_DEEP", `The body has more than ${this.#maxDepth} levels`);
    }
    this.#skipSpace();
  }

  #skipString(): void {
    let at = this.#at + 1;
    for (;;) {
      const byte = this.#text.charCodeAt(at);
      if (byte === quote) break;
      if (byte === backslash) at = this.#endOfEscape(at + 1);
      else if (byte >= 0x20) at = this.#endOf(plain, at + 1);
      else throw this.#invalid(at);
    }
    this.#at = at + 1;
  }

  /** Returns the position after an escape. */
  #endOfEscape(at: number): number {
    const letter = this.#text[at];
    if (letter === "u") return this.#endOf(hexadecimal, at + 1);
    if (letter === undefined || !'"\\/bfnrt'.includes(letter)) throw this.#invalid(at);
    return at + 1;
  }

  /** Returns the position after what a pattern matches. */
  #endOf(pattern: RegExp, at: number): number {
    pattern.lastIndex = at;
    if (!pattern.test(this.#text)) throw this.#invalid(at);
    return pattern.lastIndex;
  }

  #skipNumber(): void {
    if (this.#text.charCodeAt(this.#at) === minus) this.#at++;
    if (!this.#accept(zero)) this.#skipDigits();
    if (this.#accept(0x2e)) this.#skipDigits();
    if ((this.#text.charCodeAt(this.#at) | 0x20) === 0x65) {
      this.#at++;
      if (!this.#accept(0x2b)) this.#accept(minus);
      this.#skipDigits();
    }
  }

  #skipDigits(): void {
    const start = this.#at;
    while (isDigit(this.#text.charCodeAt(this.#at))) this.#at++;
    if (this.#at === start) throw this.#invalid();
  }

  #skipLiteral(text: string): void {
    if (!this.#text.startsWith(text, this.#at)) throw this.#invalid();
    this.#at += text.length;
  }

  #accept(byte: number): boolean {
    if (this.#text.charCodeAt(this.#at) !== byte) return false;
    this.#at++;
    return true;
  }

  #skipSpace(): void {
    for (;;) {
      const byte = this.#text.charCodeAt(this.#at);
      if (byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) return;
      this.#at++;
    }
  }

  #invalid(at = this.#at): McpRefusedError {
    return new McpRefusedError("BODY_INVALID", `The body is not JSON: byte ${at} is not expected`);
  }
}

function isDigit(byte: number): boolean {
  return byte >= zero && byte <= nine;
}
