import { asKeywardError, KeywardError } from "../errors/errors.ts";
import { type OptionNames, requireAmount, requireOptions } from "../errors/options.ts";
import type { NewKey } from "../keyring/key.ts";
import type { KeyProvider } from "../keyring/key-provider.ts";
import { isEnabled, type Keyring, keyOf, requireSavable, sharesKey } from "../keyring/keyring.ts";
import { KeyringSource } from "../keyring/keyring-source.ts";
import {
  type ReencryptOptions,
  type ReencryptProgress,
  type ReencryptReport,
  reencrypt,
  requirePace,
  type UnreadableRecord,
} from "../reencryption/bulk-reencryption.ts";
import { scannableOf } from "../reencryption/census.ts";
import {
  type NamedStores,
  type RetireKeyOptions,
  requireAllStores,
  requireSave,
  requireStores,
  retireFrom,
} from "../reencryption/retirement.ts";
import { storeParts } from "../store/encrypted-store.ts";
import type { GenerationNotice } from "../store/generation-notice.ts";
import { ReservedRecords } from "../store/reserved-records.ts";
import { requireAtomic } from "../store-interface/inner-store.ts";
import { pause } from "../waiting/pause.ts";
import { type ReplicaWait, type ReplicaWaitOptions, ReplicaWaits, type WaitingReplica } from "./replica-waits.ts";
import type { Replica } from "./replicas.ts";
import {
  addTo,
  anotherRotationRuns,
  continuedAs,
  isAchieved,
  isDoneAlready,
  isLastChange,
  isSameGoal,
  noRotationRuns,
  promoteTo,
  type RotationGoal,
  requireKeyIn,
  requireReturn,
  startOf,
} from "./rotation-goal.ts";
import { countUnder, rotationOptionNames as names, planOf, type RotationPlan } from "./rotation-plan.ts";
import {
  graceLeft,
  isBeyond,
  nextOf,
  type ReadRotation,
  type RevocationOrder,
  RotationRecord,
  type RotationStatus,
  type RotationStep,
  reservedCheckpoint,
  rotationSteps,
} from "./rotation-record.ts";

/** How a rotation goes about it. */
export interface RotationOptions extends ReplicaWaitOptions {
  /**
   * How many milliseconds a key stays disabled before it is removed, counted from when it was disabled, whoever goes on.
   * In this time a process that was halted in the middle of a write may still show itself, and the key can be enabled.
   */
  readonly graceMs: number;
  /** As for `retireKey`: records that open with no key do not keep the old one. They are listed in the report. */
  readonly abandonUnreadable?: boolean;
  /** How fast to re-encrypt. */
  readonly reencrypt?: Pick<ReencryptOptions, "batchSize" | "concurrency" | "maxPerSecond">;
  /** Ends this run after the step. Another run goes on from there. */
  readonly until?: RotationStep;
  /** Called at each step, with those that are waited for, and after each page. */
  readonly onProgress?: (progress: RotationProgress) => void;
}

/** What {@link rotateKey} takes. */
export interface RotateKeyOptions extends RotationOptions {
  /**
   * The key to change to: one that is in the ring already, by its id, or a new one. With an id the call can be repeated:
   * once that key is the primary and the rotation done, there is nothing left to do. Default: a new, random key, whose id
   * is the day and six random characters.
   */
  readonly newKey?: NewKey;
}

/** What {@link revokeKey} takes. */
export interface RevokeKeyOptions extends RotateKeyOptions {
  /** The compromised key. */
  readonly id: string;
  /** Which of the two harms is the smaller one: see {@link revocationCost}. There is no default. */
  readonly order: RevocationOrder;
}

// One set of names for a rotation and all that follows from it, so that each call takes what another was given.
const rotationOptionNames = names satisfies OptionNames<RevokeKeyOptions>;
const paceOptionNames = {
  batchSize: true,
  concurrency: true,
  maxPerSecond: true,
} as const satisfies OptionNames<NonNullable<RotationOptions["reencrypt"]>>;

/** How far a rotation has come. */
export type RotationProgress =
  | {
      /** A step begins. */
      readonly kind: "step";
      readonly step: RotationStep;
    }
  | {
      /** These processes have not followed yet. */
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
      /** So many records were looked at, to see whether one needs the old key. */
      readonly kind: "counting";
      readonly step: "disable" | "remove";
      readonly records: number;
    }
  | {
      /** The key stays disabled until then, in ms since the epoch. */
      readonly kind: "grace";
      readonly untilMs: number;
    };

/** What a run did. */
export interface RotationReport extends RotationStatus {
  /** The ring as it is now. */
  readonly ring: Keyring;
  /** By store, how its re-encryption went in this run; its counts go on from those of the runs before. */
  readonly reencrypted: Readonly<Record<string, ReencryptReport>>;
  /** With `abandonUnreadable`, the records that did not open and were let go in this run. */
  readonly abandoned: readonly UnreadableRecord[];
  /** By store, how many records "disable-first" made unreadable in this run. */
  readonly madeUnreadable: Readonly<Record<string, number>>;
}

const maxConflicts = 10;
const maxRounds = 3;
const maxLosses = 10;
const conflictPauseMs = 20;
const longestGraceMs = 2 ** 40;
// A machine that slept has waited by the time of day alone, which is looked at now and then.
const longestLookMs = 60_000;

/**
 * Changes the key that seals, and takes the former one out of use: the whole life of a key, in the steps of
 * {@link RotationStep}. Run it again, here or elsewhere, after whatever stopped it: it goes on where it was. Two who run
 * it at the same time do it together.
 *
 * @throws KeywardError `PROVIDER_READ_ONLY` for a provider that cannot save; `ROTATION_IN_PROGRESS` with another aim;
 * `REPLICA_BEHIND` when a registered process does not follow; `KEY_IN_USE` while records need the old key;
 * `VALUE_INVALID` when nobody is registered in a store and `unregistered` is not given, or for an option that cannot be;
 * `STORE_INVALID` when no store has a reserved space, or it keeps nothing; `STORE_NOT_ATOMIC`, `STORE_NOT_SCANNABLE`;
 * `KEYRING_CONFLICT` for a store with keys of its own; and what stores and provider throw.
 */
export async function rotateKey(provider: KeyProvider, options: RotateKeyOptions): Promise<RotationReport> {
  requireOptions("rotateKey", options, rotationOptionNames);
  return await new Rotation(provider, options).run({ kind: "rotate", newKey: options.newKey ?? {} });
}

/**
 * Returns to the former key: it is promoted again, every record is sealed under it again, and the new key is retired.
 * Possible as long as the former key was not disabled, and resumed like a rotation. When it was disabled in spite of a
 * return that is under way, it stays so, and {@link rotateKey} goes on with the rotation.
 *
 * @throws KeywardError as {@link rotateKey}; `VALUE_INVALID` when no rotation is under way; `KEY_DISABLED` when it is too
 * late.
 */
export async function rollBackRotation(provider: KeyProvider, options: RotationOptions): Promise<RotationReport> {
  requireOptions("rollBackRotation", options, rotationOptionNames);
  return await new Rotation(provider, options).run({ kind: "roll-back" });
}

/**
 * Takes a compromised key out of use, in the order chosen. Where it is the primary, another is added and promoted first.
 * With "disable-first" the key is disabled with that very promotion, and stays in the ring until `retireKey` finds that
 * nothing needs it; what processes still seal under it until they follow becomes unreadable, too. A rotation away from
 * the key that is under way is taken over, and a return away from it, or to it, as well.
 *
 * @throws KeywardError as {@link rotateKey}; `KEY_UNKNOWN`.
 */
export async function revokeKey(provider: KeyProvider, options: RevokeKeyOptions): Promise<RotationReport> {
  const { id: from, order, newKey = {} } = requireOptions("revokeKey", options, rotationOptionNames);
  if (order !== "reencrypt-first" && order !== "disable-first") {
    throw new KeywardError("VALUE_INVALID", "A revocation was given no order", {
      hint: 'Ask revocationCost, and choose "reencrypt-first" or "disable-first".',
    });
  }
  return await new Rotation(provider, options).run({ kind: "revoke", newKey, from, order });
}

/**
 * The rotation that is under way, or was the last one; `undefined` where there never was one.
 *
 * @throws KeywardError `STORE_INVALID` when no store has a reserved space; why the record of the rotation does not open.
 */
export async function rotationStatus(
  provider: KeyProvider,
  options: Pick<RotationOptions, "stores">,
): Promise<RotationStatus | undefined> {
  const { stores } = requireOptions("rotationStatus", options, rotationOptionNames);
  requireStores(stores);
  return (await new RotationRecord(recordsOf(KeyringSource.of(provider), stores)).read(false)).status;
}

/**
 * What {@link rotateKey} with the same options would do, and for whom it would wait. Changes nothing.
 *
 * @throws KeywardError as {@link rotateKey} would at once.
 */
export async function planRotation(provider: KeyProvider, options: RotateKeyOptions): Promise<RotationPlan> {
  requireOptions("planRotation", options, rotationOptionNames);
  return await new Rotation(provider, options).plan({ kind: "rotate", newKey: options.newKey ?? {} });
}

/** Somebody else took the rotation further, or elsewhere, in the middle of a step. */
class Superseded extends Error {}

class Rotation {
  readonly #provider: KeyProvider;
  readonly #source: KeyringSource;
  readonly #options: RotationOptions;
  readonly #record: RotationRecord;
  readonly #waits: ReplicaWaits;
  readonly #reencrypted: Record<string, ReencryptReport> = Object.create(null);
  #abandoned: readonly UnreadableRecord[] = [];
  #madeUnreadable: Record<string, number> = Object.create(null);
  #rounds = 0;

  constructor(provider: KeyProvider, options: RotationOptions) {
    const { stores, graceMs, until, reencrypt: pace = {} } = options;
    requireStores(stores);
    if (until !== undefined && !rotationSteps.includes(until)) {
      throw new KeywardError("VALUE_INVALID", "until is not a step of a rotation", {
        hint: `It is one of ${rotationSteps.join(", ")}; leave it out to go on to the end.`,
      });
    }
    requireAmount("graceMs", graceMs, "milliseconds", { least: 0, most: longestGraceMs });
    requirePace(requireOptions("reencrypt of a rotation", pace, paceOptionNames));
    this.#source = KeyringSource.of(provider);
    requireSave(provider);
    this.#provider = provider;
    this.#options = options;
    this.#record = new RotationRecord(recordsOf(this.#source, stores));
    this.#waits = new ReplicaWaits(this.#source, options);
  }

  async run(goal: RotationGoal): Promise<RotationReport> {
    this.#options.signal?.throwIfAborted();
    let last = await this.#begin(goal);
    let conflicts = 0;
    for (;;) {
      const { status } = last;
      if (status === undefined || status.step === "done" || isBeyond(status.step, this.#options.until)) break;
      this.#options.signal?.throwIfAborted();
      this.#tell({ kind: "step", step: status.step });
      try {
        const next = await this.#endOf(nextOf(status, await this.#perform(status, last, goal)));
        await this.#record.replace(last, next);
        last = await this.#goOn(next);
      } catch (error) {
        const conflict = error instanceof KeywardError && error.code === "KEYRING_CONFLICT";
        if (!(error instanceof Superseded) && !(conflict && conflicts < maxConflicts)) throw error;
        // Another operator, or somebody who changed the ring otherwise, was faster: see what is left to do.
        conflicts++;
        await pause(conflictPauseMs * (1 + Math.random()), this.#options.signal);
        last = await this.#goOn(status);
      }
    }
    const { status } = last;
    if (status === undefined) throw noRotationRuns();
    return {
      ...status,
      ring: await this.#source.refresh(),
      reencrypted: this.#reencrypted,
      abandoned: this.#abandoned,
      madeUnreadable: this.#madeUnreadable,
    };
  }

  async plan(goal: RotationGoal): Promise<RotationPlan> {
    const ring = await this.#requireStores(goal);
    const { status } = await this.#record.read(this.#options.abandonUnreadable === true);
    const running = status === undefined || status.step === "done" ? undefined : status;
    return await planOf(goal, ring, running, this.#waits, this.#options);
  }

  /** Joins the rotation that is under way, if it has the same aim, or writes down a new one. */
  async #begin(goal: RotationGoal): Promise<ReadRotation> {
    let before: ReadRotation | undefined;
    for (;;) {
      const ring = await this.#requireStores(goal);
      const last = await this.#record.read(this.#options.abandonUnreadable === true);
      const { status } = last;
      before ??= last;
      // What somebody else began since this call, and has done by now, was this one's too.
      const shared = status !== undefined && status.id !== before.status?.id && isSameGoal(status, goal);
      if (status?.step === "done") {
        const now = await this.#source.refresh();
        if (shared && isAchieved(status, now) && isLastChange(status, now)) return last;
        if (isDoneAlready(status, now, goal)) return last;
      }
      const running = status === undefined || status.step === "done" ? undefined : status;
      const next = running === undefined ? startOf(ring, goal) : continuedAs(running, goal, ring);
      if (next === running) return last;
      if (running === undefined) await this.#waits.requireOthers();
      if (await this.#record.replace(last, next)) return await this.#goOn(next);
    }
  }

  /** The rotation as it is now, after this run wrote it, or somebody else did. */
  async #goOn(mine: RotationStatus): Promise<ReadRotation> {
    for (let attempt = 0; attempt < maxLosses; attempt++) {
      const now = await this.#record.read(false);
      const { status } = now;
      if (status?.id === mine.id) {
        if (status.kind !== mine.kind) throw anotherRotationRuns(status);
        const isDone = status.step !== "done" || mine.step === "done" || isAchieved(mine, await this.#source.refresh());
        if (isDone) return now;
      }
      if (status !== undefined && status.id !== mine.id) {
        // Another one begins when this one is done, or was lost: what the ring says cannot be deleted from a store.
        if (mine.step !== "done" && !isAchieved(mine, await this.#source.refresh())) throw anotherRotationRuns(status);
        return { ...now, status: { ...mine, step: "done" } };
      }
      // Deleted or evicted, or said to be done although the ring says that it is not: that ends nothing.
      await this.#record.replace(now, mine);
    }
    throw notKept();
  }

  /** The end of a rotation is read from the ring. */
  async #endOf(next: RotationStatus): Promise<RotationStatus> {
    if (next.step !== "done") return next;
    const ring = await this.#source.refresh();
    return isAchieved(next, ring) ? { ...next, generation: ring.generation } : { ...next, step: "promote" };
  }

  async #perform(status: RotationStatus, last: ReadRotation, goal: RotationGoal): Promise<Partial<RotationStatus>> {
    const { step, from, to } = status;
    switch (step) {
      case "add":
        await this.#change(last, (ring) => addTo(ring, status, goal));
        return {};
      case "distribute": {
        const ring = await this.#source.refresh();
        requireReturn(status, ring);
        requireKeyIn(ring, to);
        await this.#waitFor("distribute", ring, (replica) => replica.generation >= ring.generation);
        return {};
      }
      case "promote":
        if (status.order === "disable-first") return await this.#promoteAndDisable(status, last);
        await this.#change(last, (ring) => promoteTo(ring, status));
        return {};
      case "drain": {
        const ring = await this.#source.refresh();
        if (ring.primary !== to) return { step: "promote" };
        await this.#waitFor(
          "drain",
          ring,
          ({ generation, primary, drained }) => generation >= ring.generation && primary === to && drained,
        );
        return {};
      }
      case "reencrypt": {
        const ring = await this.#source.refresh();
        if (ring.primary !== to) return { step: "promote" };
        await this.#reencrypt(status);
        return {};
      }
      case "disable":
        return await this.#disable(status, last);
      case "grace": {
        const ring = await this.#source.refresh();
        if (keyOf(ring, from) === undefined) return {};
        if (ring.primary !== to) return { step: "promote" };
        if (isEnabled(ring, from)) return { step: "reencrypt" };
        await this.#waitForGrace(status);
        return {};
      }
      case "remove":
        return await this.#remove(status, last);
      case "done":
        return {};
    }
  }

  async #reencrypt({ id }: RotationStatus): Promise<void> {
    const { stores, signal, reencrypt: pace } = this.#options;
    this.#rounds++;
    await this.#tellStores();
    for (const [name, store] of Object.entries(stores)) {
      const { reserve } = storeParts(store);
      const checkpoint = reserve === undefined ? undefined : reservedCheckpoint(reserve, id, name);
      const options: ReencryptOptions = {
        ...pace,
        ...(checkpoint === undefined ? {} : { checkpoint }),
        ...(signal === undefined ? {} : { signal }),
        onProgress: (progress) => this.#tell({ kind: "reencrypting", store: name, progress }),
      };
      this.#reencrypted[name] = await reencrypt(store, options).catch(async (error: unknown) => {
        if (!(error instanceof KeywardError && error.code === "CHECKPOINT_INVALID")) throw error;
        // The store was moved to another backend since: that costs the walk from the beginning, and not the rotation.
        await checkpoint?.write(undefined);
        return await reencrypt(store, options);
      });
      signal?.throwIfAborted();
    }
  }

  /** In one change: no process ever has a ring with which it would seal again what the thief forged. */
  async #promoteAndDisable({ from, to }: RotationStatus, last: ReadRotation): Promise<Partial<RotationStatus>> {
    const { stores, signal } = this.#options;
    this.#madeUnreadable = await countUnder(stores, (id) => id === from, signal);
    const ring = await this.#source.refresh();
    const promoted = ring.primary === to ? ring : ring.promote(to);
    const next = isEnabled(ring, from) ? promoted.disable(from) : promoted;
    if (next !== ring) {
      // What Keyward keeps in the stores must open when the key opens nothing any more.
      for (const store of Object.values(stores)) {
        const { generationNotice, reserve } = storeParts(store);
        await generationNotice.prepare(next, ring);
        await reserve?.renew(next);
      }
      await this.#saveIfStill(last, next, ring);
    }
    await this.#tellStores();
    return { disabledAtMs: Date.now() };
  }

  async #disable({ from, to }: RotationStatus, last: ReadRotation): Promise<Partial<RotationStatus>> {
    const ring = await this.#source.refresh();
    if (ring.primary !== to) return { step: "promote" };
    if (isEnabled(ring, from)) {
      try {
        await this.#retire("disable", from, ring, last);
      } catch (error) {
        if (!(error instanceof KeywardError && error.code === "KEY_IN_USE") || !this.#mayHelp()) throw error;
        // A process that is not registered, or that was not waited for, wrote under the key meanwhile.
        return { step: "reencrypt" };
      }
    }
    await this.#tellStores();
    return { disabledAtMs: Date.now() };
  }

  /** Whether another round of re-encryption may seal what the last one left. */
  #mayHelp(): boolean {
    const reports = Object.values(this.#reencrypted);
    const idle = reports.length > 0 && reports.every(({ reencrypted, conflicts }) => reencrypted + conflicts === 0);
    return this.#rounds < maxRounds && !idle;
  }

  async #remove({ from, to }: RotationStatus, last: ReadRotation): Promise<Partial<RotationStatus>> {
    const ring = await this.#source.refresh();
    // Somebody missed it.
    if (isEnabled(ring, from)) return { step: "reencrypt" };
    if (keyOf(ring, from) !== undefined) {
      if (ring.primary !== to) return { step: "promote" };
      try {
        await this.#retire("remove", from, ring, last);
      } catch (error) {
        if (error instanceof KeywardError && error.code === "KEY_IN_USE") throw writtenLate(error);
        throw error;
      }
    }
    await this.#tellStores();
    await this.#waits.removeLapsed();
    return {};
  }

  async #retire(step: "disable" | "remove", keyId: string, ring: Keyring, last: ReadRotation): Promise<void> {
    const { stores, abandonUnreadable = false, signal } = this.#options;
    const options: RetireKeyOptions = {
      to: step === "disable" ? "disabled" : "removed",
      abandonUnreadable,
      ...(signal === undefined ? {} : { signal }),
      onProgress: (records) => this.#tell({ kind: "counting", step, records }),
    };
    const save = async (next: Keyring) => await this.#saveIfStill(last, next, ring);
    this.#abandoned = (await retireFrom(ring, stores, keyId, options, save)).abandoned;
  }

  /** Changes the ring at its source, unless that was done already, and has the stores tell of it. */
  async #change(last: ReadRotation, change: (ring: Keyring) => Keyring | undefined): Promise<void> {
    const ring = await this.#source.refresh();
    const next = change(ring);
    if (next !== undefined) await this.#saveIfStill(last, next, ring);
    await this.#tellStores();
  }

  async #saveIfStill(last: ReadRotation, next: Keyring, previous: Keyring): Promise<void> {
    // After the ring was loaded: whoever takes the rotation elsewhere from here on changes it first, or after.
    if (!(await this.#record.isStill(last))) throw new Superseded();
    try {
      await this.#provider.save?.(next, previous);
    } catch (error) {
      const hint = "See the cause. Run the rotation again: it sees whether the change arrived.";
      throw asKeywardError(error, "PROVIDER_UNAVAILABLE", "The key provider failed to save the changed ring", hint);
    }
  }

  /** Has every store say that there is a later ring, so that registered processes load it; and loads it here. */
  async #tellStores(): Promise<void> {
    await this.#follow((generationNotice, ring) => generationNotice.raise(ring));
  }

  /** Has the stores of this process load the ring as it is now. */
  async #follow(also: (generationNotice: GenerationNotice, ring: Keyring) => Promise<void>): Promise<Keyring> {
    const ring = await this.#source.refresh();
    for (const [name, store] of Object.entries(this.#options.stores)) {
      const { generationNotice, source } = storeParts(store);
      const used = source === this.#source ? ring : await source.ask(this.#options.signal);
      if (!isSuccessor(used, ring)) throw keysOfItsOwn(name);
      await also(generationNotice, used);
    }
    return ring;
  }

  async #waitFor(step: ReplicaWait, ring: Keyring, isReady: (replica: Replica) => boolean): Promise<void> {
    await this.#tellStores();
    await this.#waits.wait(step, ring, isReady, (waiting) => this.#tell({ kind: "waiting", step, replicas: waiting }));
  }

  async #requireStores(goal: RotationGoal): Promise<Keyring> {
    const { stores, signal } = this.#options;
    const ring = await this.#source.ask(signal);
    // What could never be saved must not leave a rotation behind that the holders of the whole ring cannot read.
    requireSavable(ring);
    // A provider whose source cannot be changed from here is known before anything is written.
    await this.#provider.requireWritable?.();
    requireAllStores(ring, stores, undefined);
    const reencrypts = !(goal.kind === "revoke" && goal.order === "disable-first");
    for (const store of Object.values(stores)) {
      scannableOf(store);
      if (reencrypts) requireAtomic(storeParts(store).inner);
    }
    return await this.#follow(async () => undefined);
  }

  async #waitForGrace(status: RotationStatus): Promise<void> {
    const { graceMs } = this.#options;
    this.#tell({ kind: "grace", untilMs: Date.now() + graceLeft(status, graceMs) });
    // A clock that is set back meanwhile makes it no longer than it was.
    const untilMs = performance.now() + graceLeft(status, graceMs);
    for (;;) {
      const leftMs = Math.min(graceLeft(status, graceMs), untilMs - performance.now());
      if (leftMs <= 0) return;
      await pause(Math.min(leftMs, longestLookMs), this.#options.signal);
    }
  }

  #tell(progress: RotationProgress): void {
    this.#options.onProgress?.(progress);
  }
}

/** Whether a store has this ring, or a later one: unrelated rings may have the same name, and any generation. */
function isSuccessor(used: Keyring, ring: Keyring): boolean {
  const { scopeName } = used;
  const scoped = scopeName === undefined || ring.scopeName !== undefined ? ring : ring.scope(scopeName);
  return used.name === ring.name && used.generation >= ring.generation && sharesKey(used, scoped);
}

/** Where the rotation is written down: in the first store, by its name, that has a place for it. */
function recordsOf(source: KeyringSource, stores: NamedStores): ReservedRecords {
  for (const [, store] of Object.entries(stores).sort(([one], [other]) => (one < other ? -1 : 1))) {
    const records = ReservedRecords.of(storeParts(store).inner, source);
    if (records !== undefined) return records;
  }
  throw new KeywardError("STORE_INVALID", "None of the stores has a reserved space, where a rotation is written down", {
    hint: "Give a store that has reserved(), such as those of Keyward; or rotate by hand, as docs/keyring.md has it.",
  });
}

function notKept(): KeywardError {
  return new KeywardError("STORE_INVALID", "The record of the rotation is gone as often as it is written", {
    hint: "Have the store keep what is in its reserved space: no eviction, and nobody else who deletes there.",
  });
}

function keysOfItsOwn(name: string): KeywardError {
  return new KeywardError("KEYRING_CONFLICT", `The store ${name} does not follow the ring that is being changed`, {
    hint: "Make it with the provider that is given to the rotation, or with one of the same source.",
  });
}

function writtenLate(error: KeywardError): KeywardError {
  return new KeywardError("KEY_IN_USE", error.message, {
    keyId: error.keyId,
    counts: error.counts,
    cause: error,
    hint:
      "A process that was halted, or is not registered, wrote under the key after it was disabled. To save those " +
      "records, enable the key and run the rotation again: it re-encrypts once more. If the key is compromised, delete them.",
  });
}
