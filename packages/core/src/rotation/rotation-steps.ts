import { KeywardError } from "../errors/errors.ts";
import { isEnabled, type Keyring, keyOf, withPrimary } from "../keyring/keyring.ts";
import type { KeyringChange } from "../keyring/keyring-change.ts";
import { reencrypt } from "../reencryption/bulk-reencryption.ts";
import type { ReencryptOptions, ReencryptReport, UnreadableRecord } from "../reencryption/reencryption-options.ts";
import { type RetireLoadedOptions, retireLoaded } from "../reencryption/retirement.ts";
import { storeParts } from "../store/encrypted-store.ts";
import { hasKeyId, hasSameKey } from "../store/heartbeat.ts";
import { pause } from "../waiting/pause.ts";
import { removeAtSource } from "./guided-removal.ts";
import type { ReplicaWait, ReplicaWaits, WaitingReplica } from "./replica-waits.ts";
import type { Replica } from "./replicas.ts";
import { type RotationGoal, requireNewKey, withNewKey, withPromotedKey } from "./rotation-goal.ts";
import type { RotationKeyring } from "./rotation-keyring.ts";
import type { RotationOptions, RotationProgress, RotationReport } from "./rotation-options.ts";
import { countUnder } from "./rotation-plan.ts";
import {
  graceLeft,
  type ReadRotation,
  type RotationRecord,
  type RotationStatus,
  reservedCheckpoint,
} from "./rotation-record.ts";

const maxRounds = 3;
// While a machine sleeps, only the time of day advances, and not the timers. So the time of day is checked every minute.
const longestLookMs = 60_000;

/** Thrown by a step of this run if another run has changed the record of the rotation since the step began. */
export class ChangedByAnotherRun extends Error {}

/** Runs the steps of a rotation, one at a time, and collects their results. */
export class RotationSteps {
  readonly #options: RotationOptions;
  readonly #keyring: RotationKeyring;
  readonly #record: RotationRecord;
  readonly #waits: ReplicaWaits;
  readonly #reencrypted: Record<string, ReencryptReport> = Object.create(null);
  #abandoned: readonly UnreadableRecord[] = [];
  #madeUnreadable: Record<string, number> = Object.create(null);
  #rounds = 0;
  /** The record of the rotation as it was at the beginning of the current step. */
  #state: ReadRotation | undefined;

  constructor(options: RotationOptions, keyring: RotationKeyring, record: RotationRecord, waits: ReplicaWaits) {
    this.#options = options;
    this.#keyring = keyring;
    this.#record = record;
    this.#waits = waits;
  }

  /** The results of the steps that this run has performed so far. */
  get results(): Pick<RotationReport, "reencrypted" | "abandoned" | "madeUnreadable"> {
    return { reencrypted: this.#reencrypted, abandoned: this.#abandoned, madeUnreadable: this.#madeUnreadable };
  }

  /**
   * Runs the step in `status.step`.
   *
   * @param state the record of the rotation as the run read it. If another run has changed the record since, the step
   * does not save a keyring.
   * @returns the fields of the status that the step changed. If the field `step` is among them, the rotation continues
   * at that step, otherwise at the next step.
   */
  async perform(status: RotationStatus, state: ReadRotation, goal: RotationGoal): Promise<Partial<RotationStatus>> {
    this.#state = state;
    // An earlier rotation may have noted that the new key must not be a primary.
    const isBefore = ["promote", "drain", "reencrypt"].includes(status.step);
    if (isBefore && this.#keyring.guided !== undefined) {
      await this.#keyring.acceptPrimary(await this.#keyring.load(), status.to);
    }
    switch (status.step) {
      case "add":
        return await this.#change(
          state,
          () => ({ kind: "add", keyId: status.to }),
          (keyring) => withNewKey(keyring, status, goal),
        );
      case "distribute":
        return await this.#distribute(status);
      case "promote":
        if (status.order === "disable-first") return await this.#promoteAndDisable(status, state);
        return await this.#change(
          state,
          ({ primary }) => ({ kind: "promote", keyId: status.to, former: primary }),
          (keyring) => withPromotedKey(keyring, status),
        );
      case "drain":
        return await this.#drain(status, state);
      case "reencrypt":
        return await this.#reencrypt(status);
      case "disable":
        return await this.#disable(status, state);
      case "grace":
        return await this.#grace(status);
      case "remove":
        return await this.#remove(status, state);
      case "done":
        return {};
    }
  }

  /**
   * Saves the keyring that `changed` returns, and announces it in the stores. If `changed` returns `undefined`, because
   * the keyring has the change already, only announces the keyring.
   */
  async #change(
    state: ReadRotation,
    changeOf: (keyring: Keyring) => KeyringChange,
    changed: (keyring: Keyring) => Keyring | undefined,
  ): Promise<Partial<RotationStatus>> {
    const keyring = await this.#keyring.load();
    const next = changed(keyring);
    if (next === undefined) await this.#keyring.announce(keyring);
    else {
      await this.#makeIfUnchanged(state, changeOf(keyring), next, keyring);
      await this.#keyring.announceSaved();
    }
    return {};
  }

  async #distribute(status: RotationStatus): Promise<Partial<RotationStatus>> {
    const keyring = await this.#keyring.load();
    requireNewKey(status, keyring);
    await this.#requireUnneeded(status, keyring);
    await this.#keyring.acceptPrimary(keyring, status.to);
    const hasNewKey = ({ keys = [] }: Replica) =>
      this.#keyring.guided === undefined || hasSameKey(keys, keyring, status.to);
    await this.#waitFor(
      "distribute",
      keyring,
      (replica) => replica.generation >= keyring.generation && hasNewKey(replica),
    );
    return {};
  }

  async #drain(status: RotationStatus, state: ReadRotation): Promise<Partial<RotationStatus>> {
    const { to, from, order } = status;
    const keyring = await this.#keyring.load();
    if (keyring.primary !== to) return { step: "promote" };
    const keepsOldKey = ({ keys }: Replica) =>
      this.#keyring.guided !== undefined && order === "disable-first" && (keys === undefined || hasKeyId(keys, from));
    await this.#waitFor("drain", keyring, (replica) => hasDrained(replica, keyring) && !keepsOldKey(replica));
    // From here on, a process that starts with the keys from before the promotion cannot write.
    await this.#refuseOldPrimary(status, state);
    return {};
  }

  /**
   * In a guided rotation, checks that no record needs the old key if an operator has removed the key already.
   *
   * @throws KeywardError `KEY_UNKNOWN` if a record needs the removed key.
   */
  async #requireUnneeded({ from, order }: RotationStatus, keyring: Keyring): Promise<void> {
    if (this.#keyring.guided === undefined || order === "disable-first" || keyOf(keyring, from) !== undefined) return;
    const counts = await countUnder(this.#options.stores, (id) => id === from, this.#options.signal);
    if (Object.values(counts).some((count) => count > 0)) throw removedTooEarly(from);
  }

  async #reencrypt(status: RotationStatus): Promise<Partial<RotationStatus>> {
    const { id, to } = status;
    const keyring = await this.#keyring.load();
    if (keyring.primary !== to) return { step: "promote" };
    await this.#requireUnneeded(status, keyring);
    this.#rounds++;
    await this.#keyring.announce(keyring);
    const { stores, signal, reencrypt: pace } = this.#options;
    for (const [name, store] of Object.entries(stores)) {
      const { reserve } = storeParts(store);
      const checkpoint = reserve === undefined ? undefined : reservedCheckpoint(reserve, id, name);
      const options: ReencryptOptions = {
        ...pace,
        ...(checkpoint === undefined ? {} : { checkpoint }),
        ...(signal === undefined ? {} : { signal }),
        onProgress: (progress) => this.report({ kind: "reencrypting", store: name, progress }),
      };
      this.#reencrypted[name] = await reencrypt(store, options).catch(async (error: unknown) => {
        if (!(error instanceof KeywardError && error.code === "CHECKPOINT_INVALID")) throw error;
        // The store was moved to another backend: start over instead of failing the rotation.
        await checkpoint?.write(undefined);
        return await reencrypt(store, options);
      });
      signal?.throwIfAborted();
    }
    return {};
  }

  /**
   * Promotes the new key and disables the old key in one change. Between two changes, a process could re-encrypt a
   * forged record under the new key.
   */
  async #promoteAndDisable(status: RotationStatus, state: ReadRotation): Promise<Partial<RotationStatus>> {
    const { from, to } = status;
    const { stores, signal } = this.#options;
    this.#madeUnreadable = await countUnder(stores, (id) => id === from, signal);
    const keyring = await this.#keyring.load();
    requireNewKey(status, keyring);
    const isDone = keyring.primary === to && !isEnabled(keyring, from);
    if (!isDone) {
      const promoted = keyring.primary === to ? keyring : keyring.promote(to);
      const next = isEnabled(keyring, from) ? promoted.disable(from) : promoted;
      // Keyward's own records in the reserved space must stay readable when the key is disabled.
      const encrypting = this.#keyring.guided === undefined ? next : withPrimary(keyring, to);
      for (const store of Object.values(stores)) {
        const { generationNotice, reserve } = storeParts(store);
        await generationNotice.prepare(encrypting, keyring);
        await reserve?.renew(encrypting);
      }
      // A process that starts now with the former keys must not encrypt the check record under the old key again.
      await this.#keyring.refusePrimary(encrypting, from);
      const change: KeyringChange =
        keyring.primary === to ? { kind: "remove", keyId: from } : { kind: "replace", keyId: to, former: from };
      await this.#makeIfUnchanged(state, change, next, keyring);
    }
    if (isDone) await this.#keyring.announce(keyring);
    else await this.#keyring.announceSaved();
    return { disabledAtMs: Date.now() };
  }

  async #disable(status: RotationStatus, state: ReadRotation): Promise<Partial<RotationStatus>> {
    const { from, to } = status;
    const keyring = await this.#keyring.load();
    if (keyring.primary !== to) return { step: "promote" };
    await this.#requireUnneeded(status, keyring);
    if (!isEnabled(keyring, from)) await this.#keyring.announce(keyring);
    else {
      try {
        await this.#retire("disable", from, keyring, state);
      } catch (error) {
        if (!(error instanceof KeywardError && error.code === "KEY_IN_USE") || !this.#isRetryUseful()) throw error;
        // A process that is not registered, or whose id is in ignoreReplicas, wrote under the key in the meantime.
        return { step: "reencrypt" };
      }
      await this.#keyring.announceSaved();
    }
    return { disabledAtMs: Date.now() };
  }

  /**
   * Returns whether to run the re-encryption again, because it may find records that the last run did not re-encrypt.
   */
  #isRetryUseful(): boolean {
    const reports = Object.values(this.#reencrypted);
    const idle = reports.length > 0 && reports.every(({ reencrypted, conflicts }) => reencrypted + conflicts === 0);
    return this.#rounds < maxRounds && !idle;
  }

  async #grace(status: RotationStatus): Promise<Partial<RotationStatus>> {
    const { from, to } = status;
    const keyring = await this.#keyring.load();
    if (keyOf(keyring, from) === undefined) return {};
    if (keyring.primary !== to) return { step: "promote" };
    // In a guided rotation the key stays enabled, because most sources have no disabled keys.
    if (this.#keyring.guided === undefined && isEnabled(keyring, from)) return { step: "reencrypt" };
    const { graceMs } = this.#options;
    this.report({ kind: "grace", untilMs: Date.now() + graceLeft(status, graceMs) });
    // Setting the clock back during the wait does not extend the wait.
    const untilMs = performance.now() + graceLeft(status, graceMs);
    for (;;) {
      const leftMs = Math.min(graceLeft(status, graceMs), untilMs - performance.now());
      if (leftMs <= 0) return {};
      await pause(Math.min(leftMs, longestLookMs), this.#options.signal);
    }
  }

  async #remove(status: RotationStatus, state: ReadRotation): Promise<Partial<RotationStatus>> {
    const { from, to } = status;
    const keyring = await this.#keyring.load();
    if (this.#keyring.guided !== undefined) return await this.#removeAtSource(status, state, keyring);
    // An operator enabled the key again, because records need it.
    if (isEnabled(keyring, from)) return { step: "reencrypt" };
    if (keyOf(keyring, from) === undefined) await this.#keyring.announce(keyring);
    else {
      if (keyring.primary !== to) return { step: "promote" };
      try {
        await this.#retire("remove", from, keyring, state);
      } catch (error) {
        if (error instanceof KeywardError && error.code === "KEY_IN_USE") throw writtenAfterDisableError(error);
        throw error;
      }
      await this.#keyring.announceSaved();
    }
    await this.#waits.removeLapsed();
    return {};
  }

  /** Asks an operator to remove the old key at the source of the keys, and waits for the removal. */
  async #removeAtSource(
    { from, to }: RotationStatus,
    state: ReadRotation,
    keyring: Keyring,
  ): Promise<Partial<RotationStatus>> {
    if (keyOf(keyring, from) !== undefined) {
      if (keyring.primary !== to) return { step: "promote" };
      // A process that was started with the former keys after the step "drain" would continue to write under the old key.
      await this.#waitFor("drain", keyring, (replica) => hasDrained(replica, keyring));
    }
    await this.#refuseOldPrimary({ from }, state);
    try {
      await removeAtSource({
        keyId: from,
        loaded: this.#keyring.loaded(keyring),
        options: this.#options,
        waits: this.#waits,
        retire: async () => {
          await this.#retire("remove", from, keyring, state);
          return this.#abandoned.length;
        },
        onWaiting: (replicas) => this.report({ kind: "waiting", step: "remove", replicas }),
      });
    } catch (error) {
      const isKept = keyOf(await this.#keyring.load(), from) !== undefined;
      if (!(error instanceof KeywardError && error.code === "KEY_IN_USE") || !isKept || !this.#isRetryUseful())
        throw error;
      return { step: "reencrypt" };
    }
    await this.#waits.removeLapsed();
    return {};
  }

  /**
   * In a guided rotation, records in the stores that a process whose primary is the old key must not write. If a
   * roll-back has begun in the meantime, which makes the old key the primary again, reverts this.
   */
  async #refuseOldPrimary({ from }: Pick<RotationStatus, "from">, state: ReadRotation): Promise<void> {
    if (this.#keyring.guided === undefined) return;
    if (!(await this.#record.isUnchanged(state))) throw new ChangedByAnotherRun();
    await this.#keyring.refusePrimary(await this.#keyring.load(), from);
    const { status } = await this.#record.read(true);
    if (status?.to !== from || status.step === "done") return;
    await this.#keyring.acceptPrimary(await this.#keyring.load(), from);
    throw new ChangedByAnotherRun();
  }

  async #retire(step: "disable" | "remove", keyId: string, keyring: Keyring, state: ReadRotation): Promise<void> {
    const { stores, abandonUnreadable = false, signal } = this.#options;
    const isGuided = this.#keyring.guided !== undefined;
    const options: RetireLoadedOptions = {
      to: step === "disable" ? "disabled" : "removed",
      evenIfEnabled: isGuided,
      abandonUnreadable,
      ...(signal === undefined ? {} : { signal }),
      onProgress: (records) => this.report({ kind: "counting", step, records }),
    };
    const save = async (next: Keyring) => {
      // In a guided rotation the step "disable" only counts the records.
      if (isGuided && step === "disable") return;
      await this.#makeIfUnchanged(state, { kind: "remove", keyId }, next, keyring);
    };
    const retirement = await retireLoaded(this.#keyring.loaded(keyring), stores, keyId, options, save);
    this.#abandoned = retirement.abandoned;
  }

  async #makeIfUnchanged(state: ReadRotation, change: KeyringChange, next: Keyring, previous: Keyring): Promise<void> {
    await this.#keyring.make(change, next, previous, async () => {
      // Another run may have taken the rotation over since the keyring was loaded, with another goal.
      if (!(await this.#record.isUnchanged(state))) throw new ChangedByAnotherRun();
    });
  }

  async #waitFor(
    step: Exclude<ReplicaWait, "remove">,
    keyring: Keyring,
    isReady: (replica: Replica) => boolean,
  ): Promise<void> {
    await this.#keyring.announce(keyring);
    const onWaiting = (replicas: readonly WaitingReplica[]) => this.report({ kind: "waiting", step, replicas });
    const registersLate = this.#keyring.guided !== undefined;
    const requireCurrent = async () => {
      if (this.#state !== undefined && !(await this.#record.isUnchanged(this.#state))) throw new ChangedByAnotherRun();
    };
    const late = registersLate ? { registersLate, requireCurrent } : { registersLate };
    await this.#waits.wait(step, keyring, isReady, onWaiting, late);
  }

  /** Passes `progress` to the option `onProgress`, if the option is given. */
  report(progress: RotationProgress): void {
    this.#options.onProgress?.(progress);
  }
}

function removedTooEarly(from: string): KeywardError {
  return new KeywardError(
    "KEY_UNKNOWN",
    `Key "${from}" was removed at the source of the keys, but records still need it`,
    {
      keyId: from,
      hint:
        `Put key "${from}" back at the source of the keys, with its former material and beside the other keys. Then run ` +
        "the rotation again, which continues at this step. The rotation tells you when to remove the key.",
    },
  );
}

/**
 * Returns whether a replica uses this keyring or a later generation with the same primary, and has finished the writes
 * that it began with an earlier keyring.
 */
function hasDrained({ generation, primary, drained }: Replica, keyring: Keyring): boolean {
  return generation >= keyring.generation && primary === keyring.primary && drained;
}

function writtenAfterDisableError(error: KeywardError): KeywardError {
  return new KeywardError("KEY_IN_USE", error.message, {
    keyId: error.keyId,
    counts: error.counts,
    cause: error,
    hint:
      "A process that was halted, or is not registered, wrote these records under the key after the key was disabled. End that " +
      "process first. To keep the records, enable the key and run the rotation again, which re-encrypts them. If the key is " +
      "compromised, do not enable it: delete the records, because an attacker may have forged them.",
  });
}
