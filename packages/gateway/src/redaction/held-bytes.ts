/** Bytes that are copied, because to keep them as they are would keep the much larger buffer they are in. */
const fewBytes = 4 * 1024;

/** The largest buffer that is made for bytes which have not come yet. */
const largestSpare = 16 * 1024;

const none = Buffer.alloc(0);

/** The bytes of a stream that have come and are not passed on yet. */
export class HeldBytes {
  readonly #pieces: Buffer[] = [];
  #start = 0;
  #end = 0;
  /** A buffer with room for more bytes, which go behind those that it has. Bytes in it are never written again. */
  #spare: Buffer = none;
  #spareFrom = 0;

  /** Position in the stream of the first byte. */
  get start(): number {
    return this.#start;
  }

  /** Position in the stream behind the last byte. */
  get end(): number {
    return this.#end;
  }

  /** Adds bytes without a copy. */
  add(bytes: Buffer): void {
    if (bytes.length === 0) return;
    this.#pieces.push(bytes);
    this.#end += bytes.length;
  }

  /** Adds bytes that may be held for long. Few bytes are copied, and joined with those before them. */
  addForLong(bytes: Buffer): void {
    if (bytes.length >= fewBytes) {
      this.add(bytes);
      return;
    }
    let last = this.#pieces.at(-1);
    if (this.#spare.length - this.#spareFrom < bytes.length) {
      this.#spare = Buffer.allocUnsafe(Math.max(bytes.length, Math.min(this.#end - this.#start, largestSpare)));
      this.#spareFrom = 0;
      last = undefined;
    }
    const from = this.#spareFrom;
    this.#spare.set(bytes, from);
    this.#spareFrom += bytes.length;
    const isJoined =
      last?.buffer === this.#spare.buffer && last.byteOffset + last.length === this.#spare.byteOffset + from;
    if (last === undefined || !isJoined) {
      this.add(this.#spare.subarray(from, this.#spareFrom));
      return;
    }
    this.#pieces[this.#pieces.length - 1] = this.#spare.subarray(from - last.length, this.#spareFrom);
    this.#end += bytes.length;
  }

  /** The last `count` bytes, or all if there are fewer. */
  last(count: number): Buffer {
    const last = this.#pieces.at(-1) ?? none;
    if (last.length >= count || this.#pieces.length <= 1) return last.subarray(Math.max(0, last.length - count));
    const bytes = Buffer.allocUnsafe(Math.min(count, this.#end - this.#start));
    let to = bytes.length;
    for (let index = this.#pieces.length - 1; to > 0; index--) {
      const piece = this.#pieces[index] ?? none;
      const part = piece.subarray(Math.max(0, piece.length - to));
      to -= part.length;
      bytes.set(part, to);
    }
    return bytes;
  }

  /** Takes the bytes before a position out. Adds them to `pieces`, if given. */
  takeUntil(position: number, pieces?: Uint8Array[]): void {
    while (this.#start < position) {
      const first = this.#pieces[0];
      if (first === undefined) return;
      const count = Math.min(first.length, position - this.#start);
      pieces?.push(first.subarray(0, count));
      if (count === first.length) this.#pieces.shift();
      else this.#pieces[0] = first.subarray(count);
      this.#start += count;
    }
  }
}
