import { Moment } from "./moment.ts";

/** The options of a {@link RetryPause}: how long to pause after failed attempts. */
export interface RetryPauseOptions {
  /** The pause after the first failure, in milliseconds. */
  readonly firstMs: number;
  /** The length of each further pause is the length of the previous pause multiplied by this factor. Default: 2. */
  readonly factor?: number;
  /** Maximum length of a pause in milliseconds, before a random part of up to 20 % is added. */
  readonly longestMs: number;
}

// Processes that fail at the same time must not retry at the same time forever.
const jitter = 0.2;

/**
 * Measures how long to pause before the next attempt after failed attempts. For authors of a key provider. Each pause
 * is longer than the previous pause, up to `longestMs`. A random part of up to 20 % is added. Time during which the
 * machine sleeps counts as part of the pause.
 *
 * @example
 * const pause = new RetryPause({ firstMs: 1_000, longestMs: 60_000 });
 * pause.failed();
 * console.log(pause.leftMs()); // between 1,000 and 1,200
 */
export class RetryPause {
  readonly #options: RetryPauseOptions;
  #nextMs: number;
  #begun: { readonly moment: Moment; readonly durationMs: number } | undefined;

  /** Creates a `RetryPause` without a pause in progress. The first pause begins with `failed()`. */
  constructor(options: RetryPauseOptions) {
    this.#options = options;
    this.#nextMs = options.firstMs;
  }

  /** Records a failed attempt, which begins the next pause. */
  failed(): void {
    const { factor = 2, longestMs } = this.#options;
    this.#begun = { moment: new Moment(), durationMs: this.#nextMs * (1 + jitter * Math.random()) };
    this.#nextMs = Math.min(this.#nextMs * factor, longestMs);
  }

  /** Records a successful attempt: the pause ends, and the next pause is as short as the first. */
  succeeded(): void {
    this.#begun = undefined;
    this.#nextMs = this.#options.firstMs;
  }

  /** Returns how many milliseconds of the current pause are left. Returns 0 if the next attempt may be made now. */
  leftMs(): number {
    return this.#begun === undefined ? 0 : Math.max(0, this.#begun.durationMs - this.#begun.moment.agoMs());
  }
}
