/** The characters that begin an escape: `\`, `%` and `&`. */
const openers = [0x5c, 0x25, 0x26] as const;

/** Bytes that may have escapes, and where the next escape may begin. */
export class EscapedBytes {
  readonly bytes: Buffer;
  /** Where each of the openers is next, or the number of the bytes. */
  readonly #next: number[] = openers.map(() => -1);

  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }

  /**
   * The index of the first opener from an index on, or the number of the bytes. The index must not be less than in the last call:
   * so each byte is read once for each opener, however many openers there are.
   */
  nextOpener(from: number): number {
    let first = this.bytes.length;
    for (let number = 0; number < openers.length; number++) {
      let next = this.#next[number] ?? 0;
      if (next < from) {
        next = this.bytes.indexOf(openers[number] ?? 0, from);
        if (next === -1) next = this.bytes.length;
        this.#next[number] = next;
      }
      if (next < first) first = next;
    }
    return first;
  }
}

/** Whether a byte begins an escape. */
export function isOpener(byte: number | undefined): boolean {
  return byte === openers[0] || byte === openers[1] || byte === openers[2];
}
