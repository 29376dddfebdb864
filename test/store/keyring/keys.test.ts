import { EncryptedStore, type KeyProvider, Keyring, KeywardError } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { afterEach, describe, expect, it, vi } from "vitest";
import { expectRefusal, refusal } from "../refusals.ts";
import { newRing, rotation, TestKeys } from "../rings.ts";
import { expectNoSecrets, guardMaterial, marker } from "../secrets.ts";
import { keyIdIn, WatchedStore } from "../store/inner-stores.ts";

const value = `${marker}value`;

const unhandled: unknown[] = [];
process.on("unhandledRejection", (reason) => unhandled.push(reason));

afterEach(() => {
  vi.restoreAllMocks();
  expect(unhandled).toEqual([]);
});

/** Envelopes that name keys which nobody ever had. */
function forged(count: number): { key: string; value: string }[] {
  const body = Buffer.alloc(80, 7).toString("base64url");
  return Array.from({ length: count }, (_, index) => ({ key: `forged ${index}`, value: `kw1.forged${index}.${body}` }));
}

describe("a provider", () => {
  it("is asked once by all stores and all calls that begin together", async () => {
    const keys = new TestKeys(newRing());
    const stores = Array.from({ length: 3 }, () => new EncryptedStore(new MemoryStore(), { keys }));
    const release = keys.hold();
    const writes = stores.flatMap((store) =>
      Array.from({ length: 20 }, (_, index) => store.set(`key ${index}`, value)),
    );
    release();
    await Promise.all(writes);
    expect(keys.loads).toBe(1);
  });

  it("whose first load fails rejects the calls, writes nothing, and is asked again by the first call after a pause", async () => {
    const keys = new TestKeys(newRing());
    keys.fail(new Error("unreachable"));
    const inner = new MemoryStore();
    const store = new EncryptedStore(inner, { keys });
    await expectRefusal(store.set("key", value), "PROVIDER_UNAVAILABLE");
    expect((await inner.scan()).entries).toEqual([]);
    expect((await inner.reserved().scan()).entries).toEqual([]);
    keys.fail(new KeywardError("KEY_INVALID", "A key was cut", { hint: "Make another." }));
    await expect.poll(async () => (await refusal(store.set("key", value))).code).toBe("KEY_INVALID");
    keys.recover();
    await expect.poll(async () => await store.set("key", value).catch(() => false)).toBe(true);
    expect(await store.get("key")).toBe(value);
  });

  it("that was mended is asked at once when it says so, also during a pause", async () => {
    const keys = new TestKeys(newRing());
    keys.fail(new Error("unreachable"));
    const store = new EncryptedStore(new MemoryStore(), { keys });
    // However long the pause is by now.
    for (let time = 0; time < 20; time++) {
      keys.push(newRing());
      await vi.waitFor(() => expect(keys.loads).toBe(time + 1), 20_000);
    }
    keys.recover();
    keys.push(newRing());
    await vi.waitFor(async () => await store.set("key", value), 20_000);
  });

  it("whose first load fails has the failure told to each read, and to nobody else", async () => {
    const { before } = rotation();
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: before }).setMany([{ key: "one", value }]);
    const keys = new TestKeys(before);
    keys.fail(new Error("unreachable"));
    const store = new EncryptedStore(inner, { keys });
    const seen: unknown[] = [];
    const runners = process.listeners("unhandledRejection");
    process.removeAllListeners("unhandledRejection");
    process.on("unhandledRejection", (reason) => seen.push(reason));
    try {
      await expectRefusal(store.get("one"), "PROVIDER_UNAVAILABLE");
      await expectRefusal(store.getMany(["one"]), "RECORDS_UNREADABLE");
      for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve));
    } finally {
      process.removeAllListeners("unhandledRejection");
      for (const listener of runners) process.on("unhandledRejection", listener);
    }
    expect(seen).toEqual([]);
  });

  it("that goes down leaves the last good ring in use, with a warning", async () => {
    const { staged, promoted } = rotation();
    const keys = new TestKeys(staged);
    const inner = new MemoryStore();
    const store = new EncryptedStore(inner, { keys });
    const warnings: KeywardError[] = [];
    store.on("provider:error", (error: KeywardError) => warnings.push(error));
    const errors: unknown[] = [];
    store.on("error", (error: unknown) => errors.push(error));
    await store.set("key", value);
    keys.fail(new Error("unreachable"));
    keys.push(promoted);
    await vi.waitFor(() => expect(warnings).toMatchObject([{ code: "PROVIDER_UNAVAILABLE" }]), 20_000);
    expectNoSecrets(warnings[0]);
    await store.set("other", value);
    expect(await store.get("key")).toBe(value);
    await inner.setMany(forged(1));
    const error = await expectRefusal(store.get("forged 0"), "KEY_UNKNOWN");
    expect(error.cause).toMatchObject({ code: "PROVIDER_UNAVAILABLE" });
    expect(errors).toEqual([]);
  });

  it("that pushes changes the ring without a restart", async () => {
    const { before, promoted } = rotation();
    const keys = new TestKeys(before);
    const inner = new MemoryStore();
    const store = new EncryptedStore(inner, { keys });
    await store.set("key", value);
    const changed = vi.fn();
    store.on("keyring:changed", changed);
    keys.push(promoted);
    await vi.waitFor(() => expect(changed).toHaveBeenCalledTimes(1), 20_000);
    expect(changed.mock.calls[0]?.[0]).toMatchObject({ primary: "new" });
    await store.set("key", value);
    const { entries } = await inner.scan();
    expect(Buffer.from(entries[0]?.value ?? "").toString("latin1")).toMatch(/^kw1:new:/);
  });

  it("that pushes again while it answers is asked again", async () => {
    const { before, staged, promoted } = rotation();
    const keys = new TestKeys(before);
    const store = new EncryptedStore(new MemoryStore(), { keys });
    await store.set("key", value);
    const rings: string[] = [];
    store.on("keyring:changed", (ring: Keyring) => rings.push(`${ring.generation}`));
    const release = keys.hold();
    keys.push(staged);
    keys.push(promoted);
    release();
    await vi.waitFor(() => expect(rings.at(-1)).toBe(`${promoted.generation}`), 20_000);
  });

  it("is not watched any more once its stores are disconnected", async () => {
    const keys = new TestKeys(newRing());
    const stores = [new EncryptedStore(new Map(), { keys }), new EncryptedStore(new Map(), { keys })];
    expect(keys.watchers).toBe(1);
    for (const store of stores) await store.disconnect();
    expect(keys.watchers).toBe(0);
  });

  it("is followed again by a store that is used after it was disconnected", async () => {
    const { before, promoted } = rotation();
    const keys = new TestKeys(before);
    const inner = new MemoryStore();
    const store = new EncryptedStore(inner, { keys });
    await store.set("key", value);
    await store.disconnect();
    expect(await store.get("key")).toBe(value);
    keys.push(promoted);
    await vi.waitFor(async () => {
      await store.set("key", value);
      expect(keyIdIn(await inner.get("key"))).toBe("new");
    }, 20_000);
    await store.disconnect();
    expect(keys.watchers).toBe(0);
  });

  it("that gives something other than a ring is refused", async () => {
    const provider: KeyProvider = { load: () => Promise.resolve(JSON.parse('{"primary":"k1"}')) };
    await expectRefusal(new EncryptedStore(new Map(), { keys: provider }).set("key", value), "KEYRING_INVALID");
  });

  it("that hangs fails the first call in time, and no later one that has a ring", async () => {
    const abort = new AbortController();
    vi.spyOn(AbortSignal, "timeout").mockReturnValueOnce(abort.signal);
    const signals: (AbortSignal | undefined)[] = [];
    const hanging: KeyProvider = {
      load: (options) => {
        signals.push(options?.signal);
        return new Promise<never>(() => undefined);
      },
    };
    const call = expectRefusal(
      new EncryptedStore(new Map(), { keys: hanging }).set("key", value),
      "PROVIDER_UNAVAILABLE",
    );
    await vi.waitFor(() => expect(signals).toHaveLength(1), 20_000);
    abort.abort();
    await call;
    expect(signals[0]?.aborted).toBe(true);

    const keys = new TestKeys(newRing());
    const store = new EncryptedStore(new MemoryStore(), { keys });
    await store.set("key", value);
    const release = keys.hold();
    keys.push(newRing());
    expect(await store.get("key")).toBe(value);
    await store.set("key", value);
    release();
  });

  it("that throws before it returns a promise leaves no rejection behind", async () => {
    const abort = new AbortController();
    vi.spyOn(AbortSignal, "timeout").mockReturnValue(abort.signal);
    const provider: KeyProvider = {
      load: () => {
        throw new Error("not configured");
      },
    };
    const seen: unknown[] = [];
    const runners = process.listeners("unhandledRejection");
    process.removeAllListeners("unhandledRejection");
    process.on("unhandledRejection", (reason) => seen.push(reason));
    try {
      await expectRefusal(new EncryptedStore(new Map(), { keys: provider }).set("key", value), "PROVIDER_UNAVAILABLE");
      // The time limit passes, long after the call.
      abort.abort();
      for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve));
    } finally {
      process.removeAllListeners("unhandledRejection");
      for (const listener of runners) process.on("unhandledRejection", listener);
    }
    expect(seen).toEqual([]);
  });

  it("has its ring used although a listener throws", async () => {
    const { before, promoted } = rotation();
    const keys = new TestKeys(before);
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: promoted }).set("key", value);
    const store = new EncryptedStore(inner, { keys });
    const warned = vi.fn();
    store.on("keyring:changed", () => {
      throw new Error("a listener of the application is broken");
    });
    store.on("provider:error", warned);
    await new EncryptedStore(new MemoryStore(), { keys }).set("loads the ring", value);
    keys.become(promoted);
    expect(await store.get("key")).toBe(value);
    // Nothing is wrong with the provider.
    expect(warned).not.toHaveBeenCalled();
  });
});

describe("a ring from the past", () => {
  const { before, promoted } = rotation();

  it.each([
    ["of a lower generation", before],
    ["of another name", promoted.rename("another")],
    ["without keys", Keyring.dangerouslyPlaintext()],
    ["of another scope", promoted.scope("billing")],
  ])("%s is not taken", async (_, next) => {
    const keys = new TestKeys(promoted);
    const inner = new MemoryStore();
    const store = new EncryptedStore(inner, { keys });
    await store.set("key", value);
    const warnings: unknown[] = [];
    store.on("provider:error", (error: unknown) => warnings.push(error));
    keys.push(next);
    await vi.waitFor(() => expect(warnings).toMatchObject([{ code: "KEYRING_ROLLBACK" }]), 20_000);
    await store.set("other", value);
    expect(await store.getMany(["key", "other"])).toEqual([value, value]);
    for (const { value: stored } of (await inner.scan()).entries) {
      expect(Buffer.from(stored).toString("latin1")).toMatch(/^kw1:new:/);
    }
  });
});

describe("another ring of the same name and a higher generation", () => {
  const { before, promoted } = rotation();
  const unrelated = newRing("new").add().add().add();
  // A copy that went another way after the key "old": it has another key under the id "new", and seals under that.
  const forked = before.add({ id: "new" }).promote("new").withStores(["a"]).withStores(["b"]);

  it.each([
    ["that shares no key with the ring in use", unrelated, new Map(), /shares no key/],
    ["that shares none, in a store that has a check record", unrelated, new MemoryStore(), /check record/],
    ["that shares one, and cannot open the check record", forked, new MemoryStore(), /check record/],
  ])("%s does not replace it, and the right one is no rollback afterwards", async (_, other, inner, problem) => {
    const keys = new TestKeys(promoted);
    const store = new EncryptedStore(inner, { keys, scope: "tenant" });
    await store.set("key", value);
    const warnings: KeywardError[] = [];
    store.on("provider:error", (error: KeywardError) => warnings.push(error));
    keys.push(other);
    await vi.waitFor(() => expect(warnings).toMatchObject([{ code: "KEYRING_ROLLBACK" }]), 20_000);
    expect(warnings[0]?.message).toMatch(problem);
    await store.set("other", value);
    expect(await store.getMany(["key", "other"])).toEqual([value, value]);
    const next = promoted.withStores(["sessions"]);
    const rings: Keyring[] = [];
    store.on("keyring:changed", (ring: Keyring) => rings.push(ring));
    keys.push(promoted);
    keys.push(next);
    await vi.waitFor(() => expect(rings).toEqual([next]), 20_000);
    expect(warnings).toHaveLength(1);
    expect(await store.getMany(["key", "other"])).toEqual([value, value]);
    await store.disconnect();
  });

  it("is told apart from a successor in which the key of the check record was disabled", async () => {
    const { disabled } = rotation();
    const staged = disabled.enable("old").promote("old");
    const keys = new TestKeys(staged);
    const store = new EncryptedStore(new MemoryStore(), { keys });
    await store.set("key", value);
    keys.push(staged.promote("new").disable("old"));
    await vi.waitFor(async () => expectRefusal(store.get("key"), "KEY_DISABLED"), 20_000);
    await store.disconnect();
  });

  it("is not looked into where the store does not answer, which keeps no change from arriving", async () => {
    const keys = new TestKeys(promoted);
    const inner = new MemoryStore();
    const store = new EncryptedStore(inner, { keys });
    await store.set("key", value);
    vi.spyOn(inner.reserved(), "get").mockRejectedValue(new Error("down"));
    const rings: Keyring[] = [];
    store.on("keyring:changed", (ring: Keyring) => rings.push(ring));
    keys.push(forked);
    await vi.waitFor(() => expect(rings).toEqual([forked]), 20_000);
    await store.disconnect();
  });
});

describe("a process that began with a ring that no store was written with", () => {
  const right = newRing("right").withStores(["sessions"]);

  it.each([
    ["of a higher generation", newRing().add().add().add()],
    ["of another name", newRing().rename("staging")],
    ["of other material under the same id", newRing("right").add().add().add()],
  ])("%s takes the right one once it is there, without a restart", async (_, wrong) => {
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: right }).set("key", value);
    const keys = new TestKeys(wrong);
    const stores = [inner, new MemoryStore()].map((one) => new EncryptedStore(one, { keys }));
    await expectRefusal(() => stores[0]?.set("key", value), "OVERWRITE_REFUSED");
    keys.push(right);
    await vi.waitFor(async () => expect(await stores[0]?.set("key", value)).toBe(true), 20_000);
    for (const store of stores) await store.disconnect();
  });

  it("goes back to no ring once it has written with one", async () => {
    const { before, after } = rotation();
    const inner = new MemoryStore();
    const keys = new TestKeys(after);
    const store = new EncryptedStore(inner, { keys });
    await store.set("key", value);
    // Somebody who writes to the store puts the check record back that was there before the rotation.
    const other = new MemoryStore();
    await new EncryptedStore(other, { keys: before }).set("key", value);
    await inner.reserved().set("check", Buffer.from((await other.reserved().get("check")) ?? ""));
    const warnings: unknown[] = [];
    store.on("provider:error", (error: unknown) => warnings.push(error));
    keys.push(before);
    await vi.waitFor(() => expect(warnings).toMatchObject([{ code: "KEYRING_ROLLBACK" }]), 20_000);
    expect(await store.get("key")).toBe(value);
    await store.disconnect();
  });
});

describe("an unknown key id", () => {
  it("has the ring loaded once, for all that read at once", async () => {
    const { before, promoted } = rotation();
    const inner = new MemoryStore();
    const names = Array.from({ length: 1_000 }, (_, index) => `key ${index}`);
    await new EncryptedStore(inner, { keys: promoted }).setMany(names.map((key) => ({ key, value })));
    const keys = new TestKeys(before);
    const store = new EncryptedStore(inner, { keys });
    // It has loaded its ring, from before the rotation.
    const earlier = new MemoryStore();
    await new EncryptedStore(earlier, { keys }).set("key", value);
    expect(keys.loads).toBe(1);
    keys.become(promoted);
    const values = await Promise.all(names.map((key) => store.get(key)));
    expect(new Set(values)).toEqual(new Set([value]));
    expect(keys.loads).toBe(2);
  });

  it("that stays unknown costs no further load for a while", async () => {
    const keys = new TestKeys(newRing());
    const inner = new MemoryStore();
    const store = new EncryptedStore(inner, { keys });
    await inner.setMany(forged(1));
    for (let read = 0; read < 20; read++) await expectRefusal(store.get("forged 0"), "KEY_UNKNOWN");
    expect(keys.loads).toBeLessThanOrEqual(2);
  });

  it("is asked for again when the ring has changed", async () => {
    const { before, staged, promoted } = rotation();
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: promoted }).set("key", value);
    const keys = new TestKeys(before);
    const store = new EncryptedStore(inner, { keys });
    await expectRefusal(store.get("key"), "KEY_UNKNOWN");
    keys.push(staged);
    await vi.waitFor(async () => expect(await store.get("key")).toBe(value), 20_000);
  });

  it("has the ring loaded although another id stayed unknown before", async () => {
    const { before, promoted } = rotation();
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: promoted }).set("real", value);
    await inner.setMany(forged(1));
    const keys = new TestKeys(before);
    const store = new EncryptedStore(inner, { keys });
    await expectRefusal(store.get("forged 0"), "KEY_UNKNOWN");
    keys.become(promoted);
    expect(await store.get("real")).toBe(value);
  });

  it("forged a thousand times over neither floods the provider nor starves a real one", async () => {
    const { before, promoted } = rotation();
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: promoted }).set("real", value);
    const records = forged(1_000);
    await inner.setMany(records);
    const keys = new TestKeys(before);
    const store = new EncryptedStore(inner, { keys });
    // Looking at each error for secrets, as expectRefusal does, would take longer than all that is tested here.
    const refused = records.map(({ key }) =>
      store.get(key).then(
        () => "given",
        (error) => error.code,
      ),
    );
    await vi.waitFor(() => expect(keys.loads).toBeGreaterThanOrEqual(1), 20_000);
    keys.become(promoted);
    expect(await store.get("real")).toBe(value);
    expect(new Set(await Promise.all(refused))).toEqual(new Set(["KEY_UNKNOWN"]));
    expect(keys.loads).toBeLessThanOrEqual(4);
  });

  it("in a batch of many does not cost a load each, one after another", async () => {
    const inner = new MemoryStore();
    const records = forged(6);
    await inner.setMany(records);
    const keys = new TestKeys(newRing());
    const store = new EncryptedStore(inner, { keys });
    const error = await expectRefusal(store.getMany(records.map(({ key }) => key)), "RECORDS_UNREADABLE");
    expect(error.errors).toHaveLength(6);
    // With one load a second for unknown ids, whoever plants a thousand of them would stop a batch for as many seconds.
    expect(keys.loads).toBeLessThanOrEqual(3);
  });
});

it("a disabled key opens nothing, and sealing goes on", async () => {
  const { before, promoted, disabled } = rotation();
  const keys = new TestKeys(promoted);
  const inner = new WatchedStore();
  await new EncryptedStore(inner, { keys: before }).set("old", value);
  const store = new EncryptedStore(inner, { keys, reencrypt: "off" });
  expect(await store.get("old")).toBe(value);
  await store.set("fresh", value);
  keys.push(disabled);
  await vi.waitFor(async () => expectRefusal(store.get("old"), "KEY_DISABLED"), 20_000);
  expect(await store.get("fresh")).toBe(value);
});

it("a ring that becomes a sealed one while the process runs never goes back to plaintext", async () => {
  const keys = new TestKeys(Keyring.dangerouslyPlaintext());
  const inner = new MemoryStore();
  const store = new EncryptedStore(inner, { keys });
  await store.set("plain", value);
  const ring = guardMaterial(Keyring.generate("k1"));
  const rings: string[] = [];
  store.on("keyring:changed", (next: Keyring) => rings.push(next.primary));
  keys.push(ring);
  await vi.waitFor(() => expect(rings).toEqual(["k1"]), 20_000);
  await expectRefusal(store.get("plain"), "RECORD_NOT_SEALED");
  const warned = vi.fn();
  store.on("provider:error", warned);
  keys.push(Keyring.dangerouslyPlaintext());
  await vi.waitFor(() => expect(warned).toHaveBeenCalled(), 20_000);
  await store.set("sealed", value);
  expect(Buffer.from((await inner.get("sealed")) ?? "").toString("latin1")).toMatch(/^kw1:k1:/);
});
