/** Until when a call may go on. */
export class Deadline {
  readonly #atMs: number;
  readonly #shareOverAtMs: number;
  #ending: AbortController | undefined;
  #passed = false;
  /** What went wrong last, to be told when nothing better comes in time. */
  lastError: unknown;

  constructor(timeoutMs: number) {
    const startedAtMs = performance.now();
    this.#atMs = startedAtMs + timeoutMs;
    this.#shareOverAtMs = startedAtMs + timeoutMs / 4;
  }

  /** Whether work that can be gone on with later had better stop: a quarter of the time is over. */
  get shareOver(): boolean {
    return performance.now() >= this.#shareOverAtMs;
  }

  /** Whether the caller has its answer, or has been told that it took too long: nothing more may be sent for it. */
  get passed(): boolean {
    this.#passed ||= performance.now() >= this.#atMs;
    return this.#passed;
  }

  /** Aborted when the deadline passes, or the call has settled before. */
  get signal(): AbortSignal {
    // Made for who asks: an abort brings an exception with its stack, which would be a tenth of a call.
    this.#ending ??= new AbortController();
    if (this.#passed) this.#ending.abort();
    return this.#ending.signal;
  }

  /** The result of the work, or of `late` where it takes longer. */
  async bound<Result>(work: Promise<Result>, late: () => Error): Promise<Result> {
    return await new Promise<Result>((resolve, reject) => {
      const timer = setTimeout(
        () => {
          this.#end();
          reject(late());
        },
        Math.max(0, this.#atMs - performance.now()),
      );
      // Parts of the work may be under way still: one that failed does not wait for the others.
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
