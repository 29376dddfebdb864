import { asKeywardError, KeywardError } from "../errors/errors.ts";
import type { KeyProvider } from "../keyring/key-provider.ts";
import { type Keyring, requireSavable, sharesKey } from "../keyring/keyring.ts";
import { isMade, type KeyringChange } from "../keyring/keyring-change.ts";
import { KeyringSource } from "../keyring/keyring-source.ts";
import type { NamedStores } from "../reencryption/named-stores.ts";
import type { LoadedKeyring } from "../reencryption/retirement.ts";
import { canSave, requireSave } from "../reencryption/saving-keyring.ts";
import { storeParts } from "../store/encrypted-store.ts";
import { maxKeysInHeartbeat } from "../store/heartbeat.ts";
import { retiredPrimary } from "../store/keyring-check.ts";
import { changeAtSource, type GuidedSource, type Instruct } from "./change-at-source.ts";
import type { RotationGoal } from "./rotation-goal.ts";
import type { RotationStatus } from "./rotation-record.ts";

/** The keyring that a rotation changes, with its provider and the stores that use it. */
export class RotationKeyring {
  readonly source: KeyringSource;
  readonly #provider: KeyProvider;
  readonly #stores: NamedStores;
  readonly #signal: AbortSignal | undefined;
  readonly #instruct: Instruct | undefined;
  #guided: GuidedSource | undefined;

  /**
   * Checks that the provider has `save`. Checks nothing if `instruct` is given.
   *
   * @throws KeywardError `PROVIDER_READ_ONLY` if the provider has no `save`.
   */
  constructor(
    provider: KeyProvider,
    { stores, signal, instruct }: { stores: NamedStores; signal?: AbortSignal; instruct?: Instruct },
  ) {
    this.source = KeyringSource.of(provider);
    if (instruct === undefined) requireSave(provider);
    this.#provider = provider;
    this.#stores = stores;
    this.#signal = signal;
    this.#instruct = instruct;
  }

  /**
   * The source of the keys if the rotation is guided, because the provider cannot save a keyring: an operator makes each
   * change. Otherwise `undefined`. Known after {@link RotationKeyring.loadToChange}.
   */
  get guided(): GuidedSource | undefined {
    return this.#guided;
  }

  /**
   * Loads the keyring at the beginning of a run, and checks that the keyring can be changed. After a failed load, the
   * source pauses before it asks the provider again. If the source is in such a pause, waits for the end of the pause.
   *
   * @throws KeywardError `PROVIDER_READ_ONLY`, `KEYRING_INVALID`, and the other errors of the provider.
   */
  async loadToChange(): Promise<Keyring> {
    const keyring = await this.source.ask(this.#signal);
    // The record of a rotation must not be written if the keyring can never be saved: no run could finish that rotation.
    requireSavable(keyring);
    // Checked before anything is written.
    if (this.#instruct === undefined) await this.#provider.requireWritable?.();
    else if (!(await canSave(this.#provider))) {
      const [provider, source, instruct, signal] = [this.#provider, this.source, this.#instruct, this.#signal];
      this.#guided = { provider, source, instruct, signal };
    }
    return keyring;
  }

  /**
   * Loads the latest keyring from the provider. Each step of a rotation calls this method first, so that it decides on
   * the latest keyring.
   */
  async load(): Promise<Keyring> {
    return await this.source.refresh();
  }

  /** Returns a keyring that was just loaded, together with the source that loaded it, for `retireLoaded`. */
  loaded(keyring: Keyring): LoadedKeyring {
    return { keyring, source: this.source };
  }

  /**
   * Changes the keyring at its source. If the provider can save, the provider saves `next`, as long as the source still
   * has `previous`. In a guided rotation, instructs an operator and waits until the operator has made the change. This
   * process may use the changed keyring only after it has loaded the keyring again.
   *
   * @param next the changed keyring, which the provider saves.
   * @param requireCurrent called before the change. Throws if another run has changed the rotation in the meantime.
   * @throws KeywardError `KEYRING_CONFLICT`, `PROVIDER_UNAVAILABLE`, `CHANGE_NEEDED`, and the other errors of the
   * provider.
   */
  async make(
    change: KeyringChange,
    next: Keyring,
    previous: Keyring,
    requireCurrent: () => Promise<void>,
  ): Promise<void> {
    await requireCurrent();
    if (this.#guided !== undefined) return await changeAtSource(this.#guided, change, previous, requireCurrent);
    try {
      await this.#provider.save?.(next, previous);
    } catch (error) {
      const hint =
        "Run the rotation again: it loads the keyring to see whether the change was saved, and resumes there.";
      throw asKeywardError(error, "PROVIDER_UNAVAILABLE", "The key provider failed to save the changed keyring", hint);
    }
  }

  /**
   * Announces the generation number of a keyring in every store, so that replicas load the keyring.
   *
   * @param keyring the keyring that the provider has just returned.
   * @throws KeywardError `STORE_KEYS_DIFFER` if a store uses another keyring.
   */
  async announce(keyring: Keyring): Promise<void> {
    for (const [name, store] of Object.entries(this.#stores)) {
      const used = await this.#requireFollowing(name, keyring);
      await storeParts(store).generationNotice.raise(used);
    }
  }

  /**
   * Checks that the loaded keys of a guided rotation are not from before an earlier rotation.
   *
   * @param running the running rotation, if there is one. It may have noted that its old key is out of use before an
   * operator makes another key the primary.
   * @throws KeywardError `KEYRING_ROLLBACK` if a rotation took the primary out of use.
   */
  async requirePrimaryInUse(keyring: Keyring, running: RotationStatus | undefined, goal: RotationGoal): Promise<void> {
    if (this.#guided === undefined) return;
    const isOld = running !== undefined && running.from === keyring.primary;
    if (isOld && running.order === "disable-first" && running.step === "promote") return;
    if (isOld && goal.kind === "roll-back" && running.step !== "remove") return;
    for (const store of Object.values(this.#stores)) {
      const retired = await storeParts(store).generationNotice.retired(keyring);
      if (retired.includes(keyring.primary)) throw retiredPrimary(keyring.primary);
    }
  }

  /**
   * Asks the provider of a guided rotation to describe a change. So the provider can refuse a change that its source
   * does not support, before the rotation begins.
   *
   * @throws KeywardError the error of the provider.
   */
  async requireDescribable(change: KeyringChange, keyring: Keyring): Promise<void> {
    if (this.#guided === undefined) return;
    if (keyring.keys.length > maxKeysInHeartbeat) {
      throw new KeywardError(
        "KEYRING_INVALID",
        `A guided rotation needs a keyring with at most ${maxKeysInHeartbeat} keys`,
        {
          hint: "Remove keys that no record needs from the source of the keys. `census` counts the records under each key.",
        },
      );
    }
    if (!isMade(change, keyring)) await this.#provider.describeChange?.(change, keyring);
  }

  /**
   * In a guided rotation, notes in every store that a process whose primary is the old key may no longer write. The
   * announced generation number does not exclude such a process, because a guided rotation may leave the number
   * unchanged.
   */
  async refusePrimary(keyring: Keyring, keyId: string): Promise<void> {
    if (this.#guided === undefined) return;
    for (const store of Object.values(this.#stores)) await storeParts(store).generationNotice.retire(keyring, keyId);
  }

  /**
   * Removes the note of {@link RotationKeyring.refusePrimary} about the key `keyId`, which is about to become the
   * primary.
   */
  async acceptPrimary(keyring: Keyring, keyId: string): Promise<void> {
    for (const store of Object.values(this.#stores)) await storeParts(store).generationNotice.useAgain(keyring, keyId);
  }

  /**
   * Loads the keyring again after a save, and announces the generation number of the loaded keyring. Some providers
   * return a saved keyring only after a delay, so the loaded keyring may be older than the saved keyring. Do not
   * announce the number of the saved keyring before the provider returns that keyring: stores refuse writes until they
   * have loaded the announced generation.
   *
   * @throws KeywardError `STORE_KEYS_DIFFER`.
   */
  async announceSaved(): Promise<void> {
    await this.announce(await this.load());
  }

  /**
   * Checks that every store that was passed to the rotation uses `keyring` or a later generation of it.
   *
   * @throws KeywardError `STORE_KEYS_DIFFER` if a store uses another keyring.
   */
  async requireAllFollowing(keyring: Keyring): Promise<void> {
    for (const name of Object.keys(this.#stores)) await this.#requireFollowing(name, keyring);
  }

  /** Returns the keyring that a store uses, after checking that it is `keyring` or a later generation of it. */
  async #requireFollowing(name: string, keyring: Keyring): Promise<Keyring> {
    const store = this.#stores[name];
    const source = store === undefined ? this.source : storeParts(store).source;
    const used = source === this.source ? keyring : await source.ask(this.#signal);
    if (isSuccessor(used, keyring)) return used;
    throw new KeywardError(
      "STORE_KEYS_DIFFER",
      `The store ${name} does not use the keyring that the key provider of this rotation loads`,
      {
        hint: "Create the store with the provider that you pass to the rotation, or with another provider that loads the same keyring.",
      },
    );
  }
}

/**
 * Returns whether `used` is `keyring` or a later generation of it. Compares their keys too, because unrelated keyrings
 * may have the same name and any generation.
 */
function isSuccessor(used: Keyring, keyring: Keyring): boolean {
  const { scopeName } = used;
  const scoped = scopeName === undefined || keyring.scopeName !== undefined ? keyring : keyring.scope(scopeName);
  return used.name === keyring.name && used.generation >= keyring.generation && sharesKey(used, scoped);
}
