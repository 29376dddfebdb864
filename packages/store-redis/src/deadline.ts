/** The time limit of one call of a store. */
export class Deadline {
  readonly #atMs: number;
  readonly #shareOverAtMs: number;
  #ending: AbortController | undefined;
  #passed = false;
  /** The latest error during the call. If the call reaches its time limit, this error explains why. */
  lastError: unknown;

  constructor(timeoutMs: number) {
    const startedAtMs = performance.now();
    this.#atMs = startedAtMs + timeoutMs;
    this.#shareOverAtMs = startedAtMs + timeoutMs / 4;
  }

  /**
   * Whether a quarter of the time limit has passed. If a scan has found no keys by that time, it returns an empty page,
   * and the next page continues the scan.
   */
  get shareOver(): boolean {
    return performance.now() >= this.#shareOverAtMs;
  }

  /** Whether the call has settled or has reached its time limit. If so, no more commands may be sent for the call. */
  get passed(): boolean {
    this.#passed ||= performance.now() >= this.#atMs;
    return this.#passed;
  }

  /** A signal that aborts when the deadline passes or the call settles. */
  get signal(): AbortSignal {
    // Created on demand: an abort creates an exception with a stack, which would be a tenth of the time of a call.
    this.#ending ??= new AbortController();
    if (this.#passed) this.#ending.abort();
    return this.#ending.signal;
  }

  /**
   * Waits for `work` and returns its result. If the time limit passes first, rejects with the error that `late`
   * returns.
   */
  async bound<Result>(work: Promise<Result>, late: () => Error): Promise<Result> {
    return await new Promise<Result>((resolve, reject) => {
      const timer = setTimeout(
        () => {
          this.#end();
          reject(late());
        },
        Math.max(0, this.#atMs - performance.now()),
      );
      // Other parts of the work may still be in progress: the first failure does not wait for them.
      const settle = () => {
        clearTimeout(timer);
        this.#end();
      };
      work.then(
        (result) => {
          settle();
          resolve(result);
        },
        (error: unknown) => {
          settle();
          reject(error);
        },
      );
    });
  }

  #end(): void {
    this.#passed = true;
    this.#ending?.abort();
  }
}
