import { randomBytes } from "node:crypto";
import { KeywardError } from "../errors/errors.ts";
import { type NewKey, shownId } from "../keyring/key.ts";
import { isEnabled, Keyring, keyOf } from "../keyring/keyring.ts";
import type { RevocationOrder, RotationStatus } from "./rotation-record.ts";

/** The goal of a run that begins a rotation or joins one. */
export type RotationGoal =
  | { readonly kind: "rotate"; readonly newKey: NewKey }
  | { readonly kind: "roll-back" }
  | { readonly kind: "revoke"; readonly newKey: NewKey; readonly from: string; readonly order: RevocationOrder };

/**
 * Returns the state of a new rotation.
 *
 * @throws KeywardError `KEYRING_INVALID`, `KEY_UNKNOWN`; `NO_ROTATION` for a roll-back.
 */
export function newRotation(keyring: Keyring, goal: RotationGoal): RotationStatus {
  const begun = { id: randomBytes(9).toString("base64url"), step: "add", startedAtMs: Date.now() } as const;
  switch (goal.kind) {
    case "rotate": {
      const to = idOf(goal) ?? newId();
      if (to === keyring.primary) throw sameKeyError(to);
      return { ...begun, kind: "rotate", from: keyring.primary, to };
    }
    case "revoke": {
      const { from, order } = goal;
      requireKeyIn(keyring, from);
      const to = idOf(goal) ?? (keyring.primary === from ? newId() : keyring.primary);
      if (to === from) throw sameKeyError(to);
      return { ...begun, kind: "revoke", order, from, to };
    }
    case "roll-back":
      throw noRotationError();
  }
}

/** Returns the id of the key to change to, if the goal names one. */
export function idOf(goal: RotationGoal): string | undefined {
  if (goal.kind === "roll-back") return undefined;
  const { id, material } = goal.newKey;
  return id ?? (material === undefined ? undefined : Keyring.fromKeys([{ material }]).primary);
}

/** Returns a readable id that no earlier key had: a backup may still hold records of a removed key. */
function newId(): string {
  return `${new Date().toISOString().slice(0, 10)}-${randomBytes(3).toString("hex")}`;
}

/**
 * Returns the keyring with the key to change to; `undefined` if the keyring has it. Does not enable a disabled key: it may
 * have been disabled because it is compromised.
 *
 * @throws KeywardError `KEY_DISABLED`; `KEY_MISMATCH` if the keyring has other material under the id.
 */
export function withNewKey(keyring: Keyring, status: RotationStatus, goal: RotationGoal): Keyring | undefined {
  requireRollBackTarget(status, keyring);
  if (goal.kind === "roll-back" || status.kind === "roll-back") return undefined;
  const { to } = status;
  const { newKey } = goal;
  const key = keyring.keys.find(({ id }) => id === to);
  if (key === undefined) return keyring.add({ ...newKey, id: to });
  requireSameMaterial(keyring, to, newKey);
  if (key.status === "enabled") return undefined;
  throw new KeywardError("KEY_DISABLED", `Key "${to}" is disabled and cannot become primary`, {
    keyId: to,
    hint: "Choose another key. Enable this key only if it was disabled by mistake.",
  });
}

/**
 * Checks that the key to roll back to is still enabled.
 *
 * @throws KeywardError `KEY_DISABLED`.
 */
export function requireRollBackTarget({ kind, to }: RotationStatus, keyring: Keyring): void {
  if (kind === "roll-back" && !isEnabled(keyring, to)) throw rollBackTooLateError(to);
}

/**
 * Returns the keyring with the key to change to as its primary; `undefined` if the key is the primary.
 *
 * @throws KeywardError `KEY_DISABLED`; `KEYRING_INVALID` if a third key is the primary.
 */
export function withPromotedKey(keyring: Keyring, status: RotationStatus): Keyring | undefined {
  const { kind, from, to } = status;
  if (keyring.primary === to) return undefined;
  requireRollBackTarget(status, keyring);
  if (keyring.primary !== from && kind !== "revoke") throw otherPrimaryError(keyring, status);
  return keyring.promote(to);
}

function otherPrimaryError(keyring: Keyring, { from, to }: RotationStatus): KeywardError {
  return new KeywardError(
    "KEYRING_INVALID",
    `Key "${keyring.primary}" was promoted during a rotation from "${from}" to "${to}"`,
    {
      keyId: keyring.primary,
      hint: `Promote "${from}" or "${to}", then run the rotation again or roll it back.`,
    },
  );
}

function requireSameMaterial(keyring: Keyring, id: string, { material }: NewKey): void {
  if (material === undefined) return;
  const given = keyOf(Keyring.fromKeys([{ id, material }]), id)?.root.commitment;
  const present = keyOf(keyring, id)?.root.commitment;
  if (given !== undefined && present !== undefined && given.equals(present)) return;
  throw new KeywardError("KEY_MISMATCH", `The keyring has a key "${id}" with other material than was passed`, {
    keyId: id,
    hint: "Give the new key another id. To change to the key in the keyring, pass its id without material.",
  });
}

/**
 * Checks that a key is in the keyring.
 *
 * @throws KeywardError `KEY_UNKNOWN`.
 */
export function requireKeyIn(keyring: Keyring, id: string): void {
  if (keyOf(keyring, id) !== undefined) return;
  throw new KeywardError("KEY_UNKNOWN", `The keyring has no key ${shownId(id)}`, {
    hint: `Name a key of the keyring: ${keyring.keys.map((one) => one.id).join(", ") || "it has none"}.`,
  });
}

/**
 * Returns whether a rotation that is done achieved the goal, so that a repeated call changes nothing. Trusts the keyring
 * more than the record, which may be that of an earlier rotation, put back.
 */
export function isDoneAlready(status: RotationStatus, keyring: Keyring, goal: RotationGoal): boolean {
  const { step, kind, from, to } = status;
  if (step !== "done" || kind !== goal.kind || keyring.primary !== to || !isAchieved(status, keyring)) return false;
  switch (goal.kind) {
    case "rotate":
      return idOf(goal) === to;
    case "roll-back":
      // A roll-back names no key, so only the generation distinguishes it from an earlier one.
      return isLastChange(status, keyring);
    case "revoke":
      return goal.from === from;
  }
}

/** Returns whether the keyring is as this rotation left it, so that the record is that of the last rotation. */
export function isLastChange({ generation }: RotationStatus, keyring: Keyring): boolean {
  return generation === keyring.generation;
}

/** Returns whether the old key is removed, or with "disable-first" disabled while the new key is the primary. */
export function isAchieved({ order, from, to }: RotationStatus, keyring: Keyring): boolean {
  if (keyOf(keyring, from) === undefined) return true;
  return order === "disable-first" && keyring.primary === to && !isEnabled(keyring, from);
}

/**
 * Checks that a running rotation has the goal.
 *
 * @throws KeywardError `ROTATION_IN_PROGRESS`.
 */
function requireSameGoal(status: RotationStatus, goal: RotationGoal): void {
  if (!isSameGoal(status, goal)) throw rotationInProgressError(status);
}

/** Returns whether a rotation has the goal. */
export function isSameGoal({ kind, from, to, order }: RotationStatus, goal: RotationGoal): boolean {
  return (
    kind === goal.kind &&
    isKeyWanted(to, goal) &&
    (goal.kind !== "revoke" || (goal.from === from && goal.order === order))
  );
}

function isKeyWanted(to: string, goal: RotationGoal): boolean {
  const id = idOf(goal);
  return id === undefined || id === to;
}

/** Returns the error for a goal that differs from that of the running rotation. */
export function rotationInProgressError({ kind, order, from, to, step }: RotationStatus): KeywardError {
  const rotation = {
    rotate: `A rotation from key "${from}" to "${to}"`,
    "roll-back": `A roll-back from key "${from}" to "${to}"`,
    revoke: `A revocation (${order}) of key "${from}"`,
  }[kind];
  return new KeywardError(
    "ROTATION_IN_PROGRESS",
    `${rotation} ${step === "done" ? "was finished in the meantime" : `is in progress, at step ${step}`}`,
    {
      keyId: from,
      hint: "Finish it with the same goal, or roll it back if it is a rotation. Then begin another.",
    },
  );
}

/** Returns the error for a roll-back without a running rotation. */
export function noRotationError(): KeywardError {
  return new KeywardError("NO_ROTATION", "No rotation is running, so there is nothing to roll back", {
    hint: "To change back to an earlier key that is in the keyring, call rotateKey with newKey: { id } of that key.",
  });
}

function rollBackTooLateError(keyId: string): KeywardError {
  return new KeywardError("KEY_DISABLED", `Key "${keyId}" is disabled already: the rotation cannot be rolled back`, {
    keyId,
    hint: "Finish the rotation. If records need the key, enable it: the rotation then re-encrypts once more.",
  });
}

function sameKeyError(keyId: string): KeywardError {
  return new KeywardError("KEYRING_INVALID", `Key "${keyId}" is the key to change from, and cannot be the new key`, {
    keyId,
    hint:
      "Choose another id, or none. If the record of a rotation to this key was lost, call revokeKey with the id of the " +
      'old key and order "reencrypt-first": it runs the remaining steps.',
  });
}

/**
 * Returns the running rotation as a run with this goal continues it: unchanged if the goals are the same, turned around for
 * a roll-back, or turned into a revocation.
 *
 * @throws KeywardError `ROTATION_IN_PROGRESS`; `KEY_DISABLED` if it is too late to roll back.
 */
export function adaptToGoal(running: RotationStatus, goal: RotationGoal, keyring: Keyring): RotationStatus {
  const { kind, from, to, step } = running;
  if (kind === "roll-back" && !isEnabled(keyring, to)) {
    if (goal.kind === "roll-back") throw rollBackTooLateError(to);
    // The roll-back cannot be finished: continue the rotation, which has reached the disabled key and so the grace.
    return adaptToGoal({ ...reversed(running, "rotate"), step: "grace", disabledAtMs: Date.now() }, goal, keyring);
  }
  if (goal.kind === "roll-back" && kind === "rotate") {
    if (!isEnabled(keyring, from)) throw rollBackTooLateError(from);
    return { ...reversed(running, "roll-back"), step: "add" };
  }
  // The key to revoke may be either key of a rotation or a roll-back in progress.
  if (goal.kind === "revoke" && kind !== "revoke" && isEnabled(keyring, from)) {
    const { order } = goal;
    if (goal.from === from && isKeyWanted(to, goal)) {
      // With "disable-first" the promotion disables the key, so a rotation past it goes back to that step.
      const back = order === "disable-first" && !["add", "distribute", "promote"].includes(step);
      return { ...running, kind: "revoke", order, ...(back ? { step: "promote" } : {}) };
    }
    if (kind === "roll-back" && goal.from === to && isKeyWanted(from, goal)) {
      return { ...reversed(running, "revoke"), order, step: "add" };
    }
  }
  // The new key of a revocation was disabled or removed by hand before it became primary. Another key must take its place.
  if (
    goal.kind === "revoke" &&
    kind === "revoke" &&
    goal.from === from &&
    keyring.primary !== to &&
    !isEnabled(keyring, to)
  ) {
    return { ...running, order: goal.order, to: idOf(goal) ?? newId(), step: "add" };
  }
  requireSameGoal(running, goal);
  return running;
}

/** Returns the rotation with its two keys exchanged. */
function reversed(running: RotationStatus, kind: RotationStatus["kind"]): RotationStatus {
  return { ...running, kind, from: running.to, to: running.from };
}
