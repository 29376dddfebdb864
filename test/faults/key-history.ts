/** An operation on one key: a write, or a delete if it has no value. */
export interface Operation {
  readonly value?: string;
  /** Expiry of the record, in milliseconds since the epoch. */
  readonly expires?: number;
}

/**
 * All operations on one key, in order. Only one writer uses the key, one operation after the other. An operation that began
 * and was never acknowledged may or may not have taken effect, until a later operation is acknowledged or seen.
 */
export class KeyHistory {
  readonly key: string;
  readonly #operations: Operation[] = [{}];
  #acknowledged = 0;
  /** Index of the oldest state that may still be seen. This state or a later one has been seen or acknowledged. */
  #newestSeen = 0;

  constructor(key: string) {
    this.key = key;
  }

  /** Begins the next operation. The caller calls the returned function when the store has acknowledged the operation. */
  begin(operation: Operation): () => void {
    const index = this.#operations.push(operation) - 1;
    return () => {
      this.#acknowledged = index;
    };
  }

  /** Returns a value that no other operation writes. */
  nextValue(): string {
    return `${this.key}#${this.#operations.length}`;
  }

  /** Begins a read. The returned function takes the value that was read, and returns a problem with it, if there is one. */
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

  /** Returns true if the record may exist. Returns false if every operation that may have been the last one removes the record. */
  mayBeThere(): boolean {
    return this.#operations
      .slice(this.#floor())
      .some(({ value, expires = Infinity }) => value !== undefined && expires > Date.now());
  }

  #floor(): number {
    return Math.max(this.#acknowledged, this.#newestSeen);
  }
}
