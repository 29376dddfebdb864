import { KeywardError } from "../errors/errors.ts";
import type { KeyringSource } from "../keyring/keyring-source.ts";
import type { Checkpoint } from "../reencryption/checkpoint.ts";
import type { NamedStores } from "../reencryption/named-stores.ts";
import { isSavedProgressText } from "../reencryption/saved-progress.ts";
import { storeParts } from "../store/encrypted-store.ts";
import { type ReservedRecord, ReservedRecords } from "../store/reserved-records.ts";
import { ReservedText } from "../store/reserved-text.ts";

/**
 * The steps of a rotation, in order.
 *
 * - `add`: adds the new key to the keyring.
 * - `distribute`: waits until every replica has loaded the keyring with the new key, and so can decrypt records under
 *   it.
 * - `promote`: makes the new key the primary.
 * - `drain`: waits until every replica reports the new primary, and has finished the writes that it began with an
 *   earlier keyring.
 * - `reencrypt`: re-encrypts every record of every store under the new key.
 * - `disable`: checks that no record in any store needs the old key, and disables the old key.
 * - `grace`: leaves the old key disabled for a while, so that you can enable the key again if a record still needs it.
 * - `remove`: checks once more that no record needs the old key, and removes the old key from the keyring.
 */
export const rotationSteps = [
  "add",
  "distribute",
  "promote",
  "drain",
  "reencrypt",
  "disable",
  "grace",
  "remove",
] as const;

/** A step of a rotation: add, distribute, promote, drain, reencrypt, disable, grace or remove, in this order. */
export type RotationStep = (typeof rotationSteps)[number];

/**
 * The order in which a compromised key is taken out of use.
 *
 * - "reencrypt-first": the key is disabled after all records are re-encrypted. Every record stays readable, and records
 *   that an attacker forged are re-encrypted, too.
 * - "disable-first": the key is disabled before any record is re-encrypted. No forged record is accepted, but every
 *   record under the key becomes unreadable.
 */
export type RevocationOrder = "reencrypt-first" | "disable-first";

/** The state of a rotation. A record in the reserved space of a store keeps it. */
export interface RotationStatus {
  /** The random id of the rotation. */
  readonly id: string;
  /**
   * The kind of rotation: "rotate" replaces the primary key, "roll-back" undoes a rotation that is not finished, and
   * "revoke" takes a compromised key out of use.
   */
  readonly kind: "rotate" | "roll-back" | "revoke";
  /**
   * The order of a revocation: "disable-first" if it disables the compromised key before any record is re-encrypted,
   * "reencrypt-first" if it disables the key afterwards. `undefined` if `kind` is not "revoke".
   */
  readonly order?: RevocationOrder;
  /** The id of the old key, which the rotation takes out of use. */
  readonly from: string;
  /** The id of the new key, which becomes the primary. */
  readonly to: string;
  /** The step that is in progress or comes next; "done" after the last step. */
  readonly step: RotationStep | "done";
  /** Time at which the rotation began, in milliseconds since the epoch. */
  readonly startedAtMs: number;
  /**
   * Time at which the old key was disabled, in milliseconds since the epoch; absent before. The grace of every run
   * begins at this time.
   */
  readonly disabledAtMs?: number;
  /** The generation number that the keyring had when the rotation was done. Absent before. */
  readonly generation?: number;
}

function stepsOf(order: RevocationOrder | undefined): readonly RotationStep[] {
  // With "disable-first" the old key stays in the keyring, disabled, because records may still need it.
  return order === "disable-first"
    ? rotationSteps.filter((step) => !["reencrypt", "disable", "grace", "remove"].includes(step))
    : rotationSteps;
}

/**
 * Returns the steps of a rotation that are not finished: the step that is in progress or comes next, and all later
 * steps.
 */
export function stepsFrom(status: RotationStatus): readonly RotationStep[] {
  if (status.step === "done") return [];
  const steps = stepsOf(status.order);
  const at = steps.indexOf(status.step);
  // Without this check, slice(-1) would return the last step.
  if (at === -1)
    throw new Error(`The rotation is at step "${status.step}", but a rotation of its kind has no such step`);
  return steps.slice(at);
}

/**
 * Returns the number of milliseconds until the grace ends and the old key may be removed. A clock that was set back
 * does not extend the grace.
 */
export function graceLeft({ disabledAtMs = Date.now() }: RotationStatus, graceMs: number): number {
  return Math.min(graceMs, disabledAtMs + graceMs - Date.now());
}

/**
 * Returns the status of a rotation after its current step. `change` has the fields that this step changed. If `change`
 * has no field `step`, the rotation continues at the next step.
 */
export function nextOf(status: RotationStatus, change: Partial<RotationStatus>): RotationStatus {
  return { ...status, step: stepsFrom(status)[1] ?? "done", ...change };
}

/**
 * Returns whether a step comes after `until`, the last step of a run. Returns false if `until` is `undefined`: such a
 * run has all steps.
 */
export function isBeyond(step: RotationStep, until: RotationStep | undefined): boolean {
  return until !== undefined && rotationSteps.indexOf(step) > rotationSteps.indexOf(until);
}

/** Returns whether two statuses have the same fields, or both are `undefined`. */
function isSameStatus(one: RotationStatus | undefined, other: RotationStatus | undefined): boolean {
  if (one === undefined || other === undefined) return one === other;
  return statusFields.every((name) => one[name] === other[name]);
}

const statusFields = [
  "id",
  "kind",
  "order",
  "from",
  "to",
  "step",
  "startedAtMs",
  "disabledAtMs",
  "generation",
] as const satisfies readonly (keyof RotationStatus)[];

/**
 * The record of a rotation as a run read it, and the status in the record. `status` is `undefined` if there is no
 * record, or if the record cannot be decrypted and `abandonUnreadable` is true.
 */
export interface ReadRotation {
  readonly record: ReservedRecord | undefined;
  readonly status: RotationStatus | undefined;
}

const key = "rotation";

/**
 * Returns the reserved space that keeps the state of the rotation: the one of the first store, ordered by name, that
 * has a reserved space. Returns `undefined` if no store has a reserved space.
 */
export function reserveOf(source: KeyringSource, stores: NamedStores): ReservedRecords | undefined {
  for (const [, store] of Object.entries(stores).sort(([one], [other]) => (one < other ? -1 : 1))) {
    const records = ReservedRecords.of(storeParts(store).inner, source);
    if (records !== undefined) return records;
  }
  return undefined;
}

/**
 * Returns the reserved space that keeps the state of the rotation, as {@link reserveOf} does.
 *
 * @throws KeywardError `STORE_INVALID` if no store has a reserved space.
 */
export function reserveForRotation(source: KeyringSource, stores: NamedStores): ReservedRecords {
  const records = reserveOf(source, stores);
  if (records !== undefined) return records;
  throw new KeywardError("STORE_INVALID", "None of the stores has a reserved space to keep the state of the rotation", {
    hint:
      "Pass at least one store that has `reserved()`, as all stores of Keyward have. If you have no such store, " +
      "rotate the key by hand: docs/keyring.md lists the steps.",
  });
}

/**
 * The record that keeps the status of a rotation in a reserved space. A run changes the record only if no other run has
 * changed it since this run read it.
 */
export class RotationRecord {
  readonly #reserve: ReservedRecords;

  constructor(reserve: ReservedRecords) {
    this.#reserve = reserve;
  }

  /**
   * Reads the status of the last rotation.
   *
   * @param abandonUnreadable if true, treats a record that cannot be decrypted as absent. If false, rejects.
   * @throws KeywardError the error of the decryption, if the record cannot be decrypted and `abandonUnreadable` is
   * false.
   */
  async read(abandonUnreadable: boolean): Promise<ReadRotation> {
    const record = await this.#reserve.read(key);
    if (record === undefined) return { record, status: undefined };
    const status = ReservedText.read("record of the last rotation", record.text, statusOf);
    if (!(status instanceof KeywardError)) return { record, status };
    if (abandonUnreadable) return { record, status: undefined };
    const under = status.keyId === undefined ? "" : `, which is under key "${status.keyId}"`;
    throw new KeywardError(status.code, `The record of the last rotation${under} cannot be read`, {
      keyId: status.keyId,
      cause: status,
      hint:
        (under === "" ? "" : "If this key was removed or replaced at the source of the keys, put it back. ") +
        "If this process has another keyring than the other processes, give this process their keyring. If a later " +
        "version of Keyward wrote the record, update Keyward. If the encryption key of the record is lost, pass " +
        "`abandonUnreadable: true` to the rotation, which then discards the record.",
    });
  }

  /**
   * Writes the new status if the stored status is still the status in `state`. Returns false, and writes nothing, if
   * another run changed the stored status first.
   */
  async replace(state: ReadRotation, status: RotationStatus): Promise<boolean> {
    const text = JSON.stringify({ keyward: key, ...status });
    for (let read = state; ; ) {
      if (await this.#reserve.replace(await this.#reserve.ring(), key, read.record, text)) return true;
      const current = await this.read(true);
      // The record may have been re-encrypted, which does not change the status in it.
      if (current.status === undefined || !isSameStatus(current.status, state.status)) return false;
      read = current;
    }
  }

  /** Returns whether the stored status is still the status in `state`. */
  async isUnchanged(state: ReadRotation): Promise<boolean> {
    return isSameStatus((await this.read(true)).status, state.status);
  }
}

/**
 * Returns the checkpoint that keeps the progress of the re-encryption of one store, in the reserved space of that
 * store.
 */
export function reservedCheckpoint(reserve: ReservedRecords, rotationId: string, store: string): Checkpoint {
  const at = `${key}/${rotationId}/${store}`;
  return {
    async read() {
      const text = (await reserve.read(at))?.text;
      // If the checkpoint is unreadable, the job starts over. The rotation must not fail.
      return typeof text === "string" && isSavedProgressText(text) ? text : undefined;
    },
    async write(text) {
      if (text === undefined) return await reserve.remove(at);
      // If another run was faster, its checkpoint is as good as this one.
      const ring = await reserve.ring();
      await reserve.replace(ring, at, await reserve.read(at), text);
    },
  };
}

function statusOf(fields: ReservedText): RotationStatus {
  const kind = fields.oneOf("kind", ["rotate", "roll-back", "revoke"]);
  const order = fields.oneOfIfAny("order", ["reencrypt-first", "disable-first"]);
  const disabledAtMs = fields.amountIfAny("disabledAtMs", { least: 0 });
  const generation = fields.amountIfAny("generation", { least: 1 });
  const [from, to] = [fields.keyId("from"), fields.keyId("to")];
  const step = fields.oneOf("step", [...stepsOf(order), "done"]);
  return {
    id: fields.text("id", (id) => /^[A-Za-z0-9_-]{1,64}$/.test(id)),
    kind,
    ...(order === undefined ? {} : { order }),
    from,
    to,
    // An earlier version could record a rotation from a key to itself, which no run can finish.
    step: from === to ? "done" : step,
    startedAtMs: fields.amount("startedAtMs", { least: 0 }),
    ...(disabledAtMs === undefined ? {} : { disabledAtMs }),
    ...(generation === undefined ? {} : { generation }),
  };
}
