/** Counts answered calls, and lets callers wait until a number of calls has been answered. */
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

  /** Resolves when `count` calls have been answered, or when no more calls will be made. */
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

/** A gate that every call passes, and that can hold calls back. */
export class Gate {
  #held: PromiseWithResolvers<void> | undefined;
  #inProgress = 0;
  #idle: PromiseWithResolvers<void> | undefined;

  async pass<Result>(call: () => Promise<Result>): Promise<Result> {
    while (this.#held !== undefined) await this.#held.promise;
    this.#inProgress++;
    try {
      return await call();
    } finally {
      this.#inProgress--;
      if (this.#inProgress === 0) this.#idle?.resolve();
    }
  }

  /** Waits until no call is in progress, and holds new calls back until `during` has finished. */
  async hold<Result>(during: () => Promise<Result>): Promise<Result> {
    while (this.#held !== undefined) await this.#held.promise;
    const held = Promise.withResolvers<void>();
    this.#held = held;
    try {
      this.#idle = Promise.withResolvers<void>();
      if (this.#inProgress > 0) await this.#idle.promise;
      return await during();
    } finally {
      this.#held = undefined;
      this.#idle = undefined;
      held.resolve();
    }
  }
}
