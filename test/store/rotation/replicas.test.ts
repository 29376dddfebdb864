import { createKeyv, EncryptedStore, Keyring, KeywardError, reencrypt, replicas, retireKey } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { afterEach, describe, expect, it, onTestFinished, vi } from "vitest";
import { expectRefusal, refusal } from "../refusals.ts";
import { newRing, rotation, TestKeys } from "../rings.ts";
import { guardMaterial, marker } from "../secrets.ts";
import { keyIdIn, WatchedStore } from "../store/inner-stores.ts";

const value = `${marker}value`;
/** Heartbeats so rare that none comes by itself while a test runs. */
const rare = { heartbeatMs: 20_000, lapseMs: 60_000 };
const frequent = { heartbeatMs: 10, lapseMs: 1_000 };
const realNow = { Date: Date.now.bind(Date), performance: performance.now.bind(performance) };

/** Has a clock show that so much time has passed. */
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

describe("a process that registers", () => {
  it("is listed until it disconnects, once for all its stores over one backend", async () => {
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
    // Used again, it is there again.
    await flows.set("key", value);
    expect(await replicas(visitor)).toHaveLength(1);
    await flows.disconnect();
    expect(await replicas(visitor)).toEqual([]);
  });

  it("that has the wrong ring hears that, and not that it could not be heard", async () => {
    const inner = new MemoryStore();
    await registered(inner, new TestKeys(newRing())).set("key", value);
    const wrong = registered(inner, new TestKeys(newRing()));
    const error = await expectRefusal(wrong.set("other", value), "OVERWRITE_REFUSED");
    expect(error.hint).toContain("overwriteCheckRecord()");
  });

  it("that leaves while it waits to be heard again leaves no heartbeat behind", async () => {
    const inner = new MemoryStore();
    const store = registered(inner, new TestKeys(newRing()));
    await store.set("key", value);
    const lost = vi.spyOn(inner.reserved(), "set").mockRejectedValue(new Error("connection lost"));
    leap("performance", rare.lapseMs + 1);
    await expectRefusal(store.set("key", value), "STORE_UNAVAILABLE");
    // Now it waits for the next attempt.
    const refused = expectRefusal(store.set("key", value), "STORE_UNAVAILABLE");
    lost.mockRestore();
    await store.disconnect();
    await refused;
    expect(await replicas(new EncryptedStore(inner, { keys: newRing() }))).toEqual([]);
  });

  it("has its stores write on that do not register, when those that do have left", async () => {
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
    // Nobody has heard of the process yet.
    expect(written).toBe(false);
    beating.resolve();
    await writing;
    await store.disconnect();
    await first.set("key", "later");
    expect(await replicas(first)).toEqual([]);
  });

  it("is listed without having written anything", async () => {
    const inner = new MemoryStore();
    const store = registered(inner, new TestKeys(newRing()));
    await vi.waitFor(async () => expect(await replicas(store)).toHaveLength(1), 20_000);
  });

  it("writes its heartbeat, then loads its ring anew, then seals", async () => {
    const inner = new MemoryStore();
    const { before, promoted } = rotation();
    const keys = new TestKeys(before);
    const reserved = inner.reserved();
    const { set } = reserved;
    vi.spyOn(reserved, "set").mockImplementation(async (...given) => {
      // Whoever changes the ring now sees this process, and one who did before it was seen is heard of.
      keys.become(promoted);
      return await set.apply(reserved, given);
    });
    const store = registered(inner, keys);
    await store.set("key", value);
    expect(keyIdIn(await inner.get("key"))).toBe("new");
  });

  it("writes once its keys are there, whatever became of the first attempt", async () => {
    const inner = new MemoryStore();
    const keys = new TestKeys(newRing("only"));
    keys.fail(new Error("no keys yet"));
    const store = registered(inner, keys);
    await new Promise((resolve) => store.once("replica:error", resolve));
    keys.recover();
    await expect.poll(async () => await store.set("key", value).catch(() => false)).toBe(true);
    expect(keyIdIn(await inner.get("key"))).toBe("only");
  });

  it("that never had keys is told why, by a write as by a read", async () => {
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

  it("says so when a heartbeat fails, and does not end the process", async () => {
    const inner = new MemoryStore();
    const store = registered(inner, new TestKeys(newRing()), frequent);
    await store.set("key", value);
    const told = new Promise((resolve) => store.once("replica:error", resolve));
    vi.spyOn(inner.reserved(), "set").mockRejectedValue(new Error("connection lost"));
    expect(await told).toMatchObject({ code: "STORE_UNAVAILABLE" });
  });

  it("loads the ring at once that others wait for it to have, and says when", async () => {
    const inner = new MemoryStore();
    const { before, staged } = rotation();
    const keys = new TestKeys(before);
    const store = registered(inner, keys, frequent);
    await store.set("key", value);
    const [first] = await replicas(store);
    expect(first?.generation).toBe(1);
    keys.become(staged);
    // What a rotation leaves in the store, and nothing else tells this process.
    const operator = new EncryptedStore(inner, { keys: staged });
    await new EncryptedStore(inner, { keys: staged }).overwriteCheckRecord();
    await vi.waitFor(
      async () => expect(await replicas(operator)).toMatchObject([{ generation: 2, primary: "old" }]),
      20_000,
    );
  });

  it("writes heartbeats on while a later ring is being loaded", async () => {
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

  it("is not drained while it still seals what it began under an earlier ring", async () => {
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

  it("with a ring of one scope alone is listed all the same", async () => {
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
  ])("is refused with %j", (replica) => {
    const make = () => new EncryptedStore(new MemoryStore(), { keys: newRing(), replica });
    expect(make).toThrow(expect.objectContaining({ code: "VALUE_INVALID" }));
  });

  it("is refused in a store that has no place for a heartbeat", async () => {
    expect(() => new EncryptedStore(new Map(), { keys: newRing(), replica: true })).toThrow(
      expect.objectContaining({ code: "STORE_INVALID" }),
    );
    await expectRefusal(replicas(new EncryptedStore(new Map(), { keys: newRing() })), "STORE_INVALID");
  });

  it("is listed with the problem where its heartbeat does not open", async () => {
    const inner = new MemoryStore();
    await registered(inner, new TestKeys(newRing("theirs"))).set("key", value);
    const listed = await replicas(new EncryptedStore(inner, { keys: newRing("ours") }));
    expect(listed).toMatchObject([{ generation: 0, problem: "KEY_UNKNOWN" }]);
  });
});

describe("a process that is silent", () => {
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
    ["what it began to write is there", new MemoryStore(), 0, undefined],
    ["what it began to write may be as late as the store says", new SlowStore(7_000), 7_000, undefined],
    ["what it began to write may be as late as the option says", new SilentStore(), 9_000, 9_000],
    ["nobody knows how late what it began to write may be", new SilentStore(), 30_000, undefined],
  ];

  it.each(stores)("is taken for gone later where %s", async (_, inner, lateMs, longestCallMs) => {
    const options = longestCallMs === undefined ? rare : { ...rare, longestCallMs };
    const store = registered(inner, new TestKeys(newRing()), options);
    await store.set("key", value);
    const lapsed = async () => (await replicas(store)).map((replica) => replica.lapsed);
    leap("Date", 1.5 * rare.lapseMs + lateMs - 1_000);
    expect(await lapsed()).toEqual([false]);
    leap("Date", 1.5 * rare.lapseMs + lateMs + 1);
    expect(await lapsed()).toEqual([true]);
  });
});

describe.each(["Date", "performance"] as const)("a process that was halted, by the clock of %s,", (clock) => {
  /** A process halted until the key that it seals under is gone; the record "key" lies under a key that both rings have. */
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

  it("loads its ring anew before it seals", async () => {
    const { inner, store } = await halted();
    const lapsed = vi.fn();
    store.on("replica:lapsed", lapsed);
    await store.set("late", value);
    expect(keyIdIn(await inner.get("late"))).toBe("new");
    await store.setMany([{ key: "later", value }]);
    expect(keyIdIn(await inner.get("later"))).toBe("new");
    expect(lapsed).toHaveBeenCalledOnce();
  });

  it("loads it anew before it seals again what it reads", async () => {
    const { inner, store } = await halted();
    expect(await store.get("key")).toBe(value);
    await store.settled();
    expect(keyIdIn(await inner.get("key"))).toBe("new");
  });

  it("loads it anew before it re-encrypts in bulk", async () => {
    const { inner, store } = await halted();
    expect(await reencrypt(store)).toMatchObject({ primary: "new", reencrypted: 1 });
    expect(keyIdIn(await inner.get("key"))).toBe("new");
  });

  it("in the middle of a page of a bulk job, writes nothing of what it sealed before", async () => {
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
    // The job works on views of its own.
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

  it("seals nothing while the provider is away, and reads on", async () => {
    const { inner, keys, store } = await halted();
    keys.fail(new KeywardError("PROVIDER_UNAVAILABLE", "The vault is sealed", { hint: "Unseal it." }));
    const { loads } = keys;
    const refusals = ["a", "b", "c"].map((key) => expectRefusal(store.set(key, value), "PROVIDER_UNAVAILABLE"));
    const [first] = await Promise.all(refusals);
    expect(first?.hint).toMatch(/^Unseal it\. .* reads go on meanwhile/);
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

  it("while it looks at what it would overwrite, refuses the write to its caller and to nobody else", async () => {
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

  it("seals nothing while the store does not take its heartbeat", async () => {
    const { inner, store } = await halted();
    const failing = vi.spyOn(inner.reserved(), "set").mockRejectedValue(new Error("connection lost"));
    await expectRefusal(store.set("late", value), "STORE_UNAVAILABLE");
    expect(await inner.has("late")).toBe(false);
    failing.mockRestore();
    await store.set("late", value);
  });

  it("loads it anew before another store of it seals, which does not register", async () => {
    const { inner, other } = await halted();
    await other.set("late", value);
    expect(keyIdIn(await inner.get("late"))).toBe("new");
  });

  it("seals under the ring that came while it loaded the one before", async () => {
    const inner = new MemoryStore();
    const { staged, promoted } = rotation();
    const keys = new TestKeys(staged);
    const store = registered(inner, keys);
    await store.set("key", value);
    leap(clock, 60_001);
    const load = keys.load.bind(keys);
    let loads = 0;
    // The second answer, that to a process which can be heard again, is on its way when the ring is changed.
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

  it("seals nothing while its provider is behind the store", async () => {
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
});

it("a heartbeat that arrives late keeps no key", async () => {
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

it("a thousand concurrent reads of records under a new key cost the provider one call", async () => {
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
