/** Until when a call may go on. */
export class Deadline {
  readonly #atMs: number;
  readonly #ending = new AbortController();
  #passed = false;
  /** What went wrong last, to be told when nothing better comes in time. */
  lastError: unknown;

  constructor(timeoutMs: number) {
    this.#atMs = performance.now() + timeoutMs;
  }

  /** Whether the caller has been told already that it took too long. */
  get passed(): boolean {
    this.#passed ||= performance.now() >= this.#atMs;
    return this.#passed;
  }

  /** Aborted when the deadline passes. */
  get signal(): AbortSignal {
    return this.#ending.signal;
  }

  /** The result of the work, or of `late` where it takes longer. */
  async bound<Result>(work: Promise<Result>, late: () => Error): Promise<Result> {
    return await new Promise<Result>((resolve, reject) => {
      const timer = setTimeout(
        () => {
          this.#passed = true;
          this.#ending.abort();
          reject(late());
        },
        Math.max(0, this.#atMs - performance.now()),
      );
      work.then(resolve, reject).finally(() => clearTimeout(timer));
    });
  }
}
