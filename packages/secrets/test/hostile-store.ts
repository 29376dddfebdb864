import type { WrappableStore } from "@keyward/core";
import { serviceNamespace } from "@keyward/secrets";
import type { MemoryStore } from "@keyward/store-memory";
import type { Service } from "./service.ts";

/** What someone can do who writes to the store of a service and has no key. */
export class HostileStore {
  readonly #view: MemoryStore;

  constructor({ store }: Pick<Service, "store">) {
    this.#view = store.namespaced(serviceNamespace);
  }

  /** Returns a record as it is stored. */
  async read(key: string): Promise<unknown> {
    return await this.#view.get(key);
  }

  /** Puts a record back that was read before. */
  async putBack(key: string, stored: unknown): Promise<void> {
    await this.#view.set(key, stored);
  }

  async remove(key: string): Promise<void> {
    await this.#view.delete(key);
  }

  /** Changes a byte of the ciphertext. */
  async damage(key: string): Promise<void> {
    const stored = await this.#view.get(key);
    if (!(stored instanceof Uint8Array)) throw new Error(`${key} has no record`);
    const bytes = Buffer.from(stored);
    const last = bytes.length - 1;
    bytes[last] = (bytes[last] ?? 0) ^ 1;
    await this.#view.set(key, bytes);
  }
}

/** Returns a store that calls `before` with the key before each write. */
export function slowStore(store: WrappableStore, before: (key: string) => Promise<void>): WrappableStore {
  return new Proxy(store, {
    get(target, property) {
      const member: unknown = Reflect.get(target, property, target);
      if (typeof member !== "function") return member;
      return (...given: unknown[]) => {
        if (property === "namespaced") return slowStore(member.apply(target, given), before);
        const [key] = given;
        if (property !== "replace" && property !== "replaceMany") return member.apply(target, given);
        return before(JSON.stringify(key)).then(() => member.apply(target, given));
      };
    },
  });
}

/** Returns a store that calls `before` with the keys before each read of several records. */
export function haltedRead(store: WrappableStore, before: (keys: string) => Promise<void>): WrappableStore {
  return new Proxy(store, {
    get(target, property) {
      const member: unknown = Reflect.get(target, property, target);
      if (typeof member !== "function") return member;
      return (...given: unknown[]) => {
        if (property === "namespaced") return haltedRead(member.apply(target, given), before);
        if (property !== "getMany" && property !== "get") return member.apply(target, given);
        return before(JSON.stringify(given)).then(() => member.apply(target, given));
      };
    },
  });
}
