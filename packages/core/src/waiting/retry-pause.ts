import { Moment } from "./moment.ts";

/** How long a {@link RetryPause} is. */
export interface RetryPauseOptions {
  /** The pause after the first failure, in milliseconds. */
  readonly firstMs: number;
  /** How many times longer each further pause is. Default 2. */
  readonly factor?: number;
  /** No pause is longer than this, in milliseconds, but for the random part. */
  readonly longestMs: number;
}

// Processes that fail together must not ask together for ever.
const jitter = 0.2;

/**
 * The pause between attempts that keep failing, for those who write a key provider. Each pause is longer than the one
 * before, up to `longestMs`, and a random part of up to a fifth is added to it. Time during which the machine slept counts.
 */
export class RetryPause {
  readonly #options: RetryPauseOptions;
  #nextMs: number;
  #begun: { readonly moment: Moment; readonly durationMs: number } | undefined;

  /** A pause that has not begun. */
  constructor(options: RetryPauseOptions) {
    this.#options = options;
    this.#nextMs = options.firstMs;
  }

  /** An attempt failed: begins the next pause. */
  failed(): void {
    const { factor = 2, longestMs } = this.#options;
    this.#begun = { moment: new Moment(), durationMs: this.#nextMs * (1 + jitter * Math.random()) };
    this.#nextMs = Math.min(this.#nextMs * factor, longestMs);
  }

  /** An attempt succeeded: the pause ends, and the next one is as short as the first. */
  succeeded(): void {
    this.#begun = undefined;
    this.#nextMs = this.#options.firstMs;
  }

  /** How many milliseconds are left of the pause; 0 when another attempt may be made. */
  leftMs(): number {
    return this.#begun === undefined ? 0 : Math.max(0, this.#begun.durationMs - this.#begun.moment.agoMs());
  }
}
