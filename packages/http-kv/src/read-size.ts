import type { RequestMemory } from "./memory-budget.ts";

const mostRecords = 64;

/**
 * How many records to read from the store at once: few at first, whose values may all be of the largest size, and more
 * while they are small. A store is not told how many bytes it may read, so for more there must be room for the worst.
 */
export class ReadSize {
  readonly #limits: { readonly maxAnswerBytes: number; readonly maxValueBytes: number };
  readonly #memory: RequestMemory;
  readonly #fewest: number;
  #records: number;

  /** @param memory where the room for a read is counted. */
  constructor(limits: { readonly maxAnswerBytes: number; readonly maxValueBytes: number }, memory: RequestMemory) {
    this.#limits = limits;
    this.#memory = memory;
    this.#fewest = Math.min(mostRecords, Math.max(1, Math.floor(limits.maxAnswerBytes / limits.maxValueBytes)));
    this.#records = this.#fewest;
  }

  /** Reads, with the number of records that there is room for. */
  async reading<Result>(read: (records: number) => Promise<Result>): Promise<Result> {
    let room = 0;
    while (this.#records > this.#fewest) {
      room = this.#records * this.#limits.maxValueBytes;
      if (this.#memory.tryReserve(room)) break;
      room = 0;
      this.#records = Math.max(this.#fewest, Math.floor(this.#records / 2));
    }
    try {
      return await read(this.#records);
    } finally {
      this.#memory.giveBack(room);
    }
  }

  /** Tells how many bytes the values had that were read last. */
  learn(bytes: number): void {
    const next = bytes * 4 <= this.#limits.maxAnswerBytes ? this.#records * 2 : Math.floor(this.#records / 2);
    this.#records = Math.min(mostRecords, Math.max(1, next));
  }
}
