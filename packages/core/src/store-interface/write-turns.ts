/**
 * Prevents a replacement, which first compares a record and then writes it, from undoing a write that was made through
 * the same store object in between.
 *
 * - A replacement is not made if a write of its key is in progress, or was in progress at any time since the
 *   comparison.
 * - A write waits for a replacement of its key that has begun.
 */
export class WriteTurns {
  /** Number of writes in progress for each key. */
  readonly #writing = new Map<string, number>();
  #clearing = 0;
  /** The keys of all writes that were in progress since the comparison began. */
  #touched: Set<string> | undefined;
  #cleared = false;
  readonly #replacing = new Map<string, Promise<unknown>>();

  /** Runs a write of these keys, or of all keys. The write first waits for replacements of its keys that have begun. */
  async write<Result>(keys: readonly string[] | "all", work: () => Promise<Result>): Promise<Result> {
    this.#count(keys, 1);
    try {
      const replacing = keys === "all" ? [...this.#replacing.values()] : keys.map((key) => this.#replacing.get(key));
      if (replacing.some((each) => each !== undefined)) await Promise.allSettled(replacing);
      return await work();
    } finally {
      this.#count(keys, -1);
    }
  }

  /**
   * Runs work that reads and compares records and then replaces them. At most one such run may be in progress at a
   * time.
   */
  async comparing<Result>(work: () => Promise<Result>): Promise<Result> {
    this.#touched = new Set(this.#writing.keys());
    this.#cleared = this.#clearing > 0;
    try {
      return await work();
    } finally {
      this.#touched = undefined;
    }
  }

  /**
   * Runs the replacement of a record that was compared, unless a write of the record has been in progress since the
   * comparison began. Returns whether the replacement was made.
   */
  async replace(key: string, work: () => Promise<boolean>): Promise<boolean> {
    if (this.#cleared || this.#touched?.has(key) === true) return false;
    // Register the replacement before it begins, so that a write of the key waits for it.
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
