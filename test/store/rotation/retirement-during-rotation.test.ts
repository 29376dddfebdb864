import {
  EncryptedStore,
  type Keyring,
  type RotationStep,
  reencrypt,
  retireKey,
  revokeKey,
  rollBackRotation,
  rotateKey,
} from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { describe, expect, it, vi } from "vitest";
import { expectRefusal } from "../refusals.ts";
import { KeysOverOneSource, newRing } from "../rings.ts";

/** A backend with a record under the key "old", and an operator with a store over this backend. */
async function begun() {
  const source = new KeysOverOneSource(newRing("old"));
  const inner = new MemoryStore();
  const keys = source.provider();
  const flows = new EncryptedStore(inner, { keys });
  await flows.set("key", "value");
  const stores = { flows };
  return { source, inner, keys, stores, options: { stores, graceMs: 0, unregistered: { waitMs: 0 } } };
}

type World = Awaited<ReturnType<typeof begun>>;
type Run = (world: World, until?: RotationStep) => Promise<{ readonly step: string }>;

const untilOf = (until: RotationStep | undefined) => (until === undefined ? {} : { until });
const rotate: Run = ({ keys, options }, until) =>
  rotateKey(keys, { ...options, newKey: { id: "new" }, ...untilOf(until) });
const rollBack: Run = ({ keys, options }, until) => rollBackRotation(keys, { ...options, ...untilOf(until) });
const revoke: Run = ({ keys, options }, until) =>
  revokeKey(keys, { ...options, id: "old", order: "reencrypt-first", newKey: { id: "new" }, ...untilOf(until) });
const rotations: Readonly<Record<string, Run>> = { rotate, revoke };

const idsOf = (keyring: Keyring) => keyring.keys.map(({ id, status }) => `${id} ${status}`);

describe("retireKey during a rotation", () => {
  it.each(
    ["rotate", "revoke"].flatMap((kind) =>
      (["add", "distribute", "promote", "reencrypt", "disable", "grace"] as const).map((until) => ({ kind, until })),
    ),
  )(
    "refuses to retire either key of the rotation, which can then finish: $kind after step $until",
    async ({ kind, until }) => {
      const world = await begun();
      const { source, keys, stores } = world;
      const run = rotations[kind] ?? rotate;
      await run(world, until);
      const before = idsOf(source.ring);
      for (const id of ["old", "new"]) {
        for (const to of ["disabled", "removed"] as const) {
          const error = await expectRefusal(retireKey(keys, stores, id, { to }), "ROTATION_IN_PROGRESS");
          expect(error.keyId).toBe(id);
          expect(error.hint).toContain(kind === "rotate" ? "`rotateKey`" : "`revokeKey`");
          // A rotation can be rolled back until it has disabled the old key.
          const isReversible = kind === "rotate" && before.includes("old enabled");
          expect(error.hint.includes("`rollBackRotation`")).toBe(isReversible);
        }
      }
      expect(idsOf(source.ring)).toEqual(before);
      expect(await run(world)).toMatchObject({ step: "done" });
      expect(idsOf(source.ring)).toEqual(["new enabled"]);
    },
  );

  it("refuses to retire either key of a roll-back, even if the roll-back cannot be finished", async () => {
    const world = await begun();
    const { source, keys, stores } = world;
    await rotate(world, "reencrypt");
    await rollBack(world, "distribute");
    for (const id of ["old", "new"]) {
      const { hint } = await expectRefusal(retireKey(keys, stores, id), "ROTATION_IN_PROGRESS");
      expect(hint).toContain("`rollBackRotation`");
    }
    source.ring = source.ring.disable("old");
    await expectRefusal(rollBack(world), "KEY_DISABLED");
    const { hint } = await expectRefusal(retireKey(keys, stores, "old", { to: "removed" }), "ROTATION_IN_PROGRESS");
    expect(hint).toContain("`rotateKey`");
    expect(await rotate(world)).toMatchObject({ step: "done" });
    expect(idsOf(source.ring)).toEqual(["new enabled"]);
  });

  it("removes the old key of a revocation with the order disable-first, which does not remove this key itself", async () => {
    const { source, keys, stores, options } = await begun();
    const revocation = { ...options, id: "old", order: "disable-first", newKey: { id: "new" } } as const;
    await revokeKey(keys, { ...revocation, until: "distribute" });
    for (const id of ["old", "new"]) await expectRefusal(retireKey(keys, stores, id), "ROTATION_IN_PROGRESS");
    await revokeKey(keys, { ...revocation, until: "promote" });
    await stores.flows.delete("key");
    await retireKey(keys, stores, "old", { to: "removed" });
    expect(await revokeKey(keys, revocation)).toMatchObject({ step: "done" });
    expect(idsOf(source.ring)).toEqual(["new enabled"]);
  });

  it("retires a key that takes no part in the rotation, and retires the new key after the rotation is done", async () => {
    const world = await begun();
    const { source, inner, keys, stores } = world;
    source.ring = source.ring.add({ id: "third" });
    await rotate(world, "drain");
    await retireKey(keys, stores, "third");
    await rotate(world);
    source.ring = source.ring.add({ id: "fourth" }).promote("fourth").enable("third");
    await reencrypt(new EncryptedStore(inner, { keys: source.provider() }));
    await retireKey(keys, stores, "new");
    await retireKey(keys, stores, "new", { to: "removed" });
    expect(idsOf(source.ring)).toEqual(["third enabled", "fourth enabled"]);
  });

  it("retires the old key if the record of the rotation is in a store that was not passed, or cannot be read", async () => {
    const world = await begun();
    const { inner, keys, stores } = world;
    await rotate(world, "reencrypt");
    const other = new EncryptedStore(new MemoryStore(), { keys });
    await retireKey(keys, { other }, "old");
    await inner.reserved().set("rotation", "garbage");
    await retireKey(keys, stores, "old", { to: "removed" });
    expect(idsOf(world.source.ring)).toEqual(["new enabled"]);
  });

  it("rejects and changes nothing if a rotation to the key begins while the records are counted", async () => {
    const world = await begun();
    const { source, inner } = world;
    source.ring = source.ring.add({ id: "new" });
    const counted = new MemoryStore(inner);
    const { scan } = counted;
    vi.spyOn(counted, "scan").mockImplementationOnce(async (given) => {
      await rotate(world, "distribute");
      return await scan.call(counted, given);
    });
    const keys = source.provider();
    const flows = new EncryptedStore(counted, { keys });
    await expectRefusal(retireKey(keys, { flows }, "new"), "ROTATION_IN_PROGRESS");
    expect(idsOf(source.ring)).toEqual(["old enabled", "new enabled"]);
    expect(await rotate(world)).toMatchObject({ step: "done" });
  });
});
