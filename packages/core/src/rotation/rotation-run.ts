import { KeywardError } from "../errors/errors.ts";
import type { KeyProvider } from "../keyring/key-provider.ts";
import type { Keyring } from "../keyring/keyring.ts";
import { scannableOf } from "../reencryption/census.ts";
import { requireAllStores } from "../reencryption/named-stores.ts";
import { storeParts } from "../store/encrypted-store.ts";
import { requireAtomic } from "../store-interface/wrapped-store.ts";
import { pause } from "../waiting/pause.ts";
import { ReplicaWaits } from "./replica-waits.ts";
import {
  adaptToGoal,
  continuedRotation,
  isAchieved,
  isDoneAlready,
  isLastChange,
  isSameGoal,
  newRotation,
  noRotationError,
  type RotationGoal,
  rotationInProgressError,
} from "./rotation-goal.ts";
import { RotationKeyring } from "./rotation-keyring.ts";
import { type RotationOptions, type RotationReport, requireRotationOptions } from "./rotation-options.ts";
import { planOf, type RotationPlan } from "./rotation-plan.ts";
import {
  isBeyond,
  nextOf,
  type ReadRotation,
  RotationRecord,
  type RotationStatus,
  reserveForRotation,
} from "./rotation-record.ts";
import { ChangedByAnotherRun, RotationSteps } from "./rotation-steps.ts";

const maxRecordChanges = 100;
const maxConflicts = 10;
const maxLosses = 10;
const conflictPauseMs = 20;

/**
 * Runs a rotation for one call of `rotateKey`, `rollBackRotation` or `revokeKey`. Begins a rotation or joins the
 * running rotation, and runs its steps up to the step in the option `until`, or all steps.
 */
export class RotationRun {
  readonly #options: RotationOptions;
  readonly #keyring: RotationKeyring;
  readonly #record: RotationRecord;
  readonly #waits: ReplicaWaits;
  readonly #steps: RotationSteps;
  /** The keyring that was loaded when the rotation was found to be done; `undefined` before. */
  #atEnd: Keyring | undefined;

  /**
   * Checks the options, and that the provider can save a keyring.
   *
   * @throws KeywardError `VALUE_INVALID`, `STORE_INVALID`, `PROVIDER_READ_ONLY`.
   */
  constructor(provider: KeyProvider, options: RotationOptions) {
    requireRotationOptions(options);
    const { stores } = options;
    this.#options = options;
    this.#keyring = new RotationKeyring(provider, options);
    this.#record = new RotationRecord(reserveForRotation(this.#keyring.source, stores));
    this.#waits = new ReplicaWaits(this.#keyring.source, options);
    this.#steps = new RotationSteps(options, this.#keyring, this.#record, this.#waits);
  }

  /**
   * Begins a rotation with this goal, or joins the running rotation. Runs the steps that are left, up to the step in
   * the option `until`, and returns the results of this run.
   */
  async run(goal: RotationGoal): Promise<RotationReport> {
    this.#options.signal?.throwIfAborted();
    let state = await this.#beginOrJoin(goal);
    let conflicts = 0;
    for (;;) {
      const { status } = state;
      if (status === undefined || status.step === "done" || isBeyond(status.step, this.#options.until)) break;
      this.#options.signal?.throwIfAborted();
      this.#steps.report({ kind: "step", step: status.step });
      try {
        const next = await this.#verifyEnd(nextOf(status, await this.#steps.perform(status, state, goal)));
        await this.#record.replace(state, next);
        state = await this.#readState(next);
        conflicts = 0;
      } catch (error) {
        if (!isConflict(error)) throw error;
        // Other runs of the same rotation change the record, too. But if the record changes this often, the store must
        // be losing it.
        if (error instanceof ChangedByAnotherRun && conflicts >= maxRecordChanges) throw recordLostError();
        if (!(error instanceof ChangedByAnotherRun) && conflicts >= maxConflicts) throw error;
        // Another run or an operator changed the keyring or the rotation first: read the status again.
        conflicts++;
        await pause(conflictPauseMs * (1 + Math.random()), this.#options.signal);
        state = await this.#readState(status);
      }
    }
    const { status } = state;
    if (status === undefined) throw noRotationError();
    const keyring = this.#atEnd ?? (await this.#keyring.load());
    return { ...status, keyring, ...this.#steps.results };
  }

  /**
   * Returns the steps that are left of the rotation that {@link RotationRun.run} would begin or join. Changes nothing.
   */
  async plan(goal: RotationGoal): Promise<RotationPlan> {
    const keyring = await this.#requireStores(goal);
    const { status } = await this.#record.read(this.#options.abandonUnreadable === true);
    const running = continuedRotation(status, keyring, this.#keyring.guided !== undefined);
    await this.#keyring.requirePrimaryInUse(keyring, running, goal);
    return await planOf(goal, keyring, running, this.#waits, this.#options);
  }

  /** Joins the running rotation, or writes the record of a new rotation. Returns the record that this run continues. */
  async #beginOrJoin(goal: RotationGoal): Promise<ReadRotation> {
    let initial: ReadRotation | undefined;
    for (;;) {
      let keyring = await this.#requireStores(goal);
      const state = await this.#record.read(this.#options.abandonUnreadable === true);
      const { status } = state;
      initial ??= state;
      if (status?.step === "done") {
        // The rotation may have ended after the keyring was loaded.
        if (keyring.generation < (status.generation ?? Number.POSITIVE_INFINITY)) keyring = await this.#keyring.load();
        // If another run began and finished the same rotation since the call, this call has nothing left to do.
        const isShared = status.id !== initial.status?.id && isSameGoal(status, goal);
        const isDone = isShared && isAchieved(status, keyring) && isLastChange(status, keyring);
        if (isDone || isDoneAlready(status, keyring, goal)) {
          this.#atEnd = keyring;
          return state;
        }
      }
      const running = continuedRotation(status, keyring, this.#keyring.guided !== undefined);
      await this.#keyring.requirePrimaryInUse(keyring, running, goal);
      const next = running === undefined ? newRotation(keyring, goal) : adaptToGoal(running, goal, keyring);
      if (next === status) return state;
      if (running === undefined) {
        await this.#keyring.requireDescribable({ kind: "add", keyId: next.to }, keyring);
        await this.#waits.requireOthers();
      }
      if (await this.#record.replace(state, next)) return await this.#readState(next);
    }
  }

  /**
   * Reads the status of the rotation. If the record of the rotation was lost, writes the expected status again.
   *
   * @param expected the status that this run has written or read last.
   * @throws KeywardError `ROTATION_IN_PROGRESS` if another rotation replaced this one before it was done;
   * `STORE_INVALID`.
   */
  async #readState(expected: RotationStatus): Promise<ReadRotation> {
    for (let attempt = 0; attempt < maxLosses; attempt++) {
      const state = await this.#record.read(false);
      const { status } = state;
      if (status?.id === expected.id) {
        if (status.kind !== expected.kind) throw rotationInProgressError(status);
        const isTrue =
          status.step !== "done" || expected.step === "done" || isAchieved(expected, await this.#keyring.load());
        if (isTrue) return state;
      }
      if (status !== undefined && status.id !== expected.id) {
        // Another rotation began, because this one has ended or because its record was lost. The keyring shows which.
        const isOver = expected.step === "done" || isAchieved(expected, await this.#keyring.load());
        if (!isOver) throw rotationInProgressError(status);
        return { ...state, status: { ...expected, step: "done" } };
      }
      // The record was deleted or evicted, or contains the step "done" although the keyring still has the old key: restore the
      // record.
      await this.#record.replace(state, expected);
    }
    throw recordLostError();
  }

  /**
   * Returns `next`, but if its step is "done" although the keyring does not confirm this, sets the step back to
   * "promote".
   */
  async #verifyEnd(next: RotationStatus): Promise<RotationStatus> {
    if (next.step !== "done") return next;
    const keyring = await this.#keyring.load();
    if (!isAchieved(next, keyring)) return { ...next, step: "promote" };
    this.#atEnd = keyring;
    return { ...next, generation: keyring.generation };
  }

  /**
   * Loads the keyring, and checks that the provider and the stores have the methods and the keys that the rotation
   * needs.
   *
   * @throws KeywardError `PROVIDER_READ_ONLY`, `STORES_MISSING`, `STORE_KEYS_DIFFER`, `STORE_NOT_SCANNABLE`,
   * `STORE_NOT_ATOMIC`.
   */
  async #requireStores(goal: RotationGoal): Promise<Keyring> {
    const { stores } = this.#options;
    const keyring = await this.#keyring.loadToChange();
    requireAllStores(keyring, stores, undefined);
    const reencrypts = !(goal.kind === "revoke" && goal.order === "disable-first");
    for (const store of Object.values(stores)) {
      scannableOf(store);
      if (reencrypts) requireAtomic(storeParts(store).inner);
    }
    await this.#keyring.requireAllFollowing(keyring);
    return keyring;
  }
}

/** Returns whether a step failed because another run or an operator changed the keyring or the rotation first. */
function isConflict(error: unknown): boolean {
  if (error instanceof ChangedByAnotherRun) return true;
  // STORE_KEYS_DIFFER: a store whose provider loads the change a little later has the keyring after a pause.
  return error instanceof KeywardError && ["KEYRING_CONFLICT", "STORE_KEYS_DIFFER"].includes(error.code);
}

function recordLostError(): KeywardError {
  return new KeywardError("STORE_INVALID", "The store loses the record of the rotation each time it is written", {
    hint:
      "The store or another program deletes the record. Turn off eviction in the store, and let no program delete " +
      "records in the reserved space of the store.",
  });
}
