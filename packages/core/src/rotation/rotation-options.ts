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
   * How long a key stays disabled before it is removed, in milliseconds. The time counts from when the key was
   * disabled, even if an earlier run disabled it. If a process still uses the key in this time, for example because it
   * was halted in the middle of a write, you may see `KEY_DISABLED`, and can enable the key again.
   */
  readonly graceMs: number;
  /**
   * Retires the old key although some of its records cannot be decrypted by any key of the given stores. The report lists
   * these records. Default: false.
   */
  readonly abandonUnreadable?: boolean;
  /** The speed of the re-encryption in step `reencrypt`. */
  readonly reencrypt?: Pick<ReencryptOptions, "batchSize" | "concurrency" | "maxPerSecond">;
  /** The last step of this run. Another run resumes after this step. Default: "remove", the last step. */
  readonly until?: RotationStep;
  /**
   * Called when a step begins, when the replicas that the rotation waits for change, when the grace begins, and after
   * each page.
   */
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
  /**
   * Which harm to accept. With "reencrypt-first", forged records stay readable. With "disable-first", all records under
   * the key become unreadable. There is no default.
   */
  readonly order: RevocationOrder;
}

/**
 * The name of every option of the calls that concern a rotation. Each of these calls also accepts the options of the
 * others.
 */
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
    throw new KeywardError("VALUE_INVALID", 'The option "until" is not a step of a rotation', {
      hint: `Set \`until\` to one of these steps: ${rotationSteps.join(", ")}. Omit \`until\` to run every step.`,
    });
  }
  requireAmount("graceMs", graceMs, "milliseconds", { least: 0, most: longestGraceMs });
  requirePace(requireOptions("reencrypt of a rotation", pace, paceOptionNames));
}

/** The progress of a rotation. */
export type RotationProgress =
  | {
      /** This step begins. */
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
      /** A page of the records of this store was re-encrypted. */
      readonly kind: "reencrypting";
      readonly store: string;
      readonly progress: ReencryptProgress;
    }
  | {
      /**
       * A page of records was searched for records that need the old key. `records` is the number of records searched
       * so far.
       */
      readonly kind: "counting";
      readonly step: "disable" | "remove";
      readonly records: number;
    }
  | {
      /** The old key stays disabled until this time, in milliseconds since the epoch, and is then removed. */
      readonly kind: "grace";
      readonly untilMs: number;
    };

/** The result of a run of a rotation. */
export interface RotationReport extends RotationStatus {
  /** The keyring after the run. */
  readonly keyring: Keyring;
  /**
   * The report of the re-encryption of each store, by the name of the store. If the re-encryption began in an earlier
   * run, the counts include those of that run.
   */
  readonly reencrypted: Readonly<Record<string, ReencryptReport>>;
  /** With `abandonUnreadable`, the records that could not be decrypted and were abandoned in this run. */
  readonly abandoned: readonly UnreadableRecord[];
  /** Number of records that "disable-first" made unreadable in this run, by store. */
  readonly madeUnreadable: Readonly<Record<string, number>>;
}
