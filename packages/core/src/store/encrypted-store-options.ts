import { type ForeignFormat, requireFormats } from "../envelope/foreign-format.ts";
import { KeywardError } from "../errors/errors.ts";
import { type OptionNames, requireAmount, requireOneOf } from "../errors/options.ts";
import type { KeyProvider } from "../keyring/key-provider.ts";
import type { Keyring } from "../keyring/keyring.ts";
import type { RecordAddress } from "../store-interface/record.ts";
import type { StoredValue } from "../store-interface/store-capabilities.ts";
import { type ReplicaOptions, ReplicaRegistration, type ReplicaRegistrationParts } from "./replica-registration.ts";
import type { ReservedRecords } from "./reserved-records.ts";

/**
 * The options of an {@link EncryptedStore}: its keys, and the ways in which it encrypts, reads and re-encrypts records.
 */
export interface EncryptedStoreOptions {
  /** The encryption keys: a keyring, or a key provider that loads a keyring. */
  readonly keys: Keyring | KeyProvider;
  /**
   * The scope of the records: the name of one scope for all records, or a function that gets the address of a record and
   * returns the name of its scope. A record is encrypted under keys that are derived for its scope, and cannot be
   * decrypted in another scope or without one. Default: no record has a scope.
   *
   * With a function, one store reads and writes all scopes, and each tool processes them in one pass. The function
   * returns `undefined` for a record without a scope. It must return the same name for an address in every process and
   * after every restart; otherwise the record cannot be decrypted until the function is corrected.
   */
  readonly scope?: string | ((address: RecordAddress) => string | undefined);
  /**
   * The mode of lazy re-encryption, which re-encrypts a record in the background after a read found it under an older
   * encryption key.
   *
   * - `"on-read"` replaces the record only if it is unchanged. Throttled to about 100 records of 1 KiB a second. A
   *   record that does not fit in the queue is re-encrypted after its next read. Default if the store can replace a
   *   record atomically.
   * - `"off"` leaves records as they are. Default if the store cannot replace a record atomically.
   * - `"on-read-may-undo-writes"` works with any store: it reads the record, compares it, and writes it. If another
   *   `EncryptedStore` or process writes the record in between, that write is undone. So use this mode only if a single
   *   `EncryptedStore` writes to the store. A record in a foreign format that specifies no expiry never expires after
   *   this re-encryption, even if the wrapped store had an expiry for the record.
   */
  readonly reencrypt?: "on-read" | "off" | "on-read-may-undo-writes";
  /**
   * The formats of records that another program wrote, such as `plaintext()`. The store reads records in these formats,
   * too, and tries plaintext last. Default: none, so that the store reads only records that Keyward encrypted.
   */
  readonly accept?: readonly ForeignFormat[];
  /**
   * A function that decodes a value as the application does, and throws or rejects if the value cannot be decoded. The
   * store encrypts a record in a foreign format only if this function succeeds, and ignores its result. `createKeyv`
   * sets this option itself. Default: every string and every `Uint8Array` is accepted.
   */
  readonly decode?: (value: StoredValue) => unknown;
  /**
   * Pads each value to a multiple of this many bytes before it is encrypted, which hides the exact length of the value.
   * An integer between 1 and 2^20. Default: no padding.
   */
  readonly padTo?: number;
  /**
   * Maximum number of decrypted records that the store keeps in memory, for an application that reads the same records
   * often. Each read still asks the store. If the store returns the same text or bytes as before, and the keyring has
   * not changed, the record is not decrypted again. A record is dropped one to two minutes after its last read. The
   * store does not keep a value of bytes, or a record of more than 16,384 stored characters or bytes. An integer
   * between 1 and 2^20. Default: the store keeps no decrypted record.
   */
  readonly keepDecrypted?: number;
  /**
   * Registers this process in the store as a replica: the process writes heartbeats to the reserved space, and a
   * rotation waits until the process uses the new keyring. If the heartbeat lapses, all stores of the process with the
   * same keys and backend object stop writing until the process has renewed the heartbeat and reloaded the keyring.
   * `true` uses the defaults of {@link ReplicaOptions}. Default: `false`.
   */
  readonly replica?: boolean | ReplicaOptions;
}

/** The allowed values of the option `reencrypt`. */
export type LazyReencryptionMode = Required<EncryptedStoreOptions>["reencrypt"];

const lazyReencryptionModes: readonly LazyReencryptionMode[] = ["on-read", "off", "on-read-may-undo-writes"];

/** The names of all options of an {@link EncryptedStore}. TypeScript reports an error if one is missing here. */
export const encryptedStoreOptionNames = {
  keys: true,
  scope: true,
  reencrypt: true,
  accept: true,
  decode: true,
  padTo: true,
  keepDecrypted: true,
  replica: true,
} as const satisfies OptionNames<EncryptedStoreOptions>;

/**
 * Checks the values of `padTo`, `keepDecrypted`, `accept`, `decode` and `reencrypt`.
 *
 * @throws KeywardError `VALUE_INVALID` for a value that the option cannot have.
 */
export function requireOptionValues(options: EncryptedStoreOptions): void {
  const { padTo, keepDecrypted, accept = [], decode, reencrypt } = options;
  if (padTo !== undefined) requireAmount("padTo", padTo, "bytes", { most: 2 ** 20 });
  if (keepDecrypted !== undefined) requireAmount("keepDecrypted", keepDecrypted, "records", { most: 2 ** 20 });
  requireFormats(accept);
  if (decode !== undefined && typeof decode !== "function") {
    throw new KeywardError(
      "VALUE_INVALID",
      `The option \`decode\` must be a function, but is of type ${typeof decode}`,
      {
        hint: "Pass a function that decodes a value as the application does. Omit `decode` if the application reads values as plain strings or bytes.",
      },
    );
  }
  if (reencrypt !== undefined) requireOneOf("reencrypt", reencrypt, lazyReencryptionModes);
}

/**
 * Returns the registration that the option `replica` asks for; `undefined` without this option.
 *
 * @throws KeywardError `STORE_INVALID` if the store has no reserved space for heartbeats.
 */
export function registrationFor(
  replica: EncryptedStoreOptions["replica"],
  records: ReservedRecords | undefined,
  parts: Omit<ReplicaRegistrationParts, "records">,
): ReplicaRegistration | undefined {
  if (replica === undefined || replica === false) return undefined;
  if (records === undefined) {
    throw new KeywardError(
      "STORE_INVALID",
      "This process cannot be a replica, because the store has no reserved space for heartbeats",
      {
        hint: "Use a store that has `reserved()`, such as the stores of Keyward, or omit the option `replica`.",
      },
    );
  }
  return ReplicaRegistration.of({ records, ...parts }, replica === true ? {} : replica);
}
