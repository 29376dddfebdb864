/** Limits the requests per second of each API key. The limit is also the largest number that is accepted at once. */
export class RateLimit {
  readonly #perSecond: number;
  readonly #burst: number;
  readonly #buckets = new Map<string, { tokens: number; atMs: number }>();

  constructor(perSecond: number) {
    this.#perSecond = perSecond;
    this.#burst = Math.max(1, perSecond);
  }

  /**
   * Counts a request. Returns `undefined`, or the number of seconds to wait if there were too many. Call it only for API
   * keys that exist, since it remembers each id.
   */
  count(id: string): number | undefined {
    if (this.#perSecond === Number.POSITIVE_INFINITY) return undefined;
    const now = performance.now();
    const bucket = this.#buckets.get(id) ?? { tokens: this.#burst, atMs: now };
    this.#buckets.set(id, bucket);
    bucket.tokens = Math.min(this.#burst, bucket.tokens + ((now - bucket.atMs) / 1000) * this.#perSecond);
    bucket.atMs = now;
    if (bucket.tokens < 1) return Math.max(1, Math.ceil((1 - bucket.tokens) / this.#perSecond));
    bucket.tokens--;
    return undefined;
  }
}
