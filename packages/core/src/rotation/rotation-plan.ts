import { requireOptions } from "../errors/options.ts";
import type { KeyProvider } from "../keyring/key-provider.ts";
import { type Keyring, keyOf } from "../keyring/keyring.ts";
import { KeyringSource } from "../keyring/keyring-source.ts";
import { census } from "../reencryption/census.ts";
import { type NamedStores, requireAllStores, requireStores } from "../reencryption/retirement.ts";
import {
  type ReplicaWait,
  type ReplicaWaitOptions,
  type ReplicaWaits,
  replicaWaitOptionNames,
  type WaitingReplica,
} from "./replica-waits.ts";
import { continuedAs, idOf, type RotationGoal, requireKeyIn, startOf } from "./rotation-goal.ts";
import { graceLeft, type RotationStatus, type RotationStep, stepsFrom } from "./rotation-record.ts";

/** What a rotation would do, step by step. */
export type PlannedStep =
  | {
      /** It would change the ring; `done`: that is so already. */
      readonly step: "add" | "promote" | "remove";
      readonly keyId: string;
      readonly done: boolean;
    }
  | {
      /** It would wait for these; in the stores that are `unregistered` nobody else is known. */
      readonly step: ReplicaWait;
      readonly replicas: readonly WaitingReplica[];
      readonly unregistered: readonly string[];
    }
  | {
      /** It would seal so many records again, by store. */
      readonly step: "reencrypt";
      readonly records: Readonly<Record<string, number>>;
    }
  | {
      /** It would disable the key, under which so many records are now, by store. */
      readonly step: "disable";
      readonly keyId: string;
      readonly records: Readonly<Record<string, number>>;
    }
  | {
      /** It would leave the key disabled for so long. */
      readonly step: "grace";
      readonly waitMs: number;
    };

/** Every option of a rotation, or of what follows from it. */
export const rotationOptionNames = {
  ...replicaWaitOptionNames,
  graceMs: true,
  abandonUnreadable: true,
  reencrypt: true,
  until: true,
  onProgress: true,
  newKey: true,
  id: true,
  order: true,
} as const;

/** What {@link planRotation} finds. */
export interface RotationPlan {
  /** The rotation that is under way, and would be gone on with. */
  readonly running?: RotationStatus;
  /** The key that would go. */
  readonly from: string;
  /** The key that would seal; `undefined` where it would be given an id of its own. */
  readonly to?: string;
  /** What is left to do. */
  readonly steps: readonly PlannedStep[];
}

/** What revoking a key costs, either way. */
export interface RevocationCost {
  /** By store, the records under the key. */
  readonly records: Readonly<Record<string, number>>;
  /** With "reencrypt-first", how many records are sealed again under trust, whoever wrote them. */
  readonly resealedUnderTrust: number;
  /** With "disable-first", how many records become unreadable. */
  readonly madeUnreadable: number;
}

/**
 * How many records lie under a key, and so what revoking it would cost in either order. Changes nothing.
 *
 * @throws KeywardError `KEY_UNKNOWN`, `KEY_IN_USE` when a store that the ring names was not given, `STORE_NOT_SCANNABLE`.
 */
export async function revocationCost(
  provider: KeyProvider,
  options: Pick<ReplicaWaitOptions, "stores" | "signal"> & { readonly id: string },
): Promise<RevocationCost> {
  const { stores, id, signal } = requireOptions("revocationCost", options, rotationOptionNames);
  requireStores(stores);
  const ring = await KeyringSource.of(provider).ask(signal);
  requireKeyIn(ring, id);
  requireAllStores(ring, stores, id);
  const records = await countUnder(stores, (keyId) => keyId === id, signal);
  const total = sum(records);
  return { records, resealedUnderTrust: total, madeUnreadable: total };
}

/**
 * What is left of the rotation that is under way, or of one that would begin.
 *
 * @throws KeywardError `ROTATION_IN_PROGRESS` with another aim, and what `startOf` throws.
 */
export async function planOf(
  goal: RotationGoal,
  ring: Keyring,
  current: RotationStatus | undefined,
  waits: ReplicaWaits,
  options: Pick<ReplicaWaitOptions, "stores" | "signal"> & { readonly graceMs: number },
): Promise<RotationPlan> {
  const { stores, signal, graceMs } = options;
  const running = current === undefined ? undefined : continuedAs(current, goal, ring);
  const planned = running ?? startOf(ring, goal);
  const to = running === undefined && idOf(goal) === undefined ? undefined : planned.to;
  const replicas = await waits.planned();
  const counted = await countByKey(stores, signal);
  const found: Findings = {
    ring,
    ...replicas,
    graceMs,
    needed: sumWhere(counted, (keyId) => keyId === planned.from),
    toReseal: sumWhere(counted, (keyId) => keyId !== to),
  };
  return {
    ...(running === undefined ? {} : { running }),
    from: planned.from,
    ...(to === undefined ? {} : { to }),
    steps: stepsFrom(planned).map((step) => plannedStep(step, planned, found)),
  };
}

/** What a plan is made from. */
interface Findings {
  readonly ring: Keyring;
  readonly waiting: readonly WaitingReplica[];
  readonly unregistered: readonly string[];
  readonly graceMs: number;
  readonly needed: Readonly<Record<string, number>>;
  readonly toReseal: Readonly<Record<string, number>>;
}

function plannedStep(step: RotationStep, planned: RotationStatus, found: Findings): PlannedStep {
  const { from, to } = planned;
  const { ring, waiting, unregistered, graceMs, needed, toReseal } = found;
  switch (step) {
    case "add":
      return { step, keyId: to, done: keyOf(ring, to) !== undefined };
    case "promote":
      return { step, keyId: to, done: ring.primary === to };
    case "distribute":
    case "drain":
      return { step, replicas: waiting, unregistered };
    case "reencrypt":
      return { step, records: toReseal };
    case "disable":
      return { step, keyId: from, records: needed };
    case "grace":
      return { step, waitMs: graceLeft(planned, graceMs) };
    case "remove":
      return { step, keyId: from, done: keyOf(ring, from) === undefined };
  }
}

/** By store, how many records lie under the keys that are counted. */
export async function countUnder(
  stores: NamedStores,
  isCounted: (keyId: string) => boolean,
  signal: AbortSignal | undefined,
): Promise<Record<string, number>> {
  return sumWhere(await countByKey(stores, signal), isCounted);
}

/** By store and key id, how many records there are. */
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

function sum(counts: Readonly<Record<string, number>>): number {
  return Object.values(counts).reduce((total, count) => total + count, 0);
}
