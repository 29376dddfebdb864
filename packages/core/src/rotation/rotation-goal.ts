import { randomBytes } from "node:crypto";
import { KeywardError } from "../errors/errors.ts";
import { type NewKey, shownId } from "../keyring/key.ts";
import { isEnabled, Keyring, keyOf } from "../keyring/keyring.ts";
import type { RevocationOrder, RotationStatus } from "./rotation-record.ts";

/**
 * Describes what a call of `rotateKey`, `rollBackRotation` or `revokeKey` is to achieve. The run of this call begins a
 * rotation with this goal, or joins the running rotation.
 */
export type RotationGoal =
  | { readonly kind: "rotate"; readonly newKey: NewKey }
  | { readonly kind: "roll-back" }
  | { readonly kind: "revoke"; readonly newKey: NewKey; readonly from: string; readonly order: RevocationOrder };

/**
 * Returns the status of a new rotation with this goal, at its first step.
 *
 * @throws KeywardError `KEYRING_INVALID` if the new key is also the old key; `KEY_UNKNOWN` if the key to revoke is not
 * in the keyring; `KEY_DISABLED` if the new key is disabled; `NO_ROTATION` for a roll-back, which needs a running
 * rotation; the errors of {@link withNewKey}.
 */
export function newRotation(keyring: Keyring, goal: RotationGoal): RotationStatus {
  const status = begunWith(keyring, goal);
  const { to } = status;
  requireTwoKeys(status);
  if (keyOf(keyring, to) !== undefined && !isEnabled(keyring, to)) throw newKeyDisabledError(to);
  // Do not record a rotation that cannot add its new key, because no run could finish it.
  withNewKey(keyring, status, goal);
  return status;
}

function begunWith(keyring: Keyring, goal: RotationGoal): RotationStatus {
  const begun = { id: randomBytes(9).toString("base64url"), step: "add", startedAtMs: Date.now() } as const;
  switch (goal.kind) {
    case "rotate":
      return { ...begun, kind: "rotate", from: keyring.primary, to: idOf(goal) ?? newId() };
    case "revoke": {
      const { from, order } = goal;
      requireKeyIn(keyring, from);
      const to = idOf(goal) ?? (keyring.primary === from ? newId() : keyring.primary);
      return { ...begun, kind: "revoke", order, from, to };
    }
    case "roll-back":
      throw noRotationError();
  }
}

/**
 * Returns the rotation that a run continues: `status`, or `undefined` if that rotation has ended. If an operator
 * enabled the old key again during the grace, because a record needs the key, the rotation continues at the step
 * `reencrypt`. It then disables the key again, and the grace begins again.
 *
 * @param isGuided true in a guided rotation, whose old key stays enabled during the grace.
 */
export function continuedRotation(
  status: RotationStatus | undefined,
  keyring: Keyring,
  isGuided: boolean,
): RotationStatus | undefined {
  if (status === undefined || !isRunning(status, keyring)) return undefined;
  const isInGrace = status.step === "grace" || status.step === "remove";
  if (!isInGrace || isGuided || !isEnabled(keyring, status.from)) return status;
  const { disabledAtMs: _, ...enabledAgain } = status;
  return { ...enabledAgain, step: "reencrypt" };
}

/**
 * Returns the id of the key that a goal makes the primary; `undefined` if the goal gives neither an id nor material for
 * this key.
 */
export function idOf(goal: RotationGoal): string | undefined {
  if (goal.kind === "roll-back") return undefined;
  const { id, material } = goal.newKey;
  return id ?? (material === undefined ? undefined : Keyring.fromKeys([{ material }]).primary);
}

/**
 * Returns an id for a new key: the date and a random part. The random part keeps the id different from the id of a
 * removed key, because a backup may still have records under that key.
 */
function newId(): string {
  return `${new Date().toISOString().slice(0, 10)}-${randomBytes(3).toString("hex")}`;
}

/**
 * Returns a copy of the keyring to which the new key was added; `undefined` if the keyring has the key already. Throws
 * if the keyring has the new key, but disabled, because a disabled key may be compromised.
 *
 * @throws KeywardError `KEY_MISMATCH` if the keyring has other material under the id of the new key; `KEYRING_INVALID`
 * if the keyring has the material of the new key under another id; the errors of {@link requireNewKey}.
 */
export function withNewKey(keyring: Keyring, status: RotationStatus, goal: RotationGoal): Keyring | undefined {
  requireRollBackTarget(status, keyring);
  if (goal.kind === "roll-back" || status.kind === "roll-back") return undefined;
  const { to } = status;
  const { newKey } = goal;
  if (keyOf(keyring, to) === undefined) return keyring.add({ ...newKey, id: to });
  requireSameMaterial(keyring, to, newKey);
  requireNewKey(status, keyring);
  return undefined;
}

function newKeyDisabledError(keyId: string): KeywardError {
  return new KeywardError("KEY_DISABLED", `Key "${keyId}" is disabled and cannot become primary`, {
    keyId,
    hint:
      "If this key was disabled by mistake, enable it and repeat the call. Otherwise pass the id of another key as " +
      "`newKey: { id }`.",
  });
}

/**
 * Checks that the new key, which the rotation added, is still in the keyring and enabled.
 *
 * @throws KeywardError `KEY_UNKNOWN` if the new key was removed; `KEY_DISABLED` if the new key, or the key to roll back
 * to, is disabled; `KEYRING_INVALID` if, in addition, a third key was promoted.
 */
export function requireNewKey(status: RotationStatus, keyring: Keyring): void {
  requireRollBackTarget(status, keyring);
  const { kind, from, to } = status;
  if (isEnabled(keyring, to)) return;
  if (kind !== "revoke" && keyring.primary !== from) throw otherPrimaryError(keyring, status);
  const isRemoved = keyOf(keyring, to) === undefined;
  const restore = isRemoved
    ? `put key "${to}" back into the keyring, enabled and with its former material, and repeat the call. ` +
      "If no record was ever encrypted under this key, you can add a new key with this id instead."
    : `enable key "${to}" and repeat the call. Do not enable the key if it is compromised.`;
  const replace =
    kind === "revoke"
      ? "To continue with another key, call `revokeKey` again with the id of that key as `newKey: { id }`."
      : "To end the rotation without this key, call `rollBackRotation`.";
  throw new KeywardError(
    isRemoved ? "KEY_UNKNOWN" : "KEY_DISABLED",
    `Key "${to}", the new key of the running rotation, was ${isRemoved ? "removed from the keyring" : "disabled"}`,
    { keyId: to, hint: `To finish the rotation, ${restore} ${replace}` },
  );
}

/**
 * Checks that the key to roll back to is still enabled. Checks nothing if the rotation is not a roll-back.
 *
 * @throws KeywardError `KEY_DISABLED` if the key to roll back to is disabled or removed.
 */
export function requireRollBackTarget({ kind, to }: RotationStatus, keyring: Keyring): void {
  if (kind === "roll-back" && !isEnabled(keyring, to)) throw rollBackTooLateError(to);
}

/**
 * Returns a copy of the keyring in which the new key is the primary; `undefined` if the new key is the primary already.
 *
 * @throws KeywardError `KEYRING_INVALID` if the primary is neither the old nor the new key; the errors of
 * {@link requireNewKey}.
 */
export function withPromotedKey(keyring: Keyring, status: RotationStatus): Keyring | undefined {
  const { kind, from, to } = status;
  if (keyring.primary === to) return undefined;
  requireNewKey(status, keyring);
  if (keyring.primary !== from && kind !== "revoke") throw otherPrimaryError(keyring, status);
  return keyring.promote(to);
}

function otherPrimaryError(keyring: Keyring, { kind, from, to }: RotationStatus): KeywardError {
  const { primary } = keyring;
  const promoting = (id: string) =>
    keyOf(keyring, id) === undefined
      ? `put key "${id}" back and promote it`
      : `${isEnabled(keyring, id) ? "" : "enable and "}promote "${id}"`;
  const undo = kind === "rotate" ? ` To undo it instead, ${promoting(from)}, and call \`rollBackRotation\`.` : "";
  return new KeywardError(
    "KEYRING_INVALID",
    `Key "${primary}" is the primary, but the running rotation replaces key "${from}" with key "${to}"`,
    {
      keyId: primary,
      hint:
        `To keep key "${primary}" as the primary, call \`rotateKey\` with \`newKey: { id: "${primary}" }\`. The rotation ` +
        `then continues with that key.${withoutId(keyring, to)} To finish the rotation to key "${to}" instead, ` +
        `${promoting(to)}, and repeat the call that began the rotation.${undo}`,
    },
  );
}

/**
 * Returns a sentence for the hint if the keyring lacks the new key. The operator may have written the material of the
 * new key to the source, but not its id. In this case the key has another id, and records are encrypted under that id.
 */
function withoutId(keyring: Keyring, to: string): string {
  if (keyOf(keyring, to) !== undefined) return "";
  return ` Do this if key "${keyring.primary}" is the new key, but was written to the source without its id "${to}": records already name the id "${keyring.primary}".`;
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
      hint: "To add a new key, pass another id. To make the key in the keyring the primary, omit `material`.",
    },
  );
}

/**
 * Checks that a key is in the keyring.
 *
 * @throws KeywardError `KEY_UNKNOWN` if the key is not in the keyring.
 */
export function requireKeyIn(keyring: Keyring, id: string): void {
  if (keyOf(keyring, id) !== undefined) return;
  throw new KeywardError("KEY_UNKNOWN", `The keyring has no key ${shownId(id)}`, {
    hint: `Pass the id of a key in the keyring, which has these keys: ${keyring.keys.map((one) => one.id).join(", ") || "none"}.`,
  });
}

/**
 * Returns whether the last rotation is done and had the goal of this call, so that this call has nothing to do. Checks
 * the keyring, too, because an attacker may have replaced the record of the last rotation with an earlier record.
 */
export function isDoneAlready(status: RotationStatus, keyring: Keyring, goal: RotationGoal): boolean {
  const { step, kind, from, to } = status;
  if (step !== "done" || kind !== goal.kind || keyring.primary !== to || !isAchieved(status, keyring)) return false;
  switch (goal.kind) {
    case "rotate":
      return idOf(goal) === to;
    case "roll-back":
      // The goal of a roll-back does not name a key. Only the generation number shows whether the recorded roll-back is
      // the last change.
      return isLastChange(status, keyring);
    case "revoke":
      return goal.from === from;
  }
}

/**
 * Returns whether the keyring still has the generation number that it had at the end of the given rotation. If so, the
 * keyring was not changed since, so no later rotation has run.
 */
export function isLastChange({ generation }: RotationStatus, keyring: Keyring): boolean {
  return generation === keyring.generation;
}

/**
 * Returns whether the rotation has reached its goal: the keyring does not contain the old key. With the order
 * "disable-first", the rotation has also reached its goal if the old key is disabled and the new key is the primary.
 */
export function isAchieved({ order, from, to }: RotationStatus, keyring: Keyring): boolean {
  if (keyOf(keyring, from) === undefined) return true;
  return order === "disable-first" && keyring.primary === to && !isEnabled(keyring, from);
}

/**
 * Returns whether a rotation has steps left. A rotation has no steps left if it is done, or if an operator removed the
 * old key by hand and made a third key the primary.
 */
export function isRunning({ step, from, to }: RotationStatus, keyring: Keyring): boolean {
  return step !== "done" && (keyOf(keyring, from) !== undefined || keyring.primary === to);
}

/**
 * Checks that the running rotation has the goal `goal`.
 *
 * @throws KeywardError `ROTATION_IN_PROGRESS` if the running rotation has another goal.
 */
function requireSameGoal(status: RotationStatus, goal: RotationGoal): void {
  if (!isSameGoal(status, goal)) throw rotationInProgressError(status);
}

/** Returns whether the given rotation has the goal `goal`. */
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

/** The noun for each kind of rotation, which messages and hints use. */
export const rotationNames = {
  rotate: "rotation",
  "roll-back": "roll-back",
  revoke: "revocation",
} as const satisfies Readonly<Record<RotationStatus["kind"], string>>;

/** Returns the error `ROTATION_IN_PROGRESS` for a call whose goal differs from the goal of the given rotation. */
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
  const noun = rotationNames[kind];
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

/**
 * Checks that the old key and the new key differ, because a rotation could not disable its old key if it were also the
 * new key.
 */
function requireTwoKeys({ from, to: keyId }: RotationStatus): void {
  if (keyId !== from) return;
  throw new KeywardError(
    "KEYRING_INVALID",
    `Key "${keyId}" cannot be the new key of the rotation, because the rotation replaces this key`,
    {
      keyId,
      hint:
        "To begin a rotation, pass another id for the new key. If you pass no id, an id is generated. If the store " +
        "has lost the record of a rotation, and you want to resume that rotation, call `revokeKey` with the id of " +
        "the old key and `order: " +
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
 * - If the goal is to rotate to the present primary, a third key: a copy of `running` with this key as the new key.
 *
 * @throws KeywardError `ROTATION_IN_PROGRESS` if the running rotation has another goal; `KEY_DISABLED` if the key to
 * roll back to is disabled or removed; `KEYRING_INVALID` if a third key is the primary, so that the roll-back cannot
 * promote the old key, or if the new key of the revocation is the old key.
 */
export function adaptToGoal(running: RotationStatus, goal: RotationGoal, keyring: Keyring): RotationStatus {
  const { kind, from, to, step } = running;
  const finishable = finishableRotation(running, keyring);
  if (finishable !== running) {
    if (goal.kind === "roll-back") throw rollBackTooLateError(to);
    return adaptToGoal(finishable, goal, keyring);
  }
  if (goal.kind === "roll-back" && kind === "rotate") {
    if (!isEnabled(keyring, from)) throw rollBackTooLateError(from);
    if (keyring.primary !== from && keyring.primary !== to) throw otherPrimaryError(keyring, running);
    return { ...reversed(running, "roll-back"), step: "add" };
  }
  // The key to revoke may be either key of a rotation or a roll-back in progress.
  if (goal.kind === "revoke" && kind !== "revoke" && isEnabled(keyring, from)) {
    const { order } = goal;
    if (goal.from === from && isKeyWanted(to, goal)) {
      // With "disable-first" the step "promote" also disables the key. So a rotation that is past this step repeats it.
      const back = order === "disable-first" && !["add", "distribute", "promote"].includes(step);
      return { ...running, kind: "revoke", order, ...(back ? { step: "promote" } : {}) };
    }
    if (kind === "roll-back" && goal.from === to && isKeyWanted(from, goal)) {
      return { ...reversed(running, "revoke"), order, step: "add" };
    }
  }
  // The new key of a revocation was disabled or removed by hand before it became primary. Another key must become the
  // new key.
  if (
    goal.kind === "revoke" &&
    kind === "revoke" &&
    goal.from === from &&
    keyring.primary !== to &&
    !isEnabled(keyring, to)
  ) {
    const replaced: RotationStatus = { ...running, order: goal.order, to: idOf(goal) ?? newId(), step: "add" };
    requireTwoKeys(replaced);
    return replaced;
  }
  // A third key was promoted, or the new key got another id at its source: the operator keeps that key as the primary.
  const { primary } = keyring;
  if (goal.kind === "rotate" && kind !== "revoke" && idOf(goal) === primary && primary !== from && primary !== to) {
    return { ...running, kind: "rotate", to: primary, step: "add" };
  }
  requireSameGoal(running, goal);
  return running;
}

/**
 * Returns a rotation that can be finished. Usually this is `running` itself. But a roll-back cannot be finished if the
 * key to roll back to is disabled or removed: in this case, returns the rotation that the roll-back undoes, at the step
 * `grace`.
 */
export function finishableRotation(running: RotationStatus, keyring: Keyring): RotationStatus {
  if (running.kind !== "roll-back" || isEnabled(keyring, running.to)) return running;
  return { ...reversed(running, "rotate"), step: "grace", disabledAtMs: Date.now() };
}

/** Returns the status of the rotation with its two keys exchanged. */
function reversed(running: RotationStatus, kind: RotationStatus["kind"]): RotationStatus {
  return { ...running, kind, from: running.to, to: running.from };
}
