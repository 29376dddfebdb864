import { setTimeout as delay } from "node:timers/promises";
import { asKeywardError, KeywardError } from "../errors/errors.ts";
import { requireOptions } from "../errors/options.ts";
import { abortable } from "../waiting/abortable.ts";
import { Moment } from "../waiting/moment.ts";
import { pause } from "../waiting/pause.ts";
import { RetryPause } from "../waiting/retry-pause.ts";
import { freshnessNames, type KeyProvider, requireFreshness } from "./key-provider.ts";
import { Keyring, keyOf, sameRing, sharesKey } from "./keyring.ts";

// Unknown key ids cost the provider at most one load in this time, however many are forged.
const askIntervalMs = 1_000;
// While loads fail there is one in each of these pauses, however many calls need it. With the random part, none is longer than
// 6 s: that is how long the first calls, and the writes of a process that lapsed, may fail after the source is back.
const pauses = { firstMs: 500, longestMs: 5_000 };
// So that processes which were started together do not ask together for ever.
const jitter = 0.1;
const missAgeMs = 5_000;
const maxMisses = 1_000;

/** What a {@link KeyringSource} reports in the background. */
export type KeyringSourceReport =
  | { readonly kind: "changed"; readonly ring: Keyring }
  | { readonly kind: "failed"; readonly error: KeywardError }
  /** A load succeeded after one that had failed. */
  | { readonly kind: "recovered" };

/** What uses the ring of a source. */
export interface KeyUser {
  /** Is told what happened in the background. Must not throw. */
  readonly tell: (report: KeyringSourceReport) => void;
  /** What a store says of a ring that is to replace the one in use; `undefined` where it can say nothing. */
  readonly recognizes?: (next: Keyring, previous: Keyring) => Promise<Recognition | undefined>;
}

/** Which of two rings a store was written with. It may be both, and neither where nothing was written. */
export interface Recognition {
  readonly next: boolean;
  readonly previous: boolean;
  /** Whether this process had a ring that it may write with. */
  readonly hadRightRing: boolean;
}

const shared = new WeakMap<KeyProvider, KeyringSource>();

/**
 * The ring in use, from a provider that all stores share: one load at a time, the last good ring kept through an
 * outage for as long as it may, one refresh when a record names a key that the ring does not have.
 */
export class KeyringSource {
  readonly #provider: KeyProvider | undefined;
  readonly #refreshMs: number | undefined;
  readonly #maxAgeMs: number | undefined;
  readonly #timeoutMs: number;
  readonly #users = new Set<KeyUser>();
  readonly #misses = new Map<string, number>();
  /** What is being sealed, with the generation of the ring in use when it began. */
  readonly #sealing = new Map<Promise<unknown>, number>();
  #ring: Keyring | undefined;
  /** Since when the load was under way that gave the ring in use, or gave it again. */
  #confirmed = new Moment();
  /** Why the last load failed, if it did: the answer to every call during the pause. */
  #failure: KeywardError | undefined;
  readonly #pause = new RetryPause(pauses);
  #loading: Promise<Keyring> | undefined;
  #renewing: Promise<Keyring> | undefined;
  #refreshTimer: NodeJS.Timeout | undefined;
  #nextRefresh: Promise<KeywardError | undefined> | undefined;
  #unknownIdLoadAtMs = Number.NEGATIVE_INFINITY;
  #changedWhileLoading = false;
  #unsubscribe: (() => void) | undefined;

  private constructor(keys: Keyring | KeyProvider) {
    const freshness = keys instanceof Keyring ? {} : (keys.freshness ?? {});
    requireOptions("The freshness of a key provider", freshness, freshnessNames);
    const { refreshMs, maxAgeMs, timeoutMs } = requireFreshness(freshness);
    this.#refreshMs = refreshMs;
    this.#maxAgeMs = maxAgeMs;
    this.#timeoutMs = timeoutMs;
    if (keys instanceof Keyring) this.#ring = keys;
    else this.#provider = keys;
  }

  /**
   * The source over these keys; stores with the same provider get the same one.
   *
   * @throws KeywardError `KEYRING_INVALID` for what is neither a ring nor a provider, `VALUE_INVALID` for a freshness that
   * cannot be.
   */
  static of(keys: Keyring | KeyProvider): KeyringSource {
    if (keys instanceof Keyring) return new KeyringSource(keys);
    if (typeof keys?.load !== "function") {
      throw new KeywardError(
        "KEYRING_INVALID",
        `The keys are neither a Keyring nor a key provider, but ${kindOf(keys)}`,
        {
          hint: "Give envKeys(…), another provider, or a Keyring of this very copy of @keyward/core.",
        },
      );
    }
    let source = shared.get(keys);
    if (source === undefined) {
      source = new KeyringSource(keys);
      shared.set(keys, source);
    }
    return source;
  }

  /** Listens until the returned function is called; the provider is watched, or asked again, while anybody listens. */
  listen(user: KeyUser): () => void {
    // First, since a provider may throw: then nothing is left behind.
    this.#unsubscribe ??= this.#provider?.subscribe?.(() => this.#reload());
    this.#users.add(user);
    if (this.#refreshTimer === undefined) this.#refreshLater();
    return () => {
      this.#users.delete(user);
      if (this.#users.size > 0) return;
      const unsubscribe = this.#unsubscribe;
      this.#unsubscribe = undefined;
      clearTimeout(this.#refreshTimer);
      this.#refreshTimer = undefined;
      unsubscribe?.();
    };
  }

  /**
   * The ring in use; a promise only while there is none yet, or none that is fresh enough.
   *
   * @throws KeywardError what the provider throws, as long as there never was a ring; `PROVIDER_UNAVAILABLE` when the ring
   * is older than it may be and the provider has no other.
   */
  current(): Keyring | Promise<Keyring> {
    if (this.#ring === undefined) return this.#load();
    return this.#isTooOld() ? this.#renew() : this.#ring;
  }

  /**
   * The ring as its source has it now.
   *
   * @throws KeywardError what the provider throws, or threw last while it is not asked again; the last good ring stays in
   * use.
   */
  async refresh(): Promise<Keyring> {
    // A load that is under way may have begun before the change that the caller knows of.
    await this.#loading?.catch(() => undefined);
    return await this.#load();
  }

  /**
   * As {@link KeyringSource.refresh}, for an operator: the source is always asked, if need be at the end of the pause. The error
   * of a load from before would be no answer to somebody who has just mended the source.
   */
  async ask(signal?: AbortSignal): Promise<Keyring> {
    for (let leftMs = this.#pauseLeftMs(); leftMs > 0; leftMs = this.#pauseLeftMs()) await pause(leftMs, signal);
    return await this.refresh();
  }

  /** The ring, after it was asked for again if it lacks this key; and why it could not be, if it could not. */
  async lookUp(id: string): Promise<{ readonly ring: Keyring; readonly failure?: KeywardError }> {
    let ring = await this.current();
    if (this.#provider === undefined || keyOf(ring, id) !== undefined) return { ring };
    if (this.#loading !== undefined) {
      ring = await this.#loading.catch(() => ring);
      if (keyOf(ring, id) !== undefined) return { ring };
    }
    if (this.#isMissed(id)) return { ring };
    const pausing = this.#failureDuringPause();
    if (pausing !== undefined) return { ring, failure: pausing };
    // A load that is under way may have begun before the key was there: what counts is one that begins from now on.
    this.#nextRefresh ??= this.#refreshForUnknownId();
    const failure = await this.#nextRefresh;
    ring = await this.current();
    if (failure !== undefined) return { ring, failure };
    if (keyOf(ring, id) === undefined) this.#remember(id);
    return { ring };
  }

  /** Counts work as sealing under the ring in use until it is done. */
  async whileSealing<Result>(work: Promise<Result>): Promise<Result> {
    this.#sealing.set(work, this.#ring?.generation ?? 0);
    try {
      return await work;
    } finally {
      this.#sealing.delete(work);
    }
  }

  /** Resolves when all sealing that has begun is done, in every store over these keys: what it wrote lies in the stores. */
  async drained(): Promise<void> {
    await Promise.allSettled(this.#sealing.keys());
  }

  /** Whether there is a ring that may be used: then records can be read, whatever the provider does. */
  get canRead(): boolean {
    return this.#ring !== undefined && !this.#isTooOld();
  }

  /** The earliest generation under which something is still being sealed; `undefined` when nothing is. */
  get sealingSince(): number | undefined {
    // Generations only grow: the first that was put in is the lowest.
    for (const generation of this.#sealing.values()) return generation;
    return undefined;
  }

  async #refreshForUnknownId(): Promise<KeywardError | undefined> {
    const waitMs = this.#unknownIdLoadAtMs + askIntervalMs - performance.now();
    // Also when there is nothing to wait for: the caller has to keep this promise before it is let go of below.
    await (waitMs > 0 ? delay(waitMs) : undefined);
    this.#unknownIdLoadAtMs = performance.now();
    this.#nextRefresh = undefined;
    try {
      await this.#load();
      return undefined;
    } catch (error) {
      return providerError(error);
    }
  }

  /** The ring that takes the place of one that is too old; one load for all who ask. */
  #renew(): Promise<Keyring> {
    this.#renewing ??= this.#loadFresh().finally(() => {
      this.#renewing = undefined;
    });
    return this.#renewing;
  }

  async #loadFresh(): Promise<Keyring> {
    try {
      let ring = await this.#load();
      // A load during which the machine slept has an answer from before.
      while (this.#isTooOld()) ring = await this.#load();
      return ring;
    } catch (error) {
      throw this.#tooOld(providerError(error));
    }
  }

  #isTooOld(): boolean {
    // Without a limit, no clock is read.
    return this.#maxAgeMs !== undefined && this.#confirmed.agoMs() > this.#maxAgeMs;
  }

  #tooOld(cause: KeywardError): KeywardError {
    const ageMs = Math.round(this.#confirmed.agoMs());
    return new KeywardError(
      "PROVIDER_UNAVAILABLE",
      `The keyring in use was last confirmed ${ageMs} ms ago, and may be ${this.#maxAgeMs} ms old (maxAgeMs). ${cause.message}`,
      { hint: `${cause.hint} Calls go on within 6 seconds after the key provider answers again.`, cause },
    );
  }

  /** Asks again after a while, counted from the last answer, if anybody listens. What was never needed is not asked for. */
  #refreshLater(): void {
    clearTimeout(this.#refreshTimer);
    this.#refreshTimer = undefined;
    if (this.#refreshMs === undefined || this.#ring === undefined || this.#users.size === 0) return;
    const waitMs = this.#refreshMs * (1 - jitter + 2 * jitter * Math.random());
    const refresh = () => this.#loadNow().catch(() => undefined);
    this.#refreshTimer = setTimeout(refresh, Math.max(waitMs, this.#pause.leftMs()));
    this.#refreshTimer.unref();
  }

  /** Also during a pause: the source has changed, and may be mended. */
  #reload(): void {
    if (this.#loading !== undefined) this.#changedWhileLoading = true;
    else this.#loadNow().catch(() => undefined);
  }

  #pauseLeftMs(): number {
    return this.#failure === undefined ? 0 : this.#pause.leftMs();
  }

  #failureDuringPause(): KeywardError | undefined {
    return this.#loading === undefined && this.#pauseLeftMs() > 0 ? this.#failure : undefined;
  }

  #load(): Promise<Keyring> {
    const failure = this.#failureDuringPause();
    return failure === undefined ? this.#loadNow() : Promise.reject(failure);
  }

  #loadNow(): Promise<Keyring> {
    const provider = this.#provider;
    if (provider === undefined) return Promise.resolve(this.current());
    this.#loading ??= this.#loadOnce(provider).finally(() => {
      this.#loading = undefined;
      this.#refreshLater();
      if (!this.#changedWhileLoading) return;
      this.#changedWhileLoading = false;
      this.#reload();
    });
    return this.#loading;
  }

  async #loadOnce(provider: KeyProvider): Promise<Keyring> {
    const begun = new Moment();
    try {
      const previous = this.#ring;
      const next = await loadInTime(provider, this.#timeoutMs, previous);
      const isSame = previous !== undefined && sameRing(previous, next);
      if (previous !== undefined && !isSame) await this.#requireSuccessor(previous, next);
      this.#confirmed = begun;
      if (this.#failure !== undefined) this.#report({ kind: "recovered" });
      this.#failure = undefined;
      this.#pause.succeeded();
      // The same ring read again: the object in use has its subkeys cached.
      if (isSame) return previous;
      this.#ring = next;
      this.#misses.clear();
      if (previous !== undefined) this.#report({ kind: "changed", ring: next });
      return next;
    } catch (error) {
      const failure = providerError(error);
      this.#failure = failure;
      this.#pause.failed();
      if (this.#ring !== undefined) this.#report({ kind: "failed", error: failure });
      throw failure;
    }
  }

  /**
   * @throws KeywardError `KEYRING_ROLLBACK` for a ring that must not replace the one in use.
   */
  async #requireSuccessor(previous: Keyring, next: Keyring): Promise<void> {
    if (previous.primary === "") return;
    const problem = whyNoSuccessor(previous, next);
    if (problem !== undefined && !mayBeRight(previous, next)) throw notTaken(problem);
    const signal = AbortSignal.timeout(this.#timeoutMs);
    const recognized = await Promise.all(
      // A store that does not answer shows nothing, and must not keep a change from arriving.
      [...this.#users].map(({ recognizes }) =>
        recognizes === undefined
          ? undefined
          : abortable(() => recognizes(next, previous), signal).catch(() => undefined),
      ),
    );
    // The ring in use was the wrong one from the beginning, and nothing was written with it: what it says of itself counts
    // for nothing.
    if (recognized.some((one) => one?.next) && recognized.every((one) => one !== undefined && isStranger(one))) return;
    if (problem !== undefined) throw notTaken(problem);
    if (recognized.some((one) => one?.previous && !one.next)) {
      throw notTaken("cannot open the check record of a store, which the ring in use opens");
    }
    // Rings that have nothing to do with each other may have the same name, and any generation. A process that missed a
    // whole rotation shares no key with the ring that came of it, but the check record has followed.
    if (!sharesKey(previous, next) && !recognized.some((one) => one?.next)) {
      throw notTaken("is another ring: it shares no key with the one in use");
    }
  }

  #report(report: KeyringSourceReport): void {
    for (const user of this.#users) user.tell(report);
  }

  #isMissed(id: string): boolean {
    const missedAtMs = this.#misses.get(id);
    return missedAtMs !== undefined && performance.now() - missedAtMs < missAgeMs;
  }

  #remember(id: string): void {
    this.#misses.delete(id);
    this.#misses.set(id, performance.now());
    if (this.#misses.size <= maxMisses) return;
    for (const oldest of this.#misses.keys()) {
      this.#misses.delete(oldest);
      break;
    }
  }
}

function kindOf(value: unknown): string {
  return typeof value === "object" && value !== null ? (value.constructor?.name ?? "an object") : typeof value;
}

async function loadInTime(provider: KeyProvider, timeoutMs: number, inUse: Keyring | undefined): Promise<Keyring> {
  const signal = AbortSignal.timeout(timeoutMs);
  const options = inUse === undefined ? { signal } : { signal, inUse };
  const ring = await abortable(async () => await provider.load(options), signal).catch((error: unknown) => {
    if (!signal.aborted || error !== signal.reason) throw error;
    throw new KeywardError("PROVIDER_UNAVAILABLE", `The key provider gave no keyring within ${timeoutMs} ms`, {
      hint: "Check that the source of the keys can be reached from here.",
    });
  });
  if (ring instanceof Keyring) return ring;
  throw new KeywardError("KEYRING_INVALID", "The key provider gave something other than a Keyring", {
    hint: "Its load() must resolve to a Keyring of this very copy of @keyward/core.",
  });
}

function whyNoSuccessor(previous: Keyring, next: Keyring): string | undefined {
  if (next.primary === "") return "has no keys, and would write in the clear";
  if (next.name !== previous.name || next.scopeName !== previous.scopeName) {
    return `is another ring, ${JSON.stringify(next.name)} instead of ${JSON.stringify(previous.name)}`;
  }
  if (next.generation >= previous.generation) return undefined;
  return `is of generation ${next.generation}, older than ${previous.generation}`;
}

/** Whether a ring that is no successor may be the one that should have been there from the beginning. */
function mayBeRight(previous: Keyring, next: Keyring): boolean {
  return next.primary !== "" && next.scopeName === previous.scopeName;
}

/** Whether the ring in use has nothing to do with a store, as far as that says. */
function isStranger({ previous, hadRightRing }: Recognition): boolean {
  return !previous && !hadRightRing;
}

function notTaken(problem: string): KeywardError {
  return new KeywardError("KEYRING_ROLLBACK", `The keyring now at the provider ${problem}`, {
    hint: "Restore the keyring at its source. The one in use stays in use: do not restart this process before that, unless the change is meant.",
  });
}

function providerError(error: unknown): KeywardError {
  return asKeywardError(error, "PROVIDER_UNAVAILABLE", "The key provider failed", "See the cause.");
}
