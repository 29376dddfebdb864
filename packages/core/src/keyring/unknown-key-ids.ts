// How long, and for how many ids, a source remembers that the provider does not have a key.
const rememberedMs = 5_000;
const maxRemembered = 1_000;

/**
 * The ids of keys that the provider did not have when it was last asked for them. Each id is forgotten after 5 seconds.
 */
export class UnknownKeyIds {
  readonly #askedAtMs = new Map<string, number>();

  /** Returns true if the provider was asked for the key `id` within the last 5 seconds, and did not have this key. */
  has(id: string): boolean {
    const askedAtMs = this.#askedAtMs.get(id);
    return askedAtMs !== undefined && performance.now() - askedAtMs < rememberedMs;
  }

  /** Remembers that the provider does not have the key `id`. If this makes more than 1,000 ids, forgets the oldest. */
  add(id: string): void {
    // Deleted first, so that the id becomes the newest of the Map.
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
