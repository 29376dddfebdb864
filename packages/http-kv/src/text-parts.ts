const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * Returns how many of the first `end` bytes form whole UTF-8 characters. If the last character is cut off, its bytes do
 * not count, because the character continues in the next piece.
 */
export function wholeCharacters(bytes: Uint8Array, end: number): number {
  for (let at = end - 1; at >= Math.max(0, end - 4); at--) {
    const byte = bytes[at] ?? 0;
    if (byte < 0x80) return end;
    if (byte < 0xc0) continue;
    const length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2;
    return at + length > end ? at : end;
  }
  return end;
}

/**
 * Decodes a text as it arrives, and counts the memory that the text needs in V8: one byte for each character, or two if
 * any character is beyond ASCII.
 */
export class TextParts {
  readonly #weigh: (bytes: number) => void;
  readonly #parts: string[] = [];
  #characters = 0;
  #bytesPerCharacter = 1;

  /** @param weigh called with the number of bytes that the next part of the text needs in memory. */
  constructor(weigh: (bytes: number) => void) {
    this.#weigh = weigh;
  }

  /**
   * Decodes `bytes`, which must be whole UTF-8 characters, adds the decoded text, and returns the added text.
   *
   * @param change converts the decoded text before it is added.
   * @throws TypeError if the bytes are not UTF-8; an error that `weigh` or `change` throws.
   */
  add(bytes: Uint8Array, change?: (text: string) => string): string {
    const decoded = utf8.decode(bytes);
    const text = change === undefined ? decoded : change(decoded);
    const isWide = decoded.length !== bytes.length || (change !== undefined && /[^\0-\xff]/.test(text));
    if (isWide && this.#bytesPerCharacter === 1) {
      this.#weigh(this.#characters);
      this.#bytesPerCharacter = 2;
    }
    this.#characters += text.length;
    this.#weigh(text.length * this.#bytesPerCharacter);
    this.#parts.push(text);
    return text;
  }

  /** Returns the whole text. */
  join(): string {
    return this.#parts.length === 1 ? (this.#parts[0] ?? "") : this.#parts.join("");
  }
}
