import {
  census,
  createKeyv,
  EncryptedStore,
  type KeyProvider,
  Keyring,
  plaintext,
  reencrypt,
  retireKey,
  sealNamespace,
} from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { describe, expect, it } from "vitest";
import { contentOf, damaged } from "./inner-stores.ts";
import { expectRefusal } from "./refusals.ts";
import { newRing, rotation, TestKeys } from "./rings.ts";
import { guardMaterial, marker } from "./secrets.ts";

const value = `${marker}value`;

/** Two backends with records under the old key in two namespaces each, and stores whose primary is the new one. */
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
  it("refuses with the counts while any record of any namespace in any store needs the key", async () => {
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
    const { ring, abandoned } = await retireKey(rings.promoted, stores, "old");
    expect(ring.keys).toMatchObject([
      { id: "old", status: "disabled" },
      { id: "new", status: "enabled" },
    ]);
    expect(ring.generation).toBe(rings.promoted.generation + 1);
    expect(abandoned).toEqual([]);
  });

  it("disables first and removes then, after which everything still opens", async () => {
    const { rings, stores, cache } = await rotated();
    for (const store of Object.values(stores)) await reencrypt(store);
    await expectRefusal(retireKey(rings.promoted, stores, "old", { to: "removed" }), "KEYRING_INVALID");
    const disabled = await retireKey(rings.promoted, stores, "old");
    const removed = await retireKey(disabled.ring, stores, "old", { to: "removed" });
    expect(removed.ring.keys.map(({ id }) => id)).toEqual(["new"]);
    const fresh = new EncryptedStore(cache, { keys: removed.ring });
    expect(await fresh.getMany(["one", "two"])).toEqual([value, value]);
    await fresh.set("three", value);
  });

  it("counts again before a removal", async () => {
    const { rings, stores, cache } = await rotated();
    for (const store of Object.values(stores)) await reencrypt(store);
    const { ring } = await retireKey(rings.promoted, stores, "old");
    // A restored backup, or a process that was late.
    const late = new MemoryStore();
    await new EncryptedStore(late, { keys: rings.before }).set("late", value);
    await cache.namespaced("restored").set("late", await late.get("late"));
    const error = await expectRefusal(retireKey(ring, stores, "old", { to: "removed" }), "KEY_IN_USE");
    expect({ ...error.counts }).toEqual({ cache: 1 });
  });

  it("refuses the primary, an unknown key, and a call without the stores that it must ask", async () => {
    const { rings, stores } = await rotated();
    await expectRefusal(retireKey(rings.promoted, stores, "new"), "KEYRING_INVALID");
    await expectRefusal(retireKey(rings.promoted, stores, "new", { to: "removed" }), "KEYRING_INVALID");
    await expectRefusal(retireKey(rings.promoted, stores, "never"), "KEY_UNKNOWN");
    await expectRefusal(retireKey(rings.promoted, {}, "old"), "KEY_IN_USE");
    for (const store of Object.values(stores)) await reencrypt(store);
    const served = rings.promoted.serve(["cache", "archive", "__proto__"]);
    for (const missing of [stores, { cache: stores.cache }]) {
      const error = await expectRefusal(retireKey(served, missing, "old"), "KEY_IN_USE");
      expect(error.message).toContain("__proto__");
    }
    await expectRefusal(
      retireKey(rings.promoted, { map: new EncryptedStore(new Map(), { keys: rings.promoted }) }, "old"),
      "STORE_NOT_SCANNABLE",
    );
  });

  it("counts the check record, and renews the one it can", async () => {
    const rings = rotation();
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: rings.before }).set("key", value);
    await inner.delete("key");
    const store = new EncryptedStore(inner, { keys: rings.promoted });
    const { ring } = await retireKey(rings.promoted, { store }, "old");
    await new EncryptedStore(inner, { keys: ring.remove("old") }).set("key", value);
    // A check record that this ring cannot open, under the key that is to go, keeps it.
    const other = new MemoryStore();
    await new EncryptedStore(other, { keys: newRing("old") }).set("key", value);
    await other.delete("key");
    const error = await expectRefusal(
      retireKey(rings.promoted, { other: new EncryptedStore(other, { keys: rings.promoted }) }, "old"),
      "KEY_IN_USE",
    );
    expect(Object.values({ ...error.counts })).toEqual([1]);
  });

  describe("with abandonUnreadable", () => {
    it("lets go of what opens with no key, and lists it", async () => {
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
      const { abandoned, ring } = await retireKey(rings.promoted, stores, "old", { abandonUnreadable: true });
      expect(abandoned.map(({ namespace, key, code, keyId }) => [namespace, key, code, keyId]).sort()).toEqual([
        ["flows", "cut", "RECORD_MALFORMED", "old"],
        ["flows", "moved", "RECORD_TAMPERED", "old"],
        ["flows", "one", "RECORD_TAMPERED", "old"],
      ]);
      expect(await contentOf(cache)).toEqual(before);
      const removed = await retireKey(ring, stores, "old", { to: "removed", abandonUnreadable: true });
      expect(removed.abandoned).toHaveLength(3);
    });

    it("never lets go of a record that opens, the key disabled or not, expired or not", async () => {
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

    it("never lets go of the records of another scope that share the backend", async () => {
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
  });

  describe("at a provider", () => {
    it("saves the next ring with the previous one to compare with", async () => {
      const { rings, stores } = await rotated();
      for (const store of Object.values(stores)) await reencrypt(store);
      const keys = new TestKeys(rings.promoted);
      const { ring } = await retireKey(keys, stores, "old");
      expect(keys.saves).toBe(1);
      expect((await keys.load()).generation).toBe(ring.generation);
    });

    it("goes by the ring that the source has now, although the stores still use an earlier one", async () => {
      const { rings, cache } = await rotated();
      const silent = new TestKeys(rings.staged);
      const keys: KeyProvider = { load: () => silent.load(), save: (next, previous) => silent.save(next, previous) };
      const store = new EncryptedStore(cache, { keys });
      await store.set("one", value);
      // Another process promotes and seals everything again; this one has heard nothing of it.
      silent.become(rings.promoted);
      await reencrypt(new EncryptedStore(cache.namespaced(""), { keys: rings.promoted }));
      const { ring } = await retireKey(keys, { cache: store }, "old");
      await store.set("late", value);
      expect(await new EncryptedStore(cache.namespaced(""), { keys: ring }).getMany(["one", "late"])).toEqual([
        value,
        value,
      ]);
    });

    it("passes its conflict on, and saves nothing when refused", async () => {
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

describe("sealNamespace", () => {
  async function withPlaintext() {
    const keys = newRing();
    const inner = new MemoryStore();
    await inner.namespaced("flows").set("plain", JSON.stringify({ value }));
    await inner.namespaced("other").set("plain", JSON.stringify({ value }));
    return { keys, inner, store: new EncryptedStore(inner, { keys, accept: [plaintext()] }) };
  }

  it("refuses while plaintext lies in the namespace, in any store", async () => {
    const { keys, store } = await withPlaintext();
    const empty = new EncryptedStore(new MemoryStore(), { keys });
    const error = await expectRefusal(sealNamespace(keys, { empty, store }, "flows"), "RECORD_NOT_SEALED");
    expect({ ...error.counts }).toEqual({ store: 1 });
    await expectRefusal(sealNamespace(keys, {}, "flows"), "KEY_IN_USE");
    await expectRefusal(sealNamespace(keys.serve(["store", "gone"]), { store }, "flows"), "KEY_IN_USE");
  });

  it("closes the namespace to plaintext for good, and no other", async () => {
    const { keys, inner, store } = await withPlaintext();
    await reencrypt(store, { namespaces: ["flows"] });
    const ring = await sealNamespace(keys, { store }, "flows");
    expect(ring.sealed).toEqual(["flows"]);
    const everything = plaintext({ matches: () => true });
    const accept = [everything, plaintext()];
    const flows = createKeyv({ store: inner, keys: ring, namespace: "flows", accept }).encryptedStore;
    expect(await flows.get("plain")).toBe(JSON.stringify({ value }));
    const planted = JSON.stringify({ value: "planted" });
    await inner.namespaced("flows").set("planted", planted);
    await expectRefusal(flows.get("planted"), "RECORD_NOT_SEALED");
    expect(await createKeyv({ store: inner, keys: ring, namespace: "other", accept }).get("plain")).toBe(value);
    // Nor does the bulk job take it in.
    const scanning = new EncryptedStore(inner, { keys: ring, accept });
    expect(await reencrypt(scanning)).toMatchObject({ unreadable: 1 });
    expect(await census(scanning)).toMatchObject({ unsealed: 1 });
    // It holds in every later ring.
    const later = ring.add({ id: "later" }).promote("later");
    const again = createKeyv({ store: inner, keys: guardMaterial(later), namespace: "flows", accept });
    await expectRefusal(again.get("planted"), "RECORD_NOT_SEALED");
  });

  it("refuses a name that the keyring document could not hold", async () => {
    const { keys, store } = await withPlaintext();
    await expect(sealNamespace(keys, { store }, "\ud800")).rejects.toMatchObject({ name: "KeywardError" });
    expect(Keyring.generate().sealed).toEqual([]);
  });
});
