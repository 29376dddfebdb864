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

describe("a record that could not be read", () => {
  it("is not overwritten by set or setMany after get, has, getMany or an iteration could not read it", async () => {
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
      // A write with an expiry in the past deletes the record, which counts as overwriting it.
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

  it("is listed in the error of setMany, together with every other unreadable record of the batch", async () => {
    const { store } = await withBroken(["bad 1", "bad 2"]);
    await expectRefusal(store.getMany(["bad 1", "bad 2"]), "RECORDS_UNREADABLE");
    const error = await expectRefusal(
      store.setMany(["bad 1", "good", "bad 2"].map((key) => ({ key, value }))),
      "OVERWRITE_REFUSED",
    );
    expect(error.errors?.map(({ key }) => key)).toEqual(["bad 1", "bad 2"]);
  });

  it("can be overwritten after its stored value was restored", async () => {
    const { store, mend } = await withBroken(["bad"]);
    await expectRefusal(store.get("bad"), "RECORD_TAMPERED");
    await expectRefusal(store.set("bad", value), "OVERWRITE_REFUSED");
    await mend("bad");
    await store.set("bad", `${value}2`);
    expect(await store.get("bad")).toBe(`${value}2`);
  });

  it("can be overwritten after the process has loaded a keyring that decrypts it", async () => {
    const { before, promoted } = rotation();
    const other = guardMaterial(before.add({ id: "other" }).promote("other"));
    const inner = new Map<string, unknown>();
    // The store has no reserved space, so there is no check record, and only the overwrite guard protects the record.
    await new EncryptedStore(inner, { keys: promoted }).set("key", value);
    const keys = new TestKeys(other);
    const store = new EncryptedStore(inner, { keys });
    await expectRefusal(store.get("key"), "KEY_UNKNOWN");
    await expectRefusal(store.set("key", `${value}2`), "OVERWRITE_REFUSED");
    keys.push(guardMaterial(promoted.add({ id: "third" })));
    await store.set("key", `${value}2`);
    expect(await store.get("key")).toBe(`${value}2`);
  });

  it("makes a write fail with an error that names the store, the missing key and the available keys", async () => {
    const inner = new Map<string, unknown>();
    await new EncryptedStore(inner, { keys: newRing("first") }).setMany([
      { key: "a", value },
      { key: "b", value },
    ]);
    const store = new EncryptedStore(inner, { keys: newRing("second") });
    await expectRefusal(store.getMany(["a", "b"]), "RECORDS_UNREADABLE");
    const entries = ["a", "b", "c"].map((key) => ({ key, value }));
    expect((await expectRefusal(store.setMany(entries), "OVERWRITE_REFUSED")).message).toBe(
      "Nothing was written: the write would replace 2 records in Map that cannot be read " +
        '(KEY_UNKNOWN for key "first"). This process has only key "second"',
    );
  });

  it("can be overwritten only once after allowOverwrite() was called for its key", async () => {
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

  it("can be written without another read after delete, deleteMany or clear has removed it", async () => {
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

  it("stays protected if a delete deletes nothing, and may still be overwritten if an allowed write writes nothing", async () => {
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

  it("stays protected if a write with an expiry in the past does not delete it", async () => {
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

  it("stays protected if a read finds it while a write or delete under its key is in progress", async () => {
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

  it("is not overwritten if allowOverwrite() was called for an earlier record under its key, which was then deleted", async () => {
    const { inner, store } = await withBroken(["bad"]);
    const other = await inner.get("bad");
    await expectRefusal(store.get("bad"), "RECORD_TAMPERED");
    store.allowOverwrite("bad");
    await store.delete("bad");
    await inner.set("bad", other);
    await expectRefusal(store.get("bad"), "RECORD_TAMPERED");
    await expectRefusal(store.set("bad", value), "OVERWRITE_REFUSED");
  });

  it("is not overwritten if allowOverwrite() was called before its namespace was cleared", async () => {
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

  it("causes no additional read when another record is written", async () => {
    const { inner, store } = await withBroken(["bad"]);
    await expectRefusal(store.get("bad"), "RECORD_TAMPERED");
    inner.calls.length = 0;
    await store.set("good", value);
    expect(inner.calls).toEqual(["set"]);
  });
});

describe("10,001 records that could not be read", () => {
  const keys = Array.from({ length: 10_001 }, (_, index) => `bad ${index}`);
  const removals = {
    "deleted one by one": async (store: EncryptedStore) => {
      for (const key of keys) await store.delete(key);
    },
    "deleted together": (store: EncryptedStore) => store.deleteMany(keys),
    cleared: (store: EncryptedStore) => store.clear(),
  } as const;

  it.each(Object.entries(removals))(
    "are protected until they are %s, and can then be written without another read",
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
  it("makes a write with the wrong keyring fail with an error that names the store, the needed key and the available keys", async () => {
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
        [
          newRing("first"),
          `${name} was written with a key "first" that has other material than key "first" of this process`,
        ],
        [newRing("first").add({ id: "next" }).promote("next").disable("first"), "which is disabled in this process"],
      ] as const;
      for (const [keys, message] of cases) {
        const error = await expectRefusal(createKeyv({ store: inner, keys }).set("key", value), "OVERWRITE_REFUSED");
        expect(error.message).toContain(message);
        // The hint begins with restoring, and ends with overwriting.
        expect(error.hint).toMatch(/^Give this process the keyring .* Only if .* call `overwriteCheckRecord\(\)`/);
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

  it("prevents a process with the wrong keyring from writing records, and lets this process delete records", async () => {
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
        // The next write is refused too.
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

  it("is created by exactly one of several processes that write to an empty store at the same time", async () => {
    for (let round = 0; round < 20; round++) {
      const inner = new MemoryStore();
      const stores = Array.from({ length: 4 }, () => new EncryptedStore(inner.namespaced(""), { keys: newRing() }));
      const results = await Promise.allSettled(stores.map((store, index) => store.set(`key ${index}`, value)));
      expect(results.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
      expect(await contentOf(inner)).toHaveLength(1);
    }
  });

  it("is created by exactly one of several connections that write to an empty SQLite file at the same time", async () => {
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

  it("is created separately for each scope in a backend", async () => {
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
    "prevents another keyring from writing in a new scope, if the store was first written in scope %s",
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
      // The scope is not the cause: the right keyring can write in it.
      await new EncryptedStore(inner, { keys: ring, scope: "third" }).set("other", value);
      expect(await founder.get("key")).toBe(value);
    },
  );

  it("is the same whether the application derives the scoped keyring or sets the option scope", async () => {
    const inner = new MemoryStore();
    const ring = newRing();
    await new EncryptedStore(inner, { keys: ring, scope: "billing" }).set("billing", value);
    // A process that may use one scope gets the derived keyring, and need not know the name of the scope.
    const trusted = new EncryptedStore(inner, { keys: ring.scope("billing") });
    await trusted.set("billing", `${value}2`);
    const owner = new EncryptedStore(inner, { keys: ring });
    await owner.set("unscoped", value);
    expect(await owner.get("unscoped")).toBe(value);
  });

  it("is re-encrypted at the first write with a rotated keyring, so that the old key can be removed", async () => {
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

  it("is not re-encrypted under the old key if a process still writes with the earlier keyring", async () => {
    const { staged, promoted } = rotation();
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: promoted }).set("key", value);
    await new EncryptedStore(inner, { keys: staged }).set("other", value);
    expect(await checkKeyId(inner)).toBe("new");
  });

  it("is re-encrypted at the first write with a rotated keyring, even if keyrings have no generations", async () => {
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
    // The only record is re-encrypted: according to a census, no record needs the old key.
    expect(keyIdIn(await inner.get("key"))).toBe("next");
    await new EncryptedStore(inner, { keys: last }).set("key", `${value}2`);
  });

  it("is replaced by a process with another keyring only if this process calls overwriteCheckRecord()", async () => {
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: newRing() }).set("key", value);
    const store = new EncryptedStore(inner, { keys: newRing() });
    await expectRefusal(store.set("key", value), "OVERWRITE_REFUSED");
    await store.overwriteCheckRecord();
    await store.set("other", value);
    // A record that this keyring could not read is still protected.
    await expectRefusal(store.get("key"), "KEY_UNKNOWN");
    await expectRefusal(store.set("key", value), "OVERWRITE_REFUSED");
  });

  it("prevents lazy re-encryption with a keyring that cannot decrypt it", async () => {
    const { before, promoted } = rotation();
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: before }).set("left over", value);
    await new EncryptedStore(inner, { keys: promoted }).set("other", value);
    expect(await checkKeyId(inner)).toBe("new");
    // A keyring that has the old key, but cannot decrypt the check record.
    const stray = guardMaterial(before.add({ id: "stray" }).promote("stray"));
    const store = new EncryptedStore(inner, { keys: stray });
    await expectRefusal(store.set("fresh", value), "OVERWRITE_REFUSED");
    expect(await store.get("left over")).toBe(value);
    await store.settled();
    expect(keyIdIn(await inner.get("left over"))).toBe("old");
  });

  it("makes all writes fail if it was altered", async () => {
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

  it("makes a process reload its keyring if that keyring cannot decrypt it, and write with the reloaded keyring", async () => {
    const { before, after } = rotation();
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: after }).set("founding", value);
    const keys = new TestKeys(before);
    const store = new EncryptedStore(inner, { keys });
    // The read below makes the process load the keyring from before the rotation, which cannot decrypt the check record.
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
