/**
 * Prevents lost writes in a store without an atomic replace. A replacement first compares a record and then writes it.
 * Between these two steps, a write through the same store object may change the record. The replacement must not undo
 * that write.
 *
 * - A record is not replaced if a write of the record is in progress, or was in progress at any time since the
 *   comparison.
 * - If a replacement of a record has begun, a write of the record waits for its end.
 */
export class WriteTurns {
  /** Number of writes in progress for each key. */
  readonly #writing = new Map<string, number>();
  #clearing = 0;
  /** The keys of all writes that were in progress since the comparison began. */
  #touched: Set<string> | undefined;
  #cleared = false;
  readonly #replacing = new Map<string, Promise<unknown>>();

  /**
   * Runs `work`, which writes the records under `keys`, or all records. If replacements of these records have begun,
   * first waits for their end.
   */
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
   * Runs `work`, a function that reads and compares records and then replaces them with {@link WriteTurns.replace}. Do
   * not call this method again before `work` has ended.
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
   * Runs `work`, which replaces a record after the comparison, and returns its result. If a write of the record has
   * been in progress at any time since the comparison began, returns false and does not run `work`.
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
