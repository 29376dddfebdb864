import { createKeyv, EncryptedStore, Keyring, KeywardError, reencrypt, replicas, retireKey } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { afterEach, describe, expect, it, onTestFinished, vi } from "vitest";
import { expectRefusal, refusal } from "../refusals.ts";
import { newRing, rotation, TestKeys } from "../rings.ts";
import { guardMaterial, marker } from "../secrets.ts";
import { keyIdIn, WatchedStore } from "../store/inner-stores.ts";

const value = `${marker}value`;
/** Options with heartbeats so rare that none is due during a test. */
const rare = { heartbeatMs: 20_000, lapseMs: 60_000 };
const frequent = { heartbeatMs: 10, lapseMs: 1_000 };
const realNow = { Date: Date.now.bind(Date), performance: performance.now.bind(performance) };

/** Advances a clock by `leapMs`. */
function leap(clock: "Date" | "performance", leapMs: number): void {
  const target = clock === "Date" ? Date : performance;
  vi.spyOn(target, "now").mockImplementation(() => realNow[clock]() + leapMs);
}

afterEach(() => {
  vi.restoreAllMocks();
});

function registered(inner: MemoryStore, keys: TestKeys, options = rare): EncryptedStore {
  const store = new EncryptedStore(inner, { keys, replica: options });
  onTestFinished(() => store.disconnect());
  return store;
}

describe("a registered process", () => {
  it("is listed until it disconnects, and is listed once even if several of its stores share a backend", async () => {
    const inner = new MemoryStore();
    const keys = new TestKeys(newRing("only"));
    const make = (namespace: string) =>
      createKeyv({ store: inner, keys, namespace, replica: { ...rare, name: "worker-1" } });
    const [flows, others] = [make("flows"), make("others")];
    await flows.set("key", value);
    await others.set("key", value);
    const listed = await replicas(flows.encryptedStore);
    expect(listed).toMatchObject([{ name: "worker-1", generation: 1, primary: "only", lapsed: false }]);
    await flows.disconnect();
    expect(await replicas(others.encryptedStore)).toHaveLength(1);
    await others.disconnect();
    const visitor = new EncryptedStore(inner, { keys });
    expect(await replicas(visitor)).toEqual([]);
    // The next use of the store registers the process again.
    await flows.set("key", value);
    expect(await replicas(visitor)).toHaveLength(1);
    await flows.disconnect();
    expect(await replicas(visitor)).toEqual([]);
  });

  it("rejects a write with OVERWRITE_REFUSED instead of the error of a heartbeat if it has the wrong keyring", async () => {
    const inner = new MemoryStore();
    await registered(inner, new TestKeys(newRing())).set("key", value);
    const wrong = registered(inner, new TestKeys(newRing()));
    const error = await expectRefusal(wrong.set("other", value), "OVERWRITE_REFUSED");
    expect(error.hint).toContain("overwriteCheckRecord()");
  });

  it("leaves no heartbeat in the store if it disconnects while it waits to renew its lease", async () => {
    const inner = new MemoryStore();
    const store = registered(inner, new TestKeys(newRing()));
    await store.set("key", value);
    const lost = vi.spyOn(inner.reserved(), "set").mockRejectedValue(new Error("connection lost"));
    leap("performance", rare.lapseMs + 1);
    await expectRefusal(store.set("key", value), "STORE_UNAVAILABLE");
    // The store now waits for the next attempt to write the heartbeat.
    const refused = expectRefusal(store.set("key", value), "STORE_UNAVAILABLE");
    lost.mockRestore();
    await store.disconnect();
    await refused;
    expect(await replicas(new EncryptedStore(inner, { keys: newRing() }))).toEqual([]);
  });

  it("still writes through a store without the option replica after its registered store has disconnected", async () => {
    const inner = new MemoryStore();
    const keys = new TestKeys(newRing("only"));
    const first = new EncryptedStore(inner, { keys });
    const store = registered(inner, keys);
    const { set } = inner.reserved();
    const beating = Promise.withResolvers<void>();
    onTestFinished(() => beating.resolve());
    vi.spyOn(inner.reserved(), "set").mockImplementationOnce(async (...given) => {
      await beating.promise;
      return await set.apply(inner.reserved(), given);
    });
    let written = false;
    const writing = first.set("key", value).then(() => {
      written = true;
    });
    await new Promise((resolve) => setImmediate(resolve));
    // The heartbeat has not arrived yet.
    expect(written).toBe(false);
    beating.resolve();
    await writing;
    await store.disconnect();
    await first.set("key", "later");
    expect(await replicas(first)).toEqual([]);
  });

  it("is listed as soon as its store is created, before it writes a record", async () => {
    const inner = new MemoryStore();
    const store = registered(inner, new TestKeys(newRing()));
    await vi.waitFor(async () => expect(await replicas(store)).toHaveLength(1), 20_000);
  });

  it("writes its first heartbeat, then reloads the keyring, and only then encrypts a record", async () => {
    const inner = new MemoryStore();
    const { before, promoted } = rotation();
    const keys = new TestKeys(before);
    const reserved = inner.reserved();
    const { set } = reserved;
    vi.spyOn(reserved, "set").mockImplementation(async (...given) => {
      // An operator who changes the keyring from now on sees this process. An earlier change is part of the reload.
      keys.become(promoted);
      return await set.apply(reserved, given);
    });
    const store = registered(inner, keys);
    await store.set("key", value);
    expect(keyIdIn(await inner.get("key"))).toBe("new");
  });

  it("can write as soon as the provider returns a keyring, even if the first load failed", async () => {
    const inner = new MemoryStore();
    const keys = new TestKeys(newRing("only"));
    keys.fail(new Error("no keys yet"));
    const store = registered(inner, keys);
    await new Promise((resolve) => store.once("replica:error", resolve));
    keys.recover();
    await expect.poll(async () => await store.set("key", value).catch(() => false)).toBe(true);
    expect(keyIdIn(await inner.get("key"))).toBe("only");
  });

  it("rejects reads and writes with the provider's error if it has never loaded a keyring", async () => {
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: newRing() }).set("key", value);
    const cut = new KeywardError("KEY_INVALID", "A key was cut", { hint: "Restore it." });
    const keys = new TestKeys(newRing());
    keys.fail(cut);
    const store = registered(inner, keys);
    for (const call of [() => store.set("key", value), () => store.get("key")]) {
      const { code, message, hint } = await refusal(call);
      expect({ code, message, hint }).toEqual({ code: "KEY_INVALID", message: cut.message, hint: cut.hint });
    }
    await store.disconnect();
  });

  it("emits replica:error if a heartbeat cannot be written, and keeps running", async () => {
    const inner = new MemoryStore();
    const store = registered(inner, new TestKeys(newRing()), frequent);
    await store.set("key", value);
    const told = new Promise((resolve) => store.once("replica:error", resolve));
    vi.spyOn(inner.reserved(), "set").mockRejectedValue(new Error("connection lost"));
    expect(await told).toMatchObject({ code: "STORE_UNAVAILABLE" });
  });

  it("loads a keyring as soon as it is announced in the store, and reports the generation of that keyring in its heartbeat", async () => {
    const inner = new MemoryStore();
    const { before, staged } = rotation();
    const keys = new TestKeys(before);
    const store = registered(inner, keys, frequent);
    await store.set("key", value);
    const [first] = await replicas(store);
    expect(first?.generation).toBe(1);
    keys.become(staged);
    // The rotation announces the keyring in the store. The process learns of it in no other way.
    const operator = new EncryptedStore(inner, { keys: staged });
    await new EncryptedStore(inner, { keys: staged }).overwriteCheckRecord();
    await vi.waitFor(
      async () => expect(await replicas(operator)).toMatchObject([{ generation: 2, primary: "old" }]),
      20_000,
    );
  });

  it("keeps writing heartbeats while the load of a later keyring is in progress", async () => {
    const inner = new MemoryStore();
    const { before, staged } = rotation();
    const keys = new TestKeys(before);
    const store = registered(inner, keys, frequent);
    await store.set("key", value);
    const release = keys.hold();
    onTestFinished(release);
    const { loads } = keys;
    await new EncryptedStore(inner, { keys: staged }).overwriteCheckRecord();
    await vi.waitFor(() => expect(keys.loads).toBeGreaterThan(loads), 20_000);
    const writes = vi.spyOn(inner.reserved(), "set");
    const beats = () => writes.mock.calls.filter(([key]) => key.startsWith("replica/")).length;
    await vi.waitFor(() => expect(beats()).toBeGreaterThan(3), 20_000);
    expect(await store.set("key", value)).toBe(true);
  });

  it("is not listed as drained until a write that it began with an earlier keyring has finished", async () => {
    const inner = new WatchedStore();
    const { staged, promoted } = rotation();
    const keys = new TestKeys(staged);
    const store = registered(inner, keys, frequent);
    await store.set("key", value);
    const held = Promise.withResolvers<void>();
    const { set } = inner;
    vi.spyOn(inner, "set").mockImplementationOnce(async (...given) => {
      await held.promise;
      return await set.apply(inner, given);
    });
    const writing = store.set("late", value);
    keys.push(promoted);
    const seen = async () => (await replicas(store)).map(({ primary, drained }) => ({ primary, drained }));
    await vi.waitFor(async () => expect(await seen()).toEqual([{ primary: "new", drained: false }]), 20_000);
    await store.set("other", value);
    expect(await seen()).toEqual([{ primary: "new", drained: false }]);
    held.resolve();
    await writing;
    await vi.waitFor(async () => expect(await seen()).toEqual([{ primary: "new", drained: true }]), 20_000);
  });

  it("is listed even if it has only the keyring of one scope", async () => {
    const inner = new MemoryStore();
    const ring = newRing();
    const store = registered(inner, new TestKeys(ring.scope("a/b")));
    await store.set("key", value);
    expect(await replicas(new EncryptedStore(inner, { keys: ring }))).toMatchObject([{ generation: 1 }]);
  });

  it.each([
    { heartbeatMs: 5 },
    { heartbeatMs: 100, lapseMs: 200 },
    { lapseMs: 60_001 },
    { longestCallMs: -1 },
    { name: "\ud800" },
  ])("cannot register if the option replica is %j", (replica) => {
    const make = () => new EncryptedStore(new MemoryStore(), { keys: newRing(), replica });
    expect(make).toThrow(expect.objectContaining({ code: "VALUE_INVALID" }));
  });

  it("cannot be registered or listed in a store that has no reserved space", async () => {
    expect(() => new EncryptedStore(new Map(), { keys: newRing(), replica: true })).toThrow(
      expect.objectContaining({ code: "STORE_INVALID" }),
    );
    await expectRefusal(replicas(new EncryptedStore(new Map(), { keys: newRing() })), "STORE_INVALID");
  });

  it("is listed with an error code in the field problem if its heartbeat cannot be decrypted", async () => {
    const inner = new MemoryStore();
    await registered(inner, new TestKeys(newRing("theirs"))).set("key", value);
    const listed = await replicas(new EncryptedStore(inner, { keys: newRing("ours") }));
    expect(listed).toMatchObject([{ generation: 0, problem: "KEY_UNKNOWN" }]);
  });
});

describe("the lease of a process that stopped its heartbeats", () => {
  class SlowStore extends MemoryStore {
    override readonly longestCallMs: number;

    constructor(longestCallMs: number) {
      super();
      this.longestCallMs = longestCallMs;
    }
  }

  class SilentStore extends MemoryStore {
    constructor() {
      super();
      Reflect.deleteProperty(this, "longestCallMs");
    }
  }

  const stores: readonly (readonly [string, MemoryStore, number, number | undefined])[] = [
    ["if the store sends every write at once", new MemoryStore(), 0, undefined],
    ["if the store has longestCallMs", new SlowStore(7_000), 7_000, undefined],
    ["if the option replica has longestCallMs", new SilentStore(), 9_000, 9_000],
    ["if longestCallMs is not given", new SilentStore(), 30_000, undefined],
  ];

  it.each(stores)(
    "is extended by the longest duration that a call of the store may have, %s",
    async (_, inner, lateMs, longestCallMs) => {
      const options = longestCallMs === undefined ? rare : { ...rare, longestCallMs };
      const store = registered(inner, new TestKeys(newRing()), options);
      await store.set("key", value);
      const lapsed = async () => (await replicas(store)).map((replica) => replica.lapsed);
      leap("Date", 1.5 * rare.lapseMs + lateMs - 1_000);
      expect(await lapsed()).toEqual([false]);
      leap("Date", 1.5 * rare.lapseMs + lateMs + 1);
      expect(await lapsed()).toEqual([true]);
    },
  );
});

describe.each(["Date", "performance"] as const)(
  "a process that was halted for a time that only %s.now() measures",
  (clock) => {
    /**
     * Halts a process until its primary key has left the keyring. The record "key" is under a key that both keyrings have.
     */
    async function halted() {
      const inner = new MemoryStore();
      const older = Keyring.generate("older");
      const before = older.add({ id: "old" }).promote("old");
      const promoted = guardMaterial(before.add({ id: "new" })).promote("new");
      const keys = new TestKeys(before);
      await new EncryptedStore(inner, { keys: older }).set("key", value);
      const store = registered(inner, keys);
      await store.set("other", value);
      const other = new EncryptedStore(inner, { keys, reencrypt: "off" });
      await other.set("other", value);
      await new EncryptedStore(inner, { keys: promoted }).set("other", value);
      keys.become(promoted.disable("old").remove("old"));
      leap(clock, 60_001);
      return { inner, keys, store, other };
    }

    it("reloads the keyring before it encrypts a record", async () => {
      const { inner, store } = await halted();
      const lapsed = vi.fn();
      store.on("replica:lapsed", lapsed);
      await store.set("late", value);
      expect(keyIdIn(await inner.get("late"))).toBe("new");
      await store.setMany([{ key: "later", value }]);
      expect(keyIdIn(await inner.get("later"))).toBe("new");
      expect(lapsed).toHaveBeenCalledOnce();
    });

    it("reloads the keyring before it re-encrypts a record that it has read", async () => {
      const { inner, store } = await halted();
      expect(await store.get("key")).toBe(value);
      await store.settled();
      expect(keyIdIn(await inner.get("key"))).toBe("new");
    });

    it("reloads the keyring before it re-encrypts records in bulk", async () => {
      const { inner, store } = await halted();
      expect(await reencrypt(store)).toMatchObject({ primary: "new", reencrypted: 1 });
      expect(keyIdIn(await inner.get("key"))).toBe("new");
    });

    it("writes no record that it encrypted before the halt, if the halt is in the middle of a page of a bulk re-encryption", async () => {
      const inner = new WatchedStore();
      const { before, staged } = rotation();
      const keys = new TestKeys(staged.promote("new"));
      const store = registered(inner, keys);
      const old = new EncryptedStore(inner, { keys: before, reencrypt: "off" });
      for (const key of ["one", "two"]) await old.set(key, value);
      const scan = inner.scan.bind(inner);
      vi.spyOn(inner, "scan").mockImplementationOnce(async (options) => {
        const page = await scan(options);
        keys.become(guardMaterial(staged.promote("new").add({ id: "third" })).promote("third"));
        leap(clock, 60_001);
        return page;
      });
      const written: string[] = [];
      // The job uses its own views of the store.
      const { namespaced } = inner;
      vi.spyOn(inner, "namespaced").mockImplementation((namespace) => {
        const view = namespaced.call(inner, namespace);
        const { replaceMany } = view;
        vi.spyOn(view, "replaceMany").mockImplementation(async (changes) => {
          written.push(...changes.map(({ next }) => keyIdIn(next)));
          return await replaceMany.call(view, changes);
        });
        return view;
      });
      expect(await reencrypt(store)).toMatchObject({ primary: "third", complete: true });
      expect(written).toEqual(["third", "third"]);
    });

    it("refuses to write while its provider fails, but still reads", async () => {
      const { inner, keys, store } = await halted();
      keys.fail(new KeywardError("PROVIDER_UNAVAILABLE", "The vault is sealed", { hint: "Unseal it." }));
      const { loads } = keys;
      const refusals = ["a", "b", "c"].map((key) => expectRefusal(store.set(key, value), "PROVIDER_UNAVAILABLE"));
      const [first] = await Promise.all(refusals);
      expect(first?.hint).toMatch(/^Unseal it\. .* Reads still work\./);
      expect(first?.message).toMatch(/heartbeat of this process has lapsed.*The vault is sealed/);
      expect(keys.loads).toBe(loads + 1);
      await expectRefusal(store.set("d", value), "PROVIDER_UNAVAILABLE");
      await expectRefusal(reencrypt(store), "PROVIDER_UNAVAILABLE");
      const failed = new Promise((resolve) => store.once("reencrypt:error", resolve));
      expect(await store.get("key")).toBe(value);
      expect(await failed).toMatchObject({ error: { code: "PROVIDER_UNAVAILABLE" } });
      expect([await inner.has("a"), keyIdIn(await inner.get("key"))]).toEqual([false, "older"]);
      keys.recover();
      await expect.poll(async () => await store.set("a", value).catch(() => false)).toBe(true);
      expect(keyIdIn(await inner.get("a"))).toBe("new");
    });

    it("rejects only the write in progress, and leaves no rejection unhandled, if it is halted a second time during this write", async () => {
      const { inner, store } = await halted();
      const mended = await inner.get("key");
      if (mended === undefined) throw new Error("There is no record");
      await inner.set("key", "no record");
      await expectRefusal(store.get("key"), "RECORD_NOT_SEALED");
      await inner.set("key", mended);
      await store.set("other", value);
      const { getMany } = inner;
      vi.spyOn(inner, "getMany").mockImplementationOnce(async (keys) => {
        leap(clock, 2 * 60_001);
        return await getMany.call(inner, keys);
      });
      vi.spyOn(inner.reserved(), "set").mockRejectedValue(new Error("connection lost"));
      const unhandled = vi.fn();
      process.on("unhandledRejection", unhandled);
      onTestFinished(() => void process.off("unhandledRejection", unhandled));
      await expectRefusal(store.set("key", value), "STORE_UNAVAILABLE");
      await new Promise((resolve) => setImmediate(resolve));
      expect(unhandled).not.toHaveBeenCalled();
    });

    it("refuses to write while the store rejects its heartbeat", async () => {
      const { inner, store } = await halted();
      const failing = vi.spyOn(inner.reserved(), "set").mockRejectedValue(new Error("connection lost"));
      await expectRefusal(store.set("late", value), "STORE_UNAVAILABLE");
      expect(await inner.has("late")).toBe(false);
      failing.mockRestore();
      await store.set("late", value);
    });

    it("reloads the keyring before a store without the option replica encrypts a record", async () => {
      const { inner, other } = await halted();
      await other.set("late", value);
      expect(keyIdIn(await inner.get("late"))).toBe("new");
    });

    it("encrypts with the latest keyring, even if that keyring was announced while the process reloaded the previous one", async () => {
      const inner = new MemoryStore();
      const { staged, promoted } = rotation();
      const keys = new TestKeys(staged);
      const store = registered(inner, keys);
      await store.set("key", value);
      leap(clock, 60_001);
      const load = keys.load.bind(keys);
      let loads = 0;
      // The keyring changes while the second load is in progress, the load after the heartbeat was renewed.
      vi.spyOn(keys, "load").mockImplementation(async () => {
        const ring = await load();
        if (++loads === 2) {
          keys.become(promoted);
          await new EncryptedStore(inner, { keys: promoted }).overwriteCheckRecord();
        }
        return ring;
      });
      await store.set("late", value);
      expect(keyIdIn(await inner.get("late"))).toBe("new");
    });

    it("refuses to write while its provider returns an earlier generation of the keyring than the store announces", async () => {
      const inner = new MemoryStore();
      const { staged, promoted } = rotation();
      const keys = new TestKeys(staged);
      const store = registered(inner, keys);
      await store.set("key", value);
      await new EncryptedStore(inner, { keys: promoted }).overwriteCheckRecord();
      leap(clock, 60_001);
      expect((await expectRefusal(store.set("late", value), "KEYRING_ROLLBACK")).message).toContain(
        "Nothing was written",
      );
      keys.become(promoted);
      await store.set("late", value);
      expect(keyIdIn(await inner.get("late"))).toBe("new");
    });
  },
);

it("retireKey removes a key even if a late heartbeat of a replica is still encrypted with the key", async () => {
  const inner = new MemoryStore();
  const { before, promoted } = rotation();
  await registered(inner, new TestKeys(before)).set("key", value);
  const reserved = inner.reserved();
  const late = (await reserved.scan()).entries.find(({ key }) => key.startsWith("replica/"));
  if (late === undefined) throw new Error("There is no heartbeat");
  expect(keyIdIn(late.value)).toBe("old");
  const keys = new TestKeys(promoted);
  const stores = { records: new EncryptedStore(inner, { keys }) };
  await reencrypt(stores.records);
  await retireKey(keys, stores, "old");
  await reserved.set(late.key, late.value);
  const { keyring } = await retireKey(keys, stores, "old", { to: "removed" });
  expect(keyring.keys.map(({ id }) => id)).toEqual(["new"]);
});

it("a thousand concurrent reads of records under an unknown key load the keyring once", async () => {
  const inner = new MemoryStore();
  const { before, promoted } = rotation();
  const keys = new TestKeys(before);
  const store = new EncryptedStore(inner, { keys, reencrypt: "off" });
  await store.set("first", value);
  const records = Array.from({ length: 1_000 }, (_, index) => ({ key: `key-${index}`, value }));
  await new EncryptedStore(inner, { keys: promoted }).setMany(records);
  keys.become(promoted);
  const loads = keys.loads;
  const read = await Promise.all(records.map(({ key }) => store.get(key)));
  expect(new Set(read)).toEqual(new Set([value]));
  expect(keys.loads).toBe(loads + 1);
});
