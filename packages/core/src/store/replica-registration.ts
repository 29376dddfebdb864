import { randomBytes } from "node:crypto";
import { hostname } from "node:os";
import { setTimeout as delay } from "node:timers/promises";
import { asKeywardError, KeywardError } from "../errors/errors.ts";
import { type OptionNames, requireAmount, requireOptions } from "../errors/options.ts";
import type { Keyring } from "../keyring/keyring.ts";
import type { KeyringSource } from "../keyring/keyring-source.ts";
import type { BoundedStore } from "../store-interface/store-capabilities.ts";
import { Moment } from "../waiting/moment.ts";
import type { GenerationNotice } from "./generation-notice.ts";
import {
  describeKeyring,
  heartbeatBounds,
  heartbeatDefaults,
  heartbeatKey,
  isReplicaName,
  writeHeartbeat,
} from "./heartbeat.ts";
import type { KeyringCheck } from "./keyring-check.ts";
import type { ReservedRecords } from "./reserved-records.ts";

/**
 * The options of a replica: a process that uses a store and regularly writes a heartbeat to it. Not a Redis replica.
 */
export interface ReplicaOptions {
  /**
   * The name of the replica, which reports and error messages show: at most 255 printable characters. Default: the host
   * name and the process id.
   */
  readonly name?: string;
  /** Interval between two heartbeats, in milliseconds: an integer between 10 and 20,000. Default: 2,000. */
  readonly heartbeatMs?: number;
  /**
   * Length of the lease: how long a process may write records after its last successful heartbeat, in milliseconds.
   * After that the heartbeat has lapsed, and the process writes no record until it has written a new heartbeat and
   * reloaded the keyring. An integer of at least three times `heartbeatMs` and at most 60,000. Default: 10,000.
   */
  readonly lapseMs?: number;
  /**
   * Maximum time, in milliseconds, from the start of a write until the last attempt to send it to the store. After the
   * lease of a replica has lapsed, a rotation waits for the replica this much longer. An integer between 0 and
   * 3,600,000 (an hour). Ignored if the store specifies `longestCallMs` itself ({@link BoundedStore}). Default: 30,000.
   */
  readonly longestCallMs?: number;
}

const replicaOptionNames = {
  name: true,
  heartbeatMs: true,
  lapseMs: true,
  longestCallMs: true,
} as const satisfies OptionNames<ReplicaOptions>;

/** The parts of a store that {@link ReplicaRegistration} uses. */
export interface ReplicaRegistrationParts {
  readonly records: ReservedRecords;
  /** Verifies that the whole keyring belongs to the store. */
  readonly check: KeyringCheck;
  /** Reads the lowest generation number with which a process may write, from the check record of the whole keyring. */
  readonly generationNotice: GenerationNotice;
  readonly source: KeyringSource;
  /** The property `longestCallMs` of the store, unchecked; `undefined` if the store has no such property. */
  readonly longestCallMs: unknown;
}

/**
 * Reports that the heartbeat has lapsed, failed or recovered, to each store that called {@link
 * ReplicaRegistration.join}.
 */
export type ReplicaRegistrationReport =
  | { readonly kind: "lapsed" }
  | { readonly kind: "failed"; readonly error: KeywardError }
  /** A heartbeat was written after the previous heartbeat had failed. */
  | { readonly kind: "recovered" };

/**
 * The callback of a store that called {@link ReplicaRegistration.join}. Called with each report, and must not throw.
 */
type Member = (report: ReplicaRegistrationReport) => void;

// The expiry of a heartbeat's record. Longer than any difference between two clocks, even with a wrong time zone.
// Whether a replica has lapsed depends on its beat, and not on this expiry.
const recordLifeMs = 24 * 60 * 60 * 1_000;
// The pause after a failed registration. Writes wait for the next attempt.
const retryMs = 250;
// The interval of heartbeats while writes under an older keyring are in progress. A rotation may be waiting for the
// heartbeat that reports their end.
const drainingMs = 100;

/**
 * Holds the registration that all stores of this process with the same keys and the same backend share. Empty until the
 * first of these stores registers.
 */
export interface ReplicaRegistrationSlot {
  registration?: ReplicaRegistration;
}

const slots = new WeakMap<object, WeakMap<KeyringSource, ReplicaRegistrationSlot>>();

/**
 * Registers this process as a replica: writes the heartbeat, and lets the process write records only while the
 * heartbeat has not lapsed.
 *
 * A rotation waits only for the processes whose heartbeat it sees. So a process whose heartbeat is missing or has
 * lapsed must not write records with an older keyring. This process first writes a heartbeat, then reloads the keyring,
 * and only then writes records. It does so when it starts, and after its heartbeat has lapsed, for example because the
 * process was suspended.
 */
export class ReplicaRegistration {
  readonly #parts: ReplicaRegistrationParts;
  readonly #name: string;
  readonly #heartbeatMs: number;
  readonly #lapseMs: number;
  readonly #longestCallMs: number;
  readonly #members = new Set<Member>();
  /** The time at which the process began to write its last successful heartbeat. The lease begins at this time. */
  #leasedSince: Moment | undefined;
  // Each time the process registers again, it gets a new id, because it may still be deleting the heartbeat of the
  // former id.
  #id = newId();
  #beat = 0;
  #lastGeneration = 0;
  #beating: Promise<void> | undefined;
  #registering: Promise<void> | undefined;
  #failedAtMs = Number.NEGATIVE_INFINITY;
  /** True if the process has registered since its first store joined. */
  #hasRegistered = false;
  #lapsed = false;
  #timer: NodeJS.Timeout | undefined;
  #ticking = false;
  /** True if the last heartbeat failed. */
  #failing = false;
  #isDueAgain = false;
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
   * Returns the registration of this process for the keys and the backend in `parts`. All stores of the process with
   * the same keys and the same backend share one registration, which has the options of the first of these stores.
   *
   * @throws KeywardError `VALUE_INVALID` for a value that an option cannot have.
   */
  static of(parts: ReplicaRegistrationParts, options: ReplicaOptions): ReplicaRegistration {
    const complete = withDefaults(options, parts.longestCallMs);
    const slot = ReplicaRegistration.slotOf(parts.records.space, parts.source);
    slot.registration ??= new ReplicaRegistration(parts, complete);
    return slot.registration;
  }

  /**
   * Returns the slot that holds the registration of this process for the keys of `source` and the backend with the
   * reserved space `space`. The slot is empty until a store with the option `replica` registers.
   */
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

  /**
   * Returns the replica id of this process for the keys of `source` and the backend with the reserved space `space`.
   * Returns `undefined` if the process is not registered there.
   */
  static idIn(space: object, source: KeyringSource): string | undefined {
    const registration = slots.get(space)?.get(source)?.registration;
    return registration === undefined ? undefined : registration.#id;
  }

  /**
   * Adds a store to the registration, and starts the heartbeat if this is the first store.
   *
   * @returns a function that removes the store. If this was the last store, the function deletes the heartbeat before
   * it resolves, so that no rotation waits for this process any longer.
   */
  join(member: Member): () => Promise<void> {
    const begins = this.#unlisten === undefined;
    // Listen first: if the provider throws, nothing has to be undone.
    this.#unlisten ??= this.#parts.source.listen({ tell: () => this.#beatSoon() });
    this.#members.add(member);
    if (begins) this.#tick();
    return async () => {
      if (!this.#members.delete(member) || this.#members.size > 0) return;
      await this.#leave().catch((error: unknown) => member({ kind: "failed", error: heartbeatError(error) }));
    };
  }

  /**
   * Returns `undefined` if the lease of this process has not lapsed, so that it may write records. Otherwise renews the
   * heartbeat, and returns a promise that resolves after the renewal.
   *
   * @throws KeywardError the error of the store if the heartbeat cannot be written, or the error of the key provider if
   * the keyring cannot be reloaded.
   * @throws KeywardError `KEYRING_ROLLBACK` if the reloaded keyring has a lower generation number than the store
   * requires.
   */
  requireLease(): Promise<void> | undefined {
    return this.#hasLease() ? undefined : this.#registerOnce();
  }

  /**
   * If any store of the process is registered, does the same as {@link ReplicaRegistration.requireLease}. Otherwise
   * returns `undefined`. Stores without the option `replica` call this method.
   */
  requireLeaseIfRegistered(): Promise<void> | undefined {
    return this.#members.size === 0 ? undefined : this.requireLease();
  }

  #registerOnce(): Promise<void> {
    if (this.#members.size === 0) return Promise.reject(disconnected());
    this.#registering ??= this.#register().finally(() => {
      this.#registering = undefined;
    });
    return this.#registering;
  }

  async #register(): Promise<void> {
    const { source } = this.#parts;
    const id = this.#id;
    const waitMs = this.#failedAtMs + retryMs - performance.now();
    if (waitMs > 0) await delay(waitMs);
    try {
      if (this.#hasRegistered) {
        if (!this.#lapsed) this.#report({ kind: "lapsed" });
        this.#lapsed = true;
        // The key that the heartbeat would be encrypted under may have been removed since.
        await source.refresh();
      }
      const since = new Moment();
      await this.#write(id);
      await this.#requireLatest(await source.refresh());
      if (id === this.#id) {
        this.#hasRegistered = true;
        this.#lapsed = false;
        this.#leasedSince = since;
      }
    } catch (error) {
      this.#failedAtMs = performance.now();
      throw notRegistered(error, { isRenewal: this.#hasRegistered, canRead: source.canRead });
    }
    // A rotation may be waiting for the heartbeat that reports the reloaded keyring.
    this.#beatSoon();
  }

  /**
   * Verifies that a loaded keyring has at least the generation that the store requires. An outdated source may return a
   * keyring that other replicas no longer use.
   */
  async #requireLatest(loaded: Keyring): Promise<void> {
    if (loaded.primary === "") return;
    const required = await this.#parts.generationNotice.requiredGeneration(loaded);
    // The required keyring may have been saved after this keyring was loaded. A new load returns it, unless the source
    // is outdated.
    const ring = loaded.generation >= required ? loaded : await this.#parts.source.refresh();
    if (ring.generation >= required) return;
    throw new KeywardError(
      "KEYRING_ROLLBACK",
      `The key provider returned generation ${ring.generation} of the keyring, but the store requires generation ${required}`,
      {
        hint: "The key provider loads an outdated keyring, for example from a mount that lags behind or from a restored backup. Copy the keyring of the other processes into the file or service from which the key provider loads the keyring.",
      },
    );
  }

  #tick(): void {
    this.#ticking = true;
    this.#isDueAgain = false;
    (this.#hasLease() ? this.#beatOnce() : this.#registerOnce())
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
        this.#tickIn(this.#isDueAgain ? 0 : this.#isDraining() ? drainingMs : this.#heartbeatMs);
      });
  }

  #tickIn(waitMs: number): void {
    clearTimeout(this.#timer);
    if (this.#unlisten === undefined) return;
    this.#timer = setTimeout(() => this.#tick(), waitMs);
    this.#timer.unref();
  }

  #beatSoon(): void {
    this.#isDueAgain = true;
    if (!this.#ticking) this.#tickIn(0);
  }

  #beatOnce(): Promise<void> {
    this.#beating ??= this.#beatAndReload().finally(() => {
      this.#beating = undefined;
    });
    return this.#beating;
  }

  async #beatAndReload(): Promise<void> {
    const { generationNotice, source } = this.#parts;
    const since = new Moment();
    const ring = await this.#write(this.#id);
    // A heartbeat that was written after the lease had lapsed does not renew the lease.
    if (this.#hasLease()) this.#leasedSince = since;
    if (ring.primary === "" || (await generationNotice.requiredGeneration(ring)) <= ring.generation) return;
    // A rotation waits until this process has a later keyring, so reload now, even if the provider has not reported a
    // change. Do not await the load: if the provider does not answer, the heartbeat must not lapse. The source reports
    // failed loads itself.
    source.refresh().catch(() => undefined);
  }

  /**
   * Writes a heartbeat under the keyring in use, and returns that keyring.
   *
   * @param id the id of the replica when this heartbeat began. If the process leaves during the write, it waits for the
   * write, and deletes the record with this id.
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
      ...describeKeyring(ring),
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

  #hasLease(): boolean {
    return this.#leasedSince !== undefined && this.#leasedSince.agoMs() < this.#lapseMs;
  }

  async #leave(): Promise<void> {
    const { records, source } = this.#parts;
    const id = this.#id;
    this.#id = newId();
    const unlisten = this.#unlisten;
    this.#unlisten = undefined;
    clearTimeout(this.#timer);
    this.#leasedSince = undefined;
    this.#hasRegistered = false;
    try {
      unlisten?.();
    } finally {
      // A rotation must wait for this process until every write that the process began has ended.
      await Promise.allSettled([this.#beating, this.#registering, source.drained()]);
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

function withDefaults(options: ReplicaOptions, ofStore: unknown): Required<ReplicaOptions> {
  requireOptions("replica", options, replicaOptionNames);
  const { name = `${hostname()}:${process.pid}`, heartbeatMs = heartbeatDefaults.heartbeatMs } = options;
  const { lapseMs = heartbeatDefaults.lapseMs, longestCallMs = heartbeatDefaults.longestCallMs } = options;
  if (!isReplicaName(name)) {
    throw new KeywardError(
      "VALUE_INVALID",
      "The option `replica.name` must be a string of at most 255 printable characters",
      {
        hint: "Pass a string without control characters that has at most 255 characters. If you omit `replica.name`, the name is the host name and the process id.",
      },
    );
  }
  requireAmount("replica.heartbeatMs", heartbeatMs, "milliseconds", heartbeatBounds.heartbeatMs);
  const { most } = heartbeatBounds.lapseMs;
  requireAmount("replica.lapseMs", lapseMs, "milliseconds", { least: 3 * heartbeatMs, most });
  requireAmount("replica.longestCallMs", longestCallMs, "milliseconds", heartbeatBounds.longestCallMs);
  if (ofStore === undefined) return { name, heartbeatMs, lapseMs, longestCallMs };
  requireAmount("longestCallMs of the store", ofStore, "milliseconds", heartbeatBounds.longestCallMs);
  return { name, heartbeatMs, lapseMs, longestCallMs: Number(ofStore) };
}

function notRegistered(
  cause: unknown,
  { isRenewal, canRead }: { readonly isRenewal: boolean; readonly canRead: boolean },
): KeywardError {
  const error = heartbeatError(cause);
  // If the keyring is missing, or does not belong to the store, the heartbeat is not the cause of the error.
  if (error.code === "OVERWRITE_REFUSED" || !canRead) return error;
  const problem = isRenewal
    ? "the heartbeat of this process has lapsed, and renewing it"
    : "this process is not registered as a replica, and registering it";
  return new KeywardError(error.code, `Nothing was written: ${problem} failed. ${error.message}`, {
    keyId: error.keyId,
    cause: error,
    hint: `${error.hint} Writes then resume without a restart of this process. Reads still work.`,
  });
}

function disconnected(): KeywardError {
  return new KeywardError("STORE_UNAVAILABLE", "Nothing was written: the store was disconnected during the call", {
    hint: "If the record is still needed, repeat the write. To prevent this error, await every write before you call `disconnect()`.",
  });
}

function heartbeatError(error: unknown): KeywardError {
  return asKeywardError(
    error,
    "STORE_UNAVAILABLE",
    "The heartbeat of this process failed",
    "Check that the store can be reached.",
  );
}
