import {
  EncryptedStore,
  type KeyFreshness,
  type KeyProvider,
  type Keyring,
  KeywardError,
  type Repetition,
  withFreshness,
} from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { expectRefusal, refusal } from "../refusals.ts";
import { newRing, rotation, TestKeys } from "../rings.ts";
import { marker } from "../secrets.ts";

const value = `${marker}value`;
const down = new KeywardError("PROVIDER_UNAVAILABLE", "The source is down", { hint: "Bring it back." });

// The longest pause after a failed load, with its random part.
const longestPauseMs = 6_000;

const unhandled: unknown[] = [];
process.on("unhandledRejection", (reason) => unhandled.push(reason));

afterEach(() => {
  vi.useRealTimers();
  expect(unhandled).toEqual([]);
});

/** Opens a store with one record, over a provider that has loaded its keyring. */
async function openStore(freshness: KeyFreshness, ring = newRing()) {
  const keys = new TestKeys(ring, freshness);
  const store = new EncryptedStore(new MemoryStore(), { keys });
  await store.set("key", value);
  expect(keys.loads).toBe(1);
  return { keys, store };
}

describe("the setting refreshMs", () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "Date", "performance"] });
  });

  it("causes one load of the keyring for all stores about every refreshMs milliseconds", async () => {
    const { keys, store } = await openStore({ refreshMs: 1_000 });
    const others = Array.from({ length: 5 }, () => new EncryptedStore(new MemoryStore(), { keys }));
    const waits: number[] = [];
    for (let loads = 1; loads < 20; loads++) {
      const begun = performance.now();
      await vi.advanceTimersToNextTimerAsync();
      expect(keys.loads).toBe(loads + 1);
      waits.push(performance.now() - begun);
    }
    expect(Math.min(...waits)).toBeGreaterThanOrEqual(899);
    expect(Math.max(...waits)).toBeLessThanOrEqual(1_101);
    // If all waits were equal, processes that start together would always load together.
    expect(new Set(waits).size).toBeGreaterThan(1);
    await Promise.all([store, ...others].map((one) => one.disconnect()));
  });

  it("makes stores use a changed keyring even if no record is under its new key", async () => {
    const { before, promoted } = rotation();
    const { keys, store } = await openStore({ refreshMs: 1_000 }, before);
    const rings: Keyring[] = [];
    store.on("keyring:changed", (ring: Keyring) => rings.push(ring));
    keys.become(promoted);
    await vi.advanceTimersByTimeAsync(1_101);
    expect(rings).toMatchObject([{ primary: "new" }]);
    await store.disconnect();
  });

  it("causes loads only while a store is in use: not before its first call, nor after it is disconnected", async () => {
    const keys = new TestKeys(newRing(), { refreshMs: 1_000 });
    const store = new EncryptedStore(new MemoryStore(), { keys });
    await vi.advanceTimersByTimeAsync(10_000);
    expect(keys.loads).toBe(0);
    await store.set("key", value);
    await store.disconnect();
    await vi.advanceTimersByTimeAsync(10_000);
    expect(keys.loads).toBe(1);
    await store.get("key");
    await vi.advanceTimersByTimeAsync(1_101);
    expect(keys.loads).toBe(2);
    await store.disconnect();
    expect(vi.getTimerCount()).toBe(0);
  });

  it("causes no further load if the stores are disconnected during a load", async () => {
    const { keys, store } = await openStore({ refreshMs: 1_000 });
    const release = keys.hold();
    await vi.advanceTimersByTimeAsync(1_101);
    expect(keys.loads).toBe(2);
    await store.disconnect();
    release();
    await vi.advanceTimersByTimeAsync(10_000);
    expect(keys.loads).toBe(2);
  });

  it("makes the pauses between loads longer while loads fail, and stores keep the keyring in use", async () => {
    const { keys, store } = await openStore({ refreshMs: 1_000 });
    const warnings: number[] = [];
    store.on("provider:error", (_: unknown, { times }: Repetition) => warnings.push(times));
    keys.fail(down);
    await vi.advanceTimersByTimeAsync(10_000);
    // After about 1, 2, 3, 5 and 9 seconds.
    expect(keys.loads).toBeGreaterThanOrEqual(5);
    expect(keys.loads).toBeLessThanOrEqual(6);
    await vi.advanceTimersByTimeAsync(590_000);
    // No pause is longer than 6 seconds. After the first loads, no pause is shorter than 5 seconds.
    expect(keys.loads).toBeGreaterThanOrEqual(100);
    expect(keys.loads).toBeLessThanOrEqual(124);
    // Warnings are emitted after 0, 5, 10, 20, 40, 80, 160 and 300 seconds at the earliest. Each has the number of loads that
    // have failed since the previous warning.
    expect(warnings[0]).toBe(1);
    expect(warnings.length).toBeGreaterThanOrEqual(6);
    expect(warnings.length).toBeLessThanOrEqual(8);
    expect(warnings.reduce((sum, times) => sum + times, 0)).toBeLessThan(keys.loads);
    expect(Math.max(...warnings)).toBeGreaterThan(1);
    expect(await store.get("key")).toBe(value);
    keys.recover();
    const emitted = warnings.length;
    const loadsBefore = keys.loads;
    await vi.advanceTimersByTimeAsync(30_000);
    expect(keys.loads).toBeGreaterThan(loadsBefore);
    expect(warnings).toHaveLength(emitted);
    keys.fail(down);
    await vi.advanceTimersByTimeAsync(1_101);
    // After a success, the next failure is reported at once, even if it is the same.
    expect(warnings.slice(emitted)).toEqual([1]);
    keys.recover();
    await vi.advanceTimersByTimeAsync(30_000);
    // And the pauses are short again.
    const { loads } = keys;
    await vi.advanceTimersByTimeAsync(10_000);
    expect(keys.loads).toBeGreaterThanOrEqual(loads + 8);
    await store.disconnect();
  });

  it("is counted from the last load, even if a change that the provider reported caused that load", async () => {
    const { before, staged } = rotation();
    const { keys, store } = await openStore({ refreshMs: 1_000 }, before);
    await vi.advanceTimersByTimeAsync(800);
    keys.push(staged);
    await vi.advanceTimersByTimeAsync(899);
    expect(keys.loads).toBe(2);
    await vi.advanceTimersByTimeAsync(202);
    expect(keys.loads).toBe(3);
    await store.disconnect();
  });
});

it("refreshMs does not keep a process alive", async () => {
  const timers = () => process.getActiveResourcesInfo().filter((resource) => resource === "Timeout").length;
  const before = timers();
  const { store } = await openStore({ refreshMs: 60_000 });
  expect(timers()).toBe(before);
  await store.disconnect();
});

describe("the setting maxAgeMs", () => {
  const freshness = { maxAgeMs: 60_000, timeoutMs: 10_000 };

  beforeEach(() => {
    vi.useFakeTimers({ toFake: ["Date", "performance"] });
  });

  it("makes all calls wait for one load if the keyring in use is older than maxAgeMs", async () => {
    const { keys, store } = await openStore(freshness);
    vi.advanceTimersByTime(60_000);
    expect(await store.get("key")).toBe(value);
    expect(keys.loads).toBe(1);
    vi.advanceTimersByTime(1);
    const release = keys.hold();
    const reads = Array.from({ length: 500 }, () => store.get("key"));
    const writes = Array.from({ length: 500 }, (_, index) => store.set(`key ${index}`, value));
    release();
    expect(new Set(await Promise.all(reads))).toEqual(new Set([value]));
    await Promise.all(writes);
    expect(keys.loads).toBe(2);
    await store.set("key", value);
    expect(keys.loads).toBe(2);
  });

  it("makes all calls reject with the cause if the keyring is older than maxAgeMs and its load fails", async () => {
    const { keys, store } = await openStore(freshness);
    keys.fail(down);
    vi.advanceTimersByTime(60_001);
    for (const call of [() => store.get("key"), () => store.set("other", value), () => store.has("key")]) {
      const error = await expectRefusal(call, "PROVIDER_UNAVAILABLE");
      expect(error.message).toContain("maxAgeMs");
      expect(error.cause).toBe(down);
    }
    const batch = await expectRefusal(store.getMany(["key"]), "RECORDS_UNREADABLE");
    expect(batch.errors).toMatchObject([{ code: "PROVIDER_UNAVAILABLE" }]);
    keys.recover();
    vi.advanceTimersByTime(longestPauseMs);
    expect(await store.get("key")).toBe(value);
    await store.set("other", value);
  });

  it("is counted from the latest load, even if that load returned an unchanged keyring", async () => {
    const { keys, store } = await openStore(freshness);
    vi.advanceTimersByTime(50_000);
    keys.push(await keys.load());
    keys.fail(down);
    vi.advanceTimersByTime(50_000);
    expect(await store.get("key")).toBe(value);
  });

  it("is not counted from a load whose keyring is refused", async () => {
    const { before, promoted } = rotation();
    const { keys, store } = await openStore(freshness, promoted);
    keys.push(before);
    vi.advanceTimersByTime(60_001);
    const error = await expectRefusal(store.get("key"), "PROVIDER_UNAVAILABLE");
    expect(error.cause).toMatchObject({ code: "KEYRING_ROLLBACK" });
  });

  it("is counted from the beginning of the load, not from its end", async () => {
    const keys = new TestKeys(newRing(), freshness);
    const store = new EncryptedStore(new MemoryStore(), { keys });
    const release = keys.hold();
    const write = store.set("key", value);
    vi.advanceTimersByTime(9_000);
    release();
    await write;
    vi.advanceTimersByTime(51_001);
    await store.get("key");
    expect(keys.loads).toBe(2);
  });

  it("includes the time while the machine sleeps, and is not extended if the clock is set back", async () => {
    const { keys, store } = await openStore(freshness);
    // The monotonic clock stops while the machine sleeps.
    vi.setSystemTime(Date.now() + 60_001);
    await store.get("key");
    expect(keys.loads).toBe(2);
    vi.setSystemTime(Date.now() - 3_600_000);
    vi.advanceTimersByTime(60_001);
    await store.get("key");
    expect(keys.loads).toBe(3);
  });

  it("causes a second load if the machine sleeps longer than maxAgeMs during the first load", async () => {
    const { keys, store } = await openStore(freshness);
    vi.advanceTimersByTime(60_001);
    const release = keys.hold();
    const read = store.get("key");
    while (keys.loads < 2) await new Promise((resolve) => setImmediate(resolve));
    vi.setSystemTime(Date.now() + 60_001);
    release();
    expect(await read).toBe(value);
    expect(keys.loads).toBe(3);
  });
});

describe("a failing key provider", () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ["Date", "performance"] });
  });

  /** Makes ten calls every 250 ms for five minutes, and returns the times of the loads in seconds. */
  async function loadTimes(keys: TestKeys, call: () => Promise<unknown>): Promise<number[]> {
    const times: number[] = [];
    const begunMs = performance.now();
    while (performance.now() - begunMs < 300_000) {
      const { loads } = keys;
      const answers = await Promise.allSettled(Array.from({ length: 10 }, call));
      expect(answers.filter(({ status }) => status === "fulfilled")).toEqual([]);
      if (keys.loads > loads) times.push((performance.now() - begunMs) / 1_000);
      expect(keys.loads - loads).toBeLessThanOrEqual(1);
      vi.advanceTimersByTime(250);
    }
    return times;
  }

  function expectGrowingPauses(times: readonly number[]): void {
    const pauses = times.slice(1).map((time, index) => time - (times[index] ?? 0));
    expect(times[0]).toBe(0);
    expect(times.filter((time) => time < 5).length).toBeLessThanOrEqual(5);
    expect(Math.max(...pauses)).toBeLessThanOrEqual(longestPauseMs / 1_000 + 0.25);
    // Each pause is longer than the one before, up to the longest.
    for (const [index, pause] of pauses.slice(1, 4).entries()) expect(pause).toBeGreaterThan(pauses[index] ?? 0);
    expect(Math.min(...pauses.slice(4))).toBeGreaterThanOrEqual(5);
  }

  it("loads only once after each pause if stores have no keyring, however many calls need a keyring", async () => {
    const keys = new TestKeys(newRing());
    keys.fail(down);
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: newRing() }).set("key", value);
    const stores = [new EncryptedStore(inner, { keys }), new EncryptedStore(new MemoryStore(), { keys })];
    let calls = 0;
    const times = await loadTimes(keys, async () => {
      calls++;
      return await (calls % 3 === 0 ? stores[0]?.get("key") : stores[calls % 2]?.set(`key ${calls % 7}`, value));
    });
    expectGrowingPauses(times);
    keys.recover();
    vi.advanceTimersByTime(longestPauseMs);
    expect(await stores[1]?.set("key", value)).toBe(true);
  });

  it("loads only once after each pause if the keyring in use is older than maxAgeMs", async () => {
    const { keys, store } = await openStore({ maxAgeMs: 60_000, timeoutMs: 10_000 });
    keys.fail(down);
    vi.advanceTimersByTime(60_001);
    expectGrowingPauses(await loadTimes(keys, () => store.get("key")));
  });

  it("loads only once after each pause if reads find records under a key that the keyring in use lacks", async () => {
    const { before, promoted } = rotation();
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: promoted }).set("ahead", value);
    const keys = new TestKeys(before);
    const store = new EncryptedStore(inner, { keys });
    await keys.load();
    await refusal(store.get("ahead"));
    keys.fail(down);
    vi.advanceTimersByTime(longestPauseMs);
    const times = await loadTimes(keys, async () => {
      await store.get("ahead").catch((error: unknown) => {
        expect(error).toMatchObject({ code: "KEY_UNKNOWN", cause: down });
        throw error;
      });
    });
    expectGrowingPauses(times);
    keys.recover();
    keys.become(promoted);
    vi.advanceTimersByTime(longestPauseMs);
    expect(await store.get("ahead")).toBe(value);
  });

  it("loads again at the first call after the machine has slept longer than the pause", async () => {
    const keys = new TestKeys(newRing());
    keys.fail(down);
    const store = new EncryptedStore(new MemoryStore(), { keys });
    await loadTimes(keys, () => store.set("key", value));
    keys.recover();
    vi.setSystemTime(Date.now() + longestPauseMs);
    expect(await store.set("key", value)).toBe(true);
  });
});

it("a keyring is used forever if there is no maxAgeMs", async () => {
  vi.useFakeTimers({ toFake: ["Date", "performance"] });
  const { keys, store } = await openStore({});
  keys.fail(down);
  vi.advanceTimersByTime(10 * 365 * 24 * 3_600_000);
  expect(await store.get("key")).toBe(value);
  expect(keys.loads).toBe(1);
});

it("a load that takes longer than timeoutMs fails", async () => {
  const keys = new TestKeys(newRing(), { timeoutMs: 50 });
  const release = keys.hold();
  const begun = performance.now();
  const error = await expectRefusal(new EncryptedStore(new Map(), { keys }).set("key", value), "PROVIDER_UNAVAILABLE");
  expect(error.message).toContain("50 ms");
  expect(performance.now() - begun).toBeLessThan(5_000);
  release();
});

describe("the freshness of a key provider", () => {
  it.each<[string, KeyFreshness]>([
    ["a refreshMs of 0", { refreshMs: 0 }],
    ["a refreshMs that is not a number", { refreshMs: Number.NaN }],
    ["a refreshMs longer than any timer", { refreshMs: 2 ** 31 }],
    ["a negative maxAgeMs", { maxAgeMs: -1 }],
    ["an infinite maxAgeMs", { maxAgeMs: Number.POSITIVE_INFINITY }],
    ["a timeoutMs of half a millisecond", { timeoutMs: 0.5 }],
    ["a maxAgeMs that is not longer than timeoutMs", { maxAgeMs: 15_000 }],
  ])("is refused by EncryptedStore if it has %s", async (_, freshness) => {
    const keys = new TestKeys(newRing(), freshness);
    await expectRefusal(() => new EncryptedStore(new Map(), { keys }), "VALUE_INVALID");
  });
});

describe("withFreshness", () => {
  /** A provider with the parts that providers in applications have: a base class, a private field and a getter. */
  class Counting extends TestKeys {
    #saved = 0;

    override async save(next: Keyring, previous: Keyring): Promise<void> {
      await super.save(next, previous);
      this.#saved++;
    }

    get saved(): number {
      return this.#saved;
    }
  }

  it("returns a copy of the provider with all its methods, in which only the given settings differ", async () => {
    const ring = newRing();
    const keys = new Counting(ring, { refreshMs: 5_000, timeoutMs: 1_000 });
    const changed = withFreshness(keys, { refreshMs: 2_000, maxAgeMs: 60_000 });
    expect(changed.freshness).toEqual({ refreshMs: 2_000, maxAgeMs: 60_000, timeoutMs: 1_000 });
    expect(keys.freshness).toEqual({ refreshMs: 5_000, timeoutMs: 1_000 });
    const next = ring.add();
    await changed.save(next, ring);
    expect([await changed.load(), changed.saved, keys.saved]).toEqual([next, 1, 1]);
    changed.subscribe(() => undefined);
    expect(keys.watchers).toBe(1);
    // A copy of a copy works too, and a copy of a frozen object.
    const again: KeyProvider = { ...withFreshness(Object.freeze(changed), { refreshMs: 3_000 }) };
    expect(again.freshness).toEqual({ refreshMs: 3_000, maxAgeMs: 60_000, timeoutMs: 1_000 });
    expect(await again.load()).toBe(next);
  });

  it("returns a copy whose stores use the changed settings", async () => {
    vi.useFakeTimers({ toFake: ["Date", "performance"] });
    const keys = new TestKeys(newRing());
    const store = new EncryptedStore(new MemoryStore(), { keys: withFreshness(keys, { maxAgeMs: 60_000 }) });
    await store.set("key", value);
    vi.advanceTimersByTime(60_001);
    await store.get("key");
    expect(keys.loads).toBe(2);
  });

  it("refuses a setting that is unknown or out of range", async () => {
    const misspelt = { refreshMs: 1_000, refreshMS: 1_000 };
    await expectRefusal(() => withFreshness(new TestKeys(newRing()), misspelt), "VALUE_INVALID");
    await expectRefusal(() => withFreshness(new TestKeys(newRing()), { refreshMs: 0 }), "VALUE_INVALID");
  });
});
