// The time for which a source remembers that the provider does not have a key, and the maximum number of such keys.
const rememberedMs = 5_000;
const maxRemembered = 1_000;

/** Remembers the ids of keys that were missing in the keyring of the provider. Forgets each id after 5 seconds. */
export class UnknownKeyIds {
  readonly #askedAtMs = new Map<string, number>();

  /** Returns whether the key `id` was missing in a keyring that the provider returned within the last 5 seconds. */
  has(id: string): boolean {
    const askedAtMs = this.#askedAtMs.get(id);
    return askedAtMs !== undefined && performance.now() - askedAtMs < rememberedMs;
  }

  /**
   * Remembers that the provider does not have the key `id`. If the list has more than 1,000 ids, forgets the oldest id.
   */
  add(id: string): void {
    // Delete the id first, so that it becomes the newest entry of the Map.
    this.#askedAtMs.delete(id);
    this.#askedAtMs.set(id, performance.now());
    if (this.#askedAtMs.size <= maxRemembered) return;
    for (const oldest of this.#askedAtMs.keys()) {
      this.#askedAtMs.delete(oldest);
      break;
    }
  }

  /** Forgets all ids. */
  clear(): void {
    this.#askedAtMs.clear();
  }
}
