import { EncryptedStore, Keyring, type StoredValue } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { JointReads } from "../src/store/joint-reads.ts";

/** A store that notes the keys of each read, and can keep a read from returning. */
class WatchedStore extends MemoryStore {
  readonly reads: (readonly string[])[] = [];
  #hold: Promise<void> | undefined;

  hold(): () => void {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#hold = promise;
    return resolve;
  }

  override async getMany(keys: readonly string[]): Promise<(StoredValue | undefined)[]> {
    this.reads.push(keys);
    const values = await super.getMany(keys);
    const held = this.#hold;
    this.#hold = undefined;
    await held;
    return values;
  }
}

async function jointReads() {
  const inner = new WatchedStore();
  const store = new EncryptedStore(inner, { keys: Keyring.generate() });
  await store.set("a", "first");
  await store.set("b", "other");
  let clock = 0;
  return { inner, store, joint: new JointReads(store, () => clock++) };
}

describe("JointReads", () => {
  it("makes one read for all callers in one turn of the event loop, and reads each key once", async () => {
    const { inner, joint } = await jointReads();
    const reads = await Promise.all([joint.read(["a", "b"]), joint.read(["b", "none"]), joint.read(["a"])]);
    expect(inner.reads).toEqual([["a", "b", "none"]]);
    for (const { records } of reads) {
      expect([...records]).toEqual([
        ["a", "first"],
        ["b", "other"],
        ["none", undefined],
      ]);
    }
  });

  it("begins another read for a caller that asks while a read is in progress", async () => {
    const { inner, store, joint } = await jointReads();
    const release = inner.hold();
    const before = joint.read(["a"]);
    await expect.poll(() => inner.reads.length).toBe(1);
    await store.set("a", "second");
    const after = await joint.read(["a"]);
    expect([after.records.get("a"), after.begun]).toEqual(["second", 1]);
    release();
    expect([(await before).records.get("a"), (await before).begun]).toEqual(["first", 0]);
  });

  it("returns the error of one record together with the records of the other callers", async () => {
    const { inner, joint } = await jointReads();
    const b = await inner.get("b");
    if (b !== undefined) await inner.set("a", b);
    const { records } = await joint.read(["a", "b"]);
    expect(records.get("a")).toMatchObject({ code: "RECORD_TAMPERED" });
    expect(records.get("b")).toBe("other");
  });

  it("rejects for each caller if the store fails, and reads again for the next caller", async () => {
    const { store } = await jointReads();
    let isAway = true;
    const joint = new JointReads(
      {
        getManyOrErrors: async (keys) => {
          if (isAway) throw new Error("the store is away");
          return store.getManyOrErrors(keys);
        },
      },
      () => 0,
    );
    const settled = await Promise.allSettled([joint.read(["a"]), joint.read(["b"])]);
    expect(settled.map(({ status }) => status)).toEqual(["rejected", "rejected"]);
    isAway = false;
    expect((await joint.read(["a"])).records.get("a")).toBe("first");
  });

  it("rejects if the store never answers, and reads again for the next caller", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
    onTestFinished(() => void vi.useRealTimers());
    const { inner, joint } = await jointReads();
    const release = inner.hold();
    const lost = expect(joint.read(["a"])).rejects.toMatchObject({ code: "STORE_UNAVAILABLE" });
    await new Promise((resolve) => setImmediate(resolve));
    expect(inner.reads.length).toBe(1);
    await vi.advanceTimersByTimeAsync(60_000);
    await lost;
    expect((await joint.read(["a"])).records.get("a")).toBe("first");
    expect(vi.getTimerCount()).toBe(0);
    release();
  });

  it("divides a read of more than 500 keys into reads of at most 500", async () => {
    const { inner, joint } = await jointReads();
    const keys = Array.from({ length: 1_500 }, (_, index) => `key ${index}`);
    await Promise.all(keys.map((key) => joint.read([key])));
    expect(inner.reads.map((read) => read.length)).toEqual([500, 500, 500]);
    expect(inner.reads.flat()).toEqual(keys);
  });
});
