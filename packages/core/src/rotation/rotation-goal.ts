import { randomBytes } from "node:crypto";
import { KeywardError } from "../errors/errors.ts";
import { type NewKey, shownId } from "../keyring/key.ts";
import { isEnabled, Keyring, keyOf } from "../keyring/keyring.ts";
import type { RevocationOrder, RotationStatus } from "./rotation-record.ts";

/** What somebody wants who begins a rotation, or joins one. */
export type RotationGoal =
  | { readonly kind: "rotate"; readonly newKey: NewKey }
  | { readonly kind: "roll-back" }
  | { readonly kind: "revoke"; readonly newKey: NewKey; readonly from: string; readonly order: RevocationOrder };

/**
 * A rotation that begins.
 *
 * @throws KeywardError `KEYRING_INVALID`, `KEY_UNKNOWN`, and `VALUE_INVALID` for a return from nothing.
 */
export function startOf(ring: Keyring, goal: RotationGoal): RotationStatus {
  const begun = { id: randomBytes(9).toString("base64url"), step: "add", startedAtMs: Date.now() } as const;
  switch (goal.kind) {
    case "rotate": {
      const to = idOf(goal) ?? newId();
      if (to === ring.primary) throw alreadyPrimary(to);
      return { ...begun, kind: "rotate", from: ring.primary, to };
    }
    case "revoke": {
      const { from, order } = goal;
      requireKeyIn(ring, from);
      const to = idOf(goal) ?? (ring.primary === from ? newId() : ring.primary);
      if (to === from) throw alreadyPrimary(to);
      return { ...begun, kind: "revoke", order, from, to };
    }
    case "roll-back":
      throw noRotationRuns();
  }
}

/** The id that was asked for, if any was. */
export function idOf(goal: RotationGoal): string | undefined {
  if (goal.kind === "roll-back") return undefined;
  const { id, material } = goal.newKey;
  return id ?? (material === undefined ? undefined : Keyring.fromKeys([{ material }]).primary);
}

/** Readable, and never that of a key which was removed: a backup may still hold records under it. */
function newId(): string {
  return `${new Date().toISOString().slice(0, 10)}-${randomBytes(3).toString("hex")}`;
}

/**
 * The ring with the key to change to; `undefined` where it has it. A disabled one is not enabled: whoever disabled it may
 * know that it is compromised.
 *
 * @throws KeywardError `KEY_DISABLED`, or `KEY_MISMATCH` for other material under its id.
 */
export function addTo(ring: Keyring, status: RotationStatus, goal: RotationGoal): Keyring | undefined {
  requireReturn(status, ring);
  if (goal.kind === "roll-back" || status.kind === "roll-back") return undefined;
  const { to } = status;
  const { newKey } = goal;
  const key = ring.keys.find(({ id }) => id === to);
  if (key === undefined) return ring.add({ ...newKey, id: to });
  requireSameMaterial(ring, to, newKey);
  if (key.status === "enabled") return undefined;
  throw new KeywardError("KEY_DISABLED", `Key "${to}" is disabled and cannot become primary`, {
    keyId: to,
    hint: "Choose another key, or enable this one if it was disabled by mistake.",
  });
}

/**
 * @throws KeywardError `KEY_DISABLED` when the key to which a roll-back returns opens nothing any more.
 */
export function requireReturn({ kind, to }: RotationStatus, ring: Keyring): void {
  if (kind === "roll-back" && !isEnabled(ring, to)) throw tooLate(to);
}

/**
 * The ring in which the key to change to seals; `undefined` where it does.
 *
 * @throws KeywardError `KEY_DISABLED`, or `KEYRING_INVALID` when neither of the two keys seals.
 */
export function promoteTo(ring: Keyring, status: RotationStatus): Keyring | undefined {
  const { kind, from, to } = status;
  if (ring.primary === to) return undefined;
  requireReturn(status, ring);
  if (ring.primary !== from && kind !== "revoke") throw promotedByOther(ring, status);
  return ring.promote(to);
}

function promotedByOther(ring: Keyring, { from, to }: RotationStatus): KeywardError {
  return new KeywardError(
    "KEYRING_INVALID",
    `Key "${ring.primary}" was promoted by somebody else, in the middle of a rotation from "${from}" to "${to}"`,
    { keyId: ring.primary, hint: "Promote one of the two, then run the rotation again, or roll it back." },
  );
}

function requireSameMaterial(ring: Keyring, id: string, { material }: NewKey): void {
  if (material === undefined) return;
  const given = keyOf(Keyring.fromKeys([{ id, material }]), id)?.root.commitment;
  const there = keyOf(ring, id)?.root.commitment;
  if (given !== undefined && there !== undefined && given.equals(there)) return;
  throw new KeywardError("KEY_MISMATCH", `The ring has a key "${id}" of other material than was given`, {
    keyId: id,
    hint: "Give the new key another id, or no material to change to the one that is there.",
  });
}

/**
 * @throws KeywardError `KEY_UNKNOWN`.
 */
export function requireKeyIn(ring: Keyring, id: string): void {
  if (keyOf(ring, id) !== undefined) return;
  throw new KeywardError("KEY_UNKNOWN", `The keyring has no key ${shownId(id)}`, {
    hint: `Name a key that it has: ${ring.keys.map((one) => one.id).join(", ") || "none"}.`,
  });
}

/**
 * Whether what is asked by its name was done, by what the ring says: whoever asks again, or comes late, asks for nothing
 * more. The record alone may be that of an earlier rotation, put back.
 */
export function isDoneAlready(status: RotationStatus, ring: Keyring, goal: RotationGoal): boolean {
  const { step, kind, from, to } = status;
  if (step !== "done" || kind !== goal.kind || ring.primary !== to || !isAchieved(status, ring)) return false;
  switch (goal.kind) {
    case "rotate":
      return idOf(goal) === to;
    case "roll-back":
      // It names no key, so nothing else tells this return from an earlier one.
      return isLastChange(status, ring);
    case "revoke":
      return goal.from === from;
  }
}

/** Whether the ring is as this rotation left it, and so its record is that of the last one. */
export function isLastChange({ generation }: RotationStatus, ring: Keyring): boolean {
  return generation === ring.generation;
}

/** Whether the ring is what a rotation is for: the key has gone, or with "disable-first" opens nothing and seals nothing. */
export function isAchieved({ order, from, to }: RotationStatus, ring: Keyring): boolean {
  if (keyOf(ring, from) === undefined) return true;
  return order === "disable-first" && ring.primary === to && !isEnabled(ring, from);
}

/**
 * @throws KeywardError `ROTATION_IN_PROGRESS` when what is under way is not what is wanted.
 */
function requireSameGoal(status: RotationStatus, goal: RotationGoal): void {
  if (!isSameGoal(status, goal)) throw anotherRotationRuns(status);
}

/** Whether a rotation is what is wanted. */
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

/** Somebody wants something else than what is under way. */
export function anotherRotationRuns({ kind, order, from, to, step }: RotationStatus): KeywardError {
  const what = {
    rotate: `A rotation from key "${from}" to "${to}"`,
    "roll-back": `A return from key "${from}" to "${to}"`,
    revoke: `A revocation (${order}) of key "${from}"`,
  }[kind];
  return new KeywardError(
    "ROTATION_IN_PROGRESS",
    `${what} ${step === "done" ? "was done meanwhile" : `is under way, at ${step}`}`,
    {
      keyId: from,
      hint: "Run it to its end with the same goal, or roll a rotation back; then begin another.",
    },
  );
}

/** There is nothing to return from. */
export function noRotationRuns(): KeywardError {
  return new KeywardError("VALUE_INVALID", "No rotation is under way, so there is none to roll back", {
    hint: "To return to a former key that is in the ring still: rotateKey with newKey: { id } of that key.",
  });
}

function tooLate(keyId: string): KeywardError {
  return new KeywardError("KEY_DISABLED", `Key "${keyId}" is disabled already: the rotation cannot be rolled back`, {
    keyId,
    hint: "Run the rotation to its end. If the key is missed, enable it: the rotation then re-encrypts once more.",
  });
}

function alreadyPrimary(keyId: string): KeywardError {
  return new KeywardError("KEYRING_INVALID", `Key "${keyId}" is the one to change from, and cannot be the new one`, {
    keyId,
    hint:
      "Choose another id, or none. If a rotation to this key was lost in the middle: revokeKey with the id of the former " +
      'key and "reencrypt-first" does the rest.',
  });
}

/**
 * The rotation that is under way, as somebody with this aim goes on with it.
 *
 * @throws KeywardError `ROTATION_IN_PROGRESS`, or `KEY_DISABLED` when it is too late to return.
 */
export function continuedAs(running: RotationStatus, goal: RotationGoal, ring: Keyring): RotationStatus {
  const { kind, from, to, step } = running;
  if (kind === "roll-back" && !isEnabled(ring, to)) {
    if (goal.kind === "roll-back") throw tooLate(to);
    // There is no way back to that key: what goes on is the rotation, which had got as far as this.
    return continuedAs({ ...reversed(running, "rotate"), step: "grace", disabledAtMs: Date.now() }, goal, ring);
  }
  if (goal.kind === "roll-back" && kind === "rotate") {
    if (!isEnabled(ring, from)) throw tooLate(from);
    return { ...reversed(running, "roll-back"), step: "add" };
  }
  // What was a mere rotation, or a return, turns out to be one from a key that is compromised, or to one.
  if (goal.kind === "revoke" && kind !== "revoke" && isEnabled(ring, from)) {
    const { order } = goal;
    if (goal.from === from && isKeyWanted(to, goal)) {
      // From wherever it is beyond the promotion, which is the one that disables.
      const back = order === "disable-first" && !["add", "distribute", "promote"].includes(step);
      return { ...running, kind: "revoke", order, ...(back ? { step: "promote" } : {}) };
    }
    if (kind === "roll-back" && goal.from === to && isKeyWanted(from, goal)) {
      return { ...reversed(running, "revoke"), order, step: "add" };
    }
  }
  requireSameGoal(running, goal);
  return running;
}

/** Between the same two keys, the other way round. */
function reversed(running: RotationStatus, kind: RotationStatus["kind"]): RotationStatus {
  return { ...running, kind, from: running.to, to: running.from };
}
