import type { Keyring } from "../keyring/keyring.ts";
import type { KeyringCheck } from "./keyring-check.ts";
import type { OverwriteGuard } from "./overwrite-guard.ts";
import type { RecordCodec } from "./record-codec.ts";
import type { ReplicaRegistration, ReplicaRegistrationSlot } from "./replica-registration.ts";

/** The parts of a store that decide whether it may write, in the order in which {@link WriteGate} calls them. */
export interface WriteConditions {
  /** The registration of this process as a replica. `undefined` if this store does not have the option `replica`. */
  readonly registration: ReplicaRegistration | undefined;
  /**
   * Holds the registration of this process as a replica, if another store of this process with the same keys and
   * backend has the option `replica`. `undefined` if this store has no reserved space.
   */
  readonly processRegistration: ReplicaRegistrationSlot | undefined;
  readonly codec: RecordCodec;
  readonly check: KeyringCheck;
  readonly guard: OverwriteGuard;
}

/** The namespace and keys of the records that a write may replace without reading them first. */
export interface OverwrittenRecords {
  readonly namespace: string;
  readonly keys: readonly string[];
}

/**
 * Decides whether a store may write, and with which keyring. Records of the application are encrypted only with a
 * keyring that this class returned.
 */
export class WriteGate {
  readonly #conditions: WriteConditions;

  constructor(conditions: WriteConditions) {
    this.#conditions = conditions;
  }

  /**
   * Returns the keyring to write with, as soon as three conditions are met:
   *
   * - The heartbeat of the process has not lapsed.
   * - The keyring decrypts the check record.
   * - Every record that the write would replace can be read.
   *
   * Returns a promise only if a condition has to be tested asynchronously. Encrypt with the returned keyring before the
   * next `await`, because during an `await` another keyring may come into use, or the heartbeat may lapse.
   *
   * @param overwritten the records that the write may replace without reading them first. Omit `overwritten` if the
   * write replaces a record only after comparing its stored value.
   * @throws KeywardError `OVERWRITE_REFUSED` if the keyring does not belong to the store, or if a record that the write
   * would replace cannot be read. If the heartbeat has lapsed and cannot be renewed, an error of
   * {@link ReplicaRegistration.requireLease}.
   */
  keyringForWriting(overwritten?: OverwrittenRecords): Keyring | Promise<Keyring> {
    const keyring = this.#verifiedKeyring();
    if (overwritten === undefined) return keyring;
    if (keyring instanceof Promise) return keyring.then(() => this.keyringForWriting(overwritten));
    const reading = this.#conditions.guard.requireReadable(overwritten.namespace, overwritten.keys);
    if (reading === undefined) return keyring;
    return reading.then(async () => {
      const latest = this.#verifiedKeyring();
      const isSame = (latest instanceof Promise ? await latest : latest) === keyring;
      return isSame ? keyring : this.keyringForWriting(overwritten);
    });
  }

  #verifiedKeyring(): Keyring | Promise<Keyring> {
    // After each wait, test all conditions again: the keyring may have been reloaded, or the heartbeat may have lapsed.
    const leasing = this.#requireLease();
    if (leasing !== undefined) return leasing.then(() => this.#verifiedKeyring());
    const keyring = this.#conditions.codec.ring();
    if (keyring instanceof Promise) return keyring.then(() => this.#verifiedKeyring());
    const verifying = this.#conditions.check.verify(keyring);
    return verifying === undefined ? keyring : verifying.then(() => this.#verifiedKeyring());
  }

  #requireLease(): Promise<void> | undefined {
    const { registration, processRegistration } = this.#conditions;
    if (registration !== undefined) return registration.requireLease();
    return processRegistration?.registration?.requireLeaseIfRegistered();
  }
}
