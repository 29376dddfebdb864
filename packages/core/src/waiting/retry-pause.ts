import { Moment } from "./moment.ts";

/** Options of a {@link RetryPause}. */
export interface RetryPauseOptions {
  /** The pause after the first failure, in milliseconds. */
  readonly firstMs: number;
  /** Factor by which each further pause is longer than the one before. Default: 2. */
  readonly factor?: number;
  /** Maximum length of a pause in milliseconds, without its random part. */
  readonly longestMs: number;
}

// Processes that fail at the same time must not retry at the same time forever.
const jitter = 0.2;

/**
 * The pause between attempts that fail again and again, for authors of a key provider. Each pause is longer than the
 * one before, up to `longestMs`, plus a random part of up to 20 %. Time during which the machine sleeps counts as part
 * of the pause.
 */
export class RetryPause {
  readonly #options: RetryPauseOptions;
  #nextMs: number;
  #begun: { readonly moment: Moment; readonly durationMs: number } | undefined;

  /** Creates a pause that has not begun. */
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

  /** Returns the milliseconds that are left of the pause; 0 if another attempt may be made. */
  leftMs(): number {
    return this.#begun === undefined ? 0 : Math.max(0, this.#begun.durationMs - this.#begun.moment.agoMs());
  }
}
