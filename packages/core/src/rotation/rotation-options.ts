import { KeywardError } from "../errors/errors.ts";
import { type OptionNames, requireAmount, requireOptions } from "../errors/options.ts";
import type { NewKey } from "../keyring/key.ts";
import type { Keyring } from "../keyring/keyring.ts";
import { requireStores } from "../reencryption/named-stores.ts";
import {
  type ReencryptOptions,
  type ReencryptProgress,
  type ReencryptReport,
  requirePace,
  type UnreadableRecord,
} from "../reencryption/reencryption-options.ts";
import {
  type ReplicaWait,
  type ReplicaWaitOptions,
  replicaWaitOptionNames,
  type WaitingReplica,
} from "./replica-waits.ts";
import { type RevocationOrder, type RotationStatus, type RotationStep, rotationSteps } from "./rotation-record.ts";

/** The options of every call that runs a rotation. */
export interface RotationOptions extends ReplicaWaitOptions {
  /**
   * How long a key stays disabled before it is removed, in milliseconds. Counts from the time when the key was disabled,
   * whichever run disabled it. In this time a process that was halted in the middle of a write may report the missing key,
   * and you can enable the key again.
   */
  readonly graceMs: number;
  /**
   * Retires the old key although some of its records cannot be decrypted by any key of the given stores. The report lists
   * these records. Default: false.
   */
  readonly abandonUnreadable?: boolean;
  /** The pace of the re-encryption. */
  readonly reencrypt?: Pick<ReencryptOptions, "batchSize" | "concurrency" | "maxPerSecond">;
  /** The last step of this run. Another run resumes after it. Default: "remove", the last step. */
  readonly until?: RotationStep;
  /** Called when a step begins, when replicas are waited for, and after each page. */
  readonly onProgress?: (progress: RotationProgress) => void;
}

/** The options of {@link rotateKey}. */
export interface RotateKeyOptions extends RotationOptions {
  /**
   * The key to change to: the id of a key in the keyring, or a new key. If you pass an id, you can repeat the call: once
   * that key is the primary and the rotation is done, the call changes nothing. Default: a new random key, whose id is the
   * date and six random characters.
   */
  readonly newKey?: NewKey;
}

/** The options of {@link revokeKey}. */
export interface RevokeKeyOptions extends RotateKeyOptions {
  /** The id of the compromised key. */
  readonly id: string;
  /** Which of two harms to accept: forged records stay readable, or all records of the key become unreadable. No default. */
  readonly order: RevocationOrder;
}

/** The name of every option of a rotation. Each call accepts the options of the others. */
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
} as const satisfies OptionNames<RevokeKeyOptions>;

const paceOptionNames = {
  batchSize: true,
  concurrency: true,
  maxPerSecond: true,
} as const satisfies OptionNames<NonNullable<RotationOptions["reencrypt"]>>;

const longestGraceMs = 2 ** 40;

/**
 * Checks the options of a rotation.
 *
 * @throws KeywardError `VALUE_INVALID`, `STORE_INVALID`.
 */
export function requireRotationOptions({ stores, graceMs, until, reencrypt: pace = {} }: RotationOptions): void {
  requireStores(stores);
  if (until !== undefined && !rotationSteps.includes(until)) {
    throw new KeywardError("VALUE_INVALID", "until is not a step of a rotation", {
      hint: `Set until to one of ${rotationSteps.join(", ")}. Omit it to run every step.`,
    });
  }
  requireAmount("graceMs", graceMs, "milliseconds", { least: 0, most: longestGraceMs });
  requirePace(requireOptions("reencrypt of a rotation", pace, paceOptionNames));
}

/** The progress of a rotation. */
export type RotationProgress =
  | {
      /** A step begins. */
      readonly kind: "step";
      readonly step: RotationStep;
    }
  | {
      /** The rotation waits for these replicas to load the keyring. */
      readonly kind: "waiting";
      readonly step: ReplicaWait;
      readonly replicas: readonly WaitingReplica[];
    }
  | {
      /** A page was re-encrypted. */
      readonly kind: "reencrypting";
      readonly store: string;
      readonly progress: ReencryptProgress;
    }
  | {
      /** A page was searched for records that need the old key. `records` is the number of records looked at so far. */
      readonly kind: "counting";
      readonly step: "disable" | "remove";
      readonly records: number;
    }
  | {
      /** The key stays disabled until this time, in milliseconds since the epoch. */
      readonly kind: "grace";
      readonly untilMs: number;
    };

/** The result of a run of a rotation. */
export interface RotationReport extends RotationStatus {
  /** The keyring after the run. */
  readonly keyring: Keyring;
  /** The re-encryption of each store in this run. Its counts include those of earlier runs. */
  readonly reencrypted: Readonly<Record<string, ReencryptReport>>;
  /** With `abandonUnreadable`, the records that could not be decrypted and were abandoned in this run. */
  readonly abandoned: readonly UnreadableRecord[];
  /** Number of records that "disable-first" made unreadable in this run, by store. */
  readonly madeUnreadable: Readonly<Record<string, number>>;
}
