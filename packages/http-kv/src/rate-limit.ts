/** Lets each API key make so many requests a second, and as many at once. */
export class RateLimit {
  readonly #perSecond: number;
  readonly #mostAtOnce: number;
  readonly #buckets = new Map<string, { tokens: number; atMs: number }>();

  constructor(perSecond: number) {
    this.#perSecond = perSecond;
    this.#mostAtOnce = Math.max(1, perSecond);
  }

  /** Counts a request; how many seconds to wait where there were too many. Only keys that are known may be counted. */
  take(id: string): number | undefined {
    if (this.#perSecond === Number.POSITIVE_INFINITY) return undefined;
    const now = performance.now();
    const bucket = this.#buckets.get(id) ?? { tokens: this.#mostAtOnce, atMs: now };
    this.#buckets.set(id, bucket);
    bucket.tokens = Math.min(this.#mostAtOnce, bucket.tokens + ((now - bucket.atMs) / 1000) * this.#perSecond);
    bucket.atMs = now;
    if (bucket.tokens < 1) return Math.max(1, Math.ceil((1 - bucket.tokens) / this.#perSecond));
    bucket.tokens--;
    return undefined;
  }
}
