/**
 * Limits how often an event may happen under each name, such as requests under the id of a token. Each name has a budget.
 * An event uses up one unit of the budget, and the budget grows again over time. At most `maxNames` names are remembered.
 * The name that was used longest ago is forgotten first.
 */
export class Budgets {
  readonly #perSecond: number;
  readonly #burst: number;
  readonly #maxNames: number;
  readonly #budgets = new Map<string, { left: number; atMs: number }>();

  /**
   * Sets the budget of each name.
   *
   * @param options.perSecond how many events a second are added to the budget of each name.
   * @param options.burst the largest budget of a name, and the budget of a new name. `Infinity` for no limit.
   * @param options.maxNames how many names are remembered.
   */
  constructor({ perSecond, burst, maxNames }: { perSecond: number; burst: number; maxNames: number }) {
    this.#perSecond = perSecond;
    this.#burst = burst;
    this.#maxNames = maxNames;
  }

  /** Returns how many seconds must pass before a name's next event; `undefined` if its budget allows an event now. */
  waitSeconds(name: string): number | undefined {
    if (this.#burst === Number.POSITIVE_INFINITY) return undefined;
    const { left } = this.#at(name);
    return left >= 1 ? undefined : Math.max(1, Math.ceil((1 - left) / this.#perSecond));
  }

  /** Counts an event: reduces the budget of a name by one. */
  take(name: string): void {
    if (this.#burst === Number.POSITIVE_INFINITY) return;
    const budget = this.#at(name);
    budget.left = Math.max(0, budget.left - 1);
    this.#budgets.delete(name);
    this.#budgets.set(name, budget);
    if (this.#budgets.size <= this.#maxNames) return;
    for (const oldest of this.#budgets.keys()) {
      this.#budgets.delete(oldest);
      return;
    }
  }

  #at(name: string): { left: number; atMs: number } {
    const now = performance.now();
    const budget = this.#budgets.get(name) ?? { left: this.#burst, atMs: now };
    budget.left = Math.min(this.#burst, budget.left + ((now - budget.atMs) / 1_000) * this.#perSecond);
    budget.atMs = now;
    return budget;
  }
}
