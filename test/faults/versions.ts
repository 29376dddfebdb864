import type { EncryptedStore } from "@keyward/core";

/**
 * The versions of records that this process knows. The value of a record is its version, a number that grows by one with
 * each write. Each process writes only its own records, and reads the records of all processes.
 */
export class Versions {
  readonly #store: EncryptedStore;
  readonly #own: readonly string[];
  readonly #failures: string[];
  /** Lowest version that each record can have, by key of the record. */
  readonly #known = new Map<string, number>();

  /** @param failures Receives a text for each read of an impossible version. */
  constructor(store: EncryptedStore, own: readonly string[], failures: string[]) {
    this.#store = store;
    this.#own = own;
    this.#failures = failures;
  }

  /**
   * Writes each record of this process. Continues after the versions that an earlier process of the same name wrote, if
   * there are any.
   */
  async begin(): Promise<void> {
    const found = await this.#store.getMany([...this.#own]);
    for (const [index, key] of this.#own.entries()) this.#known.set(key, Number(found[index] ?? 0));
    for (const key of this.#own) await this.write(key);
  }

  /** Writes the next version of a record of this process. */
  async write(key: string): Promise<void> {
    const version = (this.#known.get(key) ?? 0) + 1;
    await this.#store.set(key, String(version));
    this.#known.set(key, version);
  }

  /**
   * Reads records and checks their versions. No version may be older than the version that this process knows. In a record
   * of this process, no version may be newer either.
   */
  async read(keys: readonly string[]): Promise<void> {
    const least = keys.map((key) => this.#known.get(key) ?? 0);
    const found = await this.#store.getMany([...keys]);
    for (const [index, key] of keys.entries()) {
      const version = Number(found[index] ?? 0);
      const known = least[index] ?? 0;
      if (version < known || (this.#own.includes(key) && version > known)) {
        this.#failures.push(`${key} returned version ${version}, although version ${known} was known`);
      }
      this.#known.set(key, version);
    }
  }
}
