import { type KeyFreshness, type KeyProvider, Keyring, KeywardError } from "@keyward/core";
import { guardMaterial } from "./secrets.ts";

/** The generations of one keyring during a rotation from key "old" to key "new". */
export interface Rotation {
  /** The keyring has only the old key. */
  readonly before: Keyring;
  /** Both keys are enabled, and the old one is primary. */
  readonly staged: Keyring;
  /** Both keys are enabled, and the new one is primary. */
  readonly promoted: Keyring;
  /** The old key is disabled. */
  readonly disabled: Keyring;
  /** The keyring has only the new key. */
  readonly after: Keyring;
}

/** Makes the generations of a new keyring during a rotation. */
export function rotation(): Rotation {
  const before = Keyring.generate("old");
  const staged = before.add({ id: "new" });
  const promoted = staged.promote("new");
  const disabled = promoted.disable("old");
  guardMaterial(promoted);
  return { before, staged, promoted, disabled, after: disabled.remove("old") };
}

/** Makes a keyring with one random key, whose material no error may show. */
export function newRing(id?: string): Keyring {
  return guardMaterial(Keyring.generate(id));
}

/** A key provider whose keyring, failures and delays a test controls. */
export class TestKeys implements KeyProvider {
  loads = 0;
  saves = 0;
  readonly freshness: KeyFreshness;
  #ring: Keyring;
  #failure: unknown;
  #hold: Promise<void> | undefined;
  readonly #watchers = new Set<() => void>();

  constructor(ring: Keyring, freshness: KeyFreshness = {}) {
    this.#ring = ring;
    this.freshness = freshness;
  }

  async load(): Promise<Keyring> {
    this.loads++;
    // The result is what the source has when the load begins, however long the load takes.
    const ring = this.#ring;
    const failure = this.#failure;
    await this.#hold;
    if (failure !== undefined) throw failure;
    return ring;
  }

  async save(next: Keyring, previous: Keyring): Promise<void> {
    this.saves++;
    if (previous.generation !== this.#ring.generation) {
      throw new KeywardError("KEYRING_CONFLICT", "Another process changed the keyring", {
        hint: "Load the keyring again.",
      });
    }
    this.become(next);
  }

  subscribe(changed: () => void): () => void {
    this.#watchers.add(changed);
    return () => this.#watchers.delete(changed);
  }

  get watchers(): number {
    return this.#watchers.size;
  }

  /** Changes the keyring at the source without calling the subscribers. */
  become(ring: Keyring): void {
    this.#ring = ring;
  }

  /** Changes the keyring at the source, and calls the subscribers. */
  push(ring: Keyring): void {
    this.become(ring);
    for (const changed of this.#watchers) changed();
  }

  /** Makes every load that begins from now on reject. */
  fail(failure: unknown): void {
    this.#failure = failure;
  }

  /** Makes loads succeed again. */
  recover(): void {
    this.#failure = undefined;
  }

  /** Delays every load that begins from now on, until the returned function is called. */
  hold(): () => void {
    const held = Promise.withResolvers<void>();
    this.#hold = held.promise;
    return () => {
      this.#hold = undefined;
      held.resolve();
    };
  }
}

/** A source of keys that several processes share: each has its own provider, and a save is a compare-and-swap. */
export class KeysOverOneSource {
  saves = 0;
  readonly #rings: { readonly ring: Keyring; readonly sinceMs: number }[];

  constructor(ring: Keyring) {
    this.#rings = [{ ring, sinceMs: Number.NEGATIVE_INFINITY }];
  }

  get ring(): Keyring {
    return this.#asOf(Number.POSITIVE_INFINITY);
  }

  set ring(ring: Keyring) {
    this.#rings.push({ ring: guardMaterial(ring), sinceMs: performance.now() });
  }

  /**
   * Returns the provider of one process. It has no subscriptions: a process sees a change only when it loads.
   *
   * @param lagMs How far the loaded keyring is behind the source, in milliseconds, as if it were read from a mount.
   */
  provider(lagMs = 0): KeyProvider & Required<Pick<KeyProvider, "save">> {
    return {
      load: async () => this.#asOf(performance.now() - lagMs),
      save: async (next, previous) => {
        if (previous !== this.ring) {
          throw new KeywardError("KEYRING_CONFLICT", "Another process changed the keyring", {
            hint: "Load the keyring again.",
          });
        }
        this.saves++;
        this.ring = next;
      },
    };
  }

  #asOf(atMs: number): Keyring {
    const found = this.#rings.findLast(({ sinceMs }) => sinceMs <= atMs);
    if (found === undefined) throw new Error("There was no keyring yet");
    return found.ring;
  }
}
