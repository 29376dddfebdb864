import { type ForeignFormat, requireFormats } from "../envelope/foreign-format.ts";
import { KeywardError } from "../errors/errors.ts";
import { type OptionNames, requireAmount, requireOneOf } from "../errors/options.ts";
import type { KeyProvider } from "../keyring/key-provider.ts";
import type { Keyring } from "../keyring/keyring.ts";
import type { RecordAddress } from "../store-interface/record.ts";
import type { StoredValue } from "../store-interface/store-capabilities.ts";
import type { ReplicaOptions } from "./replica-registration.ts";

/** The options of an {@link EncryptedStore}: its keys, and how it encrypts, reads and re-encrypts records. */
export interface EncryptedStoreOptions {
  /** A keyring, or a key provider that loads one. */
  readonly keys: Keyring | KeyProvider;
  /**
   * The scope of the records: the name of one scope for all records, or a function that returns the name for the address
   * of a record. A record is encrypted under keys that are derived for its scope, and cannot be decrypted in another
   * scope or without one. Default: no record has a scope.
   *
   * With a function, one store reads and writes all scopes, and each tool processes them in one pass. The function
   * returns `undefined` for a record without a scope. It must return the same name for an address in every process and
   * after every restart; otherwise the record cannot be decrypted until the function is corrected.
   */
  readonly scope?: string | ((address: RecordAddress) => string | undefined);
  /**
   * The mode of lazy re-encryption: a read of a record under an older key re-encrypts it in the background.
   *
   * - `"on-read"` replaces the record only if it is unchanged. Throttled to about 100 records of 1 KiB a second; other
   *   records wait for their next read. Default if the store can replace atomically.
   * - `"off"` leaves records as they are. Default if the store cannot replace atomically.
   * - `"on-read-may-undo-writes"` works in any store: it reads, compares and writes. A write that another
   *   `EncryptedStore` or process makes in between is undone, so use it only if the store has one writer. A record in a
   *   foreign format that specifies no expiry then never expires, even if the wrapped store has an expiry for it.
   */
  readonly reencrypt?: "on-read" | "off" | "on-read-may-undo-writes";
  /**
   * The foreign formats in which records may be stored, in addition to envelopes. Plaintext is always tried last.
   * Default: none.
   */
  readonly accept?: readonly ForeignFormat[];
  /**
   * Decodes a value as the application that reads from this store does, and throws or rejects if the application cannot
   * decode the value. A record in a foreign format is encrypted only after this function succeeded; the result of the
   * function is not used. `createKeyv` passes a function of its own. Default: every string and every `Uint8Array`
   * counts as decodable.
   */
  readonly decode?: (value: StoredValue) => unknown;
  /**
   * Pads each value to a multiple of this many bytes before it is encrypted, which hides the exact length of the value.
   * An integer between 1 and 2^20. Default: no padding.
   */
  readonly padTo?: number;
  /**
   * Registers this process as a replica of the store: the process writes heartbeats to the reserved space, and a
   * rotation waits for the process. If the heartbeat lapses, no store of the process over the same keys and backend
   * object writes anything until the process has renewed the heartbeat and reloaded the keyring. `true` uses the
   * defaults of {@link ReplicaOptions}. Default: `false`.
   */
  readonly replica?: boolean | ReplicaOptions;
}

/** The values of the option `reencrypt`. */
export type LazyReencryptionMode = Required<EncryptedStoreOptions>["reencrypt"];

const lazyReencryptionModes: readonly LazyReencryptionMode[] = ["on-read", "off", "on-read-may-undo-writes"];

/** Every option of an {@link EncryptedStore}. The compiler rejects this table if an option is missing. */
export const encryptedStoreOptionNames = {
  keys: true,
  scope: true,
  reencrypt: true,
  accept: true,
  decode: true,
  padTo: true,
  replica: true,
} as const satisfies OptionNames<EncryptedStoreOptions>;

/**
 * Checks the values of `padTo`, `accept`, `decode` and `reencrypt`.
 *
 * @throws KeywardError `VALUE_INVALID` for a value that the option cannot have.
 */
export function requireOptionValues({ padTo, accept = [], decode, reencrypt }: EncryptedStoreOptions): void {
  if (padTo !== undefined) requireAmount("padTo", padTo, "bytes", { most: 2 ** 20 });
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
