/** How many calls have been answered, and who waits for how many. */
export class Progress {
  #count = 0;
  #stopped = false;
  readonly #waiting = new Set<{ readonly count: number; readonly resolve: () => void }>();

  get count(): number {
    return this.#count;
  }

  advance(): void {
    this.#count++;
    this.#wake();
  }

  /** Resolves when so many calls have been answered, or when there will be no more. */
  async reached(count: number): Promise<void> {
    if (this.#stopped || this.#count >= count) return;
    await new Promise<void>((resolve) => this.#waiting.add({ count, resolve }));
  }

  stop(): void {
    this.#stopped = true;
    this.#wake();
  }

  #wake(): void {
    for (const one of this.#waiting) {
      if (!this.#stopped && this.#count < one.count) continue;
      this.#waiting.delete(one);
      one.resolve();
    }
  }
}

/** What all calls go through, and can be held back. */
export class Gate {
  #held: PromiseWithResolvers<void> | undefined;
  #underWay = 0;
  #idle: PromiseWithResolvers<void> | undefined;

  async pass<Result>(call: () => Promise<Result>): Promise<Result> {
    while (this.#held !== undefined) await this.#held.promise;
    this.#underWay++;
    try {
      return await call();
    } finally {
      this.#underWay--;
      if (this.#underWay === 0) this.#idle?.resolve();
    }
  }

  /** Resolves when no call is under way; none begins until `during` is over. */
  async hold<Result>(during: () => Promise<Result>): Promise<Result> {
    while (this.#held !== undefined) await this.#held.promise;
    const held = Promise.withResolvers<void>();
    this.#held = held;
    try {
      this.#idle = Promise.withResolvers<void>();
      if (this.#underWay > 0) await this.#idle.promise;
      return await during();
    } finally {
      this.#held = undefined;
      this.#idle = undefined;
      held.resolve();
    }
  }
}
