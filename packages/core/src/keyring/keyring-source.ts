import { setTimeout as delay } from "node:timers/promises";
import { asKeywardError, KeywardError } from "../errors/errors.ts";
import { requireOptions } from "../errors/options.ts";
import { abortable } from "../waiting/abortable.ts";
import { Moment } from "../waiting/moment.ts";
import { pause } from "../waiting/pause.ts";
import { RetryPause } from "../waiting/retry-pause.ts";
import { freshnessNames, type KeyProvider, requireFreshness } from "./key-provider.ts";
import { Keyring, keyOf, sameKeyring } from "./keyring.ts";
import { type Recognition, requireSuccessor } from "./keyring-successor.ts";
import { UnknownKeyIds } from "./unknown-key-ids.ts";

// In this time, records with unknown key ids cause at most one load, even if an attacker forges many such records.
const unknownIdIntervalMs = 1_000;
// While loads fail, the source loads once after each pause, even if many calls need a keyring. With its random part, a
// pause is at most 6 s long. So calls, and writes of a replica whose lease lapsed, succeed at most 6 s after the
// provider answers again.
const retryPauses = { firstMs: 500, longestMs: 5_000 };
// The random part of refreshMs. Without it, processes that started at the same time would always load at the same time.
const refreshJitter = 0.1;

/**
 * Reports the result of a load to the users of a {@link KeyringSource}: the keyring in use changed, the load failed, or
 * the load succeeded after a failed load.
 */
export type KeyringSourceReport =
  | { readonly kind: "changed"; readonly ring: Keyring }
  | { readonly kind: "failed"; readonly error: KeywardError }
  /** A load succeeded after the load before it had failed. */
  | { readonly kind: "recovered" };

/** A user of the keyring of a {@link KeyringSource}, such as a store. The source calls the functions of its users. */
export interface KeyUser {
  /** The source calls this function with each report about a load. The function must not throw. */
  readonly tell: (report: KeyringSourceReport) => void;
  /**
   * Returns which of two keyrings can decrypt the store's check record, and so belongs to the store. Returns
   * `undefined` if the store cannot keep a check record, or if neither keyring can decrypt the check record.
   */
  readonly recognizes?: (next: Keyring, previous: Keyring) => Promise<Recognition | undefined>;
}

const sourceOfProvider = new WeakMap<KeyProvider, KeyringSource>();

/**
 * Loads the keyring from a key provider, and keeps the keyring in use. All stores with the same provider share one
 * source.
 *
 * - Only one load runs at a time. Every caller that needs a load waits for the load in progress.
 * - The last good keyring stays in use while loads fail, but not longer than `maxAgeMs`.
 * - When a store reads a record under a key that the keyring lacks, the source loads the keyring once.
 */
export class KeyringSource {
  /** The key provider; `undefined` if the application passed a Keyring, which never changes. */
  readonly #provider: KeyProvider | undefined;
  readonly #refreshMs: number | undefined;
  readonly #maxAgeMs: number | undefined;
  readonly #timeoutMs: number;

  #ring: Keyring | undefined;
  /** The time at which the latest load that returned the keyring in use began. */
  #confirmedAt = new Moment();
  #loading: Promise<Keyring> | undefined;
  #replacing: Promise<Keyring> | undefined;
  /**
   * True if the provider reported a change during the load in progress. The load may have read the source before the
   * change, so another load follows.
   */
  #changedWhileLoading = false;
  /**
   * The error of the last load, if that load failed. During the pause after the failure, every call that needs a load
   * rejects with this error.
   */
  #lastFailure: KeywardError | undefined;
  readonly #retryPause = new RetryPause(retryPauses);

  readonly #unknownIds = new UnknownKeyIds();
  /**
   * Waits for the next load because of unknown key ids, which has not begun yet. Resolves to the error of the load if
   * the load fails, otherwise to `undefined`.
   */
  #loadForUnknownIds: Promise<KeywardError | undefined> | undefined;
  #lastLoadForUnknownIdsMs = Number.NEGATIVE_INFINITY;

  readonly #users = new Set<KeyUser>();
  #unsubscribe: (() => void) | undefined;
  #refreshTimer: NodeJS.Timeout | undefined;

  /** Every write in progress, with the keyring that was in use when the write began. */
  readonly #writes = new Map<Promise<unknown>, Keyring | undefined>();

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
   * Returns the source for a key provider. For the same provider, always returns the same source. For a Keyring,
   * returns a source whose keyring never changes.
   *
   * @throws KeywardError `KEYRING_INVALID` if `keys` is neither a Keyring nor a key provider; `VALUE_INVALID` if the
   * property `freshness` of the provider is not valid.
   */
  static of(keys: Keyring | KeyProvider): KeyringSource {
    if (keys instanceof Keyring) return new KeyringSource(keys);
    if (typeof keys?.load !== "function") {
      throw new KeywardError("KEYRING_INVALID", `The keys are not a Keyring or a key provider, but ${kindOf(keys)}`, {
        hint: "Pass a key provider such as envKeys(…), or a Keyring. If the value is a Keyring, two copies of @keyward/core are installed: `npm ls @keyward/core` lists them. Make the keyring and the store with the same copy.",
      });
    }
    let source = sourceOfProvider.get(keys);
    if (source === undefined) {
      source = new KeyringSource(keys);
      sourceOfProvider.set(keys, source);
    }
    return source;
  }

  /**
   * Returns the keyring in use. If no keyring was loaded yet, or the keyring in use is older than `maxAgeMs`, loads a
   * keyring and returns a promise.
   *
   * @throws KeywardError
   * - the provider's error, if the load of the first keyring fails;
   * - `PROVIDER_UNAVAILABLE`, if the keyring in use is too old and the load fails.
   */
  current(): Keyring | Promise<Keyring> {
    if (this.#ring === undefined) return this.#load();
    return this.#isTooOld() ? this.#replaceTooOld() : this.#ring;
  }

  /**
   * Waits for a load in progress to end, and then loads the keyring from the provider. During the pause after a failed
   * load, does not ask the provider, and rejects with the error of that failed load.
   *
   * @throws KeywardError the error of the load. The last good keyring stays in use.
   */
  async refresh(): Promise<Keyring> {
    // A load in progress may have begun before the change that the caller knows of.
    await this.#loading?.catch(() => undefined);
    return await this.#load();
  }

  /**
   * Loads the keyring. During the pause after a failed load, first waits for the end of the pause, whereas
   * {@link KeyringSource.refresh} rejects at once. For the functions that an operator calls: the operator may have just
   * repaired the provider.
   *
   * @param signal ends the wait when it is aborted.
   */
  async ask(signal?: AbortSignal): Promise<Keyring> {
    for (let leftMs = this.#pauseLeftMs(); leftMs > 0; leftMs = this.#pauseLeftMs()) await pause(leftMs, signal);
    return await this.refresh();
  }

  /**
   * Returns the keyring in use, for a record under the key `id`. If the keyring in use lacks this key, first loads the
   * keyring once. If the load fails, returns the last good keyring as `ring` and the error of the load as `failure`.
   */
  async lookUp(id: string): Promise<{ readonly ring: Keyring; readonly failure?: KeywardError }> {
    let ring = await this.current();
    if (this.#provider === undefined || keyOf(ring, id) !== undefined) return { ring };
    if (this.#loading !== undefined) {
      ring = await this.#loading.catch(() => ring);
      if (keyOf(ring, id) !== undefined) return { ring };
    }
    if (this.#unknownIds.has(id)) return { ring };
    const recentFailure = this.#failureDuringPause();
    if (recentFailure !== undefined) return { ring, failure: recentFailure };
    // A load in progress may have begun before the key was added, so wait for a load that begins after this call.
    this.#loadForUnknownIds ??= this.#loadAfterInterval();
    const failure = await this.#loadForUnknownIds;
    ring = await this.current();
    if (failure !== undefined) return { ring, failure };
    if (keyOf(ring, id) === undefined) this.#unknownIds.add(id);
    return { ring };
  }

  /**
   * True if a keyring was loaded and is not older than `maxAgeMs`. While this is true, stores can read records even if
   * loads fail.
   */
  get canRead(): boolean {
    return this.#ring !== undefined && !this.#isTooOld();
  }

  #isTooOld(): boolean {
    // Without a limit, do not read the clock.
    return this.#maxAgeMs !== undefined && this.#confirmedAt.agoMs() > this.#maxAgeMs;
  }

  /**
   * Loads a keyring to replace the keyring in use, which is too old. All callers share one promise, and so the same
   * error.
   */
  #replaceTooOld(): Promise<Keyring> {
    this.#replacing ??= this.#loadRecent().finally(() => {
      this.#replacing = undefined;
    });
    return this.#replacing;
  }

  async #loadRecent(): Promise<Keyring> {
    try {
      let ring = await this.#load();
      // If the machine slept during the load, the loaded keyring is too old already.
      while (this.#isTooOld()) ring = await this.#load();
      return ring;
    } catch (error) {
      throw this.#tooOld(providerError(error));
    }
  }

  #tooOld(cause: KeywardError): KeywardError {
    const ageMs = Math.round(this.#confirmedAt.agoMs());
    return new KeywardError(
      "PROVIDER_UNAVAILABLE",
      `The keyring in use is too old: the key provider last returned it ${ageMs} ms ago, and maxAgeMs is ${this.#maxAgeMs}. Loading the keyring again failed: ${cause.message}`,
      { hint: `${cause.hint} Calls succeed again within 6 seconds after the key provider answers.`, cause },
    );
  }

  async #loadAfterInterval(): Promise<KeywardError | undefined> {
    const waitMs = this.#lastLoadForUnknownIdsMs + unknownIdIntervalMs - performance.now();
    // Await even if there is nothing to wait for, because the caller must store this promise before the field is
    // cleared below.
    await (waitMs > 0 ? delay(waitMs) : undefined);
    this.#lastLoadForUnknownIdsMs = performance.now();
    this.#loadForUnknownIds = undefined;
    try {
      await this.#load();
      return undefined;
    } catch (error) {
      return providerError(error);
    }
  }

  /**
   * Waits for the load in progress, or begins a load. During the pause after a failed load, rejects with the error of
   * that load.
   */
  #load(): Promise<Keyring> {
    const failure = this.#failureDuringPause();
    return failure === undefined ? this.#loadNow() : Promise.reject(failure);
  }

  #failureDuringPause(): KeywardError | undefined {
    return this.#loading === undefined && this.#pauseLeftMs() > 0 ? this.#lastFailure : undefined;
  }

  #pauseLeftMs(): number {
    return this.#lastFailure === undefined ? 0 : this.#retryPause.leftMs();
  }

  /** Waits for the load in progress, or begins a load, even during the pause after a failed load. */
  #loadNow(): Promise<Keyring> {
    const provider = this.#provider;
    // A fixed keyring never changes and never becomes too old.
    if (provider === undefined) return Promise.resolve(this.current());
    this.#loading ??= this.#loadAndAdopt(provider).finally(() => {
      this.#loading = undefined;
      this.#scheduleRefresh();
      if (!this.#changedWhileLoading) return;
      this.#changedWhileLoading = false;
      this.#onProviderChange();
    });
    return this.#loading;
  }

  /** Loads a keyring. If the loaded keyring may replace the keyring in use, it becomes the keyring in use. */
  async #loadAndAdopt(provider: KeyProvider): Promise<Keyring> {
    const begun = new Moment();
    try {
      const previous = this.#ring;
      const next = await loadInTime(provider, this.#timeoutMs, previous);
      const isSame = previous !== undefined && sameKeyring(previous, next);
      if (previous !== undefined && !isSame) {
        await requireSuccessor(previous, next, () => this.#askStores(previous, next));
      }
      this.#confirmedAt = begun;
      if (this.#lastFailure !== undefined) this.#report({ kind: "recovered" });
      this.#lastFailure = undefined;
      this.#retryPause.succeeded();
      // If the loaded keyring is equal, keep the object in use, because its subkeys are cached.
      if (isSame) return previous;
      this.#ring = next;
      this.#unknownIds.clear();
      if (previous !== undefined) this.#report({ kind: "changed", ring: next });
      return next;
    } catch (error) {
      const failure = providerError(error);
      this.#lastFailure = failure;
      this.#retryPause.failed();
      if (this.#ring !== undefined) this.#report({ kind: "failed", error: failure });
      throw failure;
    }
  }

  async #askStores(previous: Keyring, next: Keyring): Promise<readonly (Recognition | undefined)[]> {
    const signal = AbortSignal.timeout(this.#timeoutMs);
    return await Promise.all(
      [...this.#users].map(({ recognizes }) => {
        if (recognizes === undefined) return undefined;
        // A store that does not answer must not keep a changed keyring from being used.
        return abortable(() => recognizes(next, previous), signal).catch(() => undefined);
      }),
    );
  }

  #report(report: KeyringSourceReport): void {
    for (const user of this.#users) user.tell(report);
  }

  /**
   * Registers a user of the keyring, such as a store. Returns a function that removes the user. While at least one user
   * is registered, the source subscribes to changes of the provider, and loads the keyring every `refreshMs`.
   */
  listen(user: KeyUser): () => void {
    // Subscribe first: if the provider throws, no user has been added.
    this.#unsubscribe ??= this.#provider?.subscribe?.(() => this.#onProviderChange());
    this.#users.add(user);
    if (this.#refreshTimer === undefined) this.#scheduleRefresh();
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
   * Loads the keyring after the provider reported a change, even during the pause after a failed load: the change may
   * have repaired the provider.
   */
  #onProviderChange(): void {
    if (this.#loading !== undefined) this.#changedWhileLoading = true;
    else this.#loadNow().catch(() => undefined);
  }

  /**
   * Schedules the next load in `refreshMs` from now. Schedules no load if the source has no users, or has not loaded a
   * keyring yet.
   */
  #scheduleRefresh(): void {
    clearTimeout(this.#refreshTimer);
    this.#refreshTimer = undefined;
    if (this.#refreshMs === undefined || this.#ring === undefined || this.#users.size === 0) return;
    const waitMs = this.#refreshMs * (1 - refreshJitter + 2 * refreshJitter * Math.random());
    const refresh = () => this.#loadNow().catch(() => undefined);
    this.#refreshTimer = setTimeout(refresh, Math.max(waitMs, this.#retryPause.leftMs()));
    this.#refreshTimer.unref();
  }

  /**
   * Registers `write`, together with the keyring in use now, as a write in progress until `write` settles. Returns the
   * result of `write`.
   */
  async whileSealing<Result>(write: Promise<Result>): Promise<Result> {
    this.#writes.set(write, this.#ring);
    try {
      return await write;
    } finally {
      this.#writes.delete(write);
    }
  }

  /** Waits until every write that is in progress now has settled, in all stores that use this source. */
  async drained(): Promise<void> {
    await Promise.allSettled(this.#writes.keys());
  }

  /**
   * The lowest generation number of the keyrings that were in use when the writes in progress began; `undefined` if no
   * write is in progress.
   *
   * If the earliest of these writes began with another keyring than the keyring in use, this number is lower than the
   * generation number of the keyring in use. This is true even if the source gives every keyring the same generation
   * number.
   */
  get sealingSince(): number | undefined {
    // Generation numbers never fall, and a Map keeps the order of insertion, so the first entry is the earliest write.
    for (const ring of this.#writes.values()) {
      const generation = ring?.generation ?? 0;
      return ring === this.#ring ? generation : Math.min(generation, (this.#ring?.generation ?? 1) - 1);
    }
    return undefined;
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
    throw new KeywardError("PROVIDER_UNAVAILABLE", `The key provider returned no keyring within ${timeoutMs} ms`, {
      hint: "Check that this process can reach the file or key service from which the provider loads the keyring. If the load only takes long, raise the option `timeoutMs`.",
    });
  });
  if (ring instanceof Keyring) return ring;
  throw new KeywardError("KEYRING_INVALID", "The key provider returned something other than a Keyring", {
    hint: "Let `load()` of the key provider resolve to a Keyring. If the value is a Keyring, two copies of @keyward/core are installed: `npm ls @keyward/core` lists them. Make the provider and the store use the same copy.",
  });
}

function providerError(error: unknown): KeywardError {
  return asKeywardError(
    error,
    "PROVIDER_UNAVAILABLE",
    "The key provider failed with an error that is not a KeywardError",
    "Read the cause of this error, and check the source of the keys. A keyring that was loaded before stays in use.",
  );
}
