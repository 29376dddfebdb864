import type { KeyProvider } from "@keyward/core";
import type { MemoryStore } from "@keyward/store-memory";

const calls = new Set(["get", "getMany", "set", "setMany", "delete", "deleteMany", "replace", "replaceMany", "scan"]);

/** When a process is killed: before the call that it makes then has reached the other side, or after. */
export interface Kill {
  readonly afterCalls: number;
  readonly arrives: boolean;
}

/**
 * What one process reaches its stores and its key provider through. It can be killed, and then no call is answered ever
 * again; or halted, and then no call goes out until it goes on.
 */
export class Line {
  /** Resolves when it was killed. */
  readonly killed: Promise<void>;
  readonly #killed = Promise.withResolvers<void>();
  readonly #kill: Kill | undefined;
  readonly #onWrite: (values: readonly unknown[]) => void;
  readonly #wrapped = new WeakMap<object, object>();
  #calls = 0;
  #held: PromiseWithResolvers<void> | undefined;

  /** @param onWrite is told of all that goes into a store, except into its reserved space. */
  constructor(onWrite: (values: readonly unknown[]) => void, kill?: Kill) {
    this.#onWrite = onWrite;
    this.#kill = kill;
    this.killed = this.#killed.promise;
  }

  halt(): void {
    this.#held ??= Promise.withResolvers<void>();
  }

  goOn(): void {
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

  /** The same object for the same one, as stores promise of their reserved space. */
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

/** What a call puts into a store. */
function writtenBy(name: string, given: readonly unknown[]): readonly unknown[] {
  if (name === "set") return [given[1]];
  if (name === "replace") return [given[2]];
  if (name !== "setMany" && name !== "replaceMany") return [];
  const changes: unknown = given[0];
  return Array.isArray(changes)
    ? changes.map((change: object) => Reflect.get(change, name === "setMany" ? "value" : "next"))
    : [];
}
