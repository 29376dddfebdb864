import { type KeyFreshness, type KeyProvider, Keyring, KeywardError } from "@keyward/core";
import { guardMaterial } from "./secrets.ts";

/** One ring through a rotation from key "old" to key "new". */
export interface Rotation {
  /** Only the old key. */
  readonly before: Keyring;
  /** Both open, the old one seals. */
  readonly staged: Keyring;
  /** Both open, the new one seals. */
  readonly promoted: Keyring;
  /** The old one opens nothing any more. */
  readonly disabled: Keyring;
  /** Only the new key. */
  readonly after: Keyring;
}

export function rotation(): Rotation {
  const before = Keyring.generate("old");
  const staged = before.add({ id: "new" });
  const promoted = staged.promote("new");
  const disabled = promoted.disable("old");
  guardMaterial(promoted);
  return { before, staged, promoted, disabled, after: disabled.remove("old") };
}

/** A ring that no other test has. */
export function newRing(id?: string): Keyring {
  return guardMaterial(Keyring.generate(id));
}

/** A source of keys whose ring, outages and pace the test decides. */
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
    // What the source has when it is asked, however long the answer takes.
    const ring = this.#ring;
    const failure = this.#failure;
    await this.#hold;
    if (failure !== undefined) throw failure;
    return ring;
  }

  async save(next: Keyring, previous: Keyring): Promise<void> {
    this.saves++;
    if (previous.generation !== this.#ring.generation) {
      throw new KeywardError("KEYRING_CONFLICT", "Somebody else changed the ring", { hint: "Load it again." });
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

  /** Changes the ring at the source, and tells nobody. */
  become(ring: Keyring): void {
    this.#ring = ring;
  }

  /** Changes the ring at the source, and tells those who subscribed. */
  push(ring: Keyring): void {
    this.become(ring);
    for (const changed of this.#watchers) changed();
  }

  fail(failure: unknown): void {
    this.#failure = failure;
  }

  recover(): void {
    this.#failure = undefined;
  }

  /** Keeps every load from answering until the returned function is called. */
  hold(): () => void {
    const held = Promise.withResolvers<void>();
    this.#hold = held.promise;
    return () => {
      this.#hold = undefined;
      held.resolve();
    };
  }
}

/** A source of keys that several processes share: each has a provider of its own, and a save is compared and swapped. */
export class KeysOverOneSource {
  ring: Keyring;
  saves = 0;

  constructor(ring: Keyring) {
    this.ring = ring;
  }

  /** The provider of one process. It tells nobody of changes: they are seen when something has it asked. */
  provider(): KeyProvider & Required<Pick<KeyProvider, "save">> {
    return {
      load: async () => this.ring,
      save: async (next, previous) => {
        if (previous !== this.ring) {
          throw new KeywardError("KEYRING_CONFLICT", "Somebody else changed the ring", { hint: "Load it again." });
        }
        this.saves++;
        this.ring = guardMaterial(next);
      },
    };
  }
}
