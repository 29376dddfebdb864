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

/** Makes records whose envelopes name keys that never existed. */
function forged(count: number): { key: string; value: string }[] {
  const body = Buffer.alloc(80, 7).toString("base64url");
  return Array.from({ length: count }, (_, index) => ({ key: `forged ${index}`, value: `kw1.forged${index}.${body}` }));
}

describe("a key provider", () => {
  it("loads the keyring once for all its stores and all their concurrent calls", async () => {
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

  it("makes writes reject and write nothing if the first load fails, and loads again after a pause", async () => {
    const keys = new TestKeys(newRing());
    keys.fail(new Error("unreachable"));
    const inner = new MemoryStore();
    const store = new EncryptedStore(inner, { keys });
    await expectRefusal(store.set("key", value), "PROVIDER_UNAVAILABLE");
    expect((await inner.scan()).entries).toEqual([]);
    expect((await inner.reserved().scan()).entries).toEqual([]);
    keys.fail(new KeywardError("KEY_INVALID", "The key is truncated", { hint: "Restore the key." }));
    await expect.poll(async () => (await refusal(store.set("key", value))).code).toBe("KEY_INVALID");
    keys.recover();
    await expect.poll(async () => await store.set("key", value).catch(() => false)).toBe(true);
    expect(await store.get("key")).toBe(value);
  });

  it("loads the keyring at once when it reports a change, even during the pause after a failed load", async () => {
    const keys = new TestKeys(newRing());
    keys.fail(new Error("unreachable"));
    const store = new EncryptedStore(new MemoryStore(), { keys });
    // After many failures, the pause is at its longest.
    for (let time = 0; time < 20; time++) {
      keys.push(newRing());
      await vi.waitFor(() => expect(keys.loads).toBe(time + 1), 20_000);
    }
    keys.recover();
    keys.push(newRing());
    await vi.waitFor(async () => await store.set("key", value), 20_000);
  });

  it("makes reads reject without an unhandled rejection if the first load fails", async () => {
    const { before } = rotation();
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: before }).setMany([{ key: "one", value }]);
    const keys = new TestKeys(before);
    keys.fail(new Error("unreachable"));
    const store = new EncryptedStore(inner, { keys });
    const seen: unknown[] = [];
    const previousListeners = process.listeners("unhandledRejection");
    process.removeAllListeners("unhandledRejection");
    process.on("unhandledRejection", (reason) => seen.push(reason));
    try {
      await expectRefusal(store.get("one"), "PROVIDER_UNAVAILABLE");
      await expectRefusal(store.getMany(["one"]), "RECORDS_UNREADABLE");
      for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve));
    } finally {
      process.removeAllListeners("unhandledRejection");
      for (const listener of previousListeners) process.on("unhandledRejection", listener);
    }
    expect(seen).toEqual([]);
  });

  it("makes stores keep the last good keyring, and emit a warning, if a later load fails", async () => {
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

  it("makes stores use the changed keyring when it reports a change", async () => {
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

  it("loads the keyring again if it reports a change during a load", async () => {
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

  it("has no subscriber after all its stores are disconnected", async () => {
    const keys = new TestKeys(newRing());
    const stores = [new EncryptedStore(new Map(), { keys }), new EncryptedStore(new Map(), { keys })];
    expect(keys.watchers).toBe(1);
    for (const store of stores) await store.disconnect();
    expect(keys.watchers).toBe(0);
  });

  it("has a subscriber again when a store is used after that store was disconnected", async () => {
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

  it("makes calls reject if its load() returns something other than a Keyring", async () => {
    const provider: KeyProvider = { load: () => Promise.resolve(JSON.parse('{"primary":"k1"}')) };
    await expectRefusal(new EncryptedStore(new Map(), { keys: provider }).set("key", value), "KEYRING_INVALID");
  });

  it("makes calls reject after the timeout if its first load hangs, but not if a later load hangs", async () => {
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

  it("makes calls reject without an unhandled rejection if load() throws instead of returning a promise", async () => {
    const abort = new AbortController();
    vi.spyOn(AbortSignal, "timeout").mockReturnValue(abort.signal);
    const provider: KeyProvider = {
      load: () => {
        throw new Error("not configured");
      },
    };
    const seen: unknown[] = [];
    const previousListeners = process.listeners("unhandledRejection");
    process.removeAllListeners("unhandledRejection");
    process.on("unhandledRejection", (reason) => seen.push(reason));
    try {
      await expectRefusal(new EncryptedStore(new Map(), { keys: provider }).set("key", value), "PROVIDER_UNAVAILABLE");
      // The timeout of the load ends long after the call.
      abort.abort();
      for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve));
    } finally {
      process.removeAllListeners("unhandledRejection");
      for (const listener of previousListeners) process.on("unhandledRejection", listener);
    }
    expect(seen).toEqual([]);
  });

  it("makes stores use the changed keyring even if a listener of the event keyring:changed throws", async () => {
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
    // The provider did not fail, so there is no warning about it.
    expect(warned).not.toHaveBeenCalled();
  });
});

describe("a loaded keyring that is not a later generation of the keyring in use", () => {
  const { before, promoted } = rotation();

  it.each([
    ["is of a lower generation", before],
    ["has another name", promoted.rename("another")],
    ["has no keys", Keyring.dangerouslyPlaintext()],
    ["has another scope", promoted.scope("billing")],
  ])("is refused if it %s", async (_, next) => {
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

describe("a loaded keyring with the right name and a higher generation", () => {
  const { before, promoted } = rotation();
  const unrelated = newRing("new").add().add().add();
  // A copy of the keyring that was changed independently: its primary has the id "new" too, but other material.
  const forked = before.add({ id: "new" }).promote("new").withStores(["a"]).withStores(["b"]);

  it.each([
    ["shares no key with the keyring in use", unrelated, new Map(), /shares no key/],
    [
      "shares no key with the keyring in use, and the store has a check record",
      unrelated,
      new MemoryStore(),
      /check record/,
    ],
    [
      "shares a key with the keyring in use, and cannot decrypt the check record",
      forked,
      new MemoryStore(),
      /check record/,
    ],
  ])("is refused if it %s, and the right keyring is accepted later", async (_, other, inner, problem) => {
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

  it("is accepted if it has the key of the check record, even if that key is disabled", async () => {
    const { disabled } = rotation();
    const staged = disabled.enable("old").promote("old");
    const keys = new TestKeys(staged);
    const store = new EncryptedStore(new MemoryStore(), { keys });
    await store.set("key", value);
    keys.push(staged.promote("new").disable("old"));
    await vi.waitFor(async () => expectRefusal(store.get("key"), "KEY_DISABLED"), 20_000);
    await store.disconnect();
  });

  it("is accepted if it shares a key with the keyring in use, and the check record cannot be read", async () => {
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

describe("a running process", () => {
  const right = newRing("right").withStores(["sessions"]);

  it.each([
    ["is of a higher generation", newRing().add().add().add()],
    ["has another name", newRing().rename("staging")],
    ["has other material under the same id", newRing("right").add().add().add()],
  ])("accepts the right keyring without a restart if it began with a wrong keyring that %s", async (_, wrong) => {
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: right }).set("key", value);
    const keys = new TestKeys(wrong);
    const stores = [inner, new MemoryStore()].map((one) => new EncryptedStore(one, { keys }));
    await expectRefusal(() => stores[0]?.set("key", value), "OVERWRITE_REFUSED");
    keys.push(right);
    await vi.waitFor(async () => expect(await stores[0]?.set("key", value)).toBe(true), 20_000);
    for (const store of stores) await store.disconnect();
  });

  it("refuses an older keyring after a write, even if an attacker puts back the older check record", async () => {
    const { before, after } = rotation();
    const inner = new MemoryStore();
    const keys = new TestKeys(after);
    const store = new EncryptedStore(inner, { keys });
    await store.set("key", value);
    // An attacker who can write to the store restores the check record from before the rotation.
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

describe("a record under a key id that the keyring lacks", () => {
  it("causes one load of the keyring for all concurrent reads of such records", async () => {
    const { before, promoted } = rotation();
    const inner = new MemoryStore();
    const names = Array.from({ length: 1_000 }, (_, index) => `key ${index}`);
    await new EncryptedStore(inner, { keys: promoted }).setMany(names.map((key) => ({ key, value })));
    const keys = new TestKeys(before);
    const store = new EncryptedStore(inner, { keys });
    // The provider has loaded its keyring from before the rotation.
    const earlier = new MemoryStore();
    await new EncryptedStore(earlier, { keys }).set("key", value);
    expect(keys.loads).toBe(1);
    keys.become(promoted);
    const values = await Promise.all(names.map((key) => store.get(key)));
    expect(new Set(values)).toEqual(new Set([value]));
    expect(keys.loads).toBe(2);
  });

  it("causes no further load for a while if the loaded keyring lacks the key id as well", async () => {
    const keys = new TestKeys(newRing());
    const inner = new MemoryStore();
    const store = new EncryptedStore(inner, { keys });
    await inner.setMany(forged(1));
    for (let read = 0; read < 20; read++) await expectRefusal(store.get("forged 0"), "KEY_UNKNOWN");
    expect(keys.loads).toBeLessThanOrEqual(2);
  });

  it("can be decrypted as soon as the provider has reported a changed keyring with this key id", async () => {
    const { before, staged, promoted } = rotation();
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: promoted }).set("key", value);
    const keys = new TestKeys(before);
    const store = new EncryptedStore(inner, { keys });
    await expectRefusal(store.get("key"), "KEY_UNKNOWN");
    keys.push(staged);
    await vi.waitFor(async () => expect(await store.get("key")).toBe(value), 20_000);
  });

  it("causes a load even if the previous load was for another missing key id and did not find it", async () => {
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

  it("is read without delay and with few loads of the keyring, even if an attacker forges a thousand other key ids", async () => {
    const { before, promoted } = rotation();
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: promoted }).set("real", value);
    const records = forged(1_000);
    await inner.setMany(records);
    const keys = new TestKeys(before);
    const store = new EncryptedStore(inner, { keys });
    // Not expectRefusal: its search of each error for secrets would take longer than the rest of this test.
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

  it("shares loads of the keyring with records of the same batch under other missing key ids", async () => {
    const inner = new MemoryStore();
    const records = forged(6);
    await inner.setMany(records);
    const keys = new TestKeys(newRing());
    const store = new EncryptedStore(inner, { keys });
    const error = await expectRefusal(store.getMany(records.map(({ key }) => key)), "RECORDS_UNREADABLE");
    expect(error.errors).toHaveLength(6);
    // If each id caused a load, at one load a second, a thousand forged ids would delay a batch by a thousand seconds.
    expect(keys.loads).toBeLessThanOrEqual(3);
  });
});

it("a disabled key decrypts no record, but writes and reads under the primary succeed", async () => {
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

it("a process that has changed from plaintext to a keyring with keys refuses plaintext from then on", async () => {
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
