const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** How many of the first `end` bytes are whole characters of UTF-8: the last may go on in the next piece. */
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

/** Text that is decoded as it arrives, and weighed as V8 keeps it: two bytes a character once one is beyond ASCII. */
export class TextParts {
  readonly #weigh: (bytes: number) => void;
  readonly #parts: string[] = [];
  #characters = 0;
  #bytesPerCharacter = 1;

  /** @param weigh told how many bytes of memory are needed next. */
  constructor(weigh: (bytes: number) => void) {
    this.#weigh = weigh;
  }

  /**
   * Adds whole characters of UTF-8, and returns the text that was added.
   *
   * @throws TypeError where the bytes are not UTF-8; what `weigh` and `change` throw.
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

  join(): string {
    return this.#parts.length === 1 ? (this.#parts[0] ?? "") : this.#parts.join("");
  }
}
