/**
 * Runs at most a certain number of functions at once, and of one owner at most a smaller number. The owners take turns, so an
 * owner whose functions take long does not delay those of others.
 */
export class Turns {
  #free: number;
  readonly #mostOfOwner: number;
  readonly #running = new Map<string, number>();
  /** What waits, by owner. The order of the map is the order of the turns. */
  readonly #waiting = new Map<string, (() => void)[]>();

  constructor(most: number, mostOfOwner: number) {
    this.#free = most;
    this.#mostOfOwner = mostOfOwner;
  }

  async run<Result>(owner: string, work: () => Promise<Result>): Promise<Result> {
    await new Promise<void>((resolve) => {
      const own = this.#waiting.get(owner);
      if (own === undefined) this.#waiting.set(owner, [resolve]);
      else own.push(resolve);
      this.#startNext();
    });
    try {
      return await work();
    } finally {
      this.#free++;
      this.#change(owner, -1);
      this.#startNext();
    }
  }

  #startNext(): void {
    for (const [owner, [next, ...others]] of this.#waiting) {
      if (this.#free === 0) return;
      if (next === undefined || (this.#running.get(owner) ?? 0) >= this.#mostOfOwner) continue;
      this.#waiting.delete(owner);
      if (others.length > 0) this.#waiting.set(owner, others);
      this.#free--;
      this.#change(owner, 1);
      next();
      return;
    }
  }

  #change(owner: string, by: number): void {
    const running = (this.#running.get(owner) ?? 0) + by;
    if (running === 0) this.#running.delete(owner);
    else this.#running.set(owner, running);
  }
}
