import { EncryptedStore, type Keyring, reencrypt, revokeKey, rotateKey, rotationStatus } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { describe, expect, it, onTestFinished } from "vitest";
import { newRing, TestKeys } from "../rings.ts";

const options = { graceMs: 0, unregistered: { waitMs: 0 } } as const;

async function rotationFrom(id: string) {
  const keys = new TestKeys(newRing(id));
  const store = new EncryptedStore(new MemoryStore(), { keys });
  onTestFinished(() => store.disconnect());
  await store.set("key", "value");
  return { keys, store, options: { ...options, stores: { store } } };
}

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
