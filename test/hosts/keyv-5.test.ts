import { createKeyv, EncryptedStore, Keyring } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import type { KeyvStorageAdapter } from "keyv";
import { Keyv as Keyv5 } from "keyv-5";
import { afterEach, describe, expect, it, vi } from "vitest";
import { stores } from "./opened-stores.ts";

// cacheable, cache-manager, got, cacheable-request and Apollo bring Keyv 5, which passes durations to a store.

const shortMs = 30;
const minuteMs = 60_000;
const tenYearsMs = 315_360_000_000;

/** The stores that a host receives: a store without encryption, and encrypted stores. */
const fronts = {
  "the store itself": (store: KeyvStorageAdapter) => store,
  "an EncryptedStore": (store: KeyvStorageAdapter) => new EncryptedStore(store, { keys: Keyring.generate() }),
  createKeyv: (store: KeyvStorageAdapter) => createKeyv({ store, keys: Keyring.generate() }),
  "createKeyv in a namespace": (store: KeyvStorageAdapter) =>
    createKeyv({ store, keys: Keyring.generate(), namespace: "encrypted" }),
} as const;

/** Options of a host's Keyv 5, with and without a namespace of the host. */
const hostOptions = {
  "by default": {},
  "with a namespace": { namespace: "host" },
  "without a namespace": { namespace: "" },
  "with a namespace and no prefix": { namespace: "host", useKeyPrefix: false },
  "without a namespace or prefix": { namespace: "", useKeyPrefix: false },
} as const;

for (const [storeName, openStore] of Object.entries(stores)) {
  describe.each(Object.entries(fronts))(`Keyv 5 over %s on ${storeName}`, (_, front) => {
    describe.each(Object.entries(hostOptions))("made %s", (__, options) => {
      async function openHost(): Promise<Keyv5> {
        return new Keyv5({ store: front(await openStore()), throwOnErrors: true, ...options });
      }

      it("keeps records until their ttl ends, whether they were set one by one or in a batch", async () => {
        const host = await openHost();
        await host.set("kept", "before");
        for (const ttl of [undefined, 0, minuteMs, tenYearsMs]) {
          expect(await host.set("kept", { ttl }, ttl)).toBe(true);
          expect(await host.get("kept")).toEqual({ ttl });
        }
        const startMs = Date.now();
        expect(await host.set("short", "value", shortMs)).toBe(true);
        const entries = [
          { key: "short too", value: 1, ttl: shortMs },
          { key: "long", value: 2, ttl: minuteMs },
          { key: "forever", value: 3 },
        ];
        expect(await host.setMany(entries)).toEqual([true, true, true]);
        expect(await host.getRaw("kept")).toMatchObject({ expires: expect.any(Number) });
        await expect.poll(() => host.hasMany(["short", "short too"]), { interval: 10 }).toEqual([false, false]);
        expect(Date.now()).toBeGreaterThanOrEqual(startMs + shortMs);
        expect(await host.get(["short", "short too", "long", "forever"])).toEqual([undefined, undefined, 2, 3]);
      });

      it("returns written values of every JSON type and bytes, and deletes and clears them", async () => {
        const host = await openHost();
        const values = { text: "täxt", colon: ":x", none: null, no: false, zero: 0, list: [1, [2]] };
        for (const [key, value] of Object.entries(values)) await host.set(key, value);
        await host.set("bytes", Buffer.of(0, 255));
        expect(await host.getMany(Object.keys(values))).toEqual(Object.values(values));
        expect(await host.get("bytes")).toEqual(Buffer.of(0, 255));
        expect(await host.getManyRaw(["zero", "absent"])).toMatchObject([{ value: 0 }, undefined]);
        expect(await host.hasMany(["text", "absent"])).toEqual([true, false]);
        expect(await host.delete("text")).toBe(true);
        expect(await host.delete("text")).toBe(false);
        await host.deleteMany(["colon", "absent"]);
        expect(await host.hasMany(["text", "colon", "none"])).toEqual([false, false, true]);
        await host.clear();
        expect(await host.getMany(["none", "bytes"])).toEqual([undefined, undefined]);
      });
    });
  });
}

describe("a namespace of createKeyv", () => {
  it("separates the records of two hosts whose own namespaces are equal", async () => {
    const store = new MemoryStore();
    const keys = Keyring.generate();
    const [one, other] = ["one", "other"].map((namespace) => {
      return new Keyv5({ store: createKeyv({ store, keys, namespace }), throwOnErrors: true });
    });
    await one?.set("key", "of one");
    await other?.set("key", "of the other");
    expect(await one?.get("key")).toBe("of one");
    await other?.clear();
    expect(await one?.get("key")).toBe("of one");
    const { entries } = await store.scan();
    expect(entries.map(({ namespace, key }) => ({ namespace, key }))).toEqual([{ namespace: "one", key: "keyv:key" }]);
  });

  it("cannot be used by two hosts that have different namespaces, because their keys could mix", () => {
    const keyv = createKeyv({ store: new MemoryStore(), keys: Keyring.generate(), namespace: "encrypted" });
    new Keyv5({ store: keyv, namespace: "one", useKeyPrefix: false });
    new Keyv5({ store: keyv, namespace: "one", useKeyPrefix: false });
    const refused = expect.objectContaining({ code: "NAMESPACE_CONFLICT" });
    expect(() => new Keyv5({ store: keyv, namespace: "other", useKeyPrefix: false })).toThrow(refused);
    expect(keyv.namespace).toBe("encrypted");
  });

  it("cannot be replaced by a host if the Keyv is already in use, so the next call of the host rejects", async () => {
    const store = new MemoryStore();
    const keyv = createKeyv({ store, keys: Keyring.generate(), namespace: "encrypted" });
    await keyv.set("key", 1);
    const host = new Keyv5({ store: keyv, throwOnErrors: true });
    await expect(host.set("key", 2)).rejects.toMatchObject({ code: "NAMESPACE_CONFLICT" });
    keyv.namespace = "encrypted";
    expect(await keyv.get("key")).toBe(1);
    expect((await store.scan()).entries).toHaveLength(1);
  });
});

describe("a record that Keyv 5 wrote", () => {
  const values = { text: "täxt", colon: ":x", none: null, object: { a: [1, { b: true }] }, bytes: Buffer.of(0, 255) };

  it("can be read by Keyv 6 under the same namespace, and Keyv 5 can read what Keyv 6 wrote", async () => {
    const store = new MemoryStore();
    const keys = Keyring.generate();
    const view = () => store.namespaced("shared");
    const host = new Keyv5({
      store: new EncryptedStore(view(), { keys }),
      namespace: "shared",
      useKeyPrefix: false,
      throwOnErrors: true,
    });
    const keyv = createKeyv({ store, keys, namespace: "shared" });
    for (const [key, value] of Object.entries(values)) {
      await host.set(`5 ${key}`, value, minuteMs);
      await keyv.set(`6 ${key}`, value, minuteMs);
      expect(await keyv.get(`5 ${key}`)).toEqual(value);
      expect(await host.get(`6 ${key}`)).toEqual(value);
      expect(await keyv.getRaw(`5 ${key}`)).toMatchObject({ value, expires: expect.any(Number) });
      expect(await host.getRaw(`6 ${key}`)).toMatchObject({ value, expires: expect.any(Number) });
    }
  });
});

describe("a host with throwOnErrors", () => {
  it.each(["get", "getRaw"] as const)("rejects %s of a record that cannot be decrypted", async (method) => {
    const store = new MemoryStore();
    const sealed = createKeyv({ store, keys: Keyring.generate(), namespace: "keyv" });
    const host = new Keyv5({ store: sealed, throwOnErrors: true });
    await host.set("key", "value");
    const stored = await store.namespaced("keyv").get("keyv:key");
    await store.namespaced("keyv").set("keyv:other", stored);
    await expect(host[method]("other")).rejects.toMatchObject({ code: "RECORD_TAMPERED" });
  });
});

describe("a record that touch has extended", () => {
  const open = () => createKeyv({ store: new MemoryStore(), keys: Keyring.generate(), namespace: "sessions" });
  afterEach(() => {
    vi.useRealTimers();
  });

  it("is returned until its new expiry if createKeyv wrote it, although getRaw returns the former expiry", async () => {
    vi.useFakeTimers({ toFake: ["Date"] });
    const keyv = open();
    await keyv.set("key", "value", minuteMs);
    const written = await keyv.getRaw("key");
    expect(await keyv.encryptedStore.touch?.("key", Date.now() + 3 * minuteMs)).toBe(true);
    vi.setSystemTime(Date.now() + 2 * minuteMs);
    expect(await keyv.get("key")).toBe("value");
    expect(await keyv.getRaw("key")).toEqual(written);
    vi.setSystemTime(Date.now() + 2 * minuteMs);
    expect(await keyv.get("key")).toBeUndefined();
  });

  it("is absent from its former expiry on if a Keyv 5 wrote it", async () => {
    vi.useFakeTimers({ toFake: ["Date"] });
    const keyv = open();
    const host = new Keyv5({ store: keyv, useKeyPrefix: false, throwOnErrors: true });
    await host.set("key", "value", minuteMs);
    expect(await keyv.encryptedStore.touch?.("key", Date.now() + 3 * minuteMs)).toBe(true);
    expect(await host.get("key")).toBe("value");
    vi.setSystemTime(Date.now() + 2 * minuteMs);
    expect(await host.get("key")).toBeUndefined();
    expect(await keyv.get("key")).toBeUndefined();
  });
});
