import { KeywardError } from "../errors/errors.ts";
import { isEnabled, type Keyring, keyOf } from "../keyring/keyring.ts";
import type { NamedStores } from "../reencryption/named-stores.ts";
import type { LoadedKeyring } from "../reencryption/retirement.ts";
import { finishableRotation, isRunning, rotationNames } from "./rotation-goal.ts";
import { RotationRecord, type RotationStatus, reserveOf } from "./rotation-record.ts";

/**
 * Checks that no running rotation makes the key `id` the primary, or takes it out of use itself. Checks nothing if no
 * given store has a readable record of a rotation: the record may be in another store.
 *
 * @throws KeywardError `ROTATION_IN_PROGRESS` if a running rotation concerns the key; the errors of the stores.
 */
export async function requireNotInRotation(
  { keyring, source }: LoadedKeyring,
  stores: NamedStores,
  id: string,
): Promise<void> {
  const reserve = reserveOf(source, stores);
  if (reserve === undefined || keyOf(keyring, id) === undefined) return;
  const { status: recorded } = await new RotationRecord(reserve).read(true);
  if (recorded === undefined || !isRunning(recorded, keyring)) return;
  const status = finishableRotation(recorded, keyring);
  if (status.to === id) throw newKeyError(status, keyring);
  // A revocation with the order "disable-first" leaves the disabled key in the keyring, so that the operator removes
  // it.
  const isOperators = status.order === "disable-first" && !isEnabled(keyring, id);
  if (status.from === id && !isOperators) throw oldKeyError(status, keyring);
}

function newKeyError({ kind, from, to: keyId, step }: RotationStatus, keyring: Keyring): KeywardError {
  const undo =
    kind === "rotate" && isEnabled(keyring, from)
      ? `To take key "${keyId}" out of use, call \`rollBackRotation\`, which retires the key. To keep the key instead`
      : `To take key "${keyId}" out of use, first finish this ${rotationNames[kind]}, and then replace the key by another rotation. To finish it`;
  return new KeywardError(
    "ROTATION_IN_PROGRESS",
    `Key "${keyId}" cannot be retired, because a ${rotationNames[kind]} from key "${from}" to this key is in progress, at step ${step}`,
    { keyId, hint: `${undo}, call ${callOf(kind)} again.` },
  );
}

function oldKeyError({ kind, from: keyId, to, step }: RotationStatus, keyring: Keyring): KeywardError {
  const undo =
    kind === "rotate" && isEnabled(keyring, keyId) ? " To keep the key instead, call `rollBackRotation`." : "";
  return new KeywardError(
    "ROTATION_IN_PROGRESS",
    `Key "${keyId}" cannot be retired, because a ${rotationNames[kind]} from this key to key "${to}" is in progress, at step ${step}`,
    {
      keyId,
      hint: `Call ${callOf(kind)} again: the ${rotationNames[kind]} retires the key once no record needs it.${undo}`,
    },
  );
}

function callOf(kind: RotationStatus["kind"]): string {
  return { rotate: "`rotateKey`", "roll-back": "`rollBackRotation`", revoke: "`revokeKey`" }[kind];
}
