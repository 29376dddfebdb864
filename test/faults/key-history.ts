/** What is done to a key: a write, or without a value a delete. */
export interface Operation {
  readonly value?: string;
  /** When the record stops being there, in ms since the epoch. */
  readonly expires?: number;
}

/**
 * Everything that was done to one key, in order: only one writer has it, and does one thing after another. What was
 * begun and never acknowledged may have happened or not, until something later was acknowledged or seen.
 */
export class KeyHistory {
  readonly key: string;
  readonly #operations: Operation[] = [{}];
  #acknowledged = 0;
  /** No state before this one may be seen any more, since it or a later one was. */
  #newestSeen = 0;

  constructor(key: string) {
    this.key = key;
  }

  /** Begins the next operation; the returned function is called when the store has acknowledged it. */
  begin(operation: Operation): () => void {
    const index = this.#operations.push(operation) - 1;
    return () => {
      this.#acknowledged = index;
    };
  }

  /** A value that no other operation writes. */
  nextValue(): string {
    return `${this.key}#${this.#operations.length}`;
  }

  /** Begins a read; the returned function says what is wrong with what it found, if anything. */
  beginRead(): (found: unknown) => string | undefined {
    const floor = this.#floor();
    const beganMs = Date.now();
    return (found) => {
      const endedMs = Date.now();
      const possible = this.#operations.slice(floor);
      const seen = possible.findIndex(({ value, expires }) =>
        found === undefined ? value === undefined || (expires ?? Infinity) <= endedMs : value === found,
      );
      if (seen === -1) {
        return found === undefined
          ? `${this.key} was missed: nothing since operation ${floor} removed it`
          : `${this.key} gave ${String(found)}, older than operation ${floor}, or never written`;
      }
      const expires = possible[seen]?.expires ?? Infinity;
      if (found !== undefined && expires <= beganMs) return `${this.key} gave a value that had expired`;
      this.#newestSeen = Math.max(this.#newestSeen, floor + seen);
      return undefined;
    };
  }

  /** Whether a record may lie in the store now: not if all that can have been the last operation removed it. */
  mayBeThere(): boolean {
    return this.#operations
      .slice(this.#floor())
      .some(({ value, expires = Infinity }) => value !== undefined && expires > Date.now());
  }

  #floor(): number {
    return Math.max(this.#acknowledged, this.#newestSeen);
  }
}
