import {
  census,
  createKeyv,
  EncryptedStore,
  forbidPlaintext,
  type KeyProvider,
  Keyring,
  KeywardError,
  plaintext,
  reencrypt,
  retireKey,
} from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { describe, expect, it, vi } from "vitest";
import { expectRefusal, refusal } from "../refusals.ts";
import { newRing, rotation, TestKeys } from "../rings.ts";
import { guardMaterial, marker } from "../secrets.ts";
import { contentOf, damaged } from "../store/inner-stores.ts";

const value = `${marker}value`;

/** Returns two backends with records under the old key in two namespaces each, and stores whose primary is the new key. */
async function rotated() {
  const rings = rotation();
  const [cache, archive] = [new MemoryStore(), new MemoryStore()];
  for (const inner of [cache, archive]) {
    for (const namespace of ["", "flows"]) {
      const store = createKeyv({ store: inner, keys: rings.before, namespace }).encryptedStore;
      await store.setMany([
        { key: "one", value },
        { key: "two", value },
      ]);
    }
  }
  const stores = {
    cache: new EncryptedStore(cache, { keys: rings.promoted }),
    archive: new EncryptedStore(archive, { keys: rings.promoted }),
  };
  return { rings, cache, archive, stores };
}

describe("retireKey", () => {
  it("rejects with KEY_IN_USE and the counts by store while a record in any namespace of any store needs the key", async () => {
    const { rings, stores, archive } = await rotated();
    const error = await expectRefusal(retireKey(rings.promoted, stores, "old"), "KEY_IN_USE");
    expect({ ...error.counts }).toEqual({ cache: 4, archive: 4 });
    expect(error.keyId).toBe("old");
    await reencrypt(stores.cache);
    await reencrypt(stores.archive, { namespaces: [""] });
    expect({ ...(await expectRefusal(retireKey(rings.promoted, stores, "old"), "KEY_IN_USE")).counts }).toEqual({
      archive: 2,
    });
    await reencrypt(stores.archive);
    await createKeyv({ store: archive, keys: rings.before, namespace: "late" }).encryptedStore.delete("nothing");
    const { keyring: ring, abandoned } = await retireKey(rings.promoted, stores, "old");
    expect(ring.keys).toMatchObject([
      { id: "old", status: "disabled" },
      { id: "new", status: "enabled" },
    ]);
    expect(ring.generation).toBe(rings.promoted.generation + 1);
    expect(abandoned).toEqual([]);
  });

  it("disables a key in one call and removes it in a second call, and every record stays readable", async () => {
    const { rings, stores, cache } = await rotated();
    for (const store of Object.values(stores)) await reencrypt(store);
    await expectRefusal(retireKey(rings.promoted, stores, "old", { to: "removed" }), "KEYRING_INVALID");
    const disabled = await retireKey(rings.promoted, stores, "old");
    const removed = await retireKey(disabled.keyring, stores, "old", { to: "removed" });
    expect(removed.keyring.keys.map(({ id }) => id)).toEqual(["new"]);
    const fresh = new EncryptedStore(cache, { keys: removed.keyring });
    expect(await fresh.getMany(["one", "two"])).toEqual([value, value]);
    await fresh.set("three", value);
  });

  it("counts the records under a disabled key again before it removes the key", async () => {
    const { rings, stores, cache } = await rotated();
    for (const store of Object.values(stores)) await reencrypt(store);
    const { keyring: ring } = await retireKey(rings.promoted, stores, "old");
    // As after a restored backup, or a late write.
    const late = new MemoryStore();
    await new EncryptedStore(late, { keys: rings.before }).set("late", value);
    await cache.namespaced("restored").set("late", await late.get("late"));
    const error = await expectRefusal(retireKey(ring, stores, "old", { to: "removed" }), "KEY_IN_USE");
    expect({ ...error.counts }).toEqual({ cache: 1 });
  });

  it("refuses to retire the primary or an unknown key, and refuses a call that lacks a store that the keyring lists", async () => {
    const { rings, stores } = await rotated();
    await expectRefusal(retireKey(rings.promoted, stores, "new"), "KEYRING_INVALID");
    await expectRefusal(retireKey(rings.promoted, stores, "new", { to: "removed" }), "KEYRING_INVALID");
    await expectRefusal(retireKey(rings.promoted, stores, "never"), "KEY_UNKNOWN");
    await expectRefusal(retireKey(rings.promoted, {}, "old"), "STORES_MISSING");
    for (const store of Object.values(stores)) await reencrypt(store);
    const served = rings.promoted.withStores(["cache", "archive", "__proto__"]);
    for (const missing of [stores, { cache: stores.cache }]) {
      const error = await expectRefusal(retireKey(served, missing, "old"), "STORES_MISSING");
      expect(error.message).toContain("__proto__");
    }
    await expectRefusal(
      retireKey(rings.promoted, { map: new EncryptedStore(new Map(), { keys: rings.promoted }) }, "old"),
      "STORE_NOT_SCANNABLE",
    );
  });

  it("re-encrypts a check record under the key, and rejects with KEY_IN_USE if that check record cannot be decrypted", async () => {
    const rings = rotation();
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: rings.before }).set("key", value);
    await inner.delete("key");
    const store = new EncryptedStore(inner, { keys: rings.promoted });
    const { keyring: ring } = await retireKey(rings.promoted, { store }, "old");
    await new EncryptedStore(inner, { keys: ring.remove("old") }).set("key", value);
    // A check record under the key that this keyring cannot decrypt keeps the key in use.
    const other = new MemoryStore();
    await new EncryptedStore(other, { keys: newRing("old") }).set("key", value);
    await other.delete("key");
    const error = await expectRefusal(
      retireKey(rings.promoted, { other: new EncryptedStore(other, { keys: rings.promoted }) }, "old"),
      "KEY_IN_USE",
    );
    expect(Object.values({ ...error.counts })).toEqual([1]);
  });

  describe("with the option abandonUnreadable", () => {
    it("retires a key whose records no key can decrypt, and lists these records", async () => {
      const { rings, stores, cache } = await rotated();
      const flows = cache.namespaced("flows");
      const sealed = await flows.get("one");
      if (sealed === undefined) throw new Error("nothing was written");
      await flows.set("one", damaged(sealed));
      await flows.set("moved", sealed);
      await flows.set("cut", sealed.slice(0, 50));
      for (const store of Object.values(stores)) await reencrypt(store);
      await expectRefusal(retireKey(rings.promoted, stores, "old"), "KEY_IN_USE");
      const before = await contentOf(cache);
      const { abandoned, keyring: ring } = await retireKey(rings.promoted, stores, "old", { abandonUnreadable: true });
      expect(abandoned.map(({ namespace, key, code, keyId }) => [namespace, key, code, keyId]).sort()).toEqual([
        ["flows", "cut", "RECORD_MALFORMED", "old"],
        ["flows", "moved", "RECORD_TAMPERED", "old"],
        ["flows", "one", "RECORD_TAMPERED", "old"],
      ]);
      expect(await contentOf(cache)).toEqual(before);
      const removed = await retireKey(ring, stores, "old", { to: "removed", abandonUnreadable: true });
      expect(removed.abandoned).toHaveLength(3);
    });

    it("never abandons a readable record, even if its key is disabled or the record has expired", async () => {
      const { rings, stores, cache } = await rotated();
      await cache.set("one", "kw1.old.AAAA");
      const options = { abandonUnreadable: true };
      const error = await expectRefusal(retireKey(rings.promoted, stores, "old", options), "KEY_IN_USE");
      expect({ ...error.counts }).toEqual({ cache: 3, archive: 4 });
      for (const to of ["disabled", "removed"] as const) {
        const again = await expectRefusal(retireKey(rings.disabled, stores, "old", { ...options, to }), "KEY_IN_USE");
        expect({ ...again.counts }).toEqual({ cache: 3, archive: 4 });
      }
    });

    it("never abandons a record that a store of another scope in the same backend can decrypt", async () => {
      const rings = rotation();
      const inner = new MemoryStore();
      await new EncryptedStore(inner, { keys: rings.before, scope: "billing" }).set("key", value);
      const stores = {
        support: new EncryptedStore(inner, { keys: rings.promoted, scope: "support" }),
        billing: new EncryptedStore(inner, { keys: rings.promoted, scope: "billing" }),
      };
      const options = { abandonUnreadable: true };
      const error = await expectRefusal(retireKey(rings.promoted, stores, "old", options), "KEY_IN_USE");
      expect({ ...error.counts }).toMatchObject({ billing: 1 });
    });

    it("never abandons a record that a store with a scoped keyring can decrypt", async () => {
      const rings = rotation();
      const inner = new MemoryStore();
      await new EncryptedStore(inner, { keys: rings.before.scope("support") }).set("key", value);
      const support = new EncryptedStore(inner, { keys: rings.promoted.scope("support"), reencrypt: "off" });
      const keys = new TestKeys(rings.promoted);
      const options = { abandonUnreadable: true };
      const error = await expectRefusal(retireKey(keys, { support }, "old", options), "KEY_IN_USE");
      expect({ ...error.counts }).toMatchObject({ support: 1 });
      expect(keys.saves).toBe(0);
      expect(await support.get("key")).toBe(value);
    });

    it("abandons no record while the reserved space has a check record of a scope and no store of this scope was passed", async () => {
      const rings = rotation();
      const inner = new MemoryStore();
      const scopes = ["billing", "support"];
      for (const scope of scopes) {
        await new EncryptedStore(inner, { keys: rings.before, scope }).set(`${scope} key`, value);
      }
      for (const scope of scopes) {
        // Re-encrypts the check record, so that no reserved record is under the key.
        await new EncryptedStore(inner, { keys: rings.promoted, scope }).set(`${scope} other`, value);
      }
      const unscoped = new EncryptedStore(inner, { keys: rings.promoted });
      await unscoped.set("key", value);
      const keys = new TestKeys(rings.promoted);
      const options = { abandonUnreadable: true };
      const error = await expectRefusal(retireKey(keys, { unscoped }, "old", options), "STORES_MISSING");
      expect(error.message).not.toContain("billing");
      expect(error.errors?.map(({ key }) => key).sort()).toEqual(["check/billing", "check/support"]);
      expect(keys.saves).toBe(0);
      const others = Object.fromEntries(
        scopes.map((scope) => [scope, new EncryptedStore(inner, { keys: rings.promoted, scope })]),
      );
      const needed = await expectRefusal(retireKey(keys, { unscoped, ...others }, "old", options), "KEY_IN_USE");
      expect(needed.counts).toEqual({ unscoped: 2, billing: 2, support: 2 });
      await inner.clear();
      await inner.set("garbage", "kw1.old.AAAA");
      const { abandoned } = await retireKey(keys, { unscoped, ...others }, "old", options);
      expect(abandoned.map(({ key }) => key)).toContain("garbage");
    });

    it("requires a store of each scope with a check record, even if the scope is no longer used, and re-encrypts that check record", async () => {
      const rings = rotation();
      const inner = new MemoryStore();
      const gone = new EncryptedStore(inner, { keys: rings.before, scope: "gone" });
      await gone.set("key", value);
      await gone.delete("key");
      const stores = { store: new EncryptedStore(inner, { keys: rings.promoted }) };
      await stores.store.set("key", value);
      const error = await expectRefusal(retireKey(rings.promoted, stores, "old"), "KEY_IN_USE");
      expect({ ...error.counts }).toEqual({ "store (reserved space)": 1 });
      const options = { abandonUnreadable: true };
      await expectRefusal(retireKey(rings.promoted, stores, "old", options), "STORES_MISSING");
      const all = { ...stores, gone: new EncryptedStore(inner, { keys: rings.promoted, scope: "gone" }) };
      const { keyring: ring, abandoned } = await retireKey(rings.promoted, all, "old", options);
      expect(ring.keys).toMatchObject([{ id: "old", status: "disabled" }, { id: "new" }]);
      expect(abandoned).toEqual([]);
      expect(await new EncryptedStore(inner, { keys: ring }).get("key")).toBe(value);
    });
  });

  describe("called during a write of this process under the key to retire", () => {
    /** Runs until a promise settles, or for 200 turns of the event loop: enough for all work that waits for nothing else. */
    async function settledOrIdle(promise: Promise<unknown>): Promise<void> {
      let settled = false;
      const settle = () => {
        settled = true;
      };
      promise.then(settle, settle);
      for (let turn = 0; turn < 200 && !settled; turn++) await new Promise((resolve) => setImmediate(resolve));
    }

    it.each([
      ["set", "the store"],
      ["setMany", "the store"],
      ["replaceMany", "the store"],
      // createKeyv makes such a store for each namespace.
      ["set", "another store over its backend"],
    ] as const)(
      "waits for the write, counts its record, and keeps the record readable: %s of %s",
      async (method, which) => {
        const earlier = guardMaterial(Keyring.generate("earlier"));
        const before = earlier.add({ id: "old" }).promote("old");
        const keys = new TestKeys(before);
        const inner = new MemoryStore();
        await new EncryptedStore(inner, { keys: earlier }).set("key", value);
        const store = new EncryptedStore(inner, { keys });
        // The keyring is loaded and the check record has passed: the next write encrypts at once.
        await store.set("other", value);
        await store.delete("other");
        const [begun, held] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
        const wait = async () => {
          begun.resolve();
          await held.promise;
        };
        const { set, setMany, replaceMany } = inner;
        vi.spyOn(inner, "set").mockImplementation(async (...given) => {
          await wait();
          return await set.apply(inner, given);
        });
        vi.spyOn(inner, "setMany").mockImplementation(async (...given) => {
          await wait();
          return await setMany.apply(inner, given);
        });
        vi.spyOn(inner, "replaceMany").mockImplementation(async (...given) => {
          await wait();
          return await replaceMany.apply(inner, given);
        });
        const calls = {
          set: () => store.set("key", value),
          setMany: () => store.setMany([{ key: "key", value }]),
          replaceMany: () => store.get("key").then(() => store.settled()),
        };
        const writing = calls[method]();
        await begun.promise;

        const changed = new Promise((resolve) => store.once("keyring:changed", resolve));
        keys.push(guardMaterial(before.add({ id: "new" }).promote("new")));
        await changed;
        const given = which === "the store" ? store : new EncryptedStore(inner.namespaced(""), { keys });
        const retiring = retireKey(keys, { store: given }, "old");
        const refused = expectRefusal(retiring, "KEY_IN_USE");
        await settledOrIdle(retiring);
        held.resolve();
        await writing;
        // The retirement waited for the write, and counted its record.
        expect({ ...(await refused).counts }).toEqual({ store: 1 });
        const fresh = new EncryptedStore(inner, { keys: await keys.load(), reencrypt: "off" });
        expect(await fresh.get("key")).toBe(value);
      },
    );
  });

  describe("a key provider", () => {
    it("saves the keyring that retireKey has changed", async () => {
      const { rings, stores } = await rotated();
      for (const store of Object.values(stores)) await reencrypt(store);
      const keys = new TestKeys(rings.promoted);
      const { keyring: ring } = await retireKey(keys, stores, "old");
      expect(keys.saves).toBe(1);
      expect((await keys.load()).generation).toBe(ring.generation);
    });

    it("is asked by retireKey for its latest keyring, even if the stores still use an earlier keyring", async () => {
      const { rings, cache } = await rotated();
      const silent = new TestKeys(rings.staged);
      const keys: KeyProvider = { load: () => silent.load(), save: (next, previous) => silent.save(next, previous) };
      const store = new EncryptedStore(cache, { keys });
      await store.set("one", value);
      // Another process promotes and re-encrypts everything. This process does not know yet.
      silent.become(rings.promoted);
      await reencrypt(new EncryptedStore(cache.namespaced(""), { keys: rings.promoted }));
      const { keyring: ring } = await retireKey(keys, { cache: store }, "old");
      await store.set("late", value);
      expect(await new EncryptedStore(cache.namespaced(""), { keys: ring }).getMany(["one", "late"])).toEqual([
        value,
        value,
      ]);
    });

    it("makes retireKey reject with KEYRING_CONFLICT if the keyring was changed meanwhile, and saves nothing while the key is in use", async () => {
      const { rings, stores } = await rotated();
      const keys = new TestKeys(rings.promoted);
      await expectRefusal(retireKey(keys, stores, "old"), "KEY_IN_USE");
      expect(keys.saves).toBe(0);
      for (const store of Object.values(stores)) await reencrypt(store);
      const racing: KeyProvider = {
        async load() {
          const ring = await keys.load();
          keys.become(ring.add({ id: "third" }));
          return ring;
        },
        save: (next, previous) => keys.save(next, previous),
      };
      await expectRefusal(retireKey(racing, stores, "old"), "KEYRING_CONFLICT");
      expect((await keys.load()).keys.map(({ id }) => id)).toEqual(["old", "new", "third"]);
    });
  });
});

describe.each([
  ["retireKey", retireKey],
  ["forbidPlaintext", forbidPlaintext],
] as const)("the function %s", (_, change) => {
  /** Returns two stores of four records each, none of which prevents the change. `old` is both the key id and the namespace. */
  async function ready() {
    const { rings, stores } = await rotated();
    for (const store of Object.values(stores)) await reencrypt(store);
    return { rings, stores };
  }

  it("rejects with PROVIDER_UNAVAILABLE, with the error of the provider as its cause, if the provider fails", async () => {
    const { rings, stores } = await ready();
    const keys = new TestKeys(rings.promoted);
    const failure = new TypeError("connect ECONNREFUSED");
    keys.fail(failure);
    expect((await expectRefusal(change(keys, stores, "old"), "PROVIDER_UNAVAILABLE")).cause).toBe(failure);
    keys.fail(new KeywardError("KEY_INVALID", "A key was cut", { hint: "Make another." }));
    await expect.poll(async () => (await refusal(change(keys, stores, "old"))).code).toBe("KEY_INVALID");
    expect(keys.saves).toBe(0);
  });

  it("loads the keyring again if the provider failed in the previous call and has recovered", async () => {
    const { rings, stores } = await ready();
    const keys = new TestKeys(rings.promoted);
    keys.fail(new Error("down"));
    await expectRefusal(change(keys, stores, "old"), "PROVIDER_UNAVAILABLE");
    keys.recover();
    await change(keys, stores, "old");
    expect(keys.saves).toBe(1);
  });

  it("rejects with KEYRING_INVALID if the provider returns something other than a keyring", async () => {
    const { stores } = await ready();
    for (const given of ['{"primary":"new","keys":[],"stores":[],"sealed":[]}', "null", '"ring"']) {
      const provider: KeyProvider = { load: () => Promise.resolve(JSON.parse(given)) };
      await expectRefusal(change(provider, stores, "old"), "KEYRING_INVALID");
    }
  });

  it("passes to onProgress how many records of all stores it has read so far", async () => {
    const { rings, stores } = await ready();
    const told: number[] = [];
    await change(rings.promoted, stores, "old", { onProgress: (records) => told.push(records) });
    expect(told).toEqual(told.toSorted((one, other) => one - other));
    expect(told.at(-1)).toBeGreaterThanOrEqual(8);
  });

  it("stops when its signal is aborted at any point, and saves no keyring", async () => {
    const { rings, stores } = await ready();
    let steps = 0;
    await change(rings.promoted, stores, "old", { onProgress: () => steps++ });
    expect(steps).toBeGreaterThan(0);
    for (let stopAt = 0; stopAt <= steps; stopAt++) {
      const keys = new TestKeys(rings.promoted);
      const stop = new AbortController();
      if (stopAt === 0) stop.abort();
      let step = 0;
      const onProgress = () => {
        if (++step === stopAt) stop.abort();
      };
      const outcome = await change(keys, stores, "old", { signal: stop.signal, onProgress }).catch((error) => error);
      expect(outcome).toBe(stop.signal.reason);
      expect(step).toBe(stopAt);
      expect(keys.saves).toBe(0);
    }
  });
});

describe("forbidPlaintext", () => {
  async function withPlaintext() {
    const keys = newRing();
    const inner = new MemoryStore();
    await inner.namespaced("flows").set("plain", JSON.stringify({ value }));
    await inner.namespaced("other").set("plain", JSON.stringify({ value }));
    return { keys, inner, store: new EncryptedStore(inner, { keys, accept: [plaintext()] }) };
  }

  it("rejects with RECORD_NOT_SEALED while any store has plaintext in the namespace", async () => {
    const { keys, store } = await withPlaintext();
    const empty = new EncryptedStore(new MemoryStore(), { keys });
    const error = await expectRefusal(forbidPlaintext(keys, { empty, store }, "flows"), "RECORD_NOT_SEALED");
    expect({ ...error.counts }).toEqual({ store: 1 });
    await expectRefusal(forbidPlaintext(keys, {}, "flows"), "STORES_MISSING");
    await expectRefusal(forbidPlaintext(keys.withStores(["store", "gone"]), { store }, "flows"), "STORES_MISSING");
  });

  it("forbids plaintext permanently in the given namespace, and in no other namespace", async () => {
    const { keys, inner, store } = await withPlaintext();
    await reencrypt(store, { namespaces: ["flows"] });
    const ring = await forbidPlaintext(keys, { store }, "flows");
    expect(ring.encryptedNamespaces).toEqual(["flows"]);
    const everything = plaintext({ matches: () => true });
    const accept = [everything, plaintext()];
    const flows = createKeyv({ store: inner, keys: ring, namespace: "flows", accept }).encryptedStore;
    expect(await flows.get("plain")).toBe(JSON.stringify({ value }));
    const planted = JSON.stringify({ value: "planted" });
    await inner.namespaced("flows").set("planted", planted);
    await expectRefusal(flows.get("planted"), "RECORD_NOT_SEALED");
    expect(await createKeyv({ store: inner, keys: ring, namespace: "other", accept }).get("plain")).toBe(value);
    // The bulk job does not accept plaintext either.
    const scanning = new EncryptedStore(inner, { keys: ring, accept });
    expect(await reencrypt(scanning)).toMatchObject({ unreadable: 1 });
    expect(await census(scanning)).toMatchObject({ unsealed: 1 });
    // Every later keyring forbids it too.
    const later = ring.add({ id: "later" }).promote("later");
    const again = createKeyv({ store: inner, keys: guardMaterial(later), namespace: "flows", accept });
    await expectRefusal(again.get("planted"), "RECORD_NOT_SEALED");
  });

  it("refuses a provider that cannot save, before it reads a record", async () => {
    const { keys, inner } = await withPlaintext();
    const store = new EncryptedStore(inner, { keys });
    const readOnly: KeyProvider = { load: async () => keys };
    const refused = new KeywardError("PROVIDER_READ_ONLY", "A mounted secret", {
      hint: "Change it where it comes from.",
    });
    const requireWritable = () => Promise.reject(refused);
    const mounted: KeyProvider = { load: async () => keys, save: async () => expect.fail("saved"), requireWritable };
    for (const provider of [readOnly, mounted]) {
      const onProgress = () => expect.fail("counted");
      await expectRefusal(forbidPlaintext(provider, { store }, "empty", { onProgress }), "PROVIDER_READ_ONLY");
    }
  });

  it("rejects a namespace with a lone surrogate, which no keyring document can contain", async () => {
    const { keys, store } = await withPlaintext();
    await expect(forbidPlaintext(keys, { store }, "\ud800")).rejects.toMatchObject({ name: "KeywardError" });
    expect(Keyring.generate().encryptedNamespaces).toEqual([]);
  });
});
