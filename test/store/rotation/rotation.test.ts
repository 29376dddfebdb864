import {
  census,
  EncryptedStore,
  exportKeyring,
  type KeyProvider,
  Keyring,
  KeywardError,
  type KeywardErrorCode,
  planRotation,
  type RotationOptions,
  type RotationProgress,
  type RotationStep,
  replicas,
  revocationCost,
  revokeKey,
  rollBackRotation,
  rotateKey,
  rotationStatus,
} from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { expectRefusal } from "../refusals.ts";
import { KeysOverOneSource, newRing } from "../rings.ts";
import { marker } from "../secrets.ts";
import { contentOf, damaged, keyIdIn, textOf } from "../store/inner-stores.ts";

const value = `${marker}value`;
const replica = { heartbeatMs: 10, lapseMs: 300 };
const alone = { unregistered: { waitMs: 0 } };

/** A backend with ten records under the key "old", a process that uses it, and an operator with their own store. */
async function begun(given: { readonly registered?: boolean } = {}) {
  const source = new KeysOverOneSource(newRing("old").withStores(["flows"]));
  const inner = new MemoryStore();
  const { registered = true } = given;
  const app = new EncryptedStore(inner, { keys: source.provider(), ...(registered ? { replica } : {}) });
  onTestFinished(() => app.disconnect());
  const keys = Array.from({ length: 10 }, (_, index) => `key-${index}`);
  await app.setMany(keys.map((key) => ({ key, value })));
  const operator = () => {
    const provider = source.provider();
    const stores = { flows: new EncryptedStore(new MemoryStore(inner), { keys: provider }) };
    return { provider, options: { stores, graceMs: 0, newKey: { id: "new" } } };
  };
  const idsIn = async () => [...(await census(inner)).keys.keys()];
  const expectReadable = async () => expect(await app.getMany(keys)).toEqual(keys.map(() => value));
  return { source, inner, app, operator, idsIn, expectReadable };
}

const idsOf = (ring: Keyring) => ring.keys.map(({ id, status }) => `${id} ${status}`);

describe("rotateKey", () => {
  it.each<[string, unknown, KeywardErrorCode]>([
    ["an id with a dot", { id: "2026.12" }, "KEY_INVALID"],
    ["an empty id", { id: "" }, "KEY_INVALID"],
    ["an id of 40 characters", { id: "x".repeat(40) }, "KEY_INVALID"],
    ["a string", "2026-12", "VALUE_INVALID"],
    ["null", null, "VALUE_INVALID"],
    ["a list", [], "VALUE_INVALID"],
    ["an unknown field", { ID: "2026-12" }, "VALUE_INVALID"],
    ["material of 5 characters", { id: "2026-12", material: "short" }, "KEY_INVALID"],
    ["a disabled key", { id: "2026-12", status: "disabled" }, "VALUE_INVALID"],
  ])(
    "rejects %s as the new key before it changes anything, and a corrected call rotates the key",
    async (_, newKey, code) => {
      const { inner, operator, idsIn } = await begun();
      const { provider, options } = operator();
      const before = await contentOf(inner);
      const wrong = { ...options, newKey };
      for (const call of [planRotation, rotateKey]) {
        await expectRefusal(() => Reflect.apply(call, undefined, [provider, wrong]), code);
      }
      const revocation = { ...wrong, id: "old", order: "reencrypt-first" };
      await expectRefusal(() => Reflect.apply(revokeKey, undefined, [provider, revocation]), code);
      expect(await rotationStatus(provider, options)).toBeUndefined();
      expect(await contentOf(inner)).toEqual(before);
      expect(await rotateKey(provider, options)).toMatchObject({ step: "done", to: "new" });
      expect(await idsIn()).toEqual(["new"]);
    },
  );

  it("replaces the primary key, removes the old key, and reports each step", async () => {
    const { source, inner, app, operator, idsIn, expectReadable } = await begun();
    const { provider, options } = operator();
    const reported: RotationProgress[] = [];
    const report = await rotateKey(provider, { ...options, onProgress: (progress) => reported.push(progress) });
    expect(report).toMatchObject({ kind: "rotate", from: "old", to: "new", step: "done", abandoned: [] });
    expect(report.reencrypted["flows"]).toMatchObject({ reencrypted: 10, complete: true });
    expect(idsOf(source.ring)).toEqual(["new enabled"]);
    expect(await idsIn()).toEqual(["new"]);
    await expectReadable();
    const steps = reported.flatMap((progress) => (progress.kind === "step" ? [progress.step] : []));
    expect(steps).toEqual(["add", "distribute", "promote", "drain", "reencrypt", "disable", "grace", "remove"]);
    expect(reported.find(({ kind }) => kind === "waiting")).toMatchObject({ replicas: [{ store: "flows" }] });
    expect(await replicas(app)).toMatchObject([{ primary: "new", drained: true }]);
    expect(await rotationStatus(provider, options)).toMatchObject({ id: report.id, step: "done" });
    // No reserved record needs the old key either.
    const reserved = await inner.reserved().scan();
    expect(new Set(reserved.entries.map(({ value: stored }) => keyIdIn(stored)))).toEqual(new Set(["new"]));
  });

  it("generates an id for the new key in each of twenty rotations in a row", async () => {
    const { source, operator, expectReadable } = await begun();
    const seen = new Set<string>();
    for (let count = 0; count < 20; count++) {
      const { provider, options } = operator();
      const { to } = await rotateKey(provider, { ...options, newKey: {} });
      expect(to).toMatch(/^\d{4}-\d\d-\d\d-[0-9a-f]{6}$/);
      seen.add(to);
    }
    expect(seen.size).toBe(20);
    expect(source.ring.keys).toHaveLength(1);
    expect(source.saves).toBe(80);
    await expectReadable();
  });

  it("promotes a key that the keyring already contains, and rejects with KEY_MISMATCH if the call passes other material for it", async () => {
    const { source, operator } = await begun();
    source.ring = source.ring.add({ id: "new" });
    const { provider, options } = operator();
    const material = new Uint8Array(32).map((_, index) => index);
    await expectRefusal(rotateKey(provider, { ...options, newKey: { id: "new", material } }), "KEY_MISMATCH");
    await rotateKey(provider, options);
    expect(idsOf(source.ring)).toEqual(["new enabled"]);
    // A repeated call with the same id changes nothing.
    const { saves } = source;
    expect(await rotateKey(provider, options)).toMatchObject({ to: "new", step: "done" });
    expect(source.saves).toBe(saves);
  });

  it("rejects with REPLICA_BEHIND and the name of a replica whose provider is behind, and resumes when the provider returns the changed keyring", async () => {
    const { source, inner, operator } = await begun();
    const [lagging, before] = [source.provider(), source.ring];
    let follows = false;
    const late = new EncryptedStore(new MemoryStore(inner), {
      keys: { load: async () => (follows ? await lagging.load() : before) },
      replica: { ...replica, name: "late" },
    });
    onTestFinished(() => late.disconnect());
    await late.set("late", value);
    const { provider, options } = operator();
    const error = await expectRefusal(rotateKey(provider, { ...options, replicasWithinMs: 50 }), "REPLICA_BEHIND");
    // On a busy machine the other replica may be late as well.
    expect(error.message).toMatch(
      /replicas? ha(?:s|ve) not loaded the keyring .*\(generation 3\).*late \[\S+\] in flows \(generation 2, primary old, keys old:\w+\)/,
    );
    expect([{ flows: 1 }, { flows: 2 }]).toContainEqual(error.counts);
    expect(idsOf(source.ring)).toEqual(["old enabled", "new enabled"]);
    const [ignored] = (await replicas(late)).filter(({ name }) => name === "late");
    const staged = await rotateKey(provider, { ...options, until: "distribute", ignoreReplicas: [ignored?.id ?? ""] });
    expect(staged.step).toBe("promote");
    follows = true;
    await rotateKey(provider, options);
    expect(await late.get("late")).toBe(value);
  });

  describe("with a replica that has the keyring of one scope only", () => {
    async function scoped() {
      const world = await begun();
      const { source, inner, operator } = world;
      const handOver = (ring: () => Keyring) => {
        const keys = { load: async () => ring().scope("tenant") };
        const store = new EncryptedStore(new MemoryStore(inner), { keys, replica });
        onTestFinished(() => store.disconnect());
        return store;
      };
      await handOver(() => source.ring).set("theirs", value);
      const { provider, options } = operator();
      const turn = (until: "distribute" | "drain") =>
        rotateKey(provider, { ...options, until, replicasWithinMs: 5_000 });
      return { ...world, handOver, turn };
    }

    it("waits until the replica has loaded each changed keyring", async () => {
      const { turn } = await scoped();
      expect(await turn("drain")).toMatchObject({ step: "reencrypt" });
    });

    it("does not let a replica encrypt with the old key if the replica starts during the rotation and its provider is behind", async () => {
      const { source, inner, handOver, turn } = await scoped();
      await turn("distribute");
      const staged = source.ring;
      await turn("drain");
      const late = handOver(() => staged);
      await expectRefusal(late.set("late", value), "KEYRING_ROLLBACK");
      expect(await inner.has("late")).toBe(false);
    });

    it("continues even if check records in the reserved space contain garbage", async () => {
      const { inner, turn } = await scoped();
      for (const key of ["check/garbage", "check/"]) await inner.reserved().set(key, "garbage");
      expect(await turn("drain")).toMatchObject({ step: "reencrypt" });
    });
  });

  it("does not wait for a replica that disconnected, and waits for one lease if a replica was killed", async () => {
    const { source, inner, app, operator, expectReadable } = await begun();
    const [left, ended] = [source.provider(), source.provider()];
    const leaving = new EncryptedStore(new MemoryStore(inner), { keys: left, replica });
    await leaving.set("a", value);
    await leaving.disconnect();
    const ending = new EncryptedStore(new MemoryStore(inner), { keys: ended, replica });
    await ending.set("b", value);
    const reserved = inner.reserved();
    const heartbeats = (await reserved.scan()).entries.filter(({ key }) => key.startsWith("replica/"));
    expect(heartbeats).toHaveLength(2);
    await ending.disconnect();
    // Restores the heartbeat, as after a killed process.
    for (const { key, value: stored } of heartbeats) if (!(await reserved.has(key))) await reserved.set(key, stored);
    const { provider, options } = operator();
    await rotateKey(provider, options);
    expect((await replicas(app)).map(({ lapsed }) => lapsed)).toEqual([false]);
    await expectReadable();
  });

  it("rejects with NO_REPLICAS before it begins if no replica is registered and the option unregistered is not given", async () => {
    const { source, inner, operator } = await begun({ registered: false });
    const { provider, options } = operator();
    const before = [exportKeyring(source.ring), await contentOf(inner)];
    await expectRefusal(rotateKey(provider, options), "NO_REPLICAS");
    expect([exportKeyring(source.ring), await contentOf(inner)]).toEqual(before);
    const waits: string[] = [];
    const unregistered = async (wait: string) => void waits.push(`${wait} ${source.ring.primary}`);
    await rotateKey(provider, { ...options, unregistered });
    expect(waits).toEqual(["distribute old", "drain new"]);
  });

  it("does not count its own process as a replica of the application", async () => {
    const { source, inner } = await begun({ registered: false });
    const provider = source.provider();
    const flows = new EncryptedStore(new MemoryStore(inner), { keys: provider, replica });
    onTestFinished(() => flows.disconnect());
    await flows.set("own", value);
    await expectRefusal(rotateKey(provider, { stores: { flows }, graceMs: 0 }), "NO_REPLICAS");
    expect(await rotateKey(provider, { stores: { flows }, graceMs: 0, ...alone })).toMatchObject({ step: "done" });
  });

  it("rejects before it changes anything if the provider is read-only, a store is missing or unsuitable, or an option is invalid", async () => {
    const { source, inner, operator } = await begun();
    const { provider, options } = operator();
    const { load } = provider;
    await expectRefusal(rotateKey({ load }, options), "PROVIDER_READ_ONLY");
    await expectRefusal(rotateKey(provider, { ...options, stores: {} }), "STORE_INVALID");
    const other = new EncryptedStore(new MemoryStore(), { keys: source.provider() });
    await expectRefusal(rotateKey(provider, { ...options, stores: { other } }), "STORES_MISSING");
    const map = new EncryptedStore(new Map(), { keys: provider });
    await expectRefusal(rotateKey(provider, { ...options, stores: { flows: map } }), "STORE_INVALID");
    const both = { ...options.stores, map };
    await expectRefusal(rotateKey(provider, { ...options, stores: both }), "STORE_NOT_SCANNABLE");
    await expectRefusal(() => rotateKey(provider, { ...options, graceMs: Number.NaN }), "VALUE_INVALID");
    // A misspelt step was meant to stop the run.
    const misspelt = Reflect.apply(rotateKey, undefined, [provider, { ...options, until: "promotion" }]);
    expect((await expectRefusal(misspelt, "VALUE_INVALID")).hint).toContain("add, distribute, promote, drain");
    const fixed = new EncryptedStore(new MemoryStore(inner), { keys: source.ring });
    source.ring = source.ring.rename("other");
    await expectRefusal(rotateKey(source.provider(), { ...options, stores: { flows: fixed } }), "STORE_KEYS_DIFFER");
    expect(source.saves).toBe(0);
  });

  it("re-encrypts records that an unregistered process wrote under the old key", async () => {
    const { source, inner, operator, idsIn } = await begun();
    const unheard = new EncryptedStore(new MemoryStore(inner), { keys: source.ring });
    await unheard.set("early", value);
    const { provider, options } = operator();
    await rotateKey(provider, { ...options, until: "reencrypt" });
    await unheard.set("late", value);
    await rotateKey(provider, options);
    expect(await idsIn()).toEqual(["new"]);
  });

  it("does not remove the old key if a record was written under it after the key was disabled", async () => {
    const { source, inner, app, operator } = await begun();
    const unheard = new EncryptedStore(new MemoryStore(inner), { keys: source.ring });
    await unheard.set("early", value);
    const { provider, options } = operator();
    await rotateKey(provider, { ...options, until: "disable" });
    await unheard.set("late", value);
    const error = await expectRefusal(rotateKey(provider, options), "KEY_IN_USE");
    expect({ ...error.counts }).toEqual({ flows: 1 });
    expect(idsOf(source.ring)).toEqual(["old disabled", "new enabled"]);
    source.ring = source.ring.enable("old");
    expect((await rotateKey(provider, options)).step).toBe("done");
    expect(idsOf(source.ring)).toEqual(["new enabled"]);
    expect(await app.get("late")).toBe(value);
  });

  it("keeps the old key enabled while records under it cannot be decrypted, unless abandonUnreadable is true", async () => {
    const { source, inner, operator } = await begun();
    const stored = await inner.get("key-0");
    if (stored === undefined) throw new Error("nothing was written");
    await inner.set("key-0", damaged(stored));
    const { provider, options } = operator();
    await expectRefusal(rotateKey(provider, options), "KEY_IN_USE");
    const report = await rotateKey(provider, { ...options, abandonUnreadable: true });
    expect(report.abandoned).toMatchObject([{ key: "key-0", keyId: "old" }]);
    expect(idsOf(source.ring)).toEqual(["new enabled"]);
  });

  it("measures the grace from the time when the key was disabled, even if another run disabled it", async () => {
    const { source, operator } = await begun();
    const { provider, options } = operator();
    await rotateKey(provider, { ...options, until: "disable" });
    const { disabledAtMs = 0 } = (await rotationStatus(provider, options)) ?? {};
    const graceMs = 200;
    const stop = new AbortController();
    const onProgress = ({ kind }: RotationProgress) => {
      if (kind === "grace") stop.abort(new Error("enough for today"));
    };
    const stopped = rotateKey(provider, { ...options, graceMs, signal: stop.signal, onProgress });
    await expect(stopped).rejects.toThrow("enough for today");
    const until: number[] = [];
    const again = operator();
    await rotateKey(again.provider, {
      ...again.options,
      graceMs,
      onProgress: (progress) => progress.kind === "grace" && until.push(progress.untilMs),
    });
    expect(Math.abs((until[0] ?? 0) - disabledAtMs - graceMs)).toBeLessThan(5);
    expect(Date.now()).toBeGreaterThanOrEqual(disabledAtMs + graceMs);
    expect(idsOf(source.ring)).toEqual(["new enabled"]);
  });

  it.each(["add", "distribute", "promote", "drain", "reencrypt", "disable", "grace", "remove"] as const)(
    "ends after step %s if the option until is that step, and another process resumes at the next step",
    async (until) => {
      const { source, operator, expectReadable } = await begun();
      const first = operator();
      const { id } = await rotateKey(first.provider, { ...first.options, until });
      await expectReadable();
      const second = operator();
      // The run that resumes does not need the id of the key.
      const newKey = until === "remove" ? { id: "new" } : {};
      const report = await rotateKey(second.provider, { ...second.options, newKey });
      expect(report).toMatchObject({ id, to: "new", step: "done" });
      expect(idsOf(source.ring)).toEqual(["new enabled"]);
      await expectReadable();
    },
  );

  it("returns the new key of another run and changes nothing if that run began and finished the rotation in the meantime", async () => {
    const { source, inner, operator } = await begun();
    const [slow, quick] = [operator(), operator()];
    const reserved = inner.reserved();
    const { scan } = reserved;
    // This run has seen that no rotation is running, and lists the replicas.
    vi.spyOn(reserved, "scan").mockImplementationOnce(async (options) => {
      await rotateKey(quick.provider, { ...quick.options, newKey: {} });
      return await scan.call(reserved, options);
    });
    const { to } = await rotateKey(slow.provider, { ...slow.options, newKey: {} });
    expect(idsOf(source.ring)).toEqual([`${to} enabled`]);
    expect(source.saves).toBe(4);
  });

  it("lets a second operator join the running rotation only if this operator has the same goal", async () => {
    const { source, operator, expectReadable } = await begun();
    const [one, other] = [operator(), operator()];
    const reports = await Promise.all([
      rotateKey(one.provider, { ...one.options, newKey: {} }),
      rotateKey(other.provider, { ...other.options, newKey: {} }),
    ]);
    expect(new Set(reports.map(({ id, to, step }) => `${id} ${to} ${step}`)).size).toBe(1);
    expect(source.ring.keys).toHaveLength(1);
    expect(source.saves).toBe(4);
    await expectReadable();

    const third = operator();
    await rotateKey(third.provider, { ...third.options, until: "promote" });
    const { provider, options } = operator();
    for (const call of [
      rotateKey(provider, { ...options, newKey: { id: "another" } }),
      revokeKey(provider, { ...options, id: "new", order: "disable-first" }),
    ]) {
      expect((await expectRefusal(call, "ROTATION_IN_PROGRESS")).message).toContain(
        'to "new" is in progress, at step drain',
      );
    }
  });

  it("starts the re-encryption over if the store rejects the cursor that an earlier run saved", async () => {
    const { source, inner, operator, expectReadable } = await begun();
    const { provider, options } = operator();
    await rotateKey(provider, { ...options, until: "drain" });
    // The store was moved to another backend between two runs, with its reserved space.
    let refused = 0;
    const moved = new Proxy(new MemoryStore(inner), {
      get(store, name) {
        if (name === "scan") {
          return async (page: { readonly limit: number; readonly cursor?: string }) => {
            if (page.cursor === undefined || refused > 0) return await store.scan(page);
            refused++;
            throw new KeywardError("VALUE_INVALID", "The cursor is not one of this store", { hint: "Begin anew." });
          };
        }
        const found: unknown = Reflect.get(store, name, store);
        return typeof found === "function" ? found.bind(store) : found;
      },
    });
    const stop = new AbortController();
    const reencryption = { batchSize: 3, concurrency: 1 };
    const stopped = rotateKey(provider, {
      ...options,
      reencrypt: reencryption,
      signal: stop.signal,
      onProgress: ({ kind }) => kind === "reencrypting" && stop.abort(new Error("stopped")),
    });
    await expect(stopped).rejects.toThrow("stopped");
    const stores = { flows: new EncryptedStore(moved, { keys: provider }) };
    expect(await rotateKey(provider, { ...options, stores, reencrypt: reencryption })).toMatchObject({ step: "done" });
    expect(refused).toBe(1);
    expect(idsOf(source.ring)).toEqual(["new enabled"]);
    await expectReadable();
  });

  it("rejects before it writes anything if the provider has only the keyring of one scope", async () => {
    const { source, inner, operator, expectReadable } = await begun();
    const scoped = source.ring.scope("billing");
    const keys: KeyProvider = { load: async () => scoped, save: async () => expect.fail("saved") };
    const stores = { flows: new EncryptedStore(new MemoryStore(inner), { keys }) };
    await expectRefusal(rotateKey(keys, { stores, graceMs: 0, ...alone }), "KEYRING_INVALID");
    const { provider, options } = operator();
    expect(await rotateKey(provider, options)).toMatchObject({ step: "done" });
    await expectReadable();
  });
});

describe("the record of a rotation", () => {
  it("is written again by the running rotation if the store loses it, and the rotation continues", async () => {
    const { source, inner, operator, idsIn, expectReadable } = await begun();
    const { provider, options } = operator();
    const lost = new Map<RotationStep, Promise<unknown>>();
    const onProgress = (progress: RotationProgress) => {
      if (progress.kind !== "step" || lost.has(progress.step)) return;
      lost.set(progress.step, inner.reserved().delete("rotation"));
    };
    const report = await revokeKey(provider, { ...options, id: "old", order: "reencrypt-first", onProgress });
    await Promise.all(lost.values());
    expect([...lost.keys()]).toHaveLength(8);
    expect(report).toMatchObject({ kind: "revoke", from: "old", to: "new", step: "done" });
    expect(idsOf(source.ring)).toEqual(["new enabled"]);
    expect(await idsIn()).toEqual(["new"]);
    await expectReadable();
    expect(await rotationStatus(provider, options)).toMatchObject({ id: report.id, step: "done" });
  });

  it("makes rotateKey reject with STORE_INVALID if the store loses it after each write", async () => {
    const { inner, operator } = await begun();
    const { provider, options } = operator();
    const reserved = inner.reserved();
    const { replace } = reserved;
    vi.spyOn(reserved, "replace").mockImplementation(async (key, ...values) => {
      if (key === "rotation") return true;
      return await replace.call(reserved, key, ...values);
    });
    await expectRefusal(rotateKey(provider, options), "STORE_INVALID");
  });

  it("makes a run reject with ROTATION_IN_PROGRESS if the record of another rotation replaces it before the run is done", async () => {
    const { source, inner, operator } = await begun();
    const { provider, options } = operator();
    let replaces = false;
    const keys: KeyProvider = {
      save: provider.save,
      async load() {
        if (replaces) {
          replaces = false;
          await inner.reserved().delete("rotation");
          const other = operator();
          await rotateKey(other.provider, { ...other.options, newKey: { id: "third" }, until: "add" });
        }
        return await provider.load();
      },
    };
    const stores = { flows: new EncryptedStore(new MemoryStore(inner), { keys }) };
    const onProgress = (progress: RotationProgress) => {
      replaces = progress.kind === "step" && progress.step === "distribute";
    };
    const call = revokeKey(keys, { ...options, stores, id: "old", order: "reencrypt-first", onProgress });
    const error = await expectRefusal(call, "ROTATION_IN_PROGRESS");
    expect(error.message).toContain('to "third" is in progress');
    expect(idsOf(source.ring)).toEqual(["old enabled", "new enabled", "third enabled"]);
  });

  it("is read again after each write, so that rotateKey notices if another run has begun a roll-back", async () => {
    const { source, inner, operator } = await begun();
    const { provider, options } = operator();
    const reserved = inner.reserved();
    const { replace } = reserved;
    let turns = false;
    vi.spyOn(reserved, "replace").mockImplementation(async (key, ...values) => {
      const replaced = await replace.call(reserved, key, ...values);
      if (turns && key === "rotation") {
        turns = false;
        const other = operator();
        await rollBackRotation(other.provider, { ...other.options, until: "add" });
      }
      return replaced;
    });
    const reported: string[] = [];
    const onProgress = (progress: RotationProgress) => {
      if (progress.kind !== "step") return;
      reported.push(progress.step);
      turns = progress.step === "drain";
    };
    await expectRefusal(rotateKey(provider, { ...options, onProgress }), "ROTATION_IN_PROGRESS");
    expect(reported).toEqual(["add", "distribute", "promote", "drain"]);
    expect(source.ring.primary).toBe("new");
  });

  it("is not needed by revokeKey, which finishes the rotation and removes the old key even if the record was lost", async () => {
    const { source, inner, operator, expectReadable } = await begun();
    const { provider, options } = operator();
    await rotateKey(provider, { ...options, until: "drain" });
    await inner.reserved().delete("rotation");
    const error = await expectRefusal(rotateKey(provider, options), "KEYRING_INVALID");
    expect(error.hint).toContain("revokeKey");
    await revokeKey(provider, { ...options, newKey: {}, id: "old", order: "reencrypt-first" });
    expect(idsOf(source.ring)).toEqual(["new enabled"]);
    await expectReadable();
  });
});

describe("planRotation", () => {
  it("returns what each step of the rotation would do, and changes nothing", async () => {
    const { source, inner, operator } = await begun();
    const { provider, options } = operator();
    const reserved = async () =>
      (await inner.reserved().scan()).entries
        .filter(({ key }) => !key.startsWith("replica/"))
        .map(({ value: stored }) => textOf(stored));
    const before = [exportKeyring(source.ring), await contentOf(inner), await reserved()];
    const plan = await planRotation(provider, { ...options, graceMs: 5_000 });
    expect([exportKeyring(source.ring), await contentOf(inner), await reserved()]).toEqual(before);
    expect(source.saves).toBe(0);
    expect(plan).toMatchObject({ from: "old", to: "new" });
    expect(plan.steps).toMatchObject([
      { step: "add", keyId: "new", done: false },
      { step: "distribute", replicas: [{ store: "flows", generation: 2 }], unregistered: [] },
      { step: "promote", keyId: "new", done: false },
      { step: "drain" },
      { step: "reencrypt", records: { flows: 10 } },
      { step: "disable", keyId: "old", records: { flows: 10 } },
      { step: "grace", waitMs: 5_000 },
      { step: "remove", keyId: "old", done: false },
    ]);
    await rotateKey(provider, { ...options, until: "reencrypt" });
    const rest = await planRotation(provider, options);
    expect(rest.running).toMatchObject({ step: "disable" });
    expect(rest.steps).toMatchObject([
      { step: "disable", records: { flows: 0 } },
      { step: "grace" },
      { step: "remove" },
    ]);
    await expectRefusal(planRotation(provider, { ...options, newKey: { id: "another" } }), "ROTATION_IN_PROGRESS");
  });

  it("lists the stores in which no replica is registered", async () => {
    const { operator } = await begun({ registered: false });
    const { provider, options } = operator();
    const { steps } = await planRotation(provider, options);
    expect(steps[1]).toMatchObject({ step: "distribute", replicas: [], unregistered: ["flows"] });
  });
});

describe("rollBackRotation", () => {
  it.each(["add", "distribute", "promote", "drain", "reencrypt"] as const)(
    "makes the old key the primary again after step %s, and re-encrypts every record under it",
    async (until) => {
      const { source, operator, idsIn, expectReadable } = await begun();
      const { provider, options } = operator();
      await rotateKey(provider, { ...options, until });
      const back = operator();
      const halfway = await rollBackRotation(back.provider, { ...back.options, until: "promote" });
      expect(halfway).toMatchObject({ kind: "roll-back", from: "new", to: "old", step: "drain" });
      await expectRefusal(rotateKey(provider, options), "ROTATION_IN_PROGRESS");
      await expectReadable();
      const again = operator();
      expect(await rollBackRotation(again.provider, again.options)).toMatchObject({ step: "done" });
      expect(idsOf(source.ring)).toEqual(["old enabled"]);
      expect(await idsIn()).toEqual(["old"]);
      await expectReadable();
    },
  );

  it("rejects with KEY_DISABLED if the old key is disabled, and with NO_ROTATION if no rotation is running", async () => {
    const { operator } = await begun();
    const { provider, options } = operator();
    await expectRefusal(rollBackRotation(provider, options), "NO_ROTATION");
    await rotateKey(provider, { ...options, until: "disable" });
    await expectRefusal(rollBackRotation(provider, options), "KEY_DISABLED");
    await rotateKey(provider, options);
    await expectRefusal(rollBackRotation(provider, options), "NO_ROTATION");
  });

  it("makes a run of rotateKey reject with ROTATION_IN_PROGRESS if that run is about to promote the new key", async () => {
    const { source, inner, operator } = await begun();
    const { provider, options } = operator();
    let promotes = false;
    const keys: KeyProvider = {
      save: provider.save,
      async load() {
        if (promotes) {
          promotes = false;
          const other = operator();
          await rollBackRotation(other.provider, { ...other.options, until: "add" });
        }
        return await provider.load();
      },
    };
    const stores = { flows: new EncryptedStore(new MemoryStore(inner), { keys }) };
    const onProgress = (progress: RotationProgress) => {
      promotes = progress.kind === "step" && progress.step === "promote";
    };
    await expectRefusal(rotateKey(keys, { ...options, stores, onProgress }), "ROTATION_IN_PROGRESS");
    expect(source.ring.primary).toBe("old");
  });

  it("reverses the running rotation, so that the run of rotateKey rejects with ROTATION_IN_PROGRESS", async () => {
    const { source, operator, expectReadable } = await begun();
    const { provider, options } = operator();
    let back: Promise<unknown> | undefined;
    const onProgress = (progress: RotationProgress) => {
      if (progress.kind !== "step" || progress.step !== "reencrypt") return;
      const other = operator();
      back = rollBackRotation(other.provider, other.options);
    };
    await expectRefusal(rotateKey(provider, { ...options, onProgress }), "ROTATION_IN_PROGRESS");
    await back;
    expect(idsOf(source.ring)).toEqual(["old enabled"]);
    await expectReadable();
  });

  it("never enables the old key again if another operator disabled that key during the roll-back", async () => {
    const { source, operator, idsIn, expectReadable } = await begun();
    for (const until of ["add", "distribute"] as const) {
      const { provider, options } = operator();
      const [from, to] = [source.ring.primary, `${source.ring.primary}-next`];
      await rotateKey(provider, { ...options, newKey: { id: to }, until: "reencrypt" });
      const back = operator();
      let killed = false;
      const { load, save } = back.provider;
      const keys: KeyProvider = {
        save,
        async load() {
          if (killed) throw new Error("killed");
          return await load();
        },
      };
      // The run was killed before the first step, or stopped before the promotion.
      const onProgress = ({ kind }: RotationProgress) => {
        killed = until === "add" && kind === "step";
      };
      const begins = rollBackRotation(keys, { ...back.options, until: "distribute", onProgress });
      if (until === "add") await expectRefusal(begins, "PROVIDER_UNAVAILABLE");
      else expect(await begins).toMatchObject({ step: "promote" });
      source.ring = source.ring.disable(from);
      await expectRefusal(rollBackRotation(provider, options), "KEY_DISABLED");
      expect(idsOf(source.ring)).toEqual([`${from} disabled`, `${to} enabled`]);
      // The roll-back is impossible, so the rotation continues.
      expect(await rotateKey(provider, { ...options, newKey: { id: to } })).toMatchObject({
        kind: "rotate",
        step: "done",
      });
      expect(idsOf(source.ring)).toEqual([`${to} enabled`]);
      expect(await idsIn()).toEqual([to]);
      await expectReadable();
    }
  });

  it.each(["add", "distribute", "promote"] as const)(
    "rejects with KEY_DISABLED at step %s if the old key was removed from the keyring",
    async (at) => {
      const { source, operator } = await begun();
      const { provider, options } = operator();
      await rotateKey(provider, { ...options, until: "reencrypt" });
      const reported: string[] = [];
      const onProgress = (progress: RotationProgress) => {
        if (progress.kind !== "step") return;
        reported.push(progress.step);
        if (progress.step === at) source.ring = source.ring.disable("old").remove("old");
      };
      const error = await expectRefusal(rollBackRotation(provider, { ...options, onProgress }), "KEY_DISABLED");
      expect(error.hint).toContain("to finish the rotation");
      expect(reported.at(-1)).toBe(at);
      expect(await rotateKey(provider, options)).toMatchObject({ to: "new", step: "done" });
    },
  );

  it("keeps a run of rotateKey from disabling the old key if the roll-back begins while that run counts records", async () => {
    const { source, inner, operator, expectReadable } = await begun();
    const { provider, options } = operator();
    const counted = new MemoryStore(inner);
    const { scan } = counted;
    let counts = false;
    vi.spyOn(counted, "scan").mockImplementation(async (given) => {
      if (counts) {
        counts = false;
        const other = operator();
        await rollBackRotation(other.provider, { ...other.options, until: "distribute" });
      }
      return await scan.call(counted, given);
    });
    const stores = { flows: new EncryptedStore(counted, { keys: provider }) };
    const onProgress = (progress: RotationProgress) => {
      counts = progress.kind === "step" && progress.step === "disable";
    };
    await expectRefusal(rotateKey(provider, { ...options, stores, onProgress }), "ROTATION_IN_PROGRESS");
    expect(idsOf(source.ring)).toEqual(["old enabled", "new enabled"]);
    expect(await rollBackRotation(provider, options)).toMatchObject({ step: "done" });
    expect(idsOf(source.ring)).toEqual(["old enabled"]);
    await expectReadable();
  });

  it("rejects with KEY_DISABLED if a run of rotateKey disables the old key meanwhile, and rotateKey can then finish the rotation", async () => {
    const { source, inner, operator, expectReadable } = await begun();
    const [{ provider, options }, back] = [operator(), operator()];
    const keys: KeyProvider = {
      load: provider.load,
      async save(next, previous) {
        const disables = next.keys.some(({ status }) => status === "disabled");
        if (disables) await rollBackRotation(back.provider, { ...back.options, until: "distribute" });
        await provider.save(next, previous);
      },
    };
    const stores = { flows: new EncryptedStore(new MemoryStore(inner), { keys }) };
    await expectRefusal(rotateKey(keys, { ...options, stores }), "ROTATION_IN_PROGRESS");
    expect(idsOf(source.ring)).toEqual(["old disabled", "new enabled"]);
    await expectRefusal(rollBackRotation(back.provider, back.options), "KEY_DISABLED");
    expect((await planRotation(provider, options)).steps).toMatchObject([{ step: "grace" }, { step: "remove" }]);
    expect(await rotateKey(provider, options)).toMatchObject({ kind: "rotate", step: "done" });
    expect(idsOf(source.ring)).toEqual(["new enabled"]);
    await expectReadable();
  });
});

describe("revokeKey", () => {
  it("rejects if the option order is missing, and revocationCost counts the records under the key", async () => {
    const { operator } = await begun();
    const { provider, options } = operator();
    const cost = await revocationCost(provider, { ...options, id: "old" });
    expect({ ...cost, records: { ...cost.records } }).toEqual({
      records: { flows: 10 },
      total: 10,
    });
    await expectRefusal(revocationCost(provider, { ...options, id: "never" }), "KEY_UNKNOWN");
    const undecided: RotationOptions = options;
    const call = Reflect.apply(revokeKey, undefined, [provider, { ...undecided, id: "old" }]);
    await expectRefusal(call, "VALUE_INVALID");
  });

  it("keeps every record readable and removes the compromised key if the order is reencrypt-first", async () => {
    const { source, operator, idsIn, expectReadable } = await begun();
    const { provider, options } = operator();
    const report = await revokeKey(provider, { ...options, id: "old", order: "reencrypt-first" });
    expect(report).toMatchObject({ kind: "revoke", order: "reencrypt-first", from: "old", to: "new", step: "done" });
    expect(idsOf(source.ring)).toEqual(["new enabled"]);
    expect(await idsIn()).toEqual(["new"]);
    await expectReadable();
  });

  it("keeps the compromised key in the keyring as a disabled key, and accepts no forged record, if the order is disable-first", async () => {
    const { source, app, operator, idsIn } = await begun();
    const { provider, options } = operator();
    const report = await revokeKey(provider, { ...options, id: "old", order: "disable-first" });
    expect({ ...report.madeUnreadable }).toEqual({ flows: 10 });
    expect(idsOf(source.ring)).toEqual(["old disabled", "new enabled"]);
    // Nor does a read re-encrypt the record in a process that loads the keyring only now.
    await expectRefusal(app.get("key-0"), "KEY_DISABLED");
    expect(await idsIn()).toEqual(["old"]);
    await app.set("fresh", value);
    expect(await app.get("fresh")).toBe(value);
  });

  it("does not change the primary if the compromised key is not the primary", async () => {
    const { source, operator, expectReadable } = await begun();
    source.ring = source.ring.add({ id: "new" }).promote("new");
    const { provider, options } = operator();
    await revokeKey(provider, { ...options, newKey: {}, id: "old", order: "reencrypt-first" });
    expect(idsOf(source.ring)).toEqual(["new enabled"]);
    await expectReadable();
  });

  it.each(["reencrypt-first", "disable-first"] as const)(
    "turns a running rotation that replaces the compromised key into a revocation with the order %s",
    async (order) => {
      const { source, operator } = await begun();
      const { provider, options } = operator();
      await rotateKey(provider, { ...options, until: "drain" });
      expect(await revokeKey(provider, { ...options, newKey: {}, id: "old", order })).toMatchObject({
        to: "new",
        order,
      });
      expect(source.ring.keys.some(({ id, status }) => id === "old" && status === "enabled")).toBe(false);
    },
  );

  it("disables a key again that an operator enabled by hand, and re-encrypts no record, if the order is disable-first", async () => {
    const { source, operator, idsIn, app } = await begun();
    const { provider, options } = operator();
    await rotateKey(provider, { ...options, until: "disable" });
    source.ring = source.ring.enable("old");
    const steps: string[] = [];
    const report = await revokeKey(provider, {
      ...options,
      newKey: {},
      id: "old",
      order: "disable-first",
      onProgress: (progress) => progress.kind === "step" && steps.push(progress.step),
    });
    expect(report).toMatchObject({ kind: "revoke", order: "disable-first", step: "done" });
    expect(steps).not.toContain("reencrypt");
    expect(idsOf(source.ring)).toEqual(["old disabled", "new enabled"]);
    expect(await idsIn()).toEqual(["new"]);
    expect(await app.get("key-0")).toBe(value);
  });

  it("does not load the keyring again for each garbage record under an unknown key in the reserved space", async () => {
    const { source, inner, operator } = await begun();
    const { provider, options } = operator();
    let loads = 0;
    const keys: KeyProvider = {
      save: provider.save,
      load: async () => {
        loads++;
        return await provider.load();
      },
    };
    const stores = { flows: new EncryptedStore(new MemoryStore(inner), { keys }) };
    for (let index = 0; index < 40; index++) {
      const garbage = new MemoryStore();
      await new EncryptedStore(garbage, { keys: Keyring.generate(`forged-${index}`) }).set("key", value);
      const sealed = await garbage.get("key");
      if (sealed === undefined) throw new Error("Nothing was sealed");
      for (const key of [`check/scope-${index}`, `other-${index}`]) await inner.reserved().set(key, sealed);
    }
    await revokeKey(keys, { ...options, stores, id: "old", order: "disable-first" });
    // Each unknown key that the provider is asked for costs a load, and waits a second.
    expect(loads).toBeLessThan(40);
    expect(idsOf(source.ring)).toEqual(["old disabled", "new enabled"]);
  });

  it.each(
    (["old", "new"] as const).flatMap((id) =>
      (["add", "drain", "reencrypt"] as const).flatMap((until) =>
        (["reencrypt-first", "disable-first"] as const).map((order) => ({ id, until, order })),
      ),
    ),
  )(
    "turns a roll-back that stopped after step $until into a revocation of key $id with the order $order",
    async (given) => {
      const { id, until, order } = given;
      const { source, operator, expectReadable } = await begun();
      const { provider, options } = operator();
      await rotateKey(provider, { ...options, until: "reencrypt" });
      await rollBackRotation(provider, { ...options, until });
      const other = id === "old" ? "new" : "old";
      const report = await revokeKey(provider, { ...options, newKey: {}, id, order });
      expect(report).toMatchObject({ kind: "revoke", from: id, to: other, order, step: "done" });
      const gone = order === "disable-first" ? [`${id} disabled`] : [];
      expect(idsOf(source.ring).sort()).toEqual([...gone, `${other} enabled`].sort());
      expect(source.ring.primary).toBe(other);
      if (order === "reencrypt-first") await expectReadable();
    },
  );

  it("does not make replicas wait for a keyring whose save failed, and lets no replica re-encrypt the check record under the old key", async () => {
    const { source, inner, operator } = await begun();
    const { provider, options } = operator();
    const start = async () => {
      const started = new EncryptedStore(new MemoryStore(inner), { keys: source.provider(), replica });
      onTestFinished(() => started.disconnect());
      await started.set("fresh", value);
      return started;
    };
    let refuses = true;
    const keys: KeyProvider = {
      load: provider.load,
      async save(next, previous) {
        const disables = next.keys.some(({ status }) => status === "disabled");
        if (disables && refuses) throw new Error("refused");
        // The new process reads the check record while it is prepared for a keyring that is not saved yet.
        if (disables) await start();
        await provider.save(next, previous);
      },
    };
    const stores = { flows: new EncryptedStore(new MemoryStore(inner), { keys }) };
    const revocation = { ...options, stores, id: "old", order: "disable-first" } as const;
    await expectRefusal(revokeKey(keys, revocation), "PROVIDER_UNAVAILABLE");
    expect(idsOf(source.ring)).toEqual(["old enabled", "new enabled"]);
    await start();
    refuses = false;
    expect(await revokeKey(keys, revocation)).toMatchObject({ step: "done" });
    const last = await start();
    expect(await last.get("fresh")).toBe(value);
  });
});
