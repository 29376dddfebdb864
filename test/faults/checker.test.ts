import { setImmediate as nextTurn } from "node:timers/promises";
import type { Replacement, StoredValue } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { describe, expect, it } from "vitest";
import { runHistory } from "./history.ts";
import { KeyHistory } from "./key-history.ts";
import { type Random, randomFrom } from "./random.ts";
import { seed } from "./settings.ts";
import { UnhurriedStore } from "./unhurried-store.ts";

/** A store with a flaw. The views that `namespaced()` returns have the same flaw. */
abstract class FlawedStore extends UnhurriedStore {
  /** The same records without the flaw. */
  readonly sound: MemoryStore;

  constructor(random: Random, origin?: FlawedStore) {
    super(random, origin);
    this.sound = new MemoryStore(this);
  }

  abstract another(): FlawedStore;

  override namespaced(namespace: string): FlawedStore {
    const view = this.another();
    view.namespace = namespace;
    view.sound.namespace = namespace;
    return view;
  }

  /** Returns true if the flaw shows in this call, with the given chance. */
  protected now(chance = 0.02): boolean {
    return this.random() < chance;
  }
}

class ReplacesWithoutComparing extends FlawedStore {
  override another() {
    return new ReplacesWithoutComparing(this.random, this);
  }

  override async replaceMany(changes: readonly Replacement[]): Promise<boolean[]> {
    const found = await this.sound.getMany(changes.map(({ key }) => key));
    return await super.replaceMany(changes.map((change, index) => ({ ...change, expected: found[index] })));
  }
}

class ForgetsExpiryOnReplace extends FlawedStore {
  override another() {
    return new ForgetsExpiryOnReplace(this.random, this);
  }

  override async replaceMany(changes: readonly Replacement[]): Promise<boolean[]> {
    const replaced = await super.replaceMany(changes);
    for (const [index, { key, next }] of changes.entries()) {
      if (replaced[index] === true) await this.sound.replace(key, next, next).then(() => this.sound.set(key, next));
    }
    return replaced;
  }
}

class BringsDeletedBack extends FlawedStore {
  override another() {
    return new BringsDeletedBack(this.random, this);
  }

  override async delete(key: string): Promise<boolean> {
    const before = await this.sound.get(key);
    const deleted = await super.delete(key);
    // Most of the records that come back are replaced before anyone reads them, so rarer returns could go unnoticed.
    if (before !== undefined && this.now(0.5)) {
      void nextTurn().then(() => this.sound.replace(key, undefined, before));
    }
    return deleted;
  }
}

class LosesWrites extends FlawedStore {
  override another() {
    return new LosesWrites(this.random, this);
  }

  override async set(key: string, value: unknown, expires?: number): Promise<boolean> {
    return this.now() ? true : await super.set(key, value, expires);
  }
}

class ReadsOlderValues extends FlawedStore {
  readonly #cache: Map<string, StoredValue>;

  constructor(random: Random, origin?: ReadsOlderValues) {
    super(random, origin);
    this.#cache = origin === undefined ? new Map() : origin.#cache;
  }

  override another() {
    return new ReadsOlderValues(this.random, this);
  }

  override async get(key: string): Promise<StoredValue | undefined> {
    const cached = this.#cache.get(key);
    if (cached !== undefined && this.now()) return cached;
    const value = await super.get(key);
    if (value !== undefined) this.#cache.set(key, value);
    return value;
  }
}

class WritesLate extends FlawedStore {
  override another() {
    return new WritesLate(this.random, this);
  }

  override async set(key: string, value: unknown, expires?: number): Promise<boolean> {
    if (!this.now()) return await super.set(key, value, expires);
    void nextTurn()
      .then(nextTurn)
      .then(() => this.sound.set(key, value, expires));
    return true;
  }
}

const flaws = {
  "replaces records without comparing them": ReplacesWithoutComparing,
  "forgets the expiry when it replaces": ForgetsExpiryOnReplace,
  "brings deleted records back": BringsDeletedBack,
  "loses acknowledged writes": LosesWrites,
  "reads older values": ReadsOlderValues,
  "acknowledges before it writes": WritesLate,
};

async function problemsOf(store: UnhurriedStore, random: Random): Promise<readonly string[]> {
  const open = () => store.namespaced("flows");
  const { problems } = await runHistory({ random, operations: 10_000, rotations: 8, retire: false, open });
  return problems;
}

describe("the check of a history of random calls", () => {
  it.each(Object.entries(flaws))(`reports problems over a store that %s (seed ${seed})`, async (_, Flawed) => {
    const random = randomFrom(seed);
    expect(await problemsOf(new Flawed(random), random)).not.toEqual([]);
  });

  it(`reports no problem over a correct store (seed ${seed})`, async () => {
    const random = randomFrom(seed);
    expect(await problemsOf(new UnhurriedStore(random), random)).toEqual([]);
  });
});

describe("the check of the history of one key", () => {
  it("allows both outcomes of an unacknowledged write, until a read shows the outcome", () => {
    const history = new KeyHistory("key");
    history.begin({ value: "first" })();
    history.begin({ value: "perhaps" });
    expect(history.beginRead()("first")).toBeUndefined();
    expect(history.beginRead()("perhaps")).toBeUndefined();
    expect(history.beginRead()("first")).toContain("older");
    expect(history.beginRead()(undefined)).toContain("missed");
  });

  it("treats an unacknowledged delete as done after a read has found no record", () => {
    const history = new KeyHistory("key");
    history.begin({ value: "first" })();
    history.begin({});
    expect(history.mayBeThere()).toBe(true);
    expect(history.beginRead()(undefined)).toBeUndefined();
    expect(history.mayBeThere()).toBe(false);
    expect(history.beginRead()("first")).toContain("older");
  });

  it("allows a read to return only the values that the key had at some time during the read", () => {
    const history = new KeyHistory("key");
    history.begin({ value: "first" })();
    const reads = [history.beginRead(), history.beginRead(), history.beginRead()];
    history.begin({ value: "second" })();
    history.begin({})();
    expect(reads.map((check, index) => check(["first", "second", undefined][index]))).toEqual(Array(3).fill(undefined));
    expect(history.beginRead()("second")).toContain("older");
  });

  it("allows reads of an expiring value before its expiry, and not after its expiry", () => {
    const history = new KeyHistory("key");
    history.begin({ value: "over", expires: Date.now() - 1 })();
    expect(history.beginRead()("over")).toContain("expired");
    expect(history.beginRead()(undefined)).toBeUndefined();
    history.begin({ value: "lasting", expires: Date.now() + 60_000 })();
    expect(history.beginRead()(undefined)).toContain("missed");
    expect(history.beginRead()("lasting")).toBeUndefined();
  });
});
