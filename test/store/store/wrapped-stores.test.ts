import { createKeyv, EncryptedStore } from "@keyward/core";
import type { KeyvBridgeStore } from "keyv";
import { KeyvMemoryAdapter } from "keyv";
import { describe, expect, it } from "vitest";
import { expectRefusal } from "../refusals.ts";
import { newRing, rotation } from "../rings.ts";
import { marker } from "../secrets.ts";
import { BreakableAdapter, keyIdIn, LeastKeyv5Adapter } from "./inner-stores.ts";

const value = `${marker}value`;

describe("a Keyv 5 adapter", () => {
  it("gets relative times to live and encrypted values from a Keyv that createKeyv made", async () => {
    const inner = new LeastKeyv5Adapter();
    const keyv = createKeyv({ store: inner, keys: newRing("k1"), namespace: "flows" });
    await keyv.set("key", value, 60_000);
    await keyv.setMany([{ key: "other", value }]);
    expect(await keyv.getMany(["key", "other", "absent"])).toEqual([value, value, undefined]);
    expect([...inner.entries.keys()]).toEqual(["flows::key", "flows::other"]);
    const [first, second] = [...inner.entries.values()];
    expect(keyIdIn(String(first?.value))).toBe("k1");
    expect(first?.ttlMs).toBeGreaterThan(59_000);
    expect(first?.ttlMs).toBeLessThanOrEqual(60_000);
    expect(second?.ttlMs).toBeUndefined();
    expect(await keyv.delete("key")).toBe(true);
    expect(await keyv.has("key")).toBe(false);
  });

  it("does not make a store return an expired record, even if the adapter ignores times to live", async () => {
    const store = new EncryptedStore(new LeastKeyv5Adapter(), { keys: newRing() });
    await store.set("key", value, Date.now() + 20);
    await expect.poll(() => store.get("key")).toBeUndefined();
  });

  it("makes an iteration reject if it has no iterator", async () => {
    const keyv = createKeyv({ store: new LeastKeyv5Adapter(), keys: newRing() });
    await keyv.set("key", value);
    await expectRefusal(async () => {
      for await (const _ of keyv.iterator());
    }, "STORE_NOT_SCANNABLE");
  });

  it("makes deleteMany reject if it has no deleteMany and its delete fails", async () => {
    const inner = new LeastKeyv5Adapter();
    const store = new EncryptedStore(inner, { keys: newRing() });
    await store.setMany([
      { key: "one", value },
      { key: "two", value },
    ]);
    inner.failure = new Error("the connection is gone");
    await expectRefusal(store.deleteMany(["one", "two"]), "STORE_UNAVAILABLE");
    inner.failure = undefined;
    expect(await store.getMany(["one", "two"])).toEqual([value, value]);
  });

  it("makes a write with an expiry in the past reject if its delete fails", async () => {
    const inner = new LeastKeyv5Adapter();
    const store = new EncryptedStore(inner, { keys: newRing() });
    await store.set("key", value);
    inner.failure = new Error("the connection is gone");
    await expectRefusal(store.set("key", `${value}2`, 1), "STORE_UNAVAILABLE");
  });

  it("makes getMany reject if it returns too few values", async () => {
    class Short extends LeastKeyv5Adapter {
      async getMany(keys: string[]): Promise<unknown[]> {
        return (await Promise.all(keys.map((key) => this.get(key)))).filter((found) => found !== undefined);
      }
    }
    const store = new EncryptedStore(new Short(), { keys: newRing() });
    await store.set("two", value);
    // Otherwise its one value would be used for "one", and "two" would count as missing.
    await expect(store.getMany(["one", "two"])).rejects.toMatchObject({ name: "KeywardError" });
    await expect(store.getMany(["two", "one"])).rejects.toMatchObject({ name: "KeywardError" });
  });

  it("has its property throwOnErrors set to true by EncryptedStore", () => {
    const inner: KeyvBridgeStore & { throwOnErrors: boolean } = Object.assign(new LeastKeyv5Adapter(), {
      throwOnErrors: false,
    });
    new EncryptedStore(inner, { keys: newRing() });
    expect(inner.throwOnErrors).toBe(true);
  });
});

describe("a Keyv 6 adapter", () => {
  it("makes every method of the store reject with a KeywardError if it fails, and its own error is the cause", async () => {
    const inner = new BreakableAdapter(new Map());
    const store = new EncryptedStore(inner, { keys: newRing() });
    await store.set("key", value);
    inner.failure = new Error("down");
    for (const call of [
      () => store.get("key"),
      () => store.getMany(["key"]),
      () => store.has("key"),
      () => store.hasMany(["key"]),
      () => store.set("key", value),
      () => store.set("key", value, 1),
      () => store.setMany([{ key: "key", value }]),
      () => store.delete("key"),
      () => store.deleteMany(["key"]),
      () => store.clear(),
      () => store.disconnect(),
      async () => {
        for await (const _ of store.iterator());
      },
    ]) {
      const error = await expectRefusal(call, "STORE_UNAVAILABLE");
      expect(error.cause).toBe(inner.failure);
    }
  });

  it("has the errors that it emits reported as store:error, not as error", async () => {
    const inner = new KeyvMemoryAdapter(new Map());
    const keyv = createKeyv({ store: inner, keys: newRing() });
    const [errors, reported]: [unknown[], unknown[]] = [[], []];
    keyv.on("error", (error: unknown) => errors.push(error));
    keyv.encryptedStore.on("store:error", (error: unknown) => reported.push(error));
    const lost = new Error("connection lost");
    inner.emit("error", lost);
    expect(reported).toEqual([lost]);
    expect(errors).toEqual([]);
  });

  it("makes set and setMany return false if its own set and setMany return false", async () => {
    class Refusing extends KeyvMemoryAdapter {
      override async set(): Promise<boolean> {
        return false;
      }

      override async setMany(): Promise<boolean[]> {
        return [true, false];
      }
    }
    const store = new EncryptedStore(new Refusing(new Map()), { keys: newRing() });
    expect(await store.set("key", value)).toBe(false);
    expect(
      await store.setMany([
        { key: "expired", value, expires: 1 },
        { key: "one", value },
        { key: "two", value },
      ]),
    ).toEqual([true, true, false]);
  });
});

describe("a store whose results contradict its types", () => {
  it.each([
    ["getMany", undefined],
    ["getMany", { length: 1 }],
    ["getMany", "x"],
    ["setMany", []],
    ["deleteMany", [true, true]],
    ["iterator", 5],
    ["iterator", { next: () => ({ done: false, value: 5 }) }],
  ])("makes the call reject if its method %s returns %j", async (method, answer) => {
    const inner = new KeyvMemoryAdapter(new Map());
    const store = new EncryptedStore(inner, { keys: newRing() });
    Reflect.set(inner, method, () => answer);
    const calls = new Map<string, () => unknown>([
      ["getMany", () => store.getMany(["key"])],
      ["setMany", () => store.setMany([{ key: "key", value }])],
      ["deleteMany", () => store.deleteMany(["key"])],
      ["iterator", () => store.iterator().next()],
    ]);
    await expectRefusal(() => calls.get(method)?.(), "STORE_UNAVAILABLE");
  });

  it("may return one boolean or undefined for a whole batch, as a Keyv 5 adapter does", async () => {
    const inner = new KeyvMemoryAdapter(new Map());
    const store = new EncryptedStore(inner, { keys: newRing() });
    for (const [answer, meant] of [
      [false, false],
      [true, true],
      [undefined, true],
    ]) {
      for (const method of ["set", "setMany", "delete", "deleteMany"]) Reflect.set(inner, method, () => answer);
      expect(await store.set("one", value)).toBe(meant);
      expect(await store.delete("one")).toBe(meant);
      expect(await store.deleteMany(["one", "two"])).toEqual([meant, meant]);
      const entries = ["one", "two"].map((key) => ({ key, value }));
      expect(await store.setMany(entries)).toEqual([meant, meant]);
    }
  });

  it("may have an iterator with only the method next()", async () => {
    const map = new Map<string, unknown>();
    const inner = new KeyvMemoryAdapter(map);
    const store = new EncryptedStore(inner, { keys: newRing() });
    await store.set("key", value);
    const stored = await inner.get("key");
    const entries = [["key", stored]].values();
    Reflect.set(inner, "iterator", () => ({ next: () => entries.next() }));
    const iterated: unknown[] = [];
    for await (const entry of store.iterator()) iterated.push(entry);
    expect(iterated).toEqual([["key", value]]);
  });
});

describe("a Map", () => {
  it("supports lazy re-encryption by default, because no write can occur between comparing and replacing", async () => {
    const { before, promoted } = rotation();
    const map = new Map<string, { value?: unknown }>();
    const writer = new EncryptedStore(map, { keys: before });
    writer.namespace = "flows";
    await writer.set("key", value);
    const store = new EncryptedStore(map, { keys: promoted });
    store.namespace = "flows";
    expect(await store.get("key")).toBe(value);
    await store.settled();
    expect([...map.keys()]).toEqual(["flows::key"]);
    expect(keyIdIn(String(map.get("flows::key")?.value))).toBe("new");
  });

  it("makes a read reject instead of returning undefined if Keyv's adapter did not write the entry", async () => {
    const map = new Map<string, unknown>([["key", "written around Keyv"]]);
    const store = new EncryptedStore(map, { keys: newRing() });
    await expectRefusal(store.get("key"), "RECORD_NOT_SEALED");
  });

  it.each([null, undefined])(
    "makes a read reject instead of returning undefined if the value of the entry is %s",
    async (nothing) => {
      const store = new EncryptedStore(new Map([["key", { value: nothing }]]), { keys: newRing() });
      await expectRefusal(store.get("key"), "RECORD_NOT_SEALED");
      await expectRefusal(store.has("key"), "RECORD_NOT_SEALED");
      await expectRefusal(store.getMany(["key"]), "RECORDS_UNREADABLE");
      await expectRefusal(async () => {
        for await (const _ of store.iterator());
      }, "RECORDS_UNREADABLE");
      await expectRefusal(store.set("key", value), "OVERWRITE_REFUSED");
    },
  );
});

describe("encryption in two layers", () => {
  it("is refused, because a rotation would see only the keys of the outer layer", async () => {
    const keys = newRing();
    const store = new EncryptedStore(new Map(), { keys });
    const keyv = createKeyv({ store: new Map(), keys });
    for (const inner of [store, keyv.encryptedStore]) {
      await expectRefusal(() => new EncryptedStore(inner, { keys }), "STORE_INVALID");
      await expectRefusal(() => createKeyv({ store: inner, keys }), "STORE_INVALID");
    }
  });

  it("is refused with a hint that the store already encrypts, if the store is a Keyv that createKeyv made", () => {
    const keys = newRing();
    const store = createKeyv({ store: new Map(), keys });
    expect(() => createKeyv({ store, keys })).toThrow(
      expect.objectContaining({ code: "STORE_INVALID", hint: expect.stringContaining("already encrypts") }),
    );
  });
});
