import { EncryptedStore, type Keyring, type RotationStep, rotateKey } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { describe, expect, it, onTestFinished } from "vitest";
import { newRing, TestKeys } from "../rings.ts";

/**
 * Maximum number of loads in each step. A step loads the keyring once, before it decides anything, and once more after it has
 * saved a change, because it announces only a keyring that the provider returns. The last step loads it once more, to confirm
 * the end of the rotation.
 */
const loadsPerStep = {
  begin: 1,
  add: 2,
  distribute: 1,
  promote: 2,
  drain: 1,
  reencrypt: 1,
  disable: 2,
  grace: 1,
  remove: 3,
} as const satisfies Record<RotationStep | "begin", number>;

/** Counts the loads of one provider in the steps of a rotation. */
function loadsOf(keys: TestKeys) {
  const loads = new Map<string, number>();
  let [step, before] = ["begin", keys.loads];
  const enter = (next: string) => {
    loads.set(step, (loads.get(step) ?? 0) + keys.loads - before);
    [step, before] = [next, keys.loads];
  };
  return { loads, enter };
}

describe("rotateKey with a provider that counts its loads", () => {
  it("loads the keyring at most once in each step, once after each save, and once at its end", async () => {
    const keys = new TestKeys(newRing("first"));
    const store = new EncryptedStore(new MemoryStore(), { keys });
    onTestFinished(() => store.disconnect());
    await store.set("key", "value");
    for (const id of ["second", "third"]) {
      const { loads, enter } = loadsOf(keys);
      const saves = keys.saves;
      await rotateKey(keys, {
        stores: { store },
        newKey: { id },
        graceMs: 0,
        unregistered: { waitMs: 0 },
        onProgress: (progress) => {
          if (progress.kind === "step") enter(progress.step);
        },
      });
      enter("end");
      expect(keys.saves - saves).toBe(4);
      expect([...loads.keys()]).toEqual(Object.keys(loadsPerStep));
      for (const [step, most] of Object.entries(loadsPerStep)) expect(loads.get(step), step).toBeLessThanOrEqual(most);
    }
    expect(await store.get("key")).toBe("value");
  });

  it("disables and removes the old key in the keyring that it has loaded in the same step, not in an earlier keyring", async () => {
    let current: Keyring | undefined;
    class ChangedKeys extends TestKeys {
      override become(keyring: Keyring): void {
        current = keyring;
        super.become(keyring);
      }
    }
    const keys = new ChangedKeys(newRing("old"));
    const store = new EncryptedStore(new MemoryStore(), { keys });
    onTestFinished(() => store.disconnect());
    await store.set("key", "value");
    const { keyring } = await rotateKey(keys, {
      stores: { store },
      newKey: { id: "new" },
      graceMs: 0,
      unregistered: { waitMs: 0 },
      onProgress: (progress) => {
        if (progress.kind !== "step" || !(progress.step === "disable" || progress.step === "remove")) return;
        // Another operator changes the keyring as the step begins. A keyring from before would meet a conflict.
        if (current !== undefined) keys.become(current.add({ id: `during-${progress.step}` }));
      },
    });
    expect(keys.saves).toBe(4);
    expect(keyring.keys.map(({ id }) => id)).toEqual(["new", "during-disable", "during-remove"]);
  });
});
