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
import type { Instruct } from "./change-at-source.ts";
import {
  type ReplicaWait,
  type ReplicaWaitOptions,
  replicaWaitOptionNames,
  type WaitingReplica,
} from "./replica-waits.ts";
import { type RevocationOrder, type RotationStatus, type RotationStep, rotationSteps } from "./rotation-record.ts";

/** The options that `rotateKey`, `rollBackRotation` and `revokeKey` share. */
export interface RotationOptions extends ReplicaWaitOptions {
  /**
   * The time between disabling and removing the old key, in milliseconds. The time begins when a run disables the key,
   * even if that is an earlier run.
   *
   * In this time, a process that was halted in the middle of a write may write a record under the old key. Reads of
   * that record then reject with `KEY_DISABLED`. To keep the record, enable the key and run the rotation again: the run
   * re-encrypts the record and disables the key, and the time begins again.
   */
  readonly graceMs: number;
  /**
   * If true, retires the old key even if records under it cannot be decrypted with any of the given stores. The report
   * lists these records, which are lost unless you restore them. Default: false.
   */
  readonly abandonUnreadable?: boolean;
  /**
   * A function that passes instructions to an operator, for a key provider that cannot save a keyring, such as one that
   * reads environment variables. For each change at the source of the keys, the rotation calls the function with the
   * instruction, and waits until the operator has made the change. If the provider can save, the rotation does not call
   * the function. Default: the rotation refuses a provider that cannot save, with `PROVIDER_READ_ONLY`.
   */
  readonly instruct?: Instruct;
  /** The options that limit the speed of the re-encryption in the step `reencrypt`. */
  readonly reencrypt?: Pick<ReencryptOptions, "batchSize" | "concurrency" | "maxPerSecond">;
  /**
   * The last step of this run. A later run resumes at the next step. Default: "remove", the last step of a rotation.
   */
  readonly until?: RotationStep;
  /**
   * Called when a step begins, each time the list of replicas that the rotation waits for changes, when the grace
   * begins, and after each page of records that is re-encrypted or counted.
   */
  readonly onProgress?: (progress: RotationProgress) => void;
}

/** The options of {@link rotateKey}. */
export interface RotateKeyOptions extends RotationOptions {
  /**
   * The key that becomes the primary: the key in the keyring with this `id`, or a new key if the keyring has no such
   * key. Pass an `id`, so that you can repeat the call: after the rotation to this key is done, a repeated call changes
   * nothing. Default: a new random key, whose id is the date and six random characters.
   */
  readonly newKey?: NewKey;
}

/** The options of {@link revokeKey}. */
export interface RevokeKeyOptions extends RotateKeyOptions {
  /** The id of the compromised key. */
  readonly id: string;
  /**
   * The order in which the key is taken out of use. Each order has a disadvantage. With "reencrypt-first",
   * forged records stay readable. With "disable-first", all records under the key become unreadable. There is no
   * default.
   */
  readonly order: RevocationOrder;
}

/**
 * The names of all options of the functions for rotations, such as `rotateKey` and `planRotation`. Each of these
 * functions accepts every option in this list, and ignores the options that it does not need.
 */
export const rotationOptionNames = {
  ...replicaWaitOptionNames,
  graceMs: true,
  abandonUnreadable: true,
  instruct: true,
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
export function requireRotationOptions(options: RotationOptions): void {
  const { stores, graceMs, until, instruct, reencrypt: pace = {} } = options;
  requireStores(stores);
  requireInstruct(instruct);
  if (until !== undefined && !rotationSteps.includes(until)) {
    throw new KeywardError("VALUE_INVALID", 'The option "until" is not a step of a rotation', {
      hint: `Set \`until\` to one of these steps: ${rotationSteps.join(", ")}. Omit \`until\` to run every step.`,
    });
  }
  if (graceMs === undefined) {
    throw new KeywardError("VALUE_INVALID", 'The option "graceMs" is missing', {
      hint: "Set `graceMs` to the number of milliseconds between disabling and removing the old key. Choose a time that is longer than any of your processes may be halted.",
    });
  }
  requireAmount("graceMs", graceMs, "milliseconds", { least: 0, most: longestGraceMs });
  requirePace(requireOptions("reencrypt of a rotation", pace, paceOptionNames));
}

/**
 * Checks the option `instruct`.
 *
 * @throws KeywardError `VALUE_INVALID` if the option is given, but is not a function.
 */
export function requireInstruct(instruct: unknown): void {
  if (instruct === undefined || typeof instruct === "function") return;
  throw new KeywardError("VALUE_INVALID", 'The option "instruct" is not a function', {
    hint: "Pass a function that shows the instruction to the operator: `instruct: ({ text }) => console.log(text)`.",
  });
}

/** Reports the progress of a rotation. The field `kind` is the kind of progress. */
export type RotationProgress =
  | {
      /** The step in the field `step` begins. */
      readonly kind: "step";
      readonly step: RotationStep;
    }
  | {
      /**
       * The rotation waits until these replicas have loaded the changed keyring. At the step `drain`, it also waits
       * until they have finished their earlier writes. Only a guided rotation waits at the step `remove`.
       */
      readonly kind: "waiting";
      readonly step: ReplicaWait;
      readonly replicas: readonly WaitingReplica[];
    }
  | {
      /** A page of records of the store named `store` was re-encrypted. */
      readonly kind: "reencrypting";
      readonly store: string;
      readonly progress: ReencryptProgress;
    }
  | {
      /**
       * A page of records was searched for records that need the old key. `records` is the number of records that were
       * searched so far.
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

/** The result of one run of a rotation, and the status of the rotation after the run. */
export interface RotationReport extends RotationStatus {
  /** The keyring after the run. */
  readonly keyring: Keyring;
  /**
   * The report of the re-encryption of each store, by the name of the store. If the re-encryption began in an earlier
   * run, the counts in the report include the records of that earlier run.
   */
  readonly reencrypted: Readonly<Record<string, ReencryptReport>>;
  /**
   * The records that this run abandoned because they could not be decrypted. Empty unless `abandonUnreadable` is true.
   */
  readonly abandoned: readonly UnreadableRecord[];
  /**
   * Number of records that this run made unreadable, by the name of their store. Empty unless the run is a revocation
   * with the order "disable-first".
   */
  readonly madeUnreadable: Readonly<Record<string, number>>;
}
