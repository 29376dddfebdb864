import { randomBytes } from "node:crypto";
import { KeywardError } from "../errors/errors.ts";
import { type NewKey, shownId } from "../keyring/key.ts";
import { isEnabled, Keyring, keyOf } from "../keyring/keyring.ts";
import type { RevocationOrder, RotationStatus } from "./rotation-record.ts";

/**
 * What a call of `rotateKey`, `rollBackRotation` or `revokeKey` asks its run to achieve. The run begins a rotation with
 * this goal, or joins the running rotation.
 */
export type RotationGoal =
  | { readonly kind: "rotate"; readonly newKey: NewKey }
  | { readonly kind: "roll-back" }
  | { readonly kind: "revoke"; readonly newKey: NewKey; readonly from: string; readonly order: RevocationOrder };

/**
 * Returns the status of a new rotation with this goal, at its first step.
 *
 * @throws KeywardError `KEYRING_INVALID` if the new key is also the old key; `KEY_UNKNOWN` if the key to revoke is not
 * in the keyring; `NO_ROTATION` for a roll-back, which needs a running rotation.
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

/**
 * Returns the id of the new key of a goal, or `undefined` if the goal has neither an id nor material for the new key.
 */
export function idOf(goal: RotationGoal): string | undefined {
  if (goal.kind === "roll-back") return undefined;
  const { id, material } = goal.newKey;
  return id ?? (material === undefined ? undefined : Keyring.fromKeys([{ material }]).primary);
}

/**
 * Returns a readable id for a new key. The id has a random part, because it must not repeat the id of a removed key: a
 * backup may still have records under that key.
 */
function newId(): string {
  return `${new Date().toISOString().slice(0, 10)}-${randomBytes(3).toString("hex")}`;
}

/**
 * Returns a copy of the keyring with the new key added, or `undefined` if the keyring has the key already. Throws if
 * the new key is in the keyring and disabled, because a disabled key may be compromised.
 *
 * @throws KeywardError `KEY_DISABLED` if the new key is disabled; `KEY_MISMATCH` if the keyring has other material
 * under the id of the new key.
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
    hint:
      "If this key was disabled by mistake, enable it and repeat the call. Otherwise pass the id of another key as " +
      "`newKey: { id }`.",
  });
}

/**
 * Checks that the key to roll back to is still enabled. Checks nothing if the rotation is not a roll-back.
 *
 * @throws KeywardError `KEY_DISABLED`.
 */
export function requireRollBackTarget({ kind, to }: RotationStatus, keyring: Keyring): void {
  if (kind === "roll-back" && !isEnabled(keyring, to)) throw rollBackTooLateError(to);
}

/**
 * Returns a copy of the keyring with the new key as its primary, or `undefined` if the new key is the primary already.
 *
 * @throws KeywardError `KEY_DISABLED` if the new key is disabled; `KEYRING_INVALID` if the primary is neither the old
 * nor the new key.
 */
export function withPromotedKey(keyring: Keyring, status: RotationStatus): Keyring | undefined {
  const { kind, from, to } = status;
  if (keyring.primary === to) return undefined;
  requireRollBackTarget(status, keyring);
  if (keyring.primary !== from && kind !== "revoke") throw otherPrimaryError(keyring, status);
  return keyring.promote(to);
}

function otherPrimaryError(keyring: Keyring, { kind, from, to }: RotationStatus): KeywardError {
  const undo = kind === "rotate" ? ` To undo it instead, promote "${from}" and call \`rollBackRotation\`.` : "";
  return new KeywardError(
    "KEYRING_INVALID",
    `Key "${keyring.primary}" is the primary, but the running rotation replaces key "${from}" with key "${to}"`,
    {
      keyId: keyring.primary,
      hint:
        withoutId(keyring, to) +
        `A third key was promoted during the rotation. To finish the rotation, promote "${to}" and repeat the call that ` +
        `began the rotation.${undo}`,
    },
  );
}

/**
 * Returns the advice for a keyring that lacks the new key: the operator may have written the material of the new key
 * without its id, so that the key has another id now, and records have been written under that id.
 */
function withoutId(keyring: Keyring, to: string): string {
  if (keyOf(keyring, to) !== undefined) return "";
  return (
    `If key "${keyring.primary}" is the new key, to which its id "${to}" was not given, leave the key as it is, because ` +
    `records are under it already, and call \`rotateKey\` with \`newKey: { id: "${keyring.primary}" }\`. Otherwise: `
  );
}

function requireSameMaterial(keyring: Keyring, id: string, { material }: NewKey): void {
  if (material === undefined) return;
  const given = keyOf(Keyring.fromKeys([{ id, material }]), id)?.root.commitment;
  const present = keyOf(keyring, id)?.root.commitment;
  if (given !== undefined && present !== undefined && given.equals(present)) return;
  throw new KeywardError(
    "KEY_MISMATCH",
    `Key "${id}" in the keyring has other material than the new key that was passed under this id`,
    {
      keyId: id,
      hint: "If you want to add a new key, pass another id. If you want to change to the key in the keyring, omit `material`.",
    },
  );
}

/**
 * Checks that a key is in the keyring.
 *
 * @throws KeywardError `KEY_UNKNOWN`.
 */
export function requireKeyIn(keyring: Keyring, id: string): void {
  if (keyOf(keyring, id) !== undefined) return;
  throw new KeywardError("KEY_UNKNOWN", `The keyring has no key ${shownId(id)}`, {
    hint: `Pass the id of a key in the keyring, which has these keys: ${keyring.keys.map((one) => one.id).join(", ") || "none"}.`,
  });
}

/**
 * Returns whether the last rotation is done and had the goal of this call, so that the call has nothing to change.
 * Checks the keyring too, because an attacker may have replaced the record of the last rotation with the record of an
 * earlier rotation.
 */
export function isDoneAlready(status: RotationStatus, keyring: Keyring, goal: RotationGoal): boolean {
  const { step, kind, from, to } = status;
  if (step !== "done" || kind !== goal.kind || keyring.primary !== to || !isAchieved(status, keyring)) return false;
  switch (goal.kind) {
    case "rotate":
      return idOf(goal) === to;
    case "roll-back":
      // The goal of a roll-back names no key, so only the generation distinguishes this roll-back from an earlier one.
      return isLastChange(status, keyring);
    case "revoke":
      return goal.from === from;
  }
}

/**
 * Returns whether the keyring still has the generation number that it had at the end of the given rotation. If the
 * number is still the same, nothing has changed the keyring since then, so no later rotation has run.
 */
export function isLastChange({ generation }: RotationStatus, keyring: Keyring): boolean {
  return generation === keyring.generation;
}

/**
 * Returns whether the keyring shows that the rotation has reached its goal: the old key is removed. For the order
 * "disable-first", it is enough that the old key is disabled and the new key is the primary.
 */
export function isAchieved({ order, from, to }: RotationStatus, keyring: Keyring): boolean {
  if (keyOf(keyring, from) === undefined) return true;
  return order === "disable-first" && keyring.primary === to && !isEnabled(keyring, from);
}

/**
 * Checks that the running rotation has the goal of this run.
 *
 * @throws KeywardError `ROTATION_IN_PROGRESS` if it has another goal.
 */
function requireSameGoal(status: RotationStatus, goal: RotationGoal): void {
  if (!isSameGoal(status, goal)) throw rotationInProgressError(status);
}

/** Returns whether the given rotation has the goal of the given run. */
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

/** Returns the error `ROTATION_IN_PROGRESS`, for a run whose goal differs from the goal of the given rotation. */
export function rotationInProgressError({ kind, order, from, to, step }: RotationStatus): KeywardError {
  const rotation = {
    rotate: `A rotation from key "${from}" to "${to}"`,
    "roll-back": `A roll-back from key "${from}" to "${to}"`,
    revoke: `A revocation (${order}) of key "${from}"`,
  }[kind];
  if (step === "done") {
    return new KeywardError(
      "ROTATION_IN_PROGRESS",
      `${rotation} replaced the rotation of this call, and is already done`,
      {
        keyId: from,
        hint: "The rotation of this call stopped before it was done. If you still want what this call asks for, repeat the call.",
      },
    );
  }
  const noun = { rotate: "rotation", "roll-back": "roll-back", revoke: "revocation" }[kind];
  const undo = kind === "rotate" ? " To undo the rotation instead, call `rollBackRotation`." : "";
  return new KeywardError("ROTATION_IN_PROGRESS", `${rotation} is in progress, at step ${step}`, {
    keyId: from,
    hint: `To finish that ${noun}, repeat the call that began the ${noun}.${undo} Then repeat this call.`,
  });
}

/** Returns the error `NO_ROTATION`, for a roll-back while no rotation is running. */
export function noRotationError(): KeywardError {
  return new KeywardError("NO_ROTATION", "No rotation is running, so there is nothing to roll back", {
    hint:
      "To change back to an earlier key that is still in the keyring, call `rotateKey` with the id of that key in " +
      "`newKey: { id }`.",
  });
}

function rollBackTooLateError(keyId: string): KeywardError {
  return new KeywardError(
    "KEY_DISABLED",
    `The old key "${keyId}" is disabled or removed, so the rotation can no longer be rolled back`,
    {
      keyId,
      hint: "Call `rotateKey` to finish the rotation. If the old key is disabled and records still need it, enable the old key first, so that the rotation re-encrypts these records too.",
    },
  );
}

function sameKeyError(keyId: string): KeywardError {
  return new KeywardError(
    "KEYRING_INVALID",
    `Key "${keyId}" cannot be the new key of the rotation, because the rotation is to replace this key`,
    {
      keyId,
      hint:
        "To begin a rotation, pass another id for the new key. If you pass no id, an id is generated. To resume a " +
        "rotation whose record the store has lost, call `revokeKey` with the id of the old key and `order: " +
        '"reencrypt-first"`. That call runs the remaining steps.',
    },
  );
}

/**
 * Returns the status from which a run with the goal `goal` continues the rotation `running`:
 *
 * - If `running` already has this goal: `running` itself.
 * - If the goal is a roll-back: a copy of `running` with the old key and the new key exchanged.
 * - If the goal is to revoke a key of the running rotation: a copy of `running` with the kind "revoke".
 *
 * @throws KeywardError `ROTATION_IN_PROGRESS` if the running rotation has another goal; `KEY_DISABLED` if the key to
 * roll back to is disabled or removed.
 */
export function adaptToGoal(running: RotationStatus, goal: RotationGoal, keyring: Keyring): RotationStatus {
  const { kind, from, to, step } = running;
  if (kind === "roll-back" && !isEnabled(keyring, to)) {
    if (goal.kind === "roll-back") throw rollBackTooLateError(to);
    // The roll-back cannot be finished. Continue the rotation at the grace, because its old key is disabled already.
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
      // With "disable-first" the step "promote" disables the key, so a rotation past that step goes back to it.
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
  // The new key of a rotation got another id before it became primary, and the operator goes on with that id.
  const isRenamed = goal.kind === "rotate" && kind === "rotate" && idOf(goal) === keyring.primary;
  if (isRenamed && keyOf(keyring, to) === undefined && keyOf(keyring, from) !== undefined) {
    return { ...running, to: keyring.primary, step: "add" };
  }
  requireSameGoal(running, goal);
  return running;
}

/** Returns the status of the rotation with its two keys exchanged. */
function reversed(running: RotationStatus, kind: RotationStatus["kind"]): RotationStatus {
  return { ...running, kind, from: running.to, to: running.from };
}
