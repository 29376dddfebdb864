/**
 * A point in time. Its age never shrinks, neither when the clock is set back nor while the machine sleeps.
 */
export class Moment {
  readonly #monotonicMs = performance.now();
  readonly #wallMs = Date.now();

  /** Returns the age in milliseconds. */
  agoMs(): number {
    // The monotonic clock stops while the machine sleeps, and the wall clock can be set back.
    return Math.max(performance.now() - this.#monotonicMs, Date.now() - this.#wallMs);
  }
}
