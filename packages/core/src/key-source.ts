import { setTimeout as delay } from "node:timers/promises";
import { KeywardError } from "./errors.ts";
import type { KeyProvider } from "./key-provider.ts";
import { Keyring, keyOf, sameRing } from "./keyring.ts";

const loadTimeoutMs = 15_000;
// Unknown key ids cost the provider at most one load in this time, however many are forged.
const unknownIdIntervalMs = 1_000;
const missAgeMs = 5_000;
const maxMisses = 1_000;

/** What a {@link KeySource} reports in the background. */
export type KeySourceReport =
  | { readonly kind: "changed"; readonly ring: Keyring }
  | { readonly kind: "failed"; readonly error: KeywardError };

/** Must not throw. */
type Listener = (report: KeySourceReport) => void;

const shared = new WeakMap<KeyProvider, KeySource>();

/**
 * The ring in use, from a provider that all stores share: one load at a time, the last good ring kept through an
 * outage, one refresh when a record names a key that the ring does not have.
 */
export class KeySource {
  readonly #provider: KeyProvider | undefined;
  readonly #listeners = new Set<Listener>();
  readonly #misses = new Map<string, number>();
  /** What is being sealed, with the generation of the ring in use when it began. */
  readonly #sealing = new Map<Promise<unknown>, number>();
  #ring: Keyring | undefined;
  #loading: Promise<Keyring> | undefined;
  #nextRefresh: Promise<KeywardError | undefined> | undefined;
  #unknownIdLoadAtMs = Number.NEGATIVE_INFINITY;
  #changedWhileLoading = false;
  #unsubscribe: (() => void) | undefined;

  private constructor(keys: Keyring | KeyProvider) {
    if (keys instanceof Keyring) this.#ring = keys;
    else this.#provider = keys;
  }

  /**
   * The source over these keys; stores with the same provider get the same one.
   *
   * @throws KeywardError `KEYRING_INVALID` for what is neither a ring nor a provider.
   */
  static of(keys: Keyring | KeyProvider): KeySource {
    if (keys instanceof Keyring) return new KeySource(keys);
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
      source = new KeySource(keys);
      shared.set(keys, source);
    }
    return source;
  }

  /** Listens until the returned function is called; the provider is watched while anybody listens. */
  listen(listener: Listener): () => void {
    this.#listeners.add(listener);
    this.#unsubscribe ??= this.#provider?.subscribe?.(() => this.#reload());
    return () => {
      this.#listeners.delete(listener);
      if (this.#listeners.size > 0) return;
      this.#unsubscribe?.();
      this.#unsubscribe = undefined;
    };
  }

  /**
   * The ring in use; a promise only while there is none yet.
   *
   * @throws KeywardError what the provider throws, as long as there never was a ring.
   */
  current(): Keyring | Promise<Keyring> {
    return this.#ring ?? this.#load();
  }

  /**
   * The ring as its source has it now.
   *
   * @throws KeywardError what the provider throws; the last good ring stays in use.
   */
  async refresh(): Promise<Keyring> {
    // A load that is under way may have begun before the change that the caller knows of.
    await this.#loading?.catch(() => undefined);
    return await this.#load();
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

  /** The earliest generation under which something is still being sealed; `undefined` when nothing is. */
  get sealingSince(): number | undefined {
    // Generations only grow: the first that was put in is the lowest.
    for (const generation of this.#sealing.values()) return generation;
    return undefined;
  }

  async #refreshForUnknownId(): Promise<KeywardError | undefined> {
    const waitMs = this.#unknownIdLoadAtMs + unknownIdIntervalMs - performance.now();
    // Also when there is nothing to wait for: the caller has to keep this promise before it is let go of below.
    await (waitMs > 0 ? delay(waitMs) : undefined);
    this.#unknownIdLoadAtMs = performance.now();
    this.#nextRefresh = undefined;
    try {
      await this.#load();
      return undefined;
    } catch (error) {
      return asKeywardError(error);
    }
  }

  #reload(): void {
    if (this.#loading !== undefined) this.#changedWhileLoading = true;
    else this.#load().catch(() => undefined);
  }

  #load(): Promise<Keyring> {
    const provider = this.#provider;
    if (provider === undefined) return Promise.resolve(this.current());
    this.#loading ??= this.#loadOnce(provider).finally(() => {
      this.#loading = undefined;
      if (!this.#changedWhileLoading) return;
      this.#changedWhileLoading = false;
      this.#reload();
    });
    return this.#loading;
  }

  async #loadOnce(provider: KeyProvider): Promise<Keyring> {
    try {
      const next = await loadInTime(provider);
      const previous = this.#ring;
      if (previous !== undefined) {
        requireSuccessor(previous, next);
        // The same ring read again: the object in use has its subkeys cached.
        if (sameRing(previous, next)) return previous;
      }
      this.#ring = next;
      this.#misses.clear();
      if (previous !== undefined) this.#report({ kind: "changed", ring: next });
      return next;
    } catch (error) {
      const failure = asKeywardError(error);
      if (this.#ring !== undefined) this.#report({ kind: "failed", error: failure });
      throw failure;
    }
  }

  #report(report: KeySourceReport): void {
    for (const listener of this.#listeners) listener(report);
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

async function loadInTime(provider: KeyProvider): Promise<Keyring> {
  const signal = AbortSignal.timeout(loadTimeoutMs);
  const tooLate = new Promise<never>((_, reject) => {
    signal.addEventListener("abort", () => {
      reject(
        new KeywardError("PROVIDER_UNAVAILABLE", `The key provider gave no keyring within ${loadTimeoutMs} ms`, {
          hint: "Is the source of the keys reachable from here?",
        }),
      );
    });
  });
  const ring = await Promise.race([tooLate, (async () => await provider.load({ signal }))()]);
  if (ring instanceof Keyring) return ring;
  throw new KeywardError("KEYRING_INVALID", "The key provider gave something other than a Keyring", {
    hint: "Its load() must resolve to a Keyring of this very copy of @keyward/core.",
  });
}

function requireSuccessor(previous: Keyring, next: Keyring): void {
  if (previous.primary === "") return;
  const problem =
    next.primary === ""
      ? "has no keys, and would write in the clear"
      : next.name !== previous.name || next.scopeName !== previous.scopeName
        ? `is another ring, ${JSON.stringify(next.name)} instead of ${JSON.stringify(previous.name)}`
        : next.generation < previous.generation
          ? `is of generation ${next.generation}, older than ${previous.generation}`
          : undefined;
  if (problem === undefined) return;
  throw new KeywardError("KEYRING_ROLLBACK", `The keyring now at the provider ${problem}`, {
    hint: "The ring in use stays in use. Correct the source; if the change is meant, restart this process.",
  });
}

function asKeywardError(error: unknown): KeywardError {
  if (error instanceof KeywardError) return error;
  return new KeywardError("PROVIDER_UNAVAILABLE", "The key provider failed", {
    hint: "See the cause.",
    cause: error,
  });
}
