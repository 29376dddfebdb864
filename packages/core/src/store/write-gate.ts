import type { Keyring } from "../keyring/keyring.ts";
import type { KeyringCheck } from "./keyring-check.ts";
import type { OverwriteGuard } from "./overwrite-guard.ts";
import type { RecordCodec } from "./record-codec.ts";
import type { ReplicaRegistration, ReplicaRegistrationSlot } from "./replica-registration.ts";

/** The conditions of a write, in the order in which they are tested. */
export interface WriteConditions {
  /** The registration of this store as a replica, if it registers. */
  readonly registration: ReplicaRegistration | undefined;
  /** The slot in which another store of the process may register. `undefined` if the store has no reserved space. */
  readonly processRegistration: ReplicaRegistrationSlot | undefined;
  readonly codec: RecordCodec;
  readonly check: KeyringCheck;
  readonly guard: OverwriteGuard;
}

/** The addresses of records that a write may replace without having read them. */
export interface OverwrittenRecords {
  readonly namespace: string;
  readonly keys: readonly string[];
}

/** Decides whether a store may write, and with which keyring. Every keyring that encrypts a record comes from here. */
export class WriteGate {
  readonly #conditions: WriteConditions;

  constructor(conditions: WriteConditions) {
    this.#conditions = conditions;
  }

  /**
   * Returns the keyring to write with, once all conditions hold: the heartbeat of the process has not lapsed, the
   * keyring decrypts the check record, and no record that would be overwritten is unreadable.
   *
   * Returns a promise only if a condition has to be waited for. Use the keyring at once: during another `await` the
   * keyring may be replaced, or the heartbeat may lapse.
   *
   * @param overwritten the records that the write may replace unread. Omit it for a replacement that first compares the
   * stored record.
   * @throws KeywardError `OVERWRITE_REFUSED` if the keyring does not belong to the store, or if a record that would be
   * overwritten is unreadable; and as {@link ReplicaRegistration.requireLease} if the heartbeat has lapsed.
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
    // After each wait all conditions are tested again: the keyring may have been reloaded, or the heartbeat have
    // lapsed.
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
