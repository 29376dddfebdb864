/** Limits how many functions run at once under each name, such as the requests with the same token. */
export class Places {
  readonly #most: number;
  readonly #refusal: () => Error;
  readonly #taken = new Map<string, number>();

  /**
   * Sets the limit.
   *
   * @param most how many functions may run at once under one name.
   * @param refusal returns the error for a further function under the same name.
   */
  constructor(most: number, refusal: () => Error) {
    this.#most = most;
    this.#refusal = refusal;
  }

  /**
   * Runs a function under a name, and returns the function's result.
   *
   * @throws the error that `refusal` returns, if the limit of the name is reached; an error that `run` throws.
   */
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
