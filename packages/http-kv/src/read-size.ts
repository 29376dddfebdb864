const mostRecords = 64;

/**
 * How many records to read from the store at once: few at first, whose values may all be of the largest size, and more
 * while they are small. A store is not told how many bytes it may read, so this bounds them only about.
 */
export class ReadSize {
  readonly #maxBytes: number;
  #records: number;

  constructor({ maxAnswerBytes, maxValueBytes }: { readonly maxAnswerBytes: number; readonly maxValueBytes: number }) {
    this.#maxBytes = maxAnswerBytes;
    this.#records = Math.min(mostRecords, Math.max(1, Math.floor(maxAnswerBytes / maxValueBytes)));
  }

  get records(): number {
    return this.#records;
  }

  /** Tells how many bytes the values had that were read last. */
  learn(bytes: number): void {
    const next = bytes * 4 <= this.#maxBytes ? this.#records * 2 : Math.floor(this.#records / 2);
    this.#records = Math.min(mostRecords, Math.max(1, next));
  }
}
