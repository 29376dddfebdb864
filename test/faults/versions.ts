import type { EncryptedStore } from "@keyward/core";

/** What one process knows of records whose values count up: its own, which nobody else writes, and those of others. */
export class Versions {
  readonly #store: EncryptedStore;
  readonly #own: readonly string[];
  readonly #failures: string[];
  /** By key, the version that it has at least. */
  readonly #known = new Map<string, number>();

  /** @param failures gets what was read and cannot be. */
  constructor(store: EncryptedStore, own: readonly string[], failures: string[]) {
    this.#store = store;
    this.#own = own;
    this.#failures = failures;
  }

  /** Writes each of its own for the first time. */
  async begin(): Promise<void> {
    for (const key of this.#own) await this.write(key);
  }

  /** The next version of one of its own. */
  async write(key: string): Promise<void> {
    const version = (this.#known.get(key) ?? 0) + 1;
    await this.#store.set(key, String(version));
    this.#known.set(key, version);
  }

  /** What is read is never older than what was known before, and of its own never newer. */
  async read(keys: readonly string[]): Promise<void> {
    const least = keys.map((key) => this.#known.get(key) ?? 0);
    const found = await this.#store.getMany([...keys]);
    for (const [index, key] of keys.entries()) {
      const version = Number(found[index] ?? 0);
      const known = least[index] ?? 0;
      if (version < known || (this.#own.includes(key) && version > known)) {
        this.#failures.push(`${key} gave version ${version} where ${known} was known`);
      }
      this.#known.set(key, version);
    }
  }
}
