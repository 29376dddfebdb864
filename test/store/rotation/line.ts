import type { KeyProvider } from "@keyward/core";
import type { MemoryStore } from "@keyward/store-memory";

const calls = new Set(["get", "getMany", "set", "setMany", "delete", "deleteMany", "replace", "replaceMany", "scan"]);

/** After how many calls a process is killed, and whether its next call still arrives at the store or the provider. */
export interface Kill {
  readonly afterCalls: number;
  readonly arrives: boolean;
}

/**
 * Connects one simulated process to its stores and its key provider. After the process is killed, none of its calls is
 * ever answered. While the process is halted, none of its calls is sent.
 */
export class Line {
  /** Resolves when the process is killed. */
  readonly killed: Promise<void>;
  readonly #killed = Promise.withResolvers<void>();
  readonly #kill: Kill | undefined;
  readonly #onWrite: (values: readonly unknown[]) => void;
  readonly #wrapped = new WeakMap<object, object>();
  #calls = 0;
  #held: PromiseWithResolvers<void> | undefined;

  /** @param onWrite called with the values that are written to a store, except to its reserved space. */
  constructor(onWrite: (values: readonly unknown[]) => void, kill?: Kill) {
    this.#onWrite = onWrite;
    this.#kill = kill;
    this.killed = this.#killed.promise;
  }

  halt(): void {
    this.#held ??= Promise.withResolvers<void>();
  }

  resume(): void {
    this.#held?.resolve();
    this.#held = undefined;
  }

  store(store: MemoryStore): MemoryStore {
    return this.#wrap(store, false);
  }

  provider(provider: KeyProvider & Required<Pick<KeyProvider, "save">>): typeof provider {
    return {
      load: (options) => this.#pass(() => provider.load(options)),
      save: (next, previous) => this.#pass(() => provider.save(next, previous)),
    };
  }

  #wrap<Store extends object>(store: Store, reserved: boolean): Store {
    return new Proxy(store, {
      get: (target, name) => {
        const member: unknown = Reflect.get(target, name, target);
        if (typeof member !== "function") return member;
        const call = (given: unknown[]): unknown => Reflect.apply(member, target, given);
        if (name === "reserved") return () => this.#once(call([]), true);
        if (name === "namespaced") return (...given: unknown[]) => this.#once(call(given), reserved);
        if (typeof name !== "string" || !calls.has(name)) return (...given: unknown[]) => call(given);
        return (...given: unknown[]) =>
          this.#pass(async () => {
            if (!reserved) this.#onWrite(writtenBy(name, given));
            return await call(given);
          });
      },
    });
  }

  /** Returns the same wrapper for the same store, because a store must return the same object for its reserved space. */
  #once(inner: unknown, reserved: boolean): object {
    if (typeof inner !== "object" || inner === null) throw new Error("not a store");
    let wrapped = this.#wrapped.get(inner);
    if (wrapped === undefined) {
      wrapped = this.#wrap(inner, reserved);
      this.#wrapped.set(inner, wrapped);
    }
    return wrapped;
  }

  async #pass<Result>(call: () => Promise<Result>): Promise<Result> {
    while (this.#held !== undefined) await this.#held.promise;
    if (this.#kill !== undefined && ++this.#calls > this.#kill.afterCalls) {
      if (this.#calls === this.#kill.afterCalls + 1 && this.#kill.arrives) await call();
      this.#killed.resolve();
      return await new Promise<never>(() => undefined);
    }
    return await call();
  }
}

/** Returns the values that a call writes. */
function writtenBy(name: string, given: readonly unknown[]): readonly unknown[] {
  if (name === "set") return [given[1]];
  if (name === "replace") return [given[2]];
  if (name !== "setMany" && name !== "replaceMany") return [];
  const changes: unknown = given[0];
  return Array.isArray(changes)
    ? changes.map((change: object) => Reflect.get(change, name === "setMany" ? "value" : "next"))
    : [];
}
