const maxRemembered = 100_000;

/**
 * Remembers the highest revision that was seen of each of the last 100,000 records that this process read. If a record has a
 * lower revision than the one remembered, someone who can write to the store has put back an older version of the record.
 */
export class SeenRevisions {
  readonly #seen = new Map<string, { readonly revision: number; readonly at: number }>();
  #clock = 0;

  /** Returns the time of a read that is about to begin, as a number for {@link SeenRevisions.isRolledBack}. */
  readBegins(): number {
    this.#clock++;
    return this.#clock;
  }

  /**
   * Returns true if a higher revision was seen before the read began. If the read began earlier, it may have returned
   * the former revision without any rollback.
   */
  isRolledBack(identity: string, revision: number, began: number): boolean {
    const known = this.#seen.get(identity);
    return known !== undefined && revision < known.revision && known.at < began;
  }

  /** Remembers a revision, unless a higher one was seen. */
  note(identity: string, revision: number): void {
    const known = this.#seen.get(identity);
    this.#seen.delete(identity);
    this.#seen.set(
      identity,
      known !== undefined && known.revision >= revision ? known : { revision, at: this.readBegins() },
    );
    if (this.#seen.size <= maxRemembered) return;
    const [oldest] = this.#seen.keys();
    if (oldest !== undefined) this.#seen.delete(oldest);
  }
}
