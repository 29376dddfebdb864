import { createKeyv, EncryptedStore } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import fc from "fast-check";
import { afterEach, describe, expect, it, vi } from "vitest";
import { expectRefusal } from "../refusals.ts";
import { newRing, rotation } from "../rings.ts";
import { marker } from "../secrets.ts";
import { ForgetsExpiry } from "./inner-stores.ts";

const value = `${marker}value`;

afterEach(() => {
  vi.useRealTimers();
});

/** Stops the clock until a test sets it, for stores and records. */
function stopTime(nowMs = Date.now()): number {
  vi.useFakeTimers({ toFake: ["Date"], now: nowMs });
  return nowMs;
}

/** A store whose backend keeps every record forever. A record is absent only because of the expiry in its envelope. */
function overStoreWithoutExpiry() {
  const map = new Map<string, { value: unknown }>();
  return { map, store: new EncryptedStore(new ForgetsExpiry(map), { keys: newRing() }) };
}

describe("the expiry in an envelope", () => {
  it("makes a record count as absent, even if the backend still stores the record", async () => {
    const { map, store } = overStoreWithoutExpiry();
    const now = stopTime();
    await store.setMany([
      { key: "soon", value, expires: now + 10 },
      { key: "late", value, expires: now + 1_000 },
      { key: "never", value },
    ]);
    await store.set("alone", value, now + 10);
    vi.setSystemTime(now + 9);
    expect(await store.getMany(["soon", "late", "never", "alone"])).toEqual([value, value, value, value]);
    vi.setSystemTime(now + 10);
    expect(await store.getMany(["soon", "late", "never", "alone"])).toEqual([undefined, value, value, undefined]);
    expect(await store.get("soon")).toBeUndefined();
    expect(await store.has("soon")).toBe(false);
    expect(await store.hasMany(["soon", "late"])).toEqual([false, true]);
    const iterated: string[] = [];
    for await (const [key] of store.iterator()) iterated.push(key);
    expect(iterated.sort()).toEqual(["late", "never"]);
    // Reads have deleted no record.
    expect(map.size).toBe(4);
  });

  it("is not extended by a longer time to live in the backend", async () => {
    const inner = new MemoryStore();
    const store = new EncryptedStore(inner, { keys: newRing() });
    const now = stopTime();
    await store.set("key", value, now + 10);
    const stored = await inner.get("key");
    await inner.set("key", stored, now + 1_000_000);
    vi.setSystemTime(now + 10);
    expect(await inner.get("key")).toBeDefined();
    expect(await store.get("key")).toBeUndefined();
  });

  it("is rounded up to whole milliseconds", async () => {
    const { store } = overStoreWithoutExpiry();
    const now = stopTime(1_900_000_000_000);
    await store.set("key", value, now + 5.2);
    vi.setSystemTime(now + 5);
    expect(await store.get("key")).toBe(value);
    vi.setSystemTime(now + 6);
    expect(await store.get("key")).toBeUndefined();
  });

  it.each([2 ** 48 - 1, 2 ** 48, Number.MAX_SAFE_INTEGER, Number.MAX_VALUE, Number.POSITIVE_INFINITY])(
    "is stored as the largest possible expiry of an envelope if it is %d",
    async (expires) => {
      const { store } = overStoreWithoutExpiry();
      await store.set("key", value, expires);
      expect(await store.get("key")).toBe(value);
      stopTime(2 ** 48 - 2);
      expect(await store.get("key")).toBe(value);
      vi.setSystemTime(2 ** 48 - 1);
      expect(await store.get("key")).toBeUndefined();
    },
  );

  it("cannot be NaN: the write rejects, and the stored record stays unchanged", async () => {
    const { store } = overStoreWithoutExpiry();
    await store.set("key", value);
    await expectRefusal(store.set("key", `${marker}next`, Number.NaN), "VALUE_INVALID");
    await expectRefusal(store.setMany([{ key: "key", value, expires: Number.NaN }]), "VALUE_INVALID");
    expect(await store.get("key")).toBe(value);
  });
});

describe("an expiry in the past, in a raw value of Keyv", () => {
  it.each([3, 1_700_000_000, 5 * 10 ** 11, 10 ** 12])(
    "makes the record absent, and does not count as a duration, if it is %d",
    async (expires) => {
      for (const store of [new MemoryStore(), new Map(), new ForgetsExpiry(new Map())]) {
        const keyv = createKeyv({ store, keys: newRing() });
        await keyv.set("one", value);
        expect(await keyv.setRaw("one", { value, expires })).toBe(true);
        expect(await keyv.setManyRaw([{ key: "two", value: { value, expires } }])).toEqual([true]);
        expect(await keyv.getMany(["one", "two"])).toEqual([undefined, undefined]);
        expect(await keyv.hasMany(["one", "two"])).toEqual([false, false]);
      }
    },
  );
});

describe("an expiry in the past", () => {
  it.each([0, -1, -0.5, Number.NEGATIVE_INFINITY, 1])(
    "makes a write delete the stored record if it is %d",
    async (expires) => {
      const { map, store } = overStoreWithoutExpiry();
      await store.setMany([
        { key: "one", value },
        { key: "two", value },
        { key: "three", value },
      ]);
      expect(await store.set("one", value, expires)).toBe(true);
      expect(await store.set("nothing there", value, expires)).toBe(true);
      expect(
        await store.setMany([
          { key: "two", value, expires },
          { key: "three", value: `${value}3` },
        ]),
      ).toEqual([true, true]);
      expect([...map.keys()]).toEqual(["three"]);
      expect(await store.getMany(["one", "two", "three"])).toEqual([undefined, undefined, `${value}3`]);
    },
  );

  it("makes a write delete the stored record even if it is the current millisecond", async () => {
    const { map, store } = overStoreWithoutExpiry();
    const now = stopTime();
    await store.set("key", value, now);
    expect(map.size).toBe(0);
  });

  it("makes setRaw of a Keyv delete the stored record", async () => {
    const keyv = createKeyv({ store: new MemoryStore(), keys: newRing() });
    await keyv.set("key", 1);
    await keyv.setRaw("key", { value: 2, expires: Date.now() - 1 });
    expect(await keyv.get("key")).toBeUndefined();
  });

  it("deletes a record in a batch only if it is in the last entry with the key of the record", async () => {
    const { store } = overStoreWithoutExpiry();
    await store.setMany([
      { key: "key", value },
      { key: "key", value, expires: 1 },
    ]);
    expect(await store.get("key")).toBeUndefined();
    await store.setMany([
      { key: "key", value, expires: 1 },
      { key: "key", value: `${value}2` },
    ]);
    expect(await store.get("key")).toBe(`${value}2`);
  });
});

it("a record that is written again without an expiry loses its former expiry", async () => {
  const inner = new MemoryStore();
  const store = new EncryptedStore(inner, { keys: newRing() });
  const now = stopTime();
  await store.set("key", value, now + 10);
  await store.set("key", `${value}2`);
  vi.setSystemTime(now + 1_000_000);
  expect(await store.get("key")).toBe(`${value}2`);
});

it("a record is present exactly until its expiry (property)", async () => {
  const { before, promoted } = rotation();
  await fc.assert(
    fc.asyncProperty(
      fc.double({ min: 0.01, max: 1e9, noNaN: true }),
      fc.integer({ min: -3, max: 3 }),
      fc.boolean(),
      async (ttlMs, offsetMs, reseal) => {
        const now = stopTime(1_900_000_000_000);
        const inner = new MemoryStore();
        const expires = now + ttlMs;
        await new EncryptedStore(inner, { keys: before }).set("key", value, expires);
        const reader = new EncryptedStore(inner, { keys: promoted });
        if (reseal) {
          await reader.get("key");
          vi.useRealTimers();
          await reader.settled();
        }
        const then = Math.max(now, Math.ceil(expires) + offsetMs);
        stopTime(then);
        expect(await reader.get("key")).toBe(then < Math.ceil(expires) ? value : undefined);
        vi.useRealTimers();
      },
    ),
    { numRuns: 200 },
  );
});
