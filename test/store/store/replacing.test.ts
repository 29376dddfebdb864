import { KeyvGzip } from "@keyv/compress-gzip";
import {
  census,
  createKeyv,
  EncryptedStore,
  Keyring,
  KeywardError,
  plaintext,
  type Replacement,
  reencrypt,
  rotateKey,
  type StoredValue,
} from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { SqliteStore } from "@keyward/store-sqlite";
import { KeyvMemoryAdapter } from "keyv";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { expectRefusal } from "../refusals.ts";
import { newRing, rotation, TestKeys } from "../rings.ts";
import { marker } from "../secrets.ts";
import { damaged, keyIdIn, textOf, WatchedStore } from "./inner-stores.ts";

/** Returns the store as one that replaces atomically and can be touched. */
function atomic(
  store: EncryptedStore,
): EncryptedStore & Required<Pick<EncryptedStore, "replace" | "replaceMany" | "touch">> {
  const { replace, replaceMany, touch } = store;
  if (replace === undefined || replaceMany === undefined || touch === undefined)
    throw new Error("The store is not atomic");
  return Object.assign(store, { replace, replaceMany, touch });
}

function open<Inner extends MemoryStore = WatchedStore>(given?: Inner) {
  const keys = newRing("key");
  const inner = given ?? new WatchedStore();
  return { inner, keys, store: atomic(new EncryptedStore(inner, { keys, reencrypt: "off" })) };
}

/** A store whose clock is 5 s behind the clock of this process. */
class SlowClock extends MemoryStore {
  readonly #late = 5_000;

  override async set(key: string, value: unknown, expires?: number): Promise<boolean> {
    return await super.set(key, value, expires === undefined ? undefined : expires + this.#late);
  }

  override async replaceMany(changes: readonly Replacement[]): Promise<boolean[]> {
    return await super.replaceMany(
      changes.map(({ expires, ...change }) => ({
        ...change,
        expires: typeof expires === "number" ? expires + this.#late : expires,
      })),
    );
  }
}

describe("replace()", () => {
  it("exists only if the wrapped store can replace atomically", () => {
    const keys = newRing();
    const plain = new EncryptedStore(new KeyvMemoryAdapter(new Map()), { keys });
    for (const method of ["replace", "replaceMany", "touch"]) {
      expect(Object.hasOwn(plain, method)).toBe(false);
      expect(Object.hasOwn(open().store, method)).toBe(true);
    }
  });

  it("compares decrypted values, and distinguishes text from bytes", async () => {
    const { inner, store } = open();
    await store.set("key", `${marker}old`);
    const before = await inner.get("key");
    for (const other of [`${marker}OLD`, Buffer.from(`${marker}old`), "", undefined]) {
      expect(await store.replace("key", other, "new")).toBe(false);
    }
    expect(await inner.get("key")).toEqual(before);
    expect(await store.replace("key", `${marker}old`, Buffer.from(`${marker}new`))).toBe(true);
    expect(await store.get("key")).toEqual(Buffer.from(`${marker}new`));
    expect(Buffer.from(String(await inner.get("key"))).includes(marker)).toBe(false);
    expect(await store.replace("key", `${marker}new`, "again")).toBe(false);
    expect(await store.replace("key", Buffer.from(`${marker}new`), "again")).toBe(true);
  });

  it("starts over if only the encryption of the record has changed since it was read", async () => {
    const inner = new WatchedStore();
    const rings = rotation();
    await new EncryptedStore(inner, { keys: rings.before }).set("key", "old");
    const store = atomic(new EncryptedStore(inner, { keys: rings.promoted, reencrypt: "off" }));
    inner.beforeReplace = async () => {
      inner.beforeReplace = undefined;
      await reencrypt(new EncryptedStore(inner.namespaced(""), { keys: rings.promoted }));
    };
    expect(await store.replace("key", "old", "new")).toBe(true);
    expect(await store.get("key")).toBe("new");
    expect([...(await census(inner)).keys]).toEqual([["new", 1]]);
  });

  it("does not overwrite a newer write", async () => {
    const watched = new WatchedStore();
    const { keys, store } = open(watched);
    const other = new EncryptedStore(new MemoryStore(watched), { keys });
    await store.set("key", "old");
    watched.beforeReplace = async () => {
      watched.beforeReplace = undefined;
      await other.set("key", "newer");
    };
    expect(await store.replace("key", "old", "new")).toBe(false);
    expect(await store.get("key")).toBe("newer");
  });

  it("rejects after 64 attempts in which other processes have written the same value again", async () => {
    const watched = new WatchedStore();
    const { keys, store } = open(watched);
    const other = new EncryptedStore(new MemoryStore(watched), { keys });
    await store.set("key", "old");
    let attempts = 0;
    watched.beforeReplace = async () => {
      attempts++;
      await other.set("key", "old");
    };
    const error = await expectRefusal(store.replace("key", "old", "new"), "STORE_UNAVAILABLE");
    expect(error.key).toBe("key");
    expect(attempts).toBe(64);
    expect(await store.get("key")).toBe("old");
  });

  it("replaces a record that has had another value and then the expected value again", async () => {
    const { store } = open();
    await store.set("key", "A");
    expect(await store.replace("key", "A", "B")).toBe(true);
    expect(await store.replace("key", "B", "A")).toBe(true);
    expect(await store.replace("key", "A", "C")).toBe(true);
  });

  it("rejects if the stored record cannot be decrypted, and leaves it as it is", async () => {
    const { inner, store } = open();
    await store.setMany(["bad", "good"].map((key) => ({ key, value: "old" })));
    const broken = damaged((await inner.get("bad")) as StoredValue);
    await inner.set("bad", broken);
    await expectRefusal(store.replace("bad", "old", "new"), "RECORD_TAMPERED");
    await expectRefusal(store.replace("bad", undefined, "new"), "RECORD_TAMPERED");
    await expectRefusal(store.touch("bad", null), "RECORD_TAMPERED");
    const error = await expectRefusal(
      store.replaceMany([
        { key: "good", expected: "old", next: "new" },
        { key: "bad", expected: "old", next: "new" },
      ]),
      "RECORDS_UNREADABLE",
    );
    expect(error.errors).toMatchObject([{ code: "RECORD_TAMPERED", key: "bad" }]);
    expect(await store.get("good")).toBe("old");
    expect(textOf((await inner.get("bad")) as StoredValue)).toBe(textOf(broken));
    await expectRefusal(store.set("bad", "new"), "OVERWRITE_REFUSED");
  });

  it("rejects if the key of the record was disabled after the record was read", async () => {
    const inner = new MemoryStore();
    const rings = rotation();
    await new EncryptedStore(inner, { keys: rings.before }).set("key", "old");
    const keys = new TestKeys(rings.promoted);
    const store = atomic(new EncryptedStore(inner, { keys, reencrypt: "off" }));
    // The keyring changes while the record is read, before the value is compared.
    const read = inner.get.bind(inner);
    let reads = 0;
    inner.get = async (key) => {
      const stored = await read(key);
      if (reads++ === 0) keys.push(rings.disabled);
      return stored;
    };
    await expectRefusal(store.touch("key", null), "KEY_DISABLED");
    await expectRefusal(store.replace("key", "old", "new"), "KEY_DISABLED");
    expect(keyIdIn(await read("key"))).toBe("old");
  });

  it("rejects if the key of the record was disabled while the write waited for the check record", async () => {
    const inner = new MemoryStore();
    const rings = rotation();
    await new EncryptedStore(inner, { keys: rings.before }).set("key", "old");
    // This write re-encrypts the check record under the new key.
    await new EncryptedStore(inner, { keys: rings.promoted }).set("another", "value");
    const keys = new TestKeys(rings.promoted);
    const store = atomic(new EncryptedStore(inner, { keys, reencrypt: "off" }));
    const reserved = inner.reserved();
    const read = reserved.get.bind(reserved);
    let reads = 0;
    reserved.get = async (key) => {
      if (reads++ === 0) {
        keys.push(rings.disabled);
        await expect.poll(() => store.get("key").catch(({ code }: KeywardError) => code)).toBe("KEY_DISABLED");
      }
      return await read(key);
    };
    await expectRefusal(store.touch("key", null), "KEY_DISABLED");
    expect(reads).toBeGreaterThan(0);
    expect(keyIdIn(await inner.get("key"))).toBe("old");
  });

  it("passes the expiry of a foreign record to the wrapped store, which may not know this expiry", async () => {
    const expires = Date.now() + 60_000;
    const format = { name: "lines", read: (value: StoredValue) => ({ value: String(value).slice(1), expires }) };
    const inner = new MemoryStore();
    for (const key of ["replaced", "read", "bulk"]) await inner.set(key, "!old");
    const keys = newRing();
    const store = atomic(new EncryptedStore(inner, { keys, accept: [format], reencrypt: "off" }));
    expect(await store.replace("replaced", "old", "new")).toBe(true);
    const lazy = new EncryptedStore(inner, { keys, accept: [format] });
    expect(await lazy.get("read")).toBe("old");
    await lazy.settled();
    expect(await reencrypt(store)).toMatchObject({ reencrypted: 1, unreadable: 0 });
    expect(await inner.getMany(["replaced", "read", "bulk"])).not.toContain(undefined);
    const now = vi.spyOn(Date, "now").mockReturnValue(expires);
    onTestFinished(() => now.mockRestore());
    expect(await inner.getMany(["replaced", "read", "bulk"])).toEqual([undefined, undefined, undefined]);
  });

  it("encrypts a record in plaintext that the store accepts", async () => {
    const inner = new MemoryStore();
    const [old, next] = [JSON.stringify({ value: "old" }), JSON.stringify({ value: "new" })];
    await inner.set("key", old);
    const store = atomic(new EncryptedStore(inner, { keys: newRing("key"), accept: [plaintext()], reencrypt: "off" }));
    expect(await store.replace("key", next, old)).toBe(false);
    expect(await inner.get("key")).toBe(old);
    expect(await store.touch("key", null)).toBe(true);
    expect(keyIdIn(await inner.get("key"))).toBe("key");
    expect(await store.replace("key", old, next)).toBe(true);
    expect(await store.get("key")).toBe(next);
  });

  it("keeps, sets and removes the expiry in the envelope, which the wrapped store cannot change", async () => {
    const { inner, keys, store } = open();
    const expires = Date.now() + 60_000;
    const isExpired = async (atMs: number) => {
      // In the copy, only the expiry in the envelope is left.
      const copy = new MemoryStore();
      await copy.set("key", await inner.get("key"));
      const now = vi.spyOn(Date, "now").mockReturnValue(atMs);
      try {
        return (await new EncryptedStore(copy, { keys, reencrypt: "off" }).get("key")) === undefined;
      } finally {
        now.mockRestore();
      }
    };
    await store.set("key", "old", expires);
    expect(await store.replace("key", "old", "kept")).toBe(true);
    expect([await isExpired(expires - 1), await isExpired(expires)]).toEqual([false, true]);
    expect(await store.replace("key", "kept", "later", expires + 1_000)).toBe(true);
    expect([await isExpired(expires), await isExpired(expires + 1_000)]).toEqual([false, true]);
    expect(await store.replace("key", "later", "forever", null)).toBe(true);
    expect(await isExpired(expires + 1_000_000)).toBe(false);
    expect(await store.touch("key", expires)).toBe(true);
    expect([await isExpired(expires - 1), await isExpired(expires)]).toEqual([false, true]);
  });

  it("sets no expiry on a new record if a store whose clock is behind still has the expired record", async () => {
    const { inner, store } = open(new SlowClock());
    await store.set("key", "old", Date.now() + 20);
    await expect.poll(() => store.get("key")).toBeUndefined();
    expect(await inner.get("key")).toBeDefined();
    expect(await store.replace("key", undefined, "new")).toBe(true);
    // As if the clock of the store had reached the expiry of the former record.
    const now = vi.spyOn(Date, "now").mockReturnValue(Date.now() + 60_000);
    onTestFinished(() => now.mockRestore());
    expect(await store.get("key")).toBe("new");
  });
});

describe("touch()", () => {
  it("extends, shortens and removes the expiry of a record without changing its value", async () => {
    const { store } = open();
    await store.set("key", "value", Date.now() + 3_600_000);
    expect(await store.touch("key", Date.now() + 50)).toBe(true);
    await expect.poll(() => store.get("key")).toBeUndefined();
    expect(await store.touch("key", null)).toBe(false);
    expect(await store.get("key")).toBeUndefined();
    await store.set("key", "value", Date.now() + 300);
    expect(await store.touch("key", null)).toBe(true);
    expect(await store.touch("key", Date.now() - 1)).toBe(true);
    expect(await store.get("key")).toBeUndefined();
  });

  it("keeps a value that another process writes at the same time", async () => {
    const watched = new WatchedStore();
    const { keys, store } = open(watched);
    const other = new EncryptedStore(new MemoryStore(watched), { keys });
    await store.set("key", "old");
    watched.beforeReplace = async () => {
      watched.beforeReplace = undefined;
      await other.set("key", "newer", Date.now() + 50);
    };
    expect(await store.touch("key", Date.now() + 3_600_000)).toBe(true);
    expect(await store.get("key")).toBe("newer");
  });

  it("sets and removes the expiry in the Map of a store, and removes a record whose new expiry has passed", async () => {
    const map = new Map<string, unknown>();
    const store = atomic(new EncryptedStore(map, { keys: newRing() }));
    const entry = () => [...map.values()][0];
    const [soon, later] = [Date.now() + 60_000, Date.now() + 120_000];
    await store.set("key", "value", soon);
    expect(await store.touch("key", later)).toBe(true);
    expect(entry()).toMatchObject({ expires: later });
    expect(await store.replace("key", "value", "next")).toBe(true);
    expect(entry()).toMatchObject({ expires: later });
    expect(await store.replace("key", "next", "last", null)).toBe(true);
    expect(entry()).toMatchObject({ expires: undefined });
    expect(await store.get("key")).toBe("last");
    expect(await store.touch("key", Date.now() - 60_000)).toBe(true);
    expect(map.size).toBe(0);
  });

  it("extends the expiry of a record of a Keyv that createKeyv made", async () => {
    const keyv = createKeyv({ store: new MemoryStore(), keys: newRing(), namespace: "sessions" });
    await keyv.set("42", { user: 7 }, 200);
    expect(await keyv.encryptedStore.touch?.("42", Date.now() + 3_600_000)).toBe(true);
    await keyv.set("witness", "value", 200);
    await expect.poll(() => keyv.get("witness")).toBeUndefined();
    expect(await keyv.get("42")).toEqual({ user: 7 });
    await keyv.disconnect();
  });
});

describe("the expiry of a replacement over a Map", () => {
  it("is set, removed or kept, as the call specifies", async () => {
    const map = new Map<string, unknown>();
    const store = atomic(new EncryptedStore(map, { keys: newRing(), reencrypt: "off" }));
    await store.set("key", "old", Date.now() + 100);
    expect(await store.touch("key", Date.now() + 3_600_000)).toBe(true);
    expect(await store.replace("key", "old", "new")).toBe(true);
    await store.set("other", "old", Date.now() + 100);
    expect(await store.replace("other", "old", "new", null)).toBe(true);
    expect(await store.replace("made", undefined, "new", Date.now() + 100)).toBe(true);
    await store.set("witness", "value", Date.now() + 100);
    await expect.poll(() => store.get("witness")).toBeUndefined();
    expect(await store.getMany(["key", "other", "made"])).toEqual(["new", "new", undefined]);
    expect(await store.replace("key", "new", "gone", Date.now() - 1)).toBe(true);
    expect([...map.keys()]).not.toContain("key");
  });
});

describe("a replacement that runs together with other calls of the same process", () => {
  it('is not undone by lazy re-encryption with reencrypt: "on-read-may-undo-writes"', async () => {
    const rings = rotation();
    const slow = Promise.withResolvers<void>();
    let isSlow = false;
    class Slow extends MemoryStore {
      override async set(key: string, value: unknown, expires?: number): Promise<boolean> {
        if (isSlow) await slow.promise;
        return await super.set(key, value, expires);
      }
    }
    const inner = new Slow();
    await new EncryptedStore(inner, { keys: rings.before }).set("key", "0");
    const store = atomic(new EncryptedStore(inner, { keys: rings.promoted, reencrypt: "on-read-may-undo-writes" }));
    await store.set("warm", "up");
    isSlow = true;
    expect(await store.get("key")).toBe("0");
    const replaced = store.replace("key", "0", "1");
    slow.resolve();
    expect(await replaced).toBe(true);
    await store.settled();
    expect(await store.get("key")).toBe("1");
  });

  it("waits for earlier calls for the same record, so that hundreds of concurrent calls all succeed", async () => {
    const watched = new WatchedStore();
    const { store } = open(watched);
    await store.set("key", "0");
    const touched = Array.from({ length: 300 }, () => store.touch("key", Date.now() + 3_600_000));
    expect(new Set(await Promise.all(touched))).toEqual(new Set([true]));
    expect(watched.calls.filter((call) => call === "replaceMany")).toHaveLength(300);
    const steps = Array.from({ length: 100 }, (_, index) => store.replace("key", String(index), String(index + 1)));
    expect(new Set(await Promise.all(steps))).toEqual(new Set([true]));
    expect(await store.get("key")).toBe("100");
  });

  it("is not written after the store was disconnected and used with another namespace", async () => {
    const inner = new MemoryStore();
    const reading = Promise.withResolvers<void>();
    const read = inner.get.bind(inner);
    inner.get = async (key) => {
      const stored = await read(key);
      await reading.promise;
      return stored;
    };
    const store = atomic(new EncryptedStore(inner, { keys: newRing(), reencrypt: "off" }));
    store.namespace = "one";
    const replacing = expectRefusal(store.replace("key", undefined, "for one"), "STORE_UNAVAILABLE");
    await store.disconnect();
    store.namespace = "two";
    await store.set("other", "value");
    reading.resolve();
    await replacing;
    const { entries } = await inner.scan();
    expect(entries.map(({ namespace, key }) => `${namespace} ${key}`)).toEqual(["two other"]);
  });

  it("writes the bytes as they were at the time of the call", async () => {
    const { store } = open();
    const bytes = Buffer.from("before");
    const replacing = store.replace("key", undefined, bytes);
    bytes.fill(0);
    expect(await replacing).toBe(true);
    expect(await store.get("key")).toEqual(Buffer.from("before"));
  });
});

describe("a replacement with wrong arguments", () => {
  it.each<[string, readonly unknown[], string]>([
    ["no new value", ["key", "old"], "The value `next`"],
    ["null as the expected value", ["key", null, "new"], "The value `expected`"],
    ["a number as the new value", ["key", "old", 7], "The value `next`"],
    ["a duration as the expiry", ["key", "old", "new", 60_000], "seems to be a duration"],
  ])("is refused with the argument in the message: %s", async (_, given, named) => {
    const { store } = open();
    await store.set("key", "old");
    const error = await expectRefusal(() => Reflect.apply(store.replace, store, given), "VALUE_INVALID");
    expect(error.message).toContain(named);
    const many = await expectRefusal(() => Reflect.apply(store.replaceMany, store, [["key"]]), "VALUE_INVALID");
    expect(many.hint).toContain("{ key, expected, next }");
    expect(await store.get("key")).toBe("old");
  });
});

describe("a batch of replacements that ends with an error", () => {
  it("has a hint that states that some of its changes were made", async () => {
    const watched = new WatchedStore();
    const { keys, store } = open(watched);
    const other = new EncryptedStore(new MemoryStore(watched), { keys });
    await store.setMany(["calm", "busy"].map((key) => ({ key, value: "0" })));
    watched.beforeReplace = async () => {
      await other.set("busy", "0");
    };
    const changes = ["calm", "busy"].map((key) => ({ key, expected: "0", next: "1" }));
    const error = await expectRefusal(store.replaceMany(changes), "STORE_UNAVAILABLE");
    expect(error.hint).toContain("Some changes of this batch were made");
    expect(await store.getMany(["calm", "busy"])).toEqual(["1", "0"]);
  });

  it("has a hint that states that some changes were made, if a record became unreadable after them", async () => {
    const watched = new WatchedStore();
    const { store } = open(watched);
    await store.setMany(["calm", "broken"].map((key) => ({ key, value: "0" })));
    const broken = damaged((await watched.get("broken")) as StoredValue);
    watched.beforeReplace = async () => {
      watched.beforeReplace = undefined;
      await watched.set("broken", broken);
    };
    const changes = ["calm", "broken"].map((key) => ({ key, expected: "0", next: "1" }));
    const error = await expectRefusal(store.replaceMany(changes), "RECORDS_UNREADABLE");
    expect(error.hint).toContain("Some changes of this batch were made");
    expect(error.errors).toMatchObject([{ code: "RECORD_TAMPERED", key: "broken" }]);
    expect(await store.get("calm")).toBe("1");
  });

  it.each([[[]], [[1]], [true], [undefined], [[true, true]]])("rejects if the store answers %j", async (given) => {
    const answers: object = { given };
    class Wrong extends MemoryStore {
      override async replaceMany(changes: readonly Replacement[]): Promise<boolean[]> {
        await super.replaceMany(changes);
        return Reflect.get(answers, "given");
      }
    }
    const { store } = open(new Wrong());
    await store.set("key", "old");
    for (const call of [() => store.replace("key", "old", "new"), () => store.touch("key", null)]) {
      const error = await expectRefusal(call(), "STORE_UNAVAILABLE");
      expect(error.message).toContain("replaceMany() of the store returned");
    }
  });
});

describe("touch() of a record that the process cannot use", () => {
  it("leaves a record protected if the process could not decode its value", async () => {
    const inner = new MemoryStore();
    const keys = newRing();
    const compressed = createKeyv({ store: inner, keys, compression: new KeyvGzip() });
    const plain = createKeyv({ store: inner, keys });
    await compressed.set("key", { precious: 1 });
    await expectRefusal(plain.get("key"), "RECORD_MALFORMED");
    await plain.encryptedStore.touch?.("key", Date.now() + 3_600_000);
    await expectRefusal(plain.set("key", "x"), "OVERWRITE_REFUSED");
    expect(await compressed.get("key")).toEqual({ precious: 1 });
  });

  it("is refused without an expiry, and with a keyring without keys", async () => {
    const { store } = open();
    await store.set("key", "value");
    for (const expires of [undefined, Number.NaN, "60000", new Date(), 60_000]) {
      await expectRefusal(() => Reflect.apply(store.touch, store, ["key", expires]), "VALUE_INVALID");
    }
    expect(await store.get("key")).toBe("value");
    const bare = atomic(
      new EncryptedStore(new MemoryStore(), { keys: Keyring.dangerouslyPlaintext(), reencrypt: "off" }),
    );
    await bare.set("key", "value");
    await expectRefusal(bare.touch("key", null), "KEYRING_INVALID");
    expect(await bare.replace("key", "value", "new")).toBe(true);
    expect(await bare.get("key")).toBe("new");
  });
});

describe("getManyOrErrors()", () => {
  it("returns an error for a record that cannot be decrypted, and the values of the other records", async () => {
    const { inner, store } = open();
    await store.setMany(["a", "b", "c"].map((key) => ({ key, value: key })));
    await inner.set("b", damaged((await inner.get("b")) as StoredValue));
    const [a, b, missing, c] = await store.getManyOrErrors(["a", "b", "none", "c"]);
    expect([a, missing, c]).toEqual(["a", undefined, "c"]);
    expect(b).toBeInstanceOf(KeywardError);
    expect(b).toMatchObject({ code: "RECORD_TAMPERED", key: "b" });
    await expectRefusal(store.set("b", "new"), "OVERWRITE_REFUSED");
  });
});

describe.each(["MemoryStore", "SqliteStore"])(
  "counters over %s that several stores increment during rotations",
  (name) => {
    it("lose no increment", async () => {
      const inner = name === "MemoryStore" ? new MemoryStore() : new SqliteStore(":memory:", { synchronous: "normal" });
      const keys = new TestKeys(newRing("first"));
      const counters = ["a", "b", "c"];
      const operator = new EncryptedStore(inner, { keys });
      for (const counter of counters) await operator.set(counter, "0");
      let ended = false;
      let steps = 0;
      const writers = Array.from({ length: 4 }, async (_, index) => {
        const store = atomic(new EncryptedStore(inner, { keys, ...(index === 0 ? {} : { reencrypt: "off" }) }));
        for (let turn = index; !ended; turn++) {
          const counter = counters[turn % counters.length] ?? "a";
          const read = await store.get(counter);
          if (await store.replace(counter, read as string, String(Number(read) + 1))) steps++;
          if (turn % 5 === 0) await store.touch(counter, Date.now() + 3_600_000);
          await new Promise((resolve) => setImmediate(resolve));
        }
      });
      for (let rotations = 0; rotations < 4; rotations++) {
        await rotateKey(keys, {
          stores: { operator },
          newKey: { id: `key-${rotations}` },
          graceMs: 20,
          unregistered: { waitMs: 5 },
        });
      }
      ended = true;
      await Promise.all(writers);
      const values = await operator.getMany(counters);
      expect(values.reduce((sum, value) => sum + Number(value), 0)).toBe(steps);
      expect(steps).toBeGreaterThan(100);
      expect([...(await census(operator)).keys.keys()]).toEqual(["key-3"]);
      await operator.settled();
      await inner.disconnect();
    });
  },
);
