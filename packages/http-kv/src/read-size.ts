import type { RequestMemory } from "./memory-budget.ts";

const maxRecords = 64;

/**
 * Determines how many records a request reads from the store at once. The first read has so few records that they fit
 * into an answer even if all their values have the largest size. As long as the values are small, each further read has
 * more records. A store cannot limit a read to a number of bytes. Therefore a read with more records than the first one
 * reserves memory as if all its values had the largest size.
 */
export class ReadSize {
  readonly #limits: { readonly maxAnswerBytes: number; readonly maxValueBytes: number };
  readonly #memory: RequestMemory;
  readonly #minRecords: number;
  #records: number;

  /**
   * @param memory the memory of the request. If a later read has more records than the first one, the read reserves bytes
   * in `memory`.
   */
  constructor(limits: { readonly maxAnswerBytes: number; readonly maxValueBytes: number }, memory: RequestMemory) {
    this.#limits = limits;
    this.#memory = memory;
    this.#minRecords = Math.min(maxRecords, Math.max(1, Math.floor(limits.maxAnswerBytes / limits.maxValueBytes)));
    this.#records = this.#minRecords;
  }

  /**
   * Calls `read` with the number of records that it may fetch, and returns its result. If this number is larger than that
   * of the first call, reserves memory for the additional records until `read` has settled.
   */
  async reading<Result>(read: (records: number) => Promise<Result>): Promise<Result> {
    let room = 0;
    while (this.#records > this.#minRecords) {
      room = this.#records * this.#limits.maxValueBytes;
      if (this.#memory.tryReserve(room)) break;
      room = 0;
      this.#records = Math.max(this.#minRecords, Math.floor(this.#records / 2));
    }
    try {
      return await read(this.#records);
    } finally {
      this.#memory.giveBack(room);
    }
  }

  /**
   * Chooses the number of records of the next read: more if the values of the last read were short, and otherwise
   * fewer.
   *
   * @param bytes total length of the values of the last read.
   */
  adapt(bytes: number): void {
    const next = bytes * 4 <= this.#limits.maxAnswerBytes ? this.#records * 2 : Math.floor(this.#records / 2);
    this.#records = Math.min(maxRecords, Math.max(1, next));
  }
}
