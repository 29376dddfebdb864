import { KeywardError } from "../errors/errors.ts";
import { requireOptions } from "../errors/options.ts";
import { type NewKey, requireNewKey } from "../keyring/key.ts";
import type { KeyProvider } from "../keyring/key-provider.ts";
import { KeyringSource } from "../keyring/keyring-source.ts";
import { requireAllStores, requireStores } from "../reencryption/named-stores.ts";
import type { ReplicaWaitOptions } from "./replica-waits.ts";
import { requireKeyIn } from "./rotation-goal.ts";
import {
  type RevokeKeyOptions,
  type RotateKeyOptions,
  type RotationOptions,
  type RotationReport,
  rotationOptionNames,
} from "./rotation-options.ts";
import { countUnder, type RevocationCost, type RotationPlan } from "./rotation-plan.ts";
import { RotationRecord, type RotationStatus, reserveForRotation } from "./rotation-record.ts";
import { RotationRun } from "./rotation-run.ts";

/**
 * Replaces the primary with another key, and takes the old key out of use. {@link RotationStep} lists the steps.
 *
 * If the call stops before the rotation is done, repeat the call, on this machine or another: the rotation resumes at
 * the step where it stopped. Two calls at the same time share the work.
 *
 * @throws KeywardError
 * - `PROVIDER_READ_ONLY` for a provider that cannot save;
 * - `ROTATION_IN_PROGRESS` if a rotation with another goal is running;
 * - `REPLICA_BEHIND` if a replica does not load the keyring within `replicasWithinMs`;
 * - `NO_REPLICAS` if no replica is registered in a store and `unregistered` is not given;
 * - `KEY_IN_USE` if records still need the old key when it is to be disabled or removed;
 * - `KEY_UNKNOWN` or `KEY_DISABLED` if an operator removed or disabled the new key;
 * - `KEYRING_INVALID` if the new key is the key to replace, or a third key is the primary;
 * - `STORES_MISSING` if a store that the keyring lists was not passed;
 * - `STORE_KEYS_DIFFER` if a store uses another keyring than the provider has;
 * - `VALUE_INVALID` for an invalid option;
 * - `STORE_INVALID` if no store has a reserved space, or if the reserved space loses the record of the rotation;
 * - `STORE_NOT_ATOMIC` for a store without `replace`, `STORE_NOT_SCANNABLE` for a store without `scan`;
 * - the errors of the stores and the provider.
 * @example
 * const graceMs = 7 * 24 * 3_600_000;
 * await rotateKey(keys, { stores: { sessions }, newKey: { id: "2026-12" }, graceMs, until: "disable" });
 * // A week later, the same call without `until` removes the old key.
 */
export async function rotateKey(provider: KeyProvider, options: RotateKeyOptions): Promise<RotationReport> {
  requireOptions("rotateKey", options, rotationOptionNames);
  return await new RotationRun(provider, options).run({ kind: "rotate", newKey: newKeyOf(options) });
}

/**
 * Undoes a running rotation: promotes the old key again, re-encrypts every record under it, and retires the new key.
 *
 * You can roll back a rotation until it disables the old key. If a roll-back stops before it is done, repeat the call:
 * the roll-back resumes at the step where it stopped. If an operator disables the old key by hand during the roll-back,
 * the roll-back rejects with `KEY_DISABLED`, and the key stays disabled. Then call {@link rotateKey} to finish the
 * rotation.
 *
 * @throws KeywardError like {@link rotateKey}; `NO_ROTATION` if no rotation is running; `KEY_DISABLED` if the old key
 * is disabled or removed.
 * @example
 * const options = { stores: { sessions }, graceMs: 60_000 };
 * await rotateKey(keys, { ...options, newKey: { id: "2026-12" }, until: "promote" });
 * const { keyring } = await rollBackRotation(keys, { ...options, until: "disable" });
 * console.log(keyring.primary); // 2026-11
 */
export async function rollBackRotation(provider: KeyProvider, options: RotationOptions): Promise<RotationReport> {
  requireOptions("rollBackRotation", options, rotationOptionNames);
  return await new RotationRun(provider, options).run({ kind: "roll-back" });
}

/**
 * Takes a compromised key out of use. If the key is the primary, another key is added and promoted first.
 *
 * With "reencrypt-first", runs every step of a rotation. With "disable-first", promotes the new key and disables the
 * compromised key in the same change. The compromised key then stays in the keyring, disabled, until you remove it with
 * `retireKey`. Replicas may encrypt records with the compromised key until they load the changed keyring. These records
 * become unreadable, like the records that the key encrypted before.
 *
 * If a rotation that replaces the key is running, the call turns that rotation into a revocation of the key. The call
 * also does this to a running roll-back, if the key is the old or the new key of the roll-back.
 *
 * @throws KeywardError like {@link rotateKey}; `KEY_UNKNOWN` if the keyring has no key with this id.
 * @example
 * const order = "disable-first"; // makes the records under the key unreadable
 * const report = await revokeKey(keys, { stores: { sessions }, id: "2026-11", order, graceMs: 0 });
 * console.log(report.madeUnreadable["sessions"]);
 */
export async function revokeKey(provider: KeyProvider, options: RevokeKeyOptions): Promise<RotationReport> {
  const { id: from, order } = requireOptions("revokeKey", options, rotationOptionNames);
  if (order !== "reencrypt-first" && order !== "disable-first") {
    throw new KeywardError("VALUE_INVALID", 'The option "order" of revokeKey is missing or unknown', {
      hint:
        "Call `revocationCost` to count the records under the key. To keep these records readable, including any " +
        'that an attacker forged, pass "reencrypt-first". To accept no forged record, pass "disable-first", which ' +
        "makes all these records unreadable.",
    });
  }
  return await new RotationRun(provider, options).run({ kind: "revoke", newKey: newKeyOf(options), from, order });
}

/**
 * Returns the state of the running rotation. If no rotation is running, returns the state of the last rotation, or
 * `undefined` if there never was a rotation.
 *
 * @throws KeywardError `STORE_INVALID` if no store has a reserved space; the error of the decryption if the record that
 * keeps the state of the rotation cannot be decrypted.
 * @example
 * const status = await rotationStatus(keys, { stores: { sessions } });
 * console.log(status?.step);
 */
export async function rotationStatus(
  provider: KeyProvider,
  options: Pick<RotationOptions, "stores">,
): Promise<RotationStatus | undefined> {
  const { stores } = requireOptions("rotationStatus", options, rotationOptionNames);
  requireStores(stores);
  return (await new RotationRecord(reserveForRotation(KeyringSource.of(provider), stores)).read(false)).status;
}

/**
 * Returns the steps that are left of the rotation that {@link rotateKey} would begin or resume with the same options,
 * and the replicas that it would wait for. Changes nothing.
 *
 * @throws KeywardError the errors that {@link rotateKey} throws before it changes anything.
 * @example
 * const plan = await planRotation(keys, { stores: { sessions }, newKey: { id: "2026-12" }, graceMs: 3_600_000 });
 * for (const step of plan.steps) console.log(step);
 */
export async function planRotation(provider: KeyProvider, options: RotateKeyOptions): Promise<RotationPlan> {
  requireOptions("planRotation", options, rotationOptionNames);
  return await new RotationRun(provider, options).plan({ kind: "rotate", newKey: newKeyOf(options) });
}

/**
 * Counts the records under a key in the given stores: the records that {@link revokeKey} would re-encrypt or make
 * unreadable. Changes nothing.
 *
 * @throws KeywardError `KEY_UNKNOWN`; `STORES_MISSING` if a store that the keyring lists was not passed;
 * `STORE_NOT_SCANNABLE`.
 * @example
 * const { records, total } = await revocationCost(keys, { stores: { sessions }, id: "2026-11" });
 * console.log(records["sessions"], total);
 */
export async function revocationCost(
  provider: KeyProvider,
  options: Pick<ReplicaWaitOptions, "stores" | "signal"> & { readonly id: string },
): Promise<RevocationCost> {
  const { stores, id, signal } = requireOptions("revocationCost", options, rotationOptionNames);
  requireStores(stores);
  const keyring = await KeyringSource.of(provider).ask(signal);
  requireKeyIn(keyring, id);
  requireAllStores(keyring, stores, id);
  const records = await countUnder(stores, (keyId) => keyId === id, signal);
  return { records, total: Object.values(records).reduce((sum, count) => sum + count, 0) };
}

/** Checks the option `newKey` and returns it. A rotation that is recorded with an invalid key could not continue. */
function newKeyOf({ newKey }: Pick<RotateKeyOptions, "newKey">): NewKey {
  return newKey === undefined ? {} : requireNewKey(newKey);
}
