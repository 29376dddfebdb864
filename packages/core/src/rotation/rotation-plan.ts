import { type Keyring, keyOf } from "../keyring/keyring.ts";
import { census } from "../reencryption/census.ts";
import type { NamedStores } from "../reencryption/named-stores.ts";
import type { ReplicaWaitOptions, ReplicaWaits, WaitingReplica } from "./replica-waits.ts";
import { adaptToGoal, idOf, newRotation, type RotationGoal } from "./rotation-goal.ts";
import { graceLeft, type RotationStatus, type RotationStep, stepsFrom } from "./rotation-record.ts";

/** A step that {@link rotateKey} would run, with the changes, waits or records that the step would need. */
export type PlannedStep =
  | {
      /**
       * The step would add, promote or remove the key `keyId`. If `done` is true, the keyring has this change already,
       * so the step would change nothing.
       */
      readonly step: "add" | "promote" | "remove";
      readonly keyId: string;
      readonly done: boolean;
    }
  | {
      /**
       * The step would wait for these replicas. `unregistered` has the names of the stores in which no other process is
       * registered.
       */
      readonly step: "distribute" | "drain";
      readonly replicas: readonly WaitingReplica[];
      readonly unregistered: readonly string[];
    }
  | {
      /** The step would re-encrypt records. `records` is the number of these records, by store. */
      readonly step: "reencrypt";
      readonly records: Readonly<Record<string, number>>;
    }
  | {
      /** The step would disable the key. `records` is the number of records under the key now, by store. */
      readonly step: "disable";
      readonly keyId: string;
      readonly records: Readonly<Record<string, number>>;
    }
  | {
      /** The step would leave the key disabled for this time, in milliseconds. */
      readonly step: "grace";
      readonly waitMs: number;
    };

/** The result of {@link planRotation}. */
export interface RotationPlan {
  /** The running rotation, which the planned call would resume. Absent if the call would begin a new rotation. */
  readonly running?: RotationStatus;
  /** The id of the key that would be taken out of use. */
  readonly from: string;
  /** The id of the key that would become the primary. Absent if the rotation would generate the id. */
  readonly to?: string;
  /**
   * The steps of the rotation that are not finished, in order. The list contains all of them, even those after the step
   * `until`.
   */
  readonly steps: readonly PlannedStep[];
}

/** The cost of revoking a key: the number of records that are re-encrypted or become unreadable. */
export interface RevocationCost {
  /** Number of records under the key, by store. */
  readonly records: Readonly<Record<string, number>>;
  /**
   * Number of records under the key in all stores. A revocation with the order "reencrypt-first" re-encrypts them,
   * including any that an attacker forged. A revocation with "disable-first" makes them unreadable.
   */
  readonly total: number;
}

/**
 * Returns the steps that are left of the running rotation. If no rotation is running, returns all steps of a new
 * rotation.
 *
 * @throws KeywardError `ROTATION_IN_PROGRESS` if the running rotation has another goal; the errors of {@link
 * newRotation}.
 */
export async function planOf(
  goal: RotationGoal,
  keyring: Keyring,
  current: RotationStatus | undefined,
  waits: ReplicaWaits,
  options: Pick<ReplicaWaitOptions, "stores" | "signal"> & { readonly graceMs: number },
): Promise<RotationPlan> {
  const { stores, signal, graceMs } = options;
  const running = current === undefined ? undefined : adaptToGoal(current, goal, keyring);
  const planned = running ?? newRotation(keyring, goal);
  const to = running === undefined && idOf(goal) === undefined ? undefined : planned.to;
  const replicas = await waits.planned();
  const counted = await countByKey(stores, signal);
  const found: Findings = {
    keyring,
    ...replicas,
    graceMs,
    needed: sumWhere(counted, (keyId) => keyId === planned.from),
    toReencrypt: sumWhere(counted, (keyId) => keyId !== to),
  };
  return {
    ...(running === undefined ? {} : { running }),
    from: planned.from,
    ...(to === undefined ? {} : { to }),
    steps: stepsFrom(planned).map((step) => plannedStep(step, planned, found)),
  };
}

/** The keyring, the replicas and the counts of records from which {@link planOf} makes a plan. */
interface Findings {
  readonly keyring: Keyring;
  readonly waiting: readonly WaitingReplica[];
  readonly unregistered: readonly string[];
  readonly graceMs: number;
  readonly needed: Readonly<Record<string, number>>;
  readonly toReencrypt: Readonly<Record<string, number>>;
}

function plannedStep(step: RotationStep, planned: RotationStatus, found: Findings): PlannedStep {
  const { from, to } = planned;
  const { keyring, waiting, unregistered, graceMs, needed, toReencrypt } = found;
  switch (step) {
    case "add":
      return { step, keyId: to, done: keyOf(keyring, to) !== undefined };
    case "promote":
      return { step, keyId: to, done: keyring.primary === to };
    case "distribute":
    case "drain":
      return { step, replicas: waiting, unregistered };
    case "reencrypt":
      return { step, records: toReencrypt };
    case "disable":
      return { step, keyId: from, records: needed };
    case "grace":
      return { step, waitMs: graceLeft(planned, graceMs) };
    case "remove":
      return { step, keyId: from, done: keyOf(keyring, from) === undefined };
  }
}

/** Returns, by the name of the store, the number of records under the keys for which `isCounted` returns true. */
export async function countUnder(
  stores: NamedStores,
  isCounted: (keyId: string) => boolean,
  signal: AbortSignal | undefined,
): Promise<Record<string, number>> {
  return sumWhere(await countByKey(stores, signal), isCounted);
}

/** Number of records by store and key id. */
type CountsByKey = ReadonlyMap<string, ReadonlyMap<string, number>>;

async function countByKey(stores: NamedStores, signal: AbortSignal | undefined): Promise<CountsByKey> {
  const counted = new Map<string, ReadonlyMap<string, number>>();
  for (const [name, store] of Object.entries(stores)) {
    counted.set(name, (await census(store, signal === undefined ? {} : { signal })).keys);
  }
  return counted;
}

function sumWhere(counted: CountsByKey, isCounted: (keyId: string) => boolean): Record<string, number> {
  const counts: Record<string, number> = Object.create(null);
  for (const [name, keys] of counted) {
    counts[name] = [...keys].reduce((total, [keyId, count]) => (isCounted(keyId) ? total + count : total), 0);
  }
  return counts;
}
