import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createKeyv, EncryptedStore, Keyring, plaintext } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { SqliteStore } from "@keyward/store-sqlite";
import { describe, expect, it } from "vitest";
import { expectRefusal } from "../refusals.ts";
import { newRing, rotation, TestKeys } from "../rings.ts";
import { guardMaterial, marker } from "../secrets.ts";
import { contentOf, damaged, keyIdIn, WatchedStore } from "./inner-stores.ts";

const value = `${marker}value`;

async function withBroken(keys: readonly string[]) {
  const inner = new WatchedStore();
  const store = new EncryptedStore(inner, { keys: newRing() });
  await store.setMany([...keys, "good"].map((key) => ({ key, value })));
  const originals = new Map<string, unknown>();
  for (const key of keys) {
    const stored = await inner.get(key);
    if (stored === undefined) throw new Error("nothing was written");
    originals.set(key, stored);
    await inner.set(key, damaged(stored));
  }
  const mend = async (key: string) => {
    await inner.set(key, originals.get(key));
  };
  return { inner, store, mend };
}

describe("a record that could not be opened", () => {
  it("is not written over, whichever way it was read and is written", async () => {
    const reads = [
      ["RECORD_TAMPERED", (store: EncryptedStore) => store.get("bad")],
      ["RECORD_TAMPERED", (store: EncryptedStore) => store.has("bad")],
      ["RECORDS_UNREADABLE", (store: EncryptedStore) => store.getMany(["good", "bad"])],
      [
        "RECORDS_UNREADABLE",
        async (store: EncryptedStore) => {
          for await (const _ of store.iterator());
        },
      ],
    ] as const;
    for (const [code, read] of reads) {
      const { inner, store } = await withBroken(["bad"]);
      await expectRefusal(read(store), code);
      const before = await contentOf(inner);
      const error = await expectRefusal(store.set("bad", value), "OVERWRITE_REFUSED");
      expect(error).toMatchObject({ key: "bad", errors: [{ code: "RECORD_TAMPERED" }] });
      // An expiry that has passed deletes: that is writing over, too.
      await expectRefusal(store.set("bad", value, 1), "OVERWRITE_REFUSED");
      await expectRefusal(
        store.setMany([
          { key: "fresh", value },
          { key: "bad", value },
          { key: "good", value: `${value}2` },
        ]),
        "OVERWRITE_REFUSED",
      );
      expect(await contentOf(inner)).toEqual(before);
    }
  });

  it("is listed with all others of a batch", async () => {
    const { store } = await withBroken(["bad 1", "bad 2"]);
    await expectRefusal(store.getMany(["bad 1", "bad 2"]), "RECORDS_UNREADABLE");
    const error = await expectRefusal(
      store.setMany(["bad 1", "good", "bad 2"].map((key) => ({ key, value }))),
      "OVERWRITE_REFUSED",
    );
    expect(error.errors?.map(({ key }) => key)).toEqual(["bad 1", "bad 2"]);
  });

  it("is written over once it is mended", async () => {
    const { store, mend } = await withBroken(["bad"]);
    await expectRefusal(store.get("bad"), "RECORD_TAMPERED");
    await expectRefusal(store.set("bad", value), "OVERWRITE_REFUSED");
    await mend("bad");
    await store.set("bad", `${value}2`);
    expect(await store.get("bad")).toBe(`${value}2`);
  });

  it("is written over once the ring opens it", async () => {
    const { before, promoted } = rotation();
    const other = guardMaterial(before.add({ id: "other" }).promote("other"));
    const inner = new Map<string, unknown>();
    // Without a reserved space there is no check record: the guard alone protects.
    await new EncryptedStore(inner, { keys: promoted }).set("key", value);
    const keys = new TestKeys(other);
    const store = new EncryptedStore(inner, { keys });
    await expectRefusal(store.get("key"), "KEY_UNKNOWN");
    await expectRefusal(store.set("key", `${value}2`), "OVERWRITE_REFUSED");
    keys.push(guardMaterial(promoted.add({ id: "third" })));
    await store.set("key", `${value}2`);
    expect(await store.get("key")).toBe(`${value}2`);
  });

  it("is refused with the name of the store, what is missing and what is at hand", async () => {
    const inner = new Map<string, unknown>();
    await new EncryptedStore(inner, { keys: newRing("first") }).setMany([
      { key: "a", value },
      { key: "b", value },
    ]);
    const store = new EncryptedStore(inner, { keys: newRing("second") });
    await expectRefusal(store.getMany(["a", "b"]), "RECORDS_UNREADABLE");
    const entries = ["a", "b", "c"].map((key) => ({ key, value }));
    expect((await expectRefusal(store.setMany(entries), "OVERWRITE_REFUSED")).message).toBe(
      "Nothing was written: 2 of 2 records to overwrite in Map cannot be opened " +
        '(KEY_UNKNOWN for key "first"). This process has only key "second"',
    );
  });

  it("is given up by name, once", async () => {
    const { inner, store } = await withBroken(["bad"]);
    await expectRefusal(store.get("bad"), "RECORD_TAMPERED");
    store.allowOverwrite("bad");
    await store.set("bad", `${value}2`);
    expect(await store.get("bad")).toBe(`${value}2`);
    const stored = await inner.get("bad");
    if (stored === undefined) throw new Error("nothing was written");
    await inner.set("bad", damaged(stored));
    await expectRefusal(store.get("bad"), "RECORD_TAMPERED");
    await expectRefusal(store.set("bad", value), "OVERWRITE_REFUSED");
  });

  it("is given up by a delete, a deleteMany or a clear", async () => {
    const removals = [
      (store: EncryptedStore) => store.delete("bad"),
      (store: EncryptedStore) => store.deleteMany(["bad"]),
      (store: EncryptedStore) => store.clear(),
    ];
    for (const remove of removals) {
      const { inner, store } = await withBroken(["bad"]);
      await expectRefusal(store.get("bad"), "RECORD_TAMPERED");
      await remove(store);
      inner.calls.length = 0;
      await store.set("bad", `${value}2`);
      expect(inner.calls).toEqual(["set"]);
    }
  });

  it("stays guarded, and given up by name, where the store did not do what it was asked", async () => {
    const { inner, store } = await withBroken(["bad"]);
    await expectRefusal(store.get("bad"), "RECORD_TAMPERED");
    for (const method of ["set", "setMany", "delete", "deleteMany"]) Reflect.set(inner, method, () => false);
    expect(await store.delete("bad")).toBe(false);
    expect(await store.deleteMany(["bad"])).toEqual([false]);
    await expectRefusal(store.set("bad", value), "OVERWRITE_REFUSED");
    store.allowOverwrite("bad");
    expect(await store.set("bad", value)).toBe(false);
    expect(await store.setMany([{ key: "bad", value }])).toEqual([false]);
    for (const method of ["set", "setMany", "delete", "deleteMany"]) Reflect.deleteProperty(inner, method);
    expect(await store.set("bad", value)).toBe(true);
    await inner.set("bad", "kw1.unknown.");
    await expectRefusal(store.get("bad"), "KEY_UNKNOWN");
    await expectRefusal(store.set("bad", value), "OVERWRITE_REFUSED");
  });

  it("stays guarded where a write that has expired already did not remove it", async () => {
    const { inner, store } = await withBroken(["bad"]);
    await expectRefusal(store.get("bad"), "RECORD_TAMPERED");
    for (const method of ["delete", "deleteMany"]) Reflect.set(inner, method, () => false);
    const expires = Date.now() - 1_000;
    const writes = [() => store.set("bad", value, expires), () => store.setMany([{ key: "bad", value, expires }])];
    for (const write of writes) {
      store.allowOverwrite("bad");
      await write();
      await expectRefusal(store.set("bad", value), "OVERWRITE_REFUSED");
    }
  });

  it("stays guarded where it was found while a write was on its way, which it may have followed", async () => {
    const { inner, store } = await withBroken([]);
    for (const write of [
      () => store.set("key", value),
      () => store.setMany([{ key: "key", value }]),
      () => store.delete("key"),
      () => store.deleteMany(["key"]),
      () => store.clear(),
    ]) {
      store.allowOverwrite("key");
      await store.set("key", value);
      const planted = async (): Promise<void> => {
        inner.answering = undefined;
        await inner.set("key", "kw1.unknown.");
        await expectRefusal(store.get("key"), "KEY_UNKNOWN");
      };
      inner.answering = planted;
      await write();
      expect(inner.answering).toBeUndefined();
      await expectRefusal(store.set("key", value), "OVERWRITE_REFUSED");
    }
  });

  it("keeps a permission from outliving the record it was given for", async () => {
    const { inner, store } = await withBroken(["bad"]);
    const other = await inner.get("bad");
    await expectRefusal(store.get("bad"), "RECORD_TAMPERED");
    store.allowOverwrite("bad");
    await store.delete("bad");
    await inner.set("bad", other);
    await expectRefusal(store.get("bad"), "RECORD_TAMPERED");
    await expectRefusal(store.set("bad", value), "OVERWRITE_REFUSED");
  });

  it("keeps a permission from outliving a clear", async () => {
    const { inner, store } = await withBroken(["bad"]);
    const other = await inner.get("bad");
    await expectRefusal(store.get("bad"), "RECORD_TAMPERED");
    store.allowOverwrite("bad");
    await store.clear();
    await inner.set("bad", other);
    await expectRefusal(store.get("bad"), "RECORD_TAMPERED");
    await expectRefusal(store.set("bad", value), "OVERWRITE_REFUSED");
    expect(await inner.get("bad")).toEqual(other);
  });

  it("costs the writes of others nothing", async () => {
    const { inner, store } = await withBroken(["bad"]);
    await expectRefusal(store.get("bad"), "RECORD_TAMPERED");
    inner.calls.length = 0;
    await store.set("good", value);
    expect(inner.calls).toEqual(["set"]);
  });
});

describe("ten thousand unreadable records and one", () => {
  const keys = Array.from({ length: 10_001 }, (_, index) => `bad ${index}`);
  const removals = {
    "deleted one by one": async (store: EncryptedStore) => {
      for (const key of keys) await store.delete(key);
    },
    "deleted together": (store: EncryptedStore) => store.deleteMany(keys),
    cleared: (store: EncryptedStore) => store.clear(),
  } as const;

  it.each(Object.entries(removals))(
    "cost writes nothing once they were %s, and are all guarded until then",
    async (_, remove) => {
      const inner = new WatchedStore();
      const store = new EncryptedStore(inner, { keys: newRing() });
      await inner.setMany(keys.map((key) => ({ key, value: "kw1.unknown." })));
      await expectRefusal(store.getMany(keys), "RECORDS_UNREADABLE");
      for (const key of ["bad 0", "bad 10000"]) await expectRefusal(store.set(key, value), "OVERWRITE_REFUSED");
      await remove(store);
      inner.calls.length = 0;
      await store.set("bad 0", value);
      await store.set("bad 10000", value);
      expect(inner.calls).toEqual(["set", "set"]);
    },
  );
});

describe("the check record", () => {
  it("says which store it is, which key it needs and which are at hand", async () => {
    const folder = await mkdtemp(join(tmpdir(), "keyward-check-"));
    try {
      const path = join(folder, "sessions.sqlite");
      const inner = new SqliteStore(path);
      await createKeyv({ store: inner, keys: newRing("first"), namespace: "flows" }).set("key", value);
      const name = `SqliteStore ${JSON.stringify(path)}`;
      const cases = [
        [newRing("second"), `${name} was written with key "first", and this process has only key "second"`],
        [newRing("second").add({ id: "third" }), "and this process has only the keys"],
        [Keyring.dangerouslyPlaintext(), `${name} was written with key "first", and this process has no key`],
        [newRing("first"), `${name} was written with another key "first" than the one of this id`],
        [newRing("first").add({ id: "next" }).promote("next").disable("first"), "which is disabled in this process"],
      ] as const;
      for (const [keys, message] of cases) {
        const error = await expectRefusal(createKeyv({ store: inner, keys }).set("key", value), "OVERWRITE_REFUSED");
        expect(error.message).toContain(message);
        // What restores stands before what destroys.
        expect(error.hint).toMatch(/^Give this process the keyring .* only then, call overwriteCheckRecord\(\)/);
      }
      const wide = newRing("id0");
      const many = Array.from({ length: 8 }, (_, at) => at + 1).reduce((ring, at) => ring.add({ id: `id${at}` }), wide);
      const error = await expectRefusal(
        createKeyv({ store: inner, keys: many }).set("key", value),
        "OVERWRITE_REFUSED",
      );
      expect(error.message).toContain('"id4" and 4 more');
      await inner.disconnect();
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });

  it("keeps a fresh process with a wrong ring from writing, not from deleting", async () => {
    const inner = new MemoryStore();
    await createKeyv({ store: inner, keys: newRing("k1"), namespace: "a" }).set("key", value);
    const before = await contentOf(inner);
    const check = await reservedContentOf(inner);
    for (const ring of [newRing("k1"), newRing("k2"), Keyring.dangerouslyPlaintext()]) {
      for (const namespace of ["a", "another"]) {
        const wrong = createKeyv({ store: inner, keys: ring, namespace });
        await expectRefusal(wrong.set("key", value), "OVERWRITE_REFUSED");
        await expectRefusal(wrong.setMany([{ key: "fresh", value }]), "OVERWRITE_REFUSED");
        await expectRefusal(wrong.encryptedStore.set("fresh", value), "OVERWRITE_REFUSED");
        // It stays so.
        await expectRefusal(wrong.set("key", value), "OVERWRITE_REFUSED");
        wrong.encryptedStore.allowOverwrite("key");
        await expectRefusal(wrong.set("key", value), "OVERWRITE_REFUSED");
      }
    }
    expect(await contentOf(inner)).toEqual(before);
    expect(await reservedContentOf(inner)).toEqual(check);
    const wrong = createKeyv({ store: inner, keys: newRing(), namespace: "a" });
    await wrong.delete("key");
    expect(await contentOf(inner)).toEqual([]);
  });

  it("is founded by exactly one of several processes that begin at once", async () => {
    for (let round = 0; round < 20; round++) {
      const inner = new MemoryStore();
      const stores = Array.from({ length: 4 }, () => new EncryptedStore(inner.namespaced(""), { keys: newRing() }));
      const results = await Promise.allSettled(stores.map((store, index) => store.set(`key ${index}`, value)));
      expect(results.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
      expect(await contentOf(inner)).toHaveLength(1);
    }
  });

  it("is founded by exactly one of several connections to a SQLite file", async () => {
    const folder = await mkdtemp(join(tmpdir(), "keyward-check-"));
    try {
      for (let round = 0; round < 5; round++) {
        const inners = Array.from(
          { length: 3 },
          () => new SqliteStore(join(folder, `${round}.db`), { synchronous: "normal" }),
        );
        const writes = inners.map((inner, index) =>
          new EncryptedStore(inner, { keys: newRing() }).set(`key ${index}`, value),
        );
        const results = await Promise.allSettled(writes);
        expect(results.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
        for (const inner of inners) await inner.disconnect();
      }
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });

  it("keeps scopes that share a backend apart", async () => {
    const inner = new MemoryStore();
    const ring = newRing();
    const [billing, support] = ["billing", "support"].map((scope) => new EncryptedStore(inner, { keys: ring, scope }));
    await billing?.set("billing", value);
    await support?.set("support", value);
    expect(await billing?.get("billing")).toBe(value);
    await expectRefusal(
      new EncryptedStore(inner, { keys: newRing(), scope: "billing" }).set("x", value),
      "OVERWRITE_REFUSED",
    );
  });

  it.each([undefined, "flows"])(
    "keeps another ring out under a scope that is new: founded in scope %s",
    async (scope) => {
      const inner = new MemoryStore();
      const ring = newRing();
      const founder = new EncryptedStore(inner, { keys: ring, ...(scope === undefined ? {} : { scope }) });
      await founder.set("key", value);
      const before = await contentOf(inner);
      const check = await reservedContentOf(inner);
      const stranger = new EncryptedStore(inner, { keys: newRing(), scope: "third" });
      await expectRefusal(stranger.set("key", value), "OVERWRITE_REFUSED");
      await expectRefusal(stranger.setMany([{ key: "fresh", value }]), "OVERWRITE_REFUSED");
      expect(await contentOf(inner)).toEqual(before);
      expect(await reservedContentOf(inner)).toEqual(check);
      // The scope is not at fault: under the right ring it is written.
      await new EncryptedStore(inner, { keys: ring, scope: "third" }).set("other", value);
      expect(await founder.get("key")).toBe(value);
    },
  );

  it("is the same for a ring that was scoped before it was handed over", async () => {
    const inner = new MemoryStore();
    const ring = newRing();
    await new EncryptedStore(inner, { keys: ring, scope: "billing" }).set("billing", value);
    // A process that is trusted with one scope gets the scoped ring, and need not know its name.
    const trusted = new EncryptedStore(inner, { keys: ring.scope("billing") });
    await trusted.set("billing", `${value}2`);
    const owner = new EncryptedStore(inner, { keys: ring });
    await owner.set("unscoped", value);
    expect(await owner.get("unscoped")).toBe(value);
  });

  it("follows a rotation, so that the old key can go", async () => {
    const { before, promoted, after } = rotation();
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: before }).set("key", value);
    expect(await checkKeyId(inner)).toBe("old");
    const rotated = new EncryptedStore(inner, { keys: promoted });
    await rotated.set("key", value);
    expect(await checkKeyId(inner)).toBe("new");
    const final = new EncryptedStore(inner, { keys: after });
    await final.set("key", `${value}2`);
    await expectRefusal(new EncryptedStore(inner, { keys: before }).set("key", value), "OVERWRITE_REFUSED");
  });

  it("is not taken back by a process that still has the ring from before the promotion", async () => {
    const { staged, promoted } = rotation();
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: promoted }).set("key", value);
    await new EncryptedStore(inner, { keys: staged }).set("other", value);
    expect(await checkKeyId(inner)).toBe("new");
  });

  it("follows a rotation of rings without generations, as environment variables give them", async () => {
    const [old, next] = [
      Buffer.alloc(32, 0).map((_, index) => index),
      Buffer.alloc(32, 0).map((_, index) => index + 100),
    ];
    const first = Keyring.fromKeys([{ id: "old", material: old }]);
    const both = Keyring.fromKeys([
      { id: "next", material: next },
      { id: "old", material: old },
    ]);
    const last = Keyring.fromKeys([{ id: "next", material: next }]);
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: first }).set("key", value);
    const rotating = new EncryptedStore(inner, { keys: both });
    await rotating.set("key", value);
    // The only record is sealed anew: nothing that a census shows needs the old key.
    expect(keyIdIn(await inner.get("key"))).toBe("next");
    await new EncryptedStore(inner, { keys: last }).set("key", `${value}2`);
  });

  it("is overwritten only by name", async () => {
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: newRing() }).set("key", value);
    const store = new EncryptedStore(inner, { keys: newRing() });
    await expectRefusal(store.set("key", value), "OVERWRITE_REFUSED");
    await store.overwriteCheckRecord();
    await store.set("other", value);
    // What this ring cannot read is still guarded once it was met.
    await expectRefusal(store.get("key"), "KEY_UNKNOWN");
    await expectRefusal(store.set("key", value), "OVERWRITE_REFUSED");
  });

  it("binds lazy re-encryption as it binds writes", async () => {
    const { before, promoted } = rotation();
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: before }).set("left over", value);
    await new EncryptedStore(inner, { keys: promoted }).set("other", value);
    expect(await checkKeyId(inner)).toBe("new");
    // A ring of its own making, which opens the old key and not the check record.
    const stray = guardMaterial(before.add({ id: "stray" }).promote("stray"));
    const store = new EncryptedStore(inner, { keys: stray });
    await expectRefusal(store.set("fresh", value), "OVERWRITE_REFUSED");
    expect(await store.get("left over")).toBe(value);
    await store.settled();
    expect(keyIdIn(await inner.get("left over"))).toBe("old");
  });

  it("that was altered refuses all writes", async () => {
    const inner = new MemoryStore();
    const ring = newRing();
    await new EncryptedStore(inner, { keys: ring }).set("key", value);
    const { entries } = await inner.reserved().scan();
    for (const { key, value: stored } of entries) {
      for (const altered of [damaged(stored), "kw1.", "", JSON.stringify({ value: "check" })]) {
        await inner.reserved().set(key, altered);
        const store = new EncryptedStore(inner, { keys: ring, accept: [plaintext({ matches: () => true })] });
        await expectRefusal(store.set("key", value), "OVERWRITE_REFUSED");
      }
    }
  });

  it("has a process with a stale ring seal under the ring that it loads meanwhile", async () => {
    const { before, after } = rotation();
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: after }).set("founding", value);
    const keys = new TestKeys(before);
    const store = new EncryptedStore(inner, { keys });
    // It loads its ring before the rotation. To open the check record it asks again, and its key is gone.
    const elsewhere = new MemoryStore();
    await new EncryptedStore(elsewhere, { keys: before }).set("earlier", value);
    await inner.set("earlier", await elsewhere.get("earlier"));
    expect(await store.get("earlier")).toBe(value);
    keys.become(after);
    await store.set("key", value);
    expect(keyIdIn(await inner.get("key"))).toBe("new");
    expect(await new EncryptedStore(inner, { keys: after }).get("key")).toBe(value);
  });
});

async function reservedContentOf(inner: MemoryStore): Promise<unknown> {
  return (await inner.reserved().scan()).entries;
}

async function checkKeyId(inner: MemoryStore): Promise<string> {
  const { entries } = await inner.reserved().scan();
  expect(entries).toHaveLength(1);
  return keyIdIn(entries[0]?.value);
}
