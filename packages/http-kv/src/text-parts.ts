const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

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
   * Adds whole characters of UTF-8.
   *
   * @throws TypeError where the bytes are not UTF-8; what `weigh` and `change` throw.
   */
  add(bytes: Uint8Array, change?: (text: string) => string): void {
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
  }

  join(): string {
    return this.#parts.length === 1 ? (this.#parts[0] ?? "") : this.#parts.join("");
  }
}
