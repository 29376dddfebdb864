import {
  census,
  EncryptedStore,
  type Keyring,
  planRotation,
  reencrypt,
  revokeKey,
  rollBackRotation,
  rotateKey,
  rotationStatus,
} from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { describe, expect, it, onTestFinished } from "vitest";
import { expectRefusal } from "../refusals.ts";
import { newRing, TestKeys } from "../rings.ts";

const options = { graceMs: 0, unregistered: { waitMs: 0 } } as const;

async function rotationFrom(id: string) {
  const keys = new TestKeys(newRing(id));
  const inner = new MemoryStore();
  const store = new EncryptedStore(inner, { keys });
  onTestFinished(() => store.disconnect());
  await store.set("key", "value");
  return { keys, inner, store, options: { ...options, stores: { store } } };
}

const hourMs = 3_600_000;
const statusesOf = (keyring: Keyring) => keyring.keys.map(({ id, status }) => `${id} ${status}`);

describe("a rotation whose keys operators changed by hand", () => {
  it("does not block later rotations if both of its keys were removed from the keyring", async () => {
    for (const until of ["promote", "drain"] as const) {
      const { keys, store, options } = await rotationFrom("first");
      const { keyring } = await rotateKey(keys, { ...options, newKey: { id: "second" }, until });
      const third = keyring.add({ id: "third" }).promote("third");
      const changed = new Promise((resolve) => store.on("keyring:changed", resolve));
      keys.push(third);
      await changed;
      await reencrypt(store);
      keys.become(third.disable("first").disable("second").remove("first").remove("second"));
      const report = await rotateKey(keys, { ...options, newKey: { id: "fourth" } });
      expect(report).toMatchObject({ step: "done", from: "third", to: "fourth" });
      expect(await rotationStatus(keys, options)).toMatchObject({ step: "done", to: "fourth" });
      expect(await store.get("key")).toBe("value");
    }
  });

  it("continues with another new key if it is a revocation whose new key was disabled or removed", async () => {
    const ways: readonly ((keyring: Keyring) => Keyring)[] = [
      (keyring) => keyring.disable("second"),
      (keyring) => keyring.disable("second").remove("second"),
    ];
    for (const change of ways) {
      for (const order of ["reencrypt-first", "disable-first"] as const) {
        const { keys, store, options } = await rotationFrom("first");
        const revocation = { ...options, id: "first", order: "reencrypt-first" } as const;
        const { keyring } = await revokeKey(keys, { ...revocation, newKey: { id: "second" }, until: "distribute" });
        keys.become(change(keyring));
        const report = await revokeKey(keys, { ...revocation, order, newKey: { id: "third" } });
        expect(report).toMatchObject({ step: "done", from: "first", to: "third" });
        expect(report.keyring.primary).toBe("third");
        if (order === "reencrypt-first") expect(await store.get("key")).toBe("value");
      }
    }
  });
});

describe("a rotation whose new key was removed or disabled by hand", () => {
  const second = { newKey: { id: "second" } };
  const steps = ["add", "distribute"] as const;

  it.each(steps)(
    "rejects after step %s with a hint to call rollBackRotation, and another rotation can begin after that call",
    async (until) => {
      const { keys, store, options } = await rotationFrom("first");
      const { keyring } = await rotateKey(keys, { ...options, ...second, until });
      keys.become(keyring.disable("second").remove("second"));
      const error = await expectRefusal(rotateKey(keys, options), "KEY_UNKNOWN");
      expect(error.message).toContain('Key "second", the new key of the running rotation, was removed');
      expect(error.hint).toContain('put key "second" back');
      expect(error.hint).toContain("call `rollBackRotation`");
      // The primary does not count as the new key.
      const toItself = rotateKey(keys, { ...options, newKey: { id: "first" } });
      expect((await expectRefusal(toItself, "ROTATION_IN_PROGRESS")).hint).toContain("call `rollBackRotation`");
      expect(await rotationStatus(keys, options)).toMatchObject({ from: "first", to: "second" });
      expect(await rollBackRotation(keys, options)).toMatchObject({ step: "done", to: "first" });
      expect(await rotateKey(keys, { ...options, newKey: { id: "third" } })).toMatchObject({ step: "done" });
      expect(await store.get("key")).toBe("value");
    },
  );

  it.each(steps)("continues after step %s if the removed key was put back", async (until) => {
    const { keys, store, options } = await rotationFrom("first");
    const { keyring } = await rotateKey(keys, { ...options, ...second, until });
    const without = keyring.disable("second").remove("second");
    keys.become(without);
    await expectRefusal(rotateKey(keys, options), "KEY_UNKNOWN");
    keys.become(without.add({ id: "second" }));
    expect(await rotateKey(keys, options)).toMatchObject({ step: "done", to: "second" });
    expect(await store.get("key")).toBe("value");
  });

  it.each(steps)(
    "continues after step %s if the disabled key was enabled, and can be rolled back if it was not",
    async (until) => {
      for (const isEnabledAgain of [true, false]) {
        const { keys, store, options } = await rotationFrom("first");
        const { keyring } = await rotateKey(keys, { ...options, ...second, until });
        const disabled = keyring.disable("second");
        keys.become(disabled);
        const { hint } = await expectRefusal(rotateKey(keys, { ...options, ...second }), "KEY_DISABLED");
        expect(hint).toContain('enable key "second"');
        expect(hint).toContain("call `rollBackRotation`");
        if (isEnabledAgain) keys.become(disabled.enable("second"));
        const report = isEnabledAgain ? await rotateKey(keys, options) : await rollBackRotation(keys, options);
        expect(report).toMatchObject({ step: "done", to: isEnabledAgain ? "second" : "first" });
        expect(await store.get("key")).toBe("value");
      }
    },
  );

  it("is refused at its start if the new key is disabled, or if the keyring has its material under another id", async () => {
    const { keys, options } = await rotationFrom("first");
    const material = new Uint8Array(32).map((_, index) => index);
    const keyring = (await keys.load()).add({ id: "second", material }).disable("second");
    keys.become(keyring);
    for (const call of [planRotation, rotateKey]) {
      const { hint } = await expectRefusal(call(keys, { ...options, ...second }), "KEY_DISABLED");
      expect(hint).toContain("pass the id of another key");
      const renamed = call(keys, { ...options, newKey: { id: "other", material } });
      await expectRefusal(renamed, "KEYRING_INVALID");
    }
    expect(await rotationStatus(keys, options)).toBeUndefined();
    expect(await rotateKey(keys, { ...options, newKey: { id: "third" } })).toMatchObject({ step: "done" });
  });

  it("can be finished with another new key if it is a revocation, but not with the compromised key as the new key", async () => {
    for (const order of ["reencrypt-first", "disable-first"] as const) {
      const { keys, options } = await rotationFrom("first");
      const revocation = { ...options, id: "first", order };
      const { keyring } = await revokeKey(keys, { ...revocation, ...second, until: "distribute" });
      // The key is removed in the middle of a run.
      const onProgress = () => keys.become(keyring.disable("second").remove("second"));
      const { hint } = await expectRefusal(revokeKey(keys, { ...revocation, onProgress }), "KEY_UNKNOWN");
      expect(hint).toContain("call `revokeKey` again");
      const toItself = revokeKey(keys, { ...revocation, newKey: { id: "first" } });
      await expectRefusal(toItself, "KEYRING_INVALID");
      expect(await rotationStatus(keys, options)).toMatchObject({ from: "first", to: "second" });
      expect(await revokeKey(keys, { ...revocation, newKey: { id: "third" } })).toMatchObject({ step: "done" });
    }
  });
});

describe("a rotation during which a third key was promoted by hand", () => {
  it.each(["rotate", "roll-back"] as const)(
    "rejects until rotateKey gets the third key as the new key, and then continues with this key: %s",
    async (kind) => {
      const { keys, inner, store, options } = await rotationFrom("first");
      let { keyring } = await rotateKey(keys, { ...options, newKey: { id: "second" }, until: "reencrypt" });
      if (kind === "roll-back") ({ keyring } = await rollBackRotation(keys, { ...options, until: "distribute" }));
      keys.become(keyring.add({ id: "third" }).promote("third"));
      await store.set("other", "value");
      for (const call of kind === "rotate" ? [rotateKey, rollBackRotation] : [rollBackRotation]) {
        const { hint } = await expectRefusal(call(keys, options), "KEYRING_INVALID");
        expect(hint).toContain('`rotateKey` with `newKey: { id: "third" }`');
      }
      expect(await rotationStatus(keys, options)).toMatchObject({ kind });
      const report = await rotateKey(keys, { ...options, newKey: { id: "third" } });
      expect(report).toMatchObject({ kind: "rotate", step: "done", to: "third" });
      expect([...(await census(inner)).keys.keys()]).toEqual(["third"]);
      expect(await store.getMany(["key", "other"])).toEqual(["value", "value"]);
    },
  );
});

describe("a rotation whose old key was enabled again during the grace", () => {
  const goals = {
    rotate: { from: "first", call: rotateKey },
    "roll-back": { from: "second", call: rollBackRotation },
    revoke: {
      from: "first",
      call: (keys: TestKeys, given: Parameters<typeof rotateKey>[1]) =>
        revokeKey(keys, { ...given, id: "first", order: "reencrypt-first" }),
    },
  } as const;

  it.each(["rotate", "roll-back", "revoke"] as const)(
    "re-encrypts the records under the old key, disables the key again, and begins its grace again: %s",
    async (kind) => {
      const { keys, inner, store, options } = await rotationFrom("first");
      const { from, call } = goals[kind];
      const patient = { ...options, graceMs: hourMs };
      if (kind === "roll-back") await rotateKey(keys, { ...patient, newKey: { id: "second" }, until: "promote" });
      const begun = await call(keys, { ...patient, until: "disable" });
      const disabledAtMs = begun.disabledAtMs ?? Number.POSITIVE_INFINITY;
      expect(statusesOf(begun.keyring)).toContain(`${from} disabled`);
      // A process that was halted wrote a record under the key, and an operator enables the key to make the record readable.
      const enabled = begun.keyring.enable(from);
      const elsewhere = new MemoryStore();
      await new EncryptedStore(elsewhere, { keys: enabled.promote(from) }).set("late", "value");
      const late = await elsewhere.get("late");
      if (late === undefined) throw new Error("Nothing was written");
      await inner.set("late", late);
      keys.become(enabled);
      await expect.poll(() => Date.now()).toBeGreaterThan(disabledAtMs);

      if (kind === "rotate") {
        const { steps } = await planRotation(keys, patient);
        expect(steps.map(({ step }) => step)).toEqual(["reencrypt", "disable", "grace", "remove"]);
      }
      // The command stops each run at this step, and prints when the grace is over.
      const again = await call(keys, { ...patient, until: "disable" });
      expect(again).toMatchObject({ id: begun.id, step: "grace" });
      expect(statusesOf(again.keyring)).toContain(`${from} disabled`);
      expect(again.disabledAtMs).toBeGreaterThan(disabledAtMs);
      expect([...(await census(inner)).keys.keys()]).not.toContain(from);
      expect(await store.get("late")).toBe("value");
      expect(await call(keys, options)).toMatchObject({ step: "done" });
    },
  );
});

describe("a provider whose loads lag behind its saves", () => {
  it("does not prevent a replica from writing while the provider still returns the keyring from before a save", async () => {
    const first = newRing("first");
    class LaggingKeys extends TestKeys {
      override async load(): Promise<Keyring> {
        await super.load();
        return first;
      }
    }
    const inner = new MemoryStore();
    const keys = new LaggingKeys(first);
    const store = new EncryptedStore(inner, { keys });
    onTestFinished(() => store.disconnect());
    await store.set("key", "value");
    await rotateKey(keys, { ...options, stores: { store }, newKey: { id: "second" }, until: "add" });
    expect(keys.saves).toBe(1);
    const replica = new EncryptedStore(inner, { keys: new TestKeys(first), replica: true });
    onTestFinished(() => replica.disconnect());
    expect(await replica.set("other", "value")).toBe(true);
  });
});
