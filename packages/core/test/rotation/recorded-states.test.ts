import { randomBytes } from "node:crypto";
import {
  EncryptedStore,
  type KeyProvider,
  Keyring,
  KeywardError,
  type RevocationOrder,
  revokeKey,
  rollBackRotation,
  rotateKey,
  rotationStatus,
} from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { describe, expect, it } from "vitest";
import { seal } from "../../src/envelope/envelope.ts";
import type { KeyStatus } from "../../src/keyring/key.ts";
import { keyOf } from "../../src/keyring/keyring.ts";
import { type RotationStatus, rotationSteps } from "../../src/rotation/rotation-record.ts";
import { reservedNamespace } from "../../src/store-interface/namespace-use.ts";

const ids = ["old", "new", "third"] as const;
const statuses = [undefined, "enabled", "disabled"] as const;
const materials = new Map(ids.map((id) => [id, randomBytes(32)]));

/** Generates every keyring of at most three keys, with every choice of its primary. All have the same generation. */
function everyKeyring(): readonly Keyring[] {
  const each = (old?: KeyStatus, made?: KeyStatus, third?: KeyStatus) => {
    const given = { old, new: made, third };
    const keys = ids.flatMap((id) => {
      const [status, material] = [given[id], materials.get(id)];
      return status === undefined || material === undefined ? [] : [{ id, status, material }];
    });
    return keys.filter(({ status }) => status === "enabled").map(({ id }) => Keyring.fromKeys(keys, id));
  };
  return statuses.flatMap((old) => statuses.flatMap((made) => statuses.flatMap((third) => each(old, made, third))));
}

type Recorded = Pick<RotationStatus, "kind" | "from" | "to" | "step"> & { readonly order?: RevocationOrder };

function everyRecord(kind: RotationStatus["kind"], order: RevocationOrder | undefined): readonly Recorded[] {
  const steps = order === "disable-first" ? rotationSteps.slice(0, 4) : rotationSteps;
  return ["new", "old"].flatMap((to) =>
    steps.map((step) => ({ kind, from: "old", to, step, ...(order === undefined ? {} : { order }) })),
  );
}

/**
 * Returns a store with a record under each enabled key and the record of a rotation, and the provider of its keyring.
 */
async function worldWith(keyring: Keyring, recorded: Recorded) {
  let ring = keyring;
  const inner = new MemoryStore();
  const enabled = keyring.keys.filter(({ status }) => status === "enabled").map(({ id }) => id);
  for (const id of enabled) {
    await new EncryptedStore(inner, { keys: keyring.promote(id), reencrypt: "off" }).overwriteCheckRecord();
    await new EncryptedStore(inner, { keys: keyring.promote(id), reencrypt: "off" }).set(id, id);
  }
  await inner.reserved().clear();
  const root = keyOf(keyring, keyring.primary)?.root;
  if (root === undefined) throw new Error("The keyring has no primary");
  const text = JSON.stringify({ keyward: "rotation", id: "recorded", startedAtMs: 1, ...recorded });
  const address = { namespace: reservedNamespace, key: "rotation" };
  await inner.reserved().set("rotation", seal(keyring.primary, root, address, { value: text }, { form: "binary" }));
  const provider: KeyProvider = {
    load: async () => ring,
    save: async (next) => {
      ring = next;
    },
  };
  const flows = new EncryptedStore(inner, { keys: provider, reencrypt: "off" });
  const options = { stores: { flows }, graceMs: 0, unregistered: { waitMs: 0 } };
  return { provider, options, flows, enabled, primary: () => ring.primary };
}

describe("an operator, whatever the recorded step of a rotation and the keys in the keyring are,", () => {
  it.each<[string, RotationStatus["kind"], RevocationOrder | undefined]>([
    ["rotation", "rotate", undefined],
    ["roll-back", "roll-back", undefined],
    ["revocation reencrypt-first", "revoke", "reencrypt-first"],
    ["revocation disable-first", "revoke", "disable-first"],
  ])(
    "can finish the %s or roll it back without changing the keyring by hand, loses no readable record, and can rotate again",
    async (_, kind, order) => {
      for (const keyring of everyKeyring()) {
        for (const recorded of everyRecord(kind, order)) {
          const { provider, options, flows, enabled, primary } = await worldWith(keyring, recorded);
          const state = `${JSON.stringify(recorded)} beside ${keyring}`;
          expect((await rotationStatus(provider, options))?.id, state).toBe("recorded");
          const revocation = { ...options, id: "old", order: order ?? "reencrypt-first" };
          const ways = [
            () => rotateKey(provider, options),
            () => rotateKey(provider, { ...options, newKey: { id: primary() } }),
            () => rollBackRotation(provider, options),
            ...(kind === "revoke" ? [() => revokeKey(provider, revocation)] : []),
          ];
          let isDone = false;
          const refusals: string[] = [];
          for (const way of ways) {
            if (isDone) break;
            try {
              isDone = (await way()).step === "done";
            } catch (error) {
              if (!(error instanceof KeywardError)) throw error;
              refusals.push(`${error.code} ${error.message}`);
            }
          }
          expect(isDone ? [] : refusals, state).toEqual([]);
          if (order !== "disable-first") {
            for (const id of enabled) expect(await flows.get(id).catch(String), `${id} of ${state}`).toBe(id);
          }
          const again = await rotateKey(provider, { ...options, newKey: { id: "again" } });
          expect(again, state).toMatchObject({ step: "done", to: "again" });
        }
      }
    },
    180_000,
  );
});
