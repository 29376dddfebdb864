/** A point in time that neither a clock set back nor a machine that slept makes younger. */
export class Moment {
  readonly #steadyMs = performance.now();
  readonly #wallMs = Date.now();

  /** How many milliseconds ago it was. */
  agoMs(): number {
    // The steady clock stands still while the machine sleeps; the other one can be set back.
    return Math.max(performance.now() - this.#steadyMs, Date.now() - this.#wallMs);
  }
}
