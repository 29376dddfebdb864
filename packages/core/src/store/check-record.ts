import { readHeader } from "../envelope/header.ts";
import { KeywardError, type KeywardErrorCode } from "../errors/errors.ts";
import { isKeyId } from "../keyring/key.ts";
import type { Keyring } from "../keyring/keyring.ts";
import { reservedNamespace } from "../store-interface/namespace-use.ts";
import type { RecordAddress } from "../store-interface/record.ts";
import {
  type AtomicStore,
  isStoredValue,
  type ScannableStore,
  type StoredValue,
} from "../store-interface/store-capabilities.ts";
import { type WrappedStore, wrapRejection } from "../store-interface/wrapped-store.ts";
import type { OpenedRecord, RecordCodec } from "./record-codec.ts";
import { ReservedText } from "./reserved-text.ts";

/** The prefix of the key of each check record that belongs to a scope. The rest of the key is the name of the scope. */
export const scopedPrefix = "check/";

/** Maximum number of keys in the list of keys that were taken out of use, which a check record contains. */
export const maxRetired = 16;

/** The properties of a wrapped store that {@link CheckRecord} uses. */
export type CheckedStore = Pick<WrappedStore, "reserved" | "scannable" | "description">;

/** The decrypted content of a check record. */
export interface CheckRecordContent {
  /** The lowest generation number of the keyring with which a process may write to the store. */
  readonly generation: number;
  /** The generation number of the keyring with which the check record was encrypted. */
  readonly encryptedBy: number;
  /**
   * The ids of the keys that the last guided rotations took out of use, at most {@link maxRetired}. A process whose
   * primary is one of these keys must not write, because its keys are from before the rotation.
   */
  readonly retired?: readonly string[] | undefined;
}

/** An encrypted check record as it is stored, and its address (namespace and key). */
export interface StoredCheckRecord {
  readonly address: RecordAddress;
  readonly stored: StoredValue;
}

/**
 * Reads and writes the check record of a store, or of one scope in the store. The check record is an encrypted record
 * in the reserved space. Only a keyring that belongs to the store can decrypt it.
 */
export class CheckRecord {
  readonly store: CheckedStore;
  readonly reserved: AtomicStore & ScannableStore;
  /** The scope that this check record belongs to; `undefined` for the check record of the whole keyring. */
  readonly scope: string | undefined;
  /** If this check record belongs to a scope: the check record of the whole keyring. Otherwise `undefined`. */
  readonly unscoped: CheckRecord | undefined;
  readonly #codec: RecordCodec;

  private constructor(
    store: CheckedStore,
    reserved: AtomicStore & ScannableStore,
    codec: RecordCodec,
    scoped: { readonly scope: string; readonly unscoped: CheckRecord } | undefined,
  ) {
    this.store = store;
    this.reserved = reserved;
    this.#codec = codec;
    this.scope = scoped?.scope;
    this.unscoped = scoped?.unscoped;
  }

  /**
   * Returns the check record of `scope` in a store, or the check record of the store if `scope` is `undefined`. Returns
   * `undefined` if the store has no reserved space.
   */
  static of(store: CheckedStore, codec: RecordCodec, scope: string | undefined): CheckRecord | undefined {
    const { reserved } = store;
    if (reserved === undefined) return undefined;
    const unscoped = new CheckRecord(store, reserved, codec.forScope(undefined), undefined);
    return scope === undefined ? unscoped : new CheckRecord(store, reserved, codec, { scope, unscoped });
  }

  /** Returns the check record of `scope` in the store of this check record. */
  forScope(scope: string): CheckRecord {
    return new CheckRecord(this.store, this.reserved, this.#codec.forScope(scope), { scope, unscoped: this });
  }

  /**
   * Returns the keyring in use. If this check record belongs to a scope, the returned keyring is derived for that
   * scope.
   */
  keyringInUse(): Keyring | Promise<Keyring> {
    return this.#codec.ring();
  }

  /**
   * Reads the check record without decrypting it. If `keyring` is derived for a scope, reads the check record of that
   * scope. Returns `undefined` if there is no check record.
   */
  async read(keyring: Keyring): Promise<StoredCheckRecord | undefined> {
    const address = this.#address(keyring);
    const stored: unknown = await wrapRejection(() => this.reserved.get(address.key));
    return isStoredValue(stored) ? { address, stored } : undefined;
  }

  /**
   * Decrypts a check record with the keyring in use.
   *
   * @throws KeywardError `OVERWRITE_REFUSED`, with the cause, if the keyring in use cannot decrypt the check record.
   */
  async decrypt({ stored, address }: StoredCheckRecord): Promise<OpenedRecord> {
    try {
      if (readHeader(stored, address) !== undefined) return await this.#codec.open(stored, address);
    } catch (cause) {
      throw notDecrypted(cause, this.store.description, await this.#codec.ring());
    }
    throw notDecrypted(undefined, this.store.description, await this.#codec.ring());
  }

  /** Returns whether a key in `keyring`, enabled or disabled, decrypts a check record. */
  isDecryptableWith(keyring: Keyring, { stored, address }: StoredCheckRecord): boolean {
    try {
      return this.#codec.openIgnoringStatus(keyring, stored, address) !== undefined;
    } catch (error) {
      if (error instanceof KeywardError) return false;
      throw error;
    }
  }

  /**
   * Encrypts a check record under the primary of `keyring`, and writes it if the stored check record is still
   * `expected`. If `expected` is `undefined`, writes it only if there is no check record.
   *
   * @param content the lowest generation number of the keyring with which a process may write, and the ids of retired
   * keys, which must not be the primary of a process that writes. Default: the generation number of `keyring`, and no
   * ids.
   * @returns whether the check record was written.
   */
  async replace(
    keyring: Keyring,
    expected: StoredValue | undefined,
    content: Partial<Pick<CheckRecordContent, "generation" | "retired">> = {},
  ): Promise<boolean> {
    const address = this.#address(keyring);
    const encrypted = this.#encrypt(keyring, address, content);
    return await wrapRejection(() => this.reserved.replace(address.key, expected, encrypted));
  }

  /**
   * Encrypts a check record under the primary of `keyring`, and writes it, even if `keyring` cannot decrypt the stored
   * check record.
   */
  async overwrite(keyring: Keyring): Promise<void> {
    const address = this.#address(keyring);
    await wrapRejection(() => this.reserved.set(address.key, this.#encrypt(keyring, address)));
  }

  #address(keyring: Keyring): RecordAddress {
    // An application may pass a keyring that is already derived for a scope, and no option `scope`.
    const scope = this.scope ?? keyring.scopeName;
    return { namespace: reservedNamespace, key: scope === undefined ? "check" : `${scopedPrefix}${scope}` };
  }

  #encrypt(
    keyring: Keyring,
    address: RecordAddress,
    { generation = keyring.generation, retired }: Partial<CheckRecordContent> = {},
  ): StoredValue {
    const sealedBy = keyring.generation === generation ? undefined : keyring.generation;
    const listed = retired !== undefined && retired.length > 0 ? retired : undefined;
    const value = JSON.stringify({ keyward: "check", generation, sealedBy, retired: listed });
    return this.#codec.seal(keyring, address, { value });
  }
}

/** Parses the content of a check record. Returns `undefined` for content that Keyward cannot have written. */
export function parseCheckRecord({ content }: OpenedRecord): CheckRecordContent | undefined {
  const parsed = ReservedText.read("check record", String(content.value), (text) => {
    const generation = text.amount("generation", { least: 0 });
    const encryptedBy = text.amountIfAny("sealedBy", { least: 0 }) ?? generation;
    return { generation, encryptedBy, retired: text.textsIfAny("retired", { most: maxRetired, isAllowed: isKeyId }) };
  });
  return parsed instanceof KeywardError ? undefined : parsed;
}

const mostShownKeys = 5;

/**
 * Returns the ids of a keyring's keys for an error message, such as `only the keys "a", "b"`. Lists at most five ids.
 * Returns "no key" for a keyring without keys.
 */
export function keysIn(ring: Keyring): string {
  const ids = ring.keys.map(({ id }) => `"${id}"`);
  if (ids.length === 0) return "no key";
  const more = ids.length > mostShownKeys ? ` and ${ids.length - mostShownKeys} more` : "";
  return `only ${ids.length === 1 ? "key" : "the keys"} ${ids.slice(0, mostShownKeys).join(", ")}${more}`;
}

/** The hint of every error about a keyring that does not belong to the store. */
export const wrongKeyringHint =
  "Give this process the keyring that the store was written with. If you only want to try out a new key, use an empty " +
  "store. Only if the former keyring is lost for good, so that its records can never be read again, call " +
  "`overwriteCheckRecord()` of the EncryptedStore (`keyv.encryptedStore`): this process may then overwrite these records.";

function notDecrypted(cause: unknown, store: string, keyring: Keyring): KeywardError {
  const { code, keyId } = cause instanceof KeywardError ? cause : {};
  const problem = problemWith(store, code, keyId, keysIn(keyring));
  return new KeywardError("OVERWRITE_REFUSED", `Nothing was written: ${problem}`, {
    keyId,
    cause,
    hint: wrongKeyringHint,
  });
}

function problemWith(
  store: string,
  code: KeywardErrorCode | undefined,
  keyId: string | undefined,
  availableKeys: string,
): string {
  switch (code) {
    case "KEY_UNKNOWN":
      return `${store} was written with key "${keyId}", and this process has ${availableKeys}`;
    case "KEY_DISABLED":
      return `${store} was written with key "${keyId}", which is disabled in this process`;
    case "KEY_MISMATCH":
      return `${store} was written with a key "${keyId}" that has other material than key "${keyId}" of this process`;
    default:
      return `the check record of ${store} was altered, or was written by a later release of Keyward; this process has ${availableKeys}`;
  }
}
