const mostInGeneration = 1_000;
const generationMs = 60_000;

/**
 * Caches records whose form was checked recently, by their decrypted text. Each call reads the same few records, and
 * the check of a record takes longer than its decryption. Cached records are frozen, because calls share them. A record
 * that was not read for two minutes is removed from the cache by a later read.
 */
export class RecentRecords<Value> {
  #recent = new Map<string, Value>();
  #older = new Map<string, Value>();
  #begunMs = performance.now();

  /** Returns the cached record of a decrypted text. If there is none, checks the text, and caches the record. */
  get(text: string, check: (text: string) => Value): Value {
    const known = this.#recent.get(text);
    if (known !== undefined) return known;
    const value = this.#older.get(text) ?? frozen(check(text));
    const nowMs = performance.now();
    if (this.#recent.size >= mostInGeneration || nowMs - this.#begunMs > generationMs) {
      this.#older = this.#recent;
      this.#recent = new Map();
      this.#begunMs = nowMs;
    }
    this.#recent.set(text, value);
    return value;
  }
}

function frozen<Value>(value: Value): Value {
  if (typeof value === "object" && value !== null) Object.values(Object.freeze(value)).forEach(frozen);
  return value;
}
