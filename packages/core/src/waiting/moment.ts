/**
 * Measures the time since the object was created. Time while the machine sleeps counts, and setting the system clock
 * back does not shorten the time.
 */
export class Moment {
  readonly #monotonicMs = performance.now();
  readonly #wallMs = Date.now();

  /** Returns the number of milliseconds since the object was created. */
  agoMs(): number {
    // The monotonic clock stops while the machine sleeps, and the wall clock can be set back.
    return Math.max(performance.now() - this.#monotonicMs, Date.now() - this.#wallMs);
  }
}
