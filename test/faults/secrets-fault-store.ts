import { KeywardError, type Replacement, type StoredValue } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import type { KeyvStorageEntry } from "keyv";
import { soak } from "./settings.ts";

/**
 * The fault in one call to the store, and what it does to later calls.
 *
 * - `halted`: this call and all later calls write nothing and get no answer, as if the process were killed before this call.
 * - `failed`: the call writes nothing and rejects.
 * - `failed, but made`: the call writes, and rejects.
 * - `away`: like `failed`, and all later calls reject too.
 * - `away, but made`: like `failed, but made`, and all later calls reject too.
 * - `repeated`: the call is made twice, as if the first answer were lost. The second answer is returned.
 * - `late`: the call is made when the test releases it. Then the process continues.
 * - `late, of a dead process`: the call is made when the test releases it. The process never continues.
 * - `failed, and made late`: the call rejects at once, and is made when the test releases it.
 * - `repeated late`: the call is made at once, and made again when the test releases it. The second answer is returned.
 */
export type FaultKind = (typeof faultKinds)[number];

export const faultKinds = [
  "halted",
  "failed",
  "failed, but made",
  "away",
  "away, but made",
  "repeated",
  "late",
  "late, of a dead process",
  "failed, and made late",
  "repeated late",
] as const;

/** One fault in the calls of one process to its store. */
export class Fault {
  readonly kind: FaultKind;
  readonly #at: number;
  readonly #struck = Promise.withResolvers<void>();
  readonly #released = Promise.withResolvers<void>();
  readonly #landed = Promise.withResolvers<void>();
  #calls = 0;
  #isWrite = false;

  /** @param at the number of the call in which the fault occurs. The first call has the number 1. */
  constructor(kind: FaultKind, at: number) {
    this.kind = kind;
    this.#at = at;
  }

  /** Resolves when the fault has occurred. */
  get struck(): Promise<void> {
    return this.#struck.promise;
  }

  /** True if the process has made the call in which the fault occurs. */
  get hasStruck(): boolean {
    return this.#calls >= this.#at;
  }

  /** True if the fault affects only writes, and the call in which it would occur is a read. Then the process has continued. */
  get isHarmless(): boolean {
    return this.hasStruck && this.needsWrite && !this.#isWrite;
  }

  /**
   * True if the fault is tested only in calls that write. `away` from a read on leaves the same records as `away` from the
   * next write on, so only the soak tests both.
   */
  get needsWrite(): boolean {
    return this.kind !== "failed" && (this.kind !== "away" || !soak);
  }

  /** True if the call is made, or repeated, only when the test releases it. */
  get waits(): boolean {
    return this.kind.includes("late");
  }

  /** Makes the late call. Resolves when the call was made. */
  async release(): Promise<void> {
    this.#released.resolve();
    await this.#landed.promise;
  }

  /** Makes a call of the process, or applies the fault to the call. */
  async pass<Result>(isWrite: boolean, make: () => Promise<Result>): Promise<Result> {
    this.#calls++;
    if (this.#calls < this.#at) return await make();
    if (this.#calls > this.#at) return this.isHarmless ? await make() : await this.#later(make);
    this.#isWrite = isWrite;
    if (this.needsWrite && !isWrite) return await make();
    try {
      return await this.#strike(make);
    } finally {
      this.#struck.resolve();
    }
  }

  async #strike<Result>(make: () => Promise<Result>): Promise<Result> {
    switch (this.kind) {
      case "halted":
        this.#struck.resolve();
        return await never();
      case "failed":
      case "away":
        throw unavailable();
      case "failed, but made":
      case "away, but made":
        await make();
        throw unavailable();
      case "repeated":
        await make();
        return await make();
      case "failed, and made late":
        void this.#released.promise.then(make).then(() => this.#landed.resolve(), this.#landed.reject);
        throw unavailable();
      case "late":
      case "late, of a dead process":
      case "repeated late": {
        if (this.kind === "repeated late") await make();
        this.#struck.resolve();
        await this.#released.promise;
        const result = await make();
        this.#landed.resolve();
        return this.kind === "late, of a dead process" ? await never() : result;
      }
    }
  }

  async #later<Result>(make: () => Promise<Result>): Promise<Result> {
    switch (this.kind) {
      case "halted":
        return await never();
      case "away":
      case "away, but made":
        throw unavailable();
      case "failed":
      case "failed, but made":
      case "repeated":
      case "late":
      case "late, of a dead process":
      case "failed, and made late":
      case "repeated late":
        return await make();
    }
  }
}

/** The connection of one process to a store in memory, with a fault. */
export class FaultStore extends MemoryStore {
  readonly #fault: Fault;

  constructor(origin: MemoryStore, fault: Fault) {
    super(origin);
    this.#fault = fault;
  }

  override namespaced(namespace: string): FaultStore {
    const view = new FaultStore(this, this.#fault);
    view.namespace = namespace;
    return view;
  }

  override get(key: string): Promise<StoredValue | undefined> {
    return this.#fault.pass(false, () => super.get(key));
  }

  override getMany(keys: readonly string[]): Promise<(StoredValue | undefined)[]> {
    return this.#fault.pass(false, () => super.getMany(keys));
  }

  override set(key: string, value: unknown, expires?: number): Promise<boolean> {
    return this.#fault.pass(true, () => super.set(key, value, expires));
  }

  override setMany(entries: readonly KeyvStorageEntry<unknown>[]): Promise<boolean[]> {
    return this.#fault.pass(true, () => super.setMany(entries));
  }

  override delete(key: string): Promise<boolean> {
    return this.#fault.pass(true, () => super.delete(key));
  }

  override deleteMany(keys: readonly string[]): Promise<boolean[]> {
    return this.#fault.pass(true, () => super.deleteMany(keys));
  }

  override replace(
    key: string,
    expected: StoredValue | undefined,
    next: StoredValue,
    expires?: number | null,
  ): Promise<boolean> {
    return this.#fault.pass(true, () => this.#replaceOne({ key, expected, next, expires }));
  }

  override replaceMany(changes: readonly Replacement[]): Promise<boolean[]> {
    return this.#fault.pass(true, () => super.replaceMany(changes));
  }

  async #replaceOne(change: Replacement): Promise<boolean> {
    const [isReplaced = false] = await super.replaceMany([change]);
    return isReplaced;
  }
}

/** Copies the records of a store in memory, those of its reserved space included. */
export async function copyOf(store: MemoryStore): Promise<MemoryStore> {
  const copy = new MemoryStore();
  await copyRecords(store, (namespace, key, value) => copy.namespaced(namespace).set(key, value));
  const reserved = copy.reserved();
  await copyRecords(store.reserved(), async (namespace, key, value) => {
    reserved.namespace = namespace;
    await reserved.set(key, value);
  });
  reserved.namespace = undefined;
  return copy;
}

/** Passes each record of a store in memory to a function. */
export async function copyRecords(
  from: Pick<MemoryStore, "scan">,
  put: (namespace: string, key: string, value: StoredValue) => Promise<unknown>,
): Promise<void> {
  let cursor: string | undefined;
  do {
    const page = await from.scan({ limit: 1_000, ...(cursor === undefined ? {} : { cursor }) });
    for (const { namespace, key, value } of page.entries) await put(namespace, key, value);
    cursor = page.cursor;
  } while (cursor !== undefined);
}

function never<Result>(): Promise<Result> {
  return new Promise(() => undefined);
}

function unavailable(): KeywardError {
  return new KeywardError("STORE_UNAVAILABLE", "The store was made to fail by a test", { hint: "Nothing is to do." });
}
