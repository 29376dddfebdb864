import { setImmediate as nextTurn } from "node:timers/promises";
import type { Replacement, StoredValue } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import type { KeyvStorageEntry } from "keyv";
import type { Random } from "./random.ts";

/** A memory store whose calls wait before and after they take effect, so that other calls happen in between. */
export class UnhurriedStore extends MemoryStore {
  readonly random: Random;

  constructor(random: Random, origin?: UnhurriedStore) {
    super(origin);
    this.random = random;
  }

  override namespaced(namespace: string): UnhurriedStore {
    const view = new UnhurriedStore(this.random, this);
    view.namespace = namespace;
    return view;
  }

  override get(key: string): Promise<StoredValue | undefined> {
    return this.#amid(() => super.get(key));
  }

  override getMany(keys: readonly string[]): Promise<(StoredValue | undefined)[]> {
    return this.#amid(() => super.getMany(keys));
  }

  override set(key: string, value: unknown, expires?: number): Promise<boolean> {
    return this.#amid(() => super.set(key, value, expires));
  }

  override setMany(entries: readonly KeyvStorageEntry<unknown>[]): Promise<boolean[]> {
    return this.#amid(() => super.setMany(entries));
  }

  override delete(key: string): Promise<boolean> {
    return this.#amid(() => super.delete(key));
  }

  override deleteMany(keys: readonly string[]): Promise<boolean[]> {
    return this.#amid(() => super.deleteMany(keys));
  }

  override replaceMany(changes: readonly Replacement[]): Promise<boolean[]> {
    return this.#amid(() => super.replaceMany(changes));
  }

  async #amid<Result>(call: () => Promise<Result>): Promise<Result> {
    if (this.random() < 0.2) await nextTurn();
    const result = await call();
    if (this.random() < 0.2) await nextTurn();
    return result;
  }
}
