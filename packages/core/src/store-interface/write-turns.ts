/**
 * Keeps replacements that first compare and then write from undoing what the same store writes. A replacement makes way for
 * a write that is under way, or has been since the comparison; a write waits for the one replacement of its key that has begun.
 */
export class WriteTurns {
  /** How many writes of each key are under way. */
  readonly #writing = new Map<string, number>();
  #clearing = 0;
  /** The keys of writes that were under way since a comparison began. */
  #touched: Set<string> | undefined;
  #cleared = false;
  readonly #replacing = new Map<string, Promise<unknown>>();

  /** Writes these keys, or all that there are. */
  async write<Result>(keys: readonly string[] | "all", work: () => Promise<Result>): Promise<Result> {
    this.#count(keys, 1);
    try {
      const underWay = keys === "all" ? [...this.#replacing.values()] : keys.map((key) => this.#replacing.get(key));
      if (underWay.some((each) => each !== undefined)) await Promise.allSettled(underWay);
      return await work();
    } finally {
      this.#count(keys, -1);
    }
  }

  /** Does what reads, compares and replaces; one at a time. */
  async comparing<Result>(work: () => Promise<Result>): Promise<Result> {
    this.#touched = new Set(this.#writing.keys());
    this.#cleared = this.#clearing > 0;
    try {
      return await work();
    } finally {
      this.#touched = undefined;
    }
  }

  /** Replaces a record that was compared, unless somebody writes it; says whether it was replaced. */
  async replace(key: string, work: () => Promise<boolean>): Promise<boolean> {
    if (this.#cleared || this.#touched?.has(key) === true) return false;
    // Writes can see it before it begins.
    const replacing = Promise.resolve().then(work);
    this.#replacing.set(key, replacing);
    try {
      return await replacing;
    } finally {
      this.#replacing.delete(key);
    }
  }

  #count(keys: readonly string[] | "all", more: 1 | -1): void {
    if (keys === "all") {
      this.#clearing += more;
      this.#cleared = true;
      return;
    }
    for (const key of keys) {
      this.#touched?.add(key);
      const count = (this.#writing.get(key) ?? 0) + more;
      if (count > 0) this.#writing.set(key, count);
      else this.#writing.delete(key);
    }
  }
}
