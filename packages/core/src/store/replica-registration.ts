import { randomBytes } from "node:crypto";
import { hostname } from "node:os";
import { setTimeout as delay } from "node:timers/promises";
import { asKeywardError, KeywardError } from "../errors/errors.ts";
import { type OptionNames, requireAmount, requireOptions } from "../errors/options.ts";
import type { Keyring } from "../keyring/keyring.ts";
import type { KeyringSource } from "../keyring/keyring-source.ts";
import type { BoundedStore } from "../store-interface/capabilities.ts";
import { Moment } from "../waiting/moment.ts";
import type { GenerationNotice } from "./generation-notice.ts";
import { heartbeatBounds, heartbeatKey, isReplicaName, writeHeartbeat } from "./heartbeat.ts";
import type { KeyringCheck } from "./keyring-check.ts";
import type { ReservedRecords } from "./reserved-records.ts";

/** How a process makes itself known as one that reads and writes a store. */
export interface ReplicaOptions {
  /** What a person knows it by, at most 255 printable characters. Default: the name of the host and the process id. */
  readonly name?: string;
  /** A heartbeat is written about every so many milliseconds, from 10 to 20,000. Default 2,000. */
  readonly heartbeatMs?: number;
  /**
   * After how many milliseconds without a heartbeat that arrived the process seals nothing until it has written one and
   * loaded its keys anew; at least three times `heartbeatMs`, at most 60,000. Default 10,000.
   */
  readonly lapseMs?: number;
  /**
   * For how many milliseconds after it was begun a write may still be sent to the store, retries included, where the store
   * itself does not say ({@link BoundedStore}); at most an hour. A rotation waits so much longer before it takes a silent
   * process for gone. Default 30,000.
   */
  readonly longestCallMs?: number;
}

const replicaOptionNames = {
  name: true,
  heartbeatMs: true,
  lapseMs: true,
  longestCallMs: true,
} as const satisfies OptionNames<ReplicaOptions>;

/** What a registration needs of a store. */
export interface ReplicaRegistrationParts {
  readonly records: ReservedRecords;
  /** The check of the unscoped keyring. */
  readonly check: KeyringCheck;
  /** The notice in the check record of the unscoped keyring. */
  readonly generationNotice: GenerationNotice;
  readonly source: KeyringSource;
  /** What the store says of its calls; `undefined` where it says nothing. */
  readonly longestCallMs: unknown;
}

/** What a registration reports in the background. */
export type ReplicaRegistrationReport =
  | { readonly kind: "lapsed" }
  | { readonly kind: "failed"; readonly error: KeywardError }
  /** A heartbeat arrived after one that had failed. */
  | { readonly kind: "recovered" };

/** Must not throw. */
type Member = (report: ReplicaRegistrationReport) => void;

// Longer than clocks are apart, the wrong time zone included: whether a process lives is told by its beat, not by this.
const recordLifeMs = 24 * 60 * 60 * 1_000;
// While the gate stays closed, writes wait for the next attempt, of which there is one in this time.
const retryMs = 250;
// What is still being sealed under an older ring is done soon, and somebody may be waiting to hear of it.
const drainingMs = 100;

/** Where all stores of this process over the same keys in the same backend find its registration, once there is one. */
export interface ReplicaRegistrationSlot {
  registration?: ReplicaRegistration;
}

const slots = new WeakMap<object, WeakMap<KeyringSource, ReplicaRegistrationSlot>>();

/**
 * This process, as one of those that use a store: its heartbeat, and the gate that keeps it from sealing while the others
 * may take it for gone.
 *
 * A rotation waits for every process whose heartbeat it sees. So one that is not seen must not seal under a ring from
 * before: it first writes a heartbeat, then loads the ring anew, then seals. That holds at the start, and whenever the
 * last heartbeat is so old that the process may have been halted in between.
 */
export class ReplicaRegistration {
  readonly #parts: ReplicaRegistrationParts;
  readonly #name: string;
  readonly #heartbeatMs: number;
  readonly #lapseMs: number;
  readonly #longestCallMs: number;
  readonly #members = new Set<Member>();
  /** When the heartbeat was begun that lets this process seal. */
  #openSince: Moment | undefined;
  // Another one each time it joins anew, so that leaving need not be over by then.
  #id = newId();
  #beat = 0;
  #lastGeneration = 0;
  #beating: Promise<void> | undefined;
  #entering: Promise<void> | undefined;
  #refusedAtMs = Number.NEGATIVE_INFINITY;
  #heard = false;
  #lapsed = false;
  #timer: NodeJS.Timeout | undefined;
  #ticking = false;
  /** Whether the last heartbeat failed. */
  #failing = false;
  #dueAgain = false;
  #unlisten: (() => void) | undefined;

  private constructor(parts: ReplicaRegistrationParts, options: Required<ReplicaOptions>) {
    const { name, heartbeatMs, lapseMs, longestCallMs } = options;
    this.#parts = parts;
    this.#name = name;
    this.#heartbeatMs = heartbeatMs;
    this.#lapseMs = lapseMs;
    this.#longestCallMs = longestCallMs;
  }

  /**
   * The registration over these keys in this backend: one for all stores of the process, by the options of the first that
   * registers.
   *
   * @throws KeywardError `VALUE_INVALID` for options that cannot be.
   */
  static of(parts: ReplicaRegistrationParts, options: ReplicaOptions): ReplicaRegistration {
    const settled = settle(options, parts.longestCallMs);
    const slot = ReplicaRegistration.slotOf(parts.records.space, parts.source);
    slot.registration ??= new ReplicaRegistration(parts, settled);
    return slot.registration;
  }

  /** Where the registration over the keys of this source in a backend is to be found, whenever a store registers. */
  static slotOf(space: object, source: KeyringSource): ReplicaRegistrationSlot {
    let slotsOfBackend = slots.get(space);
    if (slotsOfBackend === undefined) {
      slotsOfBackend = new WeakMap();
      slots.set(space, slotsOfBackend);
    }
    let slot = slotsOfBackend.get(source);
    if (slot === undefined) {
      slot = {};
      slotsOfBackend.set(source, slot);
    }
    return slot;
  }

  /** The id of this process in a backend, over the keys of this source; `undefined` where it is not registered. */
  static idIn(space: object, source: KeyringSource): string | undefined {
    const registration = slots.get(space)?.get(source)?.registration;
    return registration === undefined ? undefined : registration.#id;
  }

  /** Begins, if it has not begun; what is returned leaves, and resolves when nobody waits for this process any more. */
  join(member: Member): () => Promise<void> {
    const begins = this.#unlisten === undefined;
    // First, since a provider may throw: then nothing is left behind.
    this.#unlisten ??= this.#parts.source.listen({ tell: () => this.#beatSoon() });
    this.#members.add(member);
    if (begins) this.#tick();
    return async () => {
      if (!this.#members.delete(member) || this.#members.size > 0) return;
      await this.#leave().catch((error: unknown) => member({ kind: "failed", error: heartbeatError(error) }));
    };
  }

  /**
   * Resolves when this process may seal; `undefined` when it may, as nearly always.
   *
   * @throws KeywardError what the store or the provider throws when it can neither be heard nor load its keys anew, and
   * `KEYRING_ROLLBACK` when the keys that it loads are older than those that a rotation has brought.
   */
  requireLease(): Promise<void> | undefined {
    return this.#isOpen() ? undefined : this.#enter();
  }

  /** As {@link ReplicaRegistration.requireLease}, for a store that does not register: while none does, it is its own affair. */
  requireLeaseIfRegistered(): Promise<void> | undefined {
    return this.#members.size === 0 ? undefined : this.requireLease();
  }

  #enter(): Promise<void> {
    if (this.#members.size === 0) return Promise.reject(disconnected());
    this.#entering ??= this.#register().finally(() => {
      this.#entering = undefined;
    });
    return this.#entering;
  }

  async #register(): Promise<void> {
    const { source } = this.#parts;
    const id = this.#id;
    const waitMs = this.#refusedAtMs + retryMs - performance.now();
    if (waitMs > 0) await delay(waitMs);
    try {
      if (this.#heard) {
        if (!this.#lapsed) this.#report({ kind: "lapsed" });
        this.#lapsed = true;
        // The key that the heartbeat would be sealed under may have gone meanwhile.
        await source.refresh();
      }
      const since = new Moment();
      await this.#write(id);
      await this.#requireLatest(await source.refresh());
      if (id === this.#id) {
        this.#heard = true;
        this.#lapsed = false;
        this.#openSince = since;
      }
    } catch (error) {
      this.#refusedAtMs = performance.now();
      throw notAdmitted(error, { isRenewal: this.#heard, canRead: source.canRead });
    }
    // Others wait to hear of the ring that was loaded.
    this.#beatSoon();
  }

  /** Where the source of the keys is behind, the ring that was loaded may be one that others have left. */
  async #requireLatest(loaded: Keyring): Promise<void> {
    if (loaded.primary === "") return;
    const wanted = await this.#parts.generationNotice.requiredGeneration(loaded);
    // It may have been saved after this one was loaded. A source that is asked from now on has it, or is behind.
    const ring = loaded.generation >= wanted ? loaded : await this.#parts.source.refresh();
    if (ring.generation >= wanted) return;
    throw new KeywardError(
      "KEYRING_ROLLBACK",
      `The key provider has generation ${ring.generation} of the ring, and the store is at ${wanted}`,
      { hint: "Its source is behind: a mount that lags, or a backup. Bring it the ring that the others have." },
    );
  }

  #tick(): void {
    this.#ticking = true;
    this.#dueAgain = false;
    (this.#isOpen() ? this.#beatOnce() : this.#enter())
      .then(() => {
        if (this.#failing) this.#report({ kind: "recovered" });
        this.#failing = false;
      })
      .catch((error: unknown) => {
        this.#failing = true;
        this.#report({ kind: "failed", error: heartbeatError(error) });
      })
      .finally(() => {
        this.#ticking = false;
        this.#tickIn(this.#dueAgain ? 0 : this.#isDraining() ? drainingMs : this.#heartbeatMs);
      });
  }

  #tickIn(waitMs: number): void {
    clearTimeout(this.#timer);
    if (this.#unlisten === undefined) return;
    this.#timer = setTimeout(() => this.#tick(), waitMs);
    this.#timer.unref();
  }

  #beatSoon(): void {
    this.#dueAgain = true;
    if (!this.#ticking) this.#tickIn(0);
  }

  #beatOnce(): Promise<void> {
    this.#beating ??= this.#beatAndLook().finally(() => {
      this.#beating = undefined;
    });
    return this.#beating;
  }

  async #beatAndLook(): Promise<void> {
    const { generationNotice, source } = this.#parts;
    const since = new Moment();
    const ring = await this.#write(this.#id);
    // A heartbeat that arrived too late does not open the gate again.
    if (this.#isOpen()) this.#openSince = since;
    if (ring.primary === "" || (await generationNotice.requiredGeneration(ring)) <= ring.generation) return;
    // A rotation waits for this process to have a later ring: do not let it wait for the provider to tell of it. Heartbeats
    // go on meanwhile: a provider that is away must not make the process lapse. The source reports its failures itself.
    source.refresh().catch(() => undefined);
  }

  /**
   * Writes a heartbeat under the ring that was in use before, and gives that ring.
   *
   * @param id as it was when this was begun: who leaves meanwhile waits for it, and removes that one.
   */
  async #write(id: string): Promise<Keyring> {
    const { records, check, source } = this.#parts;
    const ring = await records.ring();
    if (ring.primary === "") return ring;
    await check.verify(ring);
    const nowMs = Date.now();
    this.#lastGeneration = ring.generation;
    const heartbeat = writeHeartbeat({
      name: this.#name,
      beat: ++this.#beat,
      generation: ring.generation,
      primary: ring.primary,
      sealingSince: source.sealingSince,
      beatAtMs: nowMs,
      heartbeatMs: this.#heartbeatMs,
      lapseMs: this.#lapseMs,
      longestCallMs: this.#longestCallMs,
    });
    await records.write(ring, heartbeatKey(id, ring.scopeName), heartbeat, nowMs + recordLifeMs);
    return ring;
  }

  #isDraining(): boolean {
    const { sealingSince } = this.#parts.source;
    return sealingSince !== undefined && sealingSince < this.#lastGeneration;
  }

  #isOpen(): boolean {
    return this.#openSince !== undefined && this.#openSince.agoMs() < this.#lapseMs;
  }

  async #leave(): Promise<void> {
    const { records, source } = this.#parts;
    const id = this.#id;
    this.#id = newId();
    const unlisten = this.#unlisten;
    this.#unlisten = undefined;
    clearTimeout(this.#timer);
    this.#openSince = undefined;
    this.#heard = false;
    try {
      unlisten?.();
    } finally {
      // Nobody may wait for this process any more only when nothing that it began is still to come.
      await Promise.allSettled([this.#beating, this.#entering, source.drained()]);
      if (this.#beat > 0) await records.remove(heartbeatKey(id, (await records.ring()).scopeName));
    }
  }

  #report(report: ReplicaRegistrationReport): void {
    for (const member of this.#members) member(report);
  }
}

function newId(): string {
  return randomBytes(9).toString("base64url");
}

function settle(options: ReplicaOptions, ofStore: unknown): Required<ReplicaOptions> {
  requireOptions("replica", options, replicaOptionNames);
  const { name = `${hostname()}:${process.pid}`, heartbeatMs = 2_000 } = options;
  const { lapseMs = 10_000, longestCallMs = 30_000 } = options;
  if (!isReplicaName(name)) {
    throw new KeywardError("VALUE_INVALID", "The name of a replica is not a text of at most 255 printable characters", {
      hint: "Set replica.name to such a text, or leave it out for the names of host and process.",
    });
  }
  requireAmount("replica.heartbeatMs", heartbeatMs, "milliseconds", heartbeatBounds.heartbeatMs);
  const { most } = heartbeatBounds.lapseMs;
  requireAmount("replica.lapseMs", lapseMs, "milliseconds", { least: 3 * heartbeatMs, most });
  requireAmount("replica.longestCallMs", longestCallMs, "milliseconds", heartbeatBounds.longestCallMs);
  if (ofStore === undefined) return { name, heartbeatMs, lapseMs, longestCallMs };
  requireAmount("longestCallMs of the store", ofStore, "milliseconds", heartbeatBounds.longestCallMs);
  return { name, heartbeatMs, lapseMs, longestCallMs: Number(ofStore) };
}

function notAdmitted(
  cause: unknown,
  { isRenewal, canRead }: { readonly isRenewal: boolean; readonly canRead: boolean },
): KeywardError {
  const error = heartbeatError(cause);
  // That this ring is the wrong one for the store, or that there is none, has nothing to do with a heartbeat.
  if (error.code === "OVERWRITE_REFUSED" || !canRead) return error;
  const what = isRenewal
    ? "the heartbeat of this process has lapsed, and renewing it"
    : "this process is not registered, and registering it";
  return new KeywardError(error.code, `Nothing was written: ${what} failed. ${error.message}`, {
    keyId: error.keyId,
    cause: error,
    hint: `${error.hint} Then writes go on without a restart; reads go on meanwhile.`,
  });
}

function disconnected(): KeywardError {
  return new KeywardError("STORE_UNAVAILABLE", "Nothing was written: the store was disconnected", {
    hint: "Wait for writes before disconnecting.",
  });
}

function heartbeatError(error: unknown): KeywardError {
  return asKeywardError(error, "STORE_UNAVAILABLE", "The heartbeat failed", "See the cause.");
}
