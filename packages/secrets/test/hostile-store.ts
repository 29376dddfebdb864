import type { WrappableStore } from "@keyward/core";
import { serviceNamespace } from "@keyward/secrets";
import type { MemoryStore } from "@keyward/store-memory";
import type { Service } from "./service.ts";

/** The actions of an attacker who can write to the store of a service and has no key. */
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

/** Returns a store that calls `before` with the changed records before each write. */
export function slowStore(store: WrappableStore, before: (changes: string) => Promise<void>): WrappableStore {
  return interrupted(store, ["replace", "replaceMany"], before);
}

/** Returns a store that calls `before` with the keys before each read. */
export function haltedRead(store: WrappableStore, before: (keys: string) => Promise<void>): WrappableStore {
  return interrupted(store, ["get", "getMany"], before);
}

/** Returns a store that calls `before` before each page of a scan. */
export function haltedScan(store: WrappableStore, before: () => Promise<void>): WrappableStore {
  return interrupted(store, ["scan"], before);
}

/** Returns a store that calls `before` with the first argument of each call of some methods, before the call. */
function interrupted(
  store: WrappableStore,
  methods: readonly (string | symbol)[],
  before: (argument: string) => Promise<void>,
): WrappableStore {
  return new Proxy(store, {
    get(target, property) {
      const member: unknown = Reflect.get(target, property, target);
      if (typeof member !== "function") return member;
      return (...given: unknown[]) => {
        if (property === "namespaced") return interrupted(member.apply(target, given), methods, before);
        if (!methods.includes(property)) return member.apply(target, given);
        return before(JSON.stringify(given[0])).then(() => member.apply(target, given));
      };
    },
  });
}
