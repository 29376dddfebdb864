/**
 * The time at which the object was created. Its age also grows while the machine sleeps, and does not shrink if the
 * system clock is set back.
 */
export class Moment {
  readonly #monotonicMs = performance.now();
  readonly #wallMs = Date.now();

  /** Returns how long ago the moment was, in milliseconds. */
  agoMs(): number {
    // The monotonic clock stops while the machine sleeps, and the wall clock can be set back.
    return Math.max(performance.now() - this.#monotonicMs, Date.now() - this.#wallMs);
  }
}
