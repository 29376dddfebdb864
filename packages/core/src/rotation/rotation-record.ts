import { KeywardError } from "../errors/errors.ts";
import { isCheckpoint } from "../reencryption/bulk-reencryption.ts";
import type { Checkpoint } from "../reencryption/checkpoint.ts";
import type { ReservedRecord, ReservedRecords } from "../store/reserved-records.ts";
import { ReservedText } from "../store/reserved-text.ts";

/**
 * What a rotation does, in this order.
 *
 * - `add`: the new key is in the ring.
 * - `distribute`: every registered process has that ring, and so opens what the new key will seal.
 * - `promote`: the new key seals.
 * - `drain`: every registered process reports it as its primary, and has nothing under way from before.
 * - `reencrypt`: every record of every store is sealed again.
 * - `disable`: nothing in any store needs the old key, and it opens nothing any more.
 * - `grace`: the time in which somebody may still miss it.
 * - `remove`: nothing needs it still, and it leaves the ring.
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

/** A step of a rotation. */
export type RotationStep = (typeof rotationSteps)[number];

/**
 * How a compromised key is taken out of use. "reencrypt-first": every record stays readable, and what the thief forged
 * is sealed again like the rest. "disable-first": nothing forged is taken in, and every record under the key becomes
 * unreadable.
 */
export type RevocationOrder = "reencrypt-first" | "disable-first";

/** A rotation, as it is written down in a store. */
export interface RotationStatus {
  /** Random: which rotation this is. */
  readonly id: string;
  /** "rotate", or what became of it: "roll-back" returns to the former key; "revoke" is one from a compromised key. */
  readonly kind: "rotate" | "roll-back" | "revoke";
  /** Of a revocation. */
  readonly order?: RevocationOrder;
  /** The key that is to go. */
  readonly from: string;
  /** The key that seals afterwards. */
  readonly to: string;
  /** The step that comes next or is under way. */
  readonly step: RotationStep | "done";
  /** In ms since the epoch. */
  readonly startedAtMs: number;
  /** When the key was disabled, in ms since the epoch: the grace counts from then, whoever goes on. */
  readonly disabledAtMs?: number;
  /** Of one that is done: the generation of the ring at its end. The record of an earlier rotation has another one. */
  readonly generation?: number;
}

function stepsOf(order: RevocationOrder | undefined): readonly RotationStep[] {
  // Records that still need the key keep it in the ring: it stays disabled.
  return order === "disable-first"
    ? rotationSteps.filter((step) => !["reencrypt", "disable", "grace", "remove"].includes(step))
    : rotationSteps;
}

/** What is left to do, from the step that comes next or is under way. */
export function stepsFrom(status: RotationStatus): readonly RotationStep[] {
  if (status.step === "done") return [];
  const steps = stepsOf(status.order);
  const at = steps.indexOf(status.step);
  // What is no step of it would otherwise be taken for its last one.
  if (at === -1) throw new Error(`A rotation is at ${status.step}, which is not one of its steps`);
  return steps.slice(at);
}

/** How many milliseconds are left of the grace. A clock that was set back makes it no longer than it is. */
export function graceLeft({ disabledAtMs = Date.now() }: RotationStatus, graceMs: number): number {
  return Math.min(graceMs, disabledAtMs + graceMs - Date.now());
}

/** The rotation after its step, which changed this of it. */
export function nextOf(status: RotationStatus, change: Partial<RotationStatus>): RotationStatus {
  return { ...status, step: stepsFrom(status)[1] ?? "done", ...change };
}

/** Whether a run that ends after one step has got past it. */
export function isBeyond(step: RotationStep, until: RotationStep | undefined): boolean {
  return until !== undefined && rotationSteps.indexOf(step) > rotationSteps.indexOf(until);
}

/** A rotation as it was read; `status` is undefined where there never was one. */
export interface ReadRotation {
  readonly record: ReservedRecord | undefined;
  readonly status: RotationStatus | undefined;
}

const key = "rotation";

/** Where the rotation of a ring is written down: one record, changed only by whoever saw its last state. */
export class RotationRecord {
  readonly #reserve: ReservedRecords;

  constructor(reserve: ReservedRecords) {
    this.#reserve = reserve;
  }

  /**
   * @param abandonUnreadable takes a record that does not open for none.
   * @throws KeywardError why the record does not open.
   */
  async read(abandonUnreadable: boolean): Promise<ReadRotation> {
    const record = await this.#reserve.read(key);
    if (record === undefined) return { record, status: undefined };
    const status = ReservedText.read("record of the last rotation", record.text, statusOf);
    if (!(status instanceof KeywardError)) return { record, status };
    if (abandonUnreadable) return { record, status: undefined };
    throw new KeywardError(status.code, "The record of the last rotation cannot be read", {
      keyId: status.keyId,
      cause: status,
      hint: "Give this process the ring that the others have, or a later release; abandonUnreadable gives the record up.",
    });
  }

  /** Writes the next state if the last one is what was read; `false` when somebody else was first. */
  async replace(last: ReadRotation, status: RotationStatus): Promise<boolean> {
    const text = JSON.stringify({ keyward: key, ...status });
    for (let at = last; ; ) {
      if (await this.#reserve.replace(await this.#reserve.ring(), key, at.record, text)) return true;
      const now = await this.read(true);
      // Sealed anew, under a later key, it says what it said.
      if (now.status === undefined || !sameStatus(now, last)) return false;
      at = now;
    }
  }

  /** Whether what was read is still what lies there. */
  async isStill(last: ReadRotation): Promise<boolean> {
    return sameStatus(await this.read(true), last);
  }
}

function sameStatus(one: ReadRotation, other: ReadRotation): boolean {
  return JSON.stringify(one.status) === JSON.stringify(other.status);
}

/** Where a rotation writes down how far the re-encryption of a store has come: in that store. */
export function reservedCheckpoint(reserve: ReservedRecords, rotationId: string, store: string): Checkpoint {
  const at = `${key}/${rotationId}/${store}`;
  return {
    async read() {
      const text = (await reserve.read(at))?.text;
      // One that means nothing costs the walk from the beginning, and must not cost the rotation.
      return typeof text === "string" && isCheckpoint(text) ? text : undefined;
    },
    async write(text) {
      if (text === undefined) return await reserve.remove(at);
      // Where another operator was faster, his will do as well.
      const ring = await reserve.ring();
      await reserve.replace(ring, at, await reserve.read(at), text);
    },
  };
}

/** The status alone, its fields always in the same order, so that two can be compared as text. */
function statusOf(said: ReservedText): RotationStatus {
  const kind = said.oneOf("kind", ["rotate", "roll-back", "revoke"]);
  const order = said.oneOfIfAny("order", ["reencrypt-first", "disable-first"]);
  const disabledAtMs = said.amountIfAny("disabledAtMs", { least: 0 });
  const generation = said.amountIfAny("generation", { least: 1 });
  return {
    id: said.text("id", (id) => /^[A-Za-z0-9_-]{1,64}$/.test(id)),
    kind,
    ...(order === undefined ? {} : { order }),
    from: said.keyId("from"),
    to: said.keyId("to"),
    step: said.oneOf("step", [...stepsOf(order), "done"]),
    startedAtMs: said.amount("startedAtMs", { least: 0 }),
    ...(disabledAtMs === undefined ? {} : { disabledAtMs }),
    ...(generation === undefined ? {} : { generation }),
  };
}
