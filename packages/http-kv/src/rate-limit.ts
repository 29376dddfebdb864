/**
 * Limits the number of requests per second with each API key. An API key that was not used for a second can send as
 * many requests at once as the limit allows per second.
 */
export class RateLimit {
  readonly #perSecond: number;
  readonly #burst: number;
  readonly #buckets = new Map<string, { tokens: number; atMs: number }>();

  constructor(perSecond: number) {
    this.#perSecond = perSecond;
    this.#burst = Math.max(1, perSecond);
  }

  /**
   * Counts a request with the API key that has this id. Returns `undefined` if the request is within the limit, and
   * otherwise the number of seconds to wait. Call `count` only for API keys that exist, since `count` remembers each
   * id.
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
