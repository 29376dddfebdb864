/** {@link ByteBlocks} copies each piece of a body that has fewer bytes than this number. */
export const shortBytes = 4_096;
const firstBlockBytes = 256;
const longestBlockBytes = 2 ** 16;

/**
 * Collects the pieces in which a body arrives. Short pieces are copied into shared blocks, because each piece that is
 * not copied needs hundreds of bytes of memory, even if the client sends only one byte in it.
 */
export class ByteBlocks {
  readonly #blocks: Uint8Array[] = [];
  #open = Buffer.allocUnsafeSlow(0);
  #used = 0;

  /** Adds a piece. A short piece is copied, so that the memory of the piece itself can be freed. */
  add(piece: Uint8Array): void {
    if (piece.length >= shortBytes) {
      this.#close();
      this.#blocks.push(piece);
      return;
    }
    let rest = piece;
    while (rest.length > 0) {
      if (this.#used === this.#open.length) this.#begin();
      const part = rest.subarray(0, this.#open.length - this.#used);
      this.#open.set(part, this.#used);
      this.#used += part.length;
      rest = rest.subarray(part.length);
    }
  }

  /** Returns all bytes in one piece. */
  join(): Buffer {
    this.#close();
    const [first] = this.#blocks;
    return first !== undefined && this.#blocks.length === 1
      ? Buffer.from(first.buffer, first.byteOffset, first.byteLength)
      : Buffer.concat(this.#blocks);
  }

  #begin(): void {
    const length = Math.min(longestBlockBytes, Math.max(firstBlockBytes, 2 * this.#open.length));
    this.#close();
    this.#open = Buffer.allocUnsafeSlow(length);
  }

  #close(): void {
    if (this.#used > 0) this.#blocks.push(this.#open.subarray(0, this.#used));
    this.#open = this.#open.subarray(this.#used);
    this.#used = 0;
  }
}
