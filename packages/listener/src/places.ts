/** Bounds how much is in progress at once under each name. */
export class Places {
  readonly #most: number;
  readonly #refusal: () => Error;
  readonly #taken = new Map<string, number>();

  /**
   * Sets the number of places of each name.
   *
   * @param refusal returns the error for a name that has `most` places already.
   */
  constructor(most: number, refusal: () => Error) {
    this.#most = most;
    this.#refusal = refusal;
  }

  /** Runs a function in one of the places of a name. */
  async hold<Result>(name: string, run: () => Promise<Result>): Promise<Result> {
    const taken = this.#taken.get(name) ?? 0;
    if (taken >= this.#most) throw this.#refusal();
    this.#taken.set(name, taken + 1);
    try {
      return await run();
    } finally {
      const left = (this.#taken.get(name) ?? 1) - 1;
      if (left === 0) this.#taken.delete(name);
      else this.#taken.set(name, left);
    }
  }
}
