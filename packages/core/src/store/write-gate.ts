import type { Keyring } from "../keyring/keyring.ts";
import type { CheckRecord } from "./check-record.ts";
import type { RecordCodec } from "./record-codec.ts";
import type { ReplicaRegistration, ReplicaRegistrationSlot } from "./replica-registration.ts";

/** Where all that seals for a store gets its ring, so that nothing is sealed under a ring that may not write. */
export class WriteGate {
  readonly #codec: RecordCodec;
  readonly #check: CheckRecord;
  readonly #registration: ReplicaRegistration | undefined;
  readonly #others: ReplicaRegistrationSlot | undefined;

  /**
   * @param registration where the store registers.
   * @param others where another store may do so, for the whole process.
   */
  constructor(
    codec: RecordCodec,
    check: CheckRecord,
    registration: ReplicaRegistration | undefined,
    others: ReplicaRegistrationSlot | undefined,
  ) {
    this.#codec = codec;
    this.#check = check;
    this.#registration = registration;
    this.#others = others;
  }

  /**
   * The ring in use, once this process is known to others as one that seals, and the ring has opened the check record; a
   * promise only where that has to be waited for. To be used at once: what is awaited in between may outlast the ring.
   *
   * @throws KeywardError `OVERWRITE_REFUSED`, and as {@link ReplicaRegistration.admit}.
   */
  take(): Keyring | Promise<Keyring> {
    // Whenever something was waited for, the ring may have been loaded anew, or the heartbeat have lapsed.
    const registration = this.#registration;
    const admitting = registration === undefined ? this.#others?.registration?.admitOther() : registration.admit();
    if (admitting !== undefined) return admitting.then(() => this.take());
    const ring = this.#codec.ring();
    if (ring instanceof Promise) return ring.then(() => this.take());
    const passing = this.#check.pass(ring);
    return passing === undefined ? ring : passing.then(() => this.take());
  }
}
