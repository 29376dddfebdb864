import type { PlannedStep, RevocationCost, RotationPlan, RotationReport, RotationStatus } from "@keyward/core";
import { type KeyringResult, keyringResult } from "./keyring-result.ts";
import { groupsOf, type ReencryptionResult, reencryptionResult, type UnreadableGroup } from "./reencryption-result.ts";
import { type ReplicaResult, replicaResult } from "./replica-result.ts";

/** A rotation as `--json` prints it. */
export interface RotationResult {
  readonly id: string;
  readonly kind: RotationStatus["kind"];
  readonly order: NonNullable<RotationStatus["order"]> | null;
  readonly from: string;
  readonly to: string;
  readonly step: RotationStatus["step"];
  /** When the rotation began, in milliseconds since the epoch. */
  readonly startedAtMs: number;
  /** When the old key was disabled, in milliseconds since the epoch; `null` until then. */
  readonly disabledAtMs: number | null;
}

/** Returns the status of a rotation as `--json` prints it; `null` if there is no rotation. */
export function rotationResult(status: RotationStatus): RotationResult;
export function rotationResult(status: RotationStatus | undefined): RotationResult | null;
export function rotationResult(status: RotationStatus | undefined): RotationResult | null {
  if (status === undefined) return null;
  const { id, kind, order = null, from, to, step, startedAtMs, disabledAtMs = null } = status;
  return { id, kind, order, from, to, step, startedAtMs, disabledAtMs };
}

/** One run of a rotation as `--json` prints it. */
export interface RotationRunResult {
  readonly rotation: RotationResult;
  readonly keyring: KeyringResult;
  /** The changes of the run to each store of the command, by the name of the store. */
  readonly stores: Readonly<Record<string, RotatedStore>>;
  /** Counts the records that the run abandoned because they could not be decrypted. */
  readonly abandonedGroups: readonly UnreadableGroup[];
}

/** The changes of one run of a rotation to a store. */
export interface RotatedStore {
  /** The report of the re-encryption; `null` if the run did not re-encrypt the store. */
  readonly reencryption: ReencryptionResult | null;
  /** The number of records that the run made unreadable. */
  readonly madeUnreadable: number;
}

/**
 * Returns the report of one run of a rotation as `--json` prints it.
 *
 * @param storeNames the names of the stores of the command.
 */
export function rotationRunResult(report: RotationReport, storeNames: readonly string[]): RotationRunResult {
  const { keyring, reencrypted, madeUnreadable, abandoned } = report;
  const stores = storeNames.map((name): [string, RotatedStore] => {
    const of = reencrypted[name];
    const reencryption = of === undefined ? null : reencryptionResult(of);
    return [name, { reencryption, madeUnreadable: madeUnreadable[name] ?? 0 }];
  });
  return {
    rotation: rotationResult(report),
    keyring: keyringResult(keyring),
    stores: Object.fromEntries(stores),
    abandonedGroups: groupsOf(abandoned),
  };
}

/** The plan of a rotation as `--json` prints it. */
export interface PlanResult {
  /** The running rotation, which the planned command would resume; `null` if the command would begin a rotation. */
  readonly rotation: RotationResult | null;
  readonly from: string;
  /** `null` if the new key would get a generated id. */
  readonly to: string | null;
  readonly steps: readonly StepResult[];
}

/** A step of a plan as `--json` prints it. */
export type StepResult =
  | {
      readonly step: "add" | "promote" | "remove";
      /** `null` if the new key would get a generated id. */
      readonly keyId: string | null;
      readonly done: boolean;
    }
  | {
      readonly step: "distribute" | "drain";
      readonly replicas: readonly ReplicaResult[];
      readonly unregisteredStores: readonly string[];
    }
  | { readonly step: "reencrypt"; readonly recordsByStore: Readonly<Record<string, number>> }
  | { readonly step: "disable"; readonly keyId: string; readonly recordsByStore: Readonly<Record<string, number>> }
  | { readonly step: "grace"; readonly waitMs: number };

/** Returns the plan of a rotation as `--json` prints it. */
export function planResult({ running, from, to, steps }: RotationPlan): PlanResult {
  return {
    rotation: rotationResult(running),
    from,
    to: to ?? null,
    steps: steps.map((planned) => stepResult(planned, to)),
  };
}

function stepResult(planned: PlannedStep, to: string | undefined): StepResult {
  switch (planned.step) {
    case "add":
    case "promote":
      // Each plan generates another id, and the rotation itself one more.
      return { step: planned.step, keyId: to ?? null, done: planned.done };
    case "remove":
      return { step: planned.step, keyId: planned.keyId, done: planned.done };
    case "distribute":
    case "drain": {
      const replicas = planned.replicas.map((replica) => replicaResult(replica.store, replica));
      return { step: planned.step, replicas, unregisteredStores: planned.unregistered };
    }
    case "reencrypt":
      return { step: planned.step, recordsByStore: planned.records };
    case "disable":
      return { step: planned.step, keyId: planned.keyId, recordsByStore: planned.records };
    case "grace":
      return { step: planned.step, waitMs: planned.waitMs };
  }
}

/** The number of records under a key that may be revoked, as `--json` prints it. No revocation was begun. */
export interface CostResult {
  readonly rotation: null;
  readonly keyId: string;
  readonly records: number;
  readonly recordsByStore: Readonly<Record<string, number>>;
}

/** Returns the cost of revoking a key as `--json` prints it. */
export function costResult(keyId: string, { records, total }: RevocationCost): CostResult {
  return { rotation: null, keyId, records: total, recordsByStore: records };
}
