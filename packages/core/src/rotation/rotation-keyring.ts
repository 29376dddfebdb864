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

/** Loads and changes the keyring of a rotation, and announces each change in the stores that use the keyring. */
export class RotationKeyring {
  readonly source: KeyringSource;
  readonly #provider: KeyProvider;
  readonly #stores: NamedStores;
  readonly #signal: AbortSignal | undefined;
  readonly #instruct: Instruct | undefined;
  #guided: GuidedSource | undefined;

  /**
   * Checks that the provider has the method `save`, unless `instruct` is given.
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
   * The provider, source and operator function of a guided rotation; `undefined` if the provider can save a keyring, so
   * that no operator is needed. Set by {@link RotationKeyring.loadToChange}.
   */
  get guided(): GuidedSource | undefined {
    return this.#guided;
  }

  /**
   * Loads the keyring at the beginning of a run, and checks that the keyring can be changed. If the source pauses after
   * a failed load, first waits for the end of the pause.
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

  /** Loads the latest keyring from the provider. Each step of a rotation calls this method first. */
  async load(): Promise<Keyring> {
    return await this.source.refresh();
  }

  /** Returns the argument `loaded` of `retireLoaded`: a keyring that was just loaded, and the source that loaded it. */
  loaded(keyring: Keyring): LoadedKeyring {
    return { keyring, source: this.source };
  }

  /**
   * Changes the keyring at its source. If the provider can save, the provider saves `next`, as long as the source still
   * has `previous`. In a guided rotation, instructs an operator and waits until the operator has made the change. This
   * process may use the changed keyring only after it has loaded the keyring again.
   *
   * @param next the changed keyring, which the provider saves if it can.
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
   * Checks, in a guided rotation, that the primary of the loaded keyring was not taken out of use by an earlier
   * rotation.
   *
   * @param running the running rotation, if there is one. Its old key may still be the primary, although the rotation
   * has already recorded that this key is out of use.
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
   * Asks the provider of a guided rotation to describe a change, so that a provider whose source does not support the
   * change can refuse it before the rotation begins.
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
   * In a guided rotation, records in every store that a process whose primary is the key `keyId` must not write. The
   * announced generation number does not stop such a process, because a guided rotation may leave this number
   * unchanged.
   */
  async refusePrimary(keyring: Keyring, keyId: string): Promise<void> {
    if (this.#guided === undefined) return;
    for (const store of Object.values(this.#stores)) await storeParts(store).generationNotice.retire(keyring, keyId);
  }

  /**
   * Removes what {@link RotationKeyring.refusePrimary} recorded for the key `keyId`. Call this method before the key
   * becomes the primary.
   */
  async acceptPrimary(keyring: Keyring, keyId: string): Promise<void> {
    for (const store of Object.values(this.#stores)) await storeParts(store).generationNotice.useAgain(keyring, keyId);
  }

  /**
   * Loads the keyring again after a save, and announces the generation number of the loaded keyring. This number may be
   * lower than that of the saved keyring, because some providers return a saved keyring only after a delay. To announce
   * the higher number would be too early: stores refuse writes until they have loaded the announced generation.
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
