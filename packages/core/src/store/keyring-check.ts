import { KeywardError } from "../errors/errors.ts";
import type { Keyring } from "../keyring/keyring.ts";
import type { Recognition } from "../keyring/keyring-successor.ts";
import { type CheckRecord, parseCheckRecord, type StoredCheckRecord } from "./check-record.ts";
import { hasRecordsOfAnotherKeyring, notDecryptable } from "./missing-check-record.ts";
import type { OpenedRecord } from "./record-codec.ts";
import type { RecordScopes } from "./record-scopes.ts";
import { isUnusableScope, scopedCheckRecords, trustedContent } from "./scoped-check-records.ts";

/**
 * Verifies, before the first write to a store, that a keyring belongs to the store: the keyring must decrypt the check
 * record. A process with the wrong key then fails at its first write, instead of destroying records that it cannot
 * read.
 */
export class KeyringCheck {
  readonly #record: CheckRecord | undefined;
  readonly #scopes: RecordScopes;
  readonly #unscoped: KeyringCheck | undefined;
  readonly #verified = new WeakSet<Keyring>();
  #hasVerified = false;
  readonly #verifying = new WeakMap<Keyring, Promise<void>>();

  /**
   * @param record `undefined` for a store without a reserved space, in which every keyring passes the check.
   * @param scopes the scopes of the records. If the check record is missing, the check tries to decrypt records of
   * these scopes.
   */
  constructor(record: CheckRecord | undefined, scopes: RecordScopes) {
    this.#record = record;
    this.#scopes = scopes;
    // The unscoped keyring must pass the check, too. Otherwise a wrong keyring could create a check record for a scope
    // that has no check record yet.
    this.#unscoped = record?.unscoped === undefined ? undefined : new KeyringCheck(record.unscoped, scopes);
  }

  /**
   * The `KeyringCheck` for the whole keyring, which is not derived for a scope. If the option `scope` of the store is
   * not the name of a scope, this is the same object.
   */
  get unscoped(): KeyringCheck {
    return this.#unscoped ?? this;
  }

  /**
   * Verifies that `keyring` may be used for writes. Returns `undefined` if `keyring` has been verified before,
   * otherwise a promise.
   *
   * @throws KeywardError `OVERWRITE_REFUSED`, with the cause, if the keyring cannot decrypt the check record.
   */
  verify(keyring: Keyring): Promise<void> | undefined {
    const record = this.#record;
    if (record === undefined || this.#verified.has(keyring)) return undefined;
    let verifying = this.#verifying.get(keyring);
    if (verifying === undefined) {
      verifying = this.#verifyOnce(record, keyring)
        .then(() => {
          this.#verified.add(keyring);
          this.#hasVerified = true;
        })
        .finally(() => this.#verifying.delete(keyring));
      this.#verifying.set(keyring, verifying);
    }
    return verifying;
  }

  /**
   * Verifies that `keyring` belongs to the store, as {@link KeyringCheck.verify} does, but writes nothing: a missing
   * check record is not created, and a check record under an older key is not re-encrypted.
   *
   * @throws KeywardError `OVERWRITE_REFUSED`, with the cause, if the keyring does not belong to the store.
   */
  async verifyWithoutWriting(keyring: Keyring): Promise<void> {
    await this.#withUnscoped((check, unscopedKeyring) => check.verifyWithoutWriting(unscopedKeyring));
    if (this.#record !== undefined) await this.#readAndDecrypt(this.#record, keyring);
  }

  /**
   * Returns which of two keyrings can decrypt the check record of the store. Returns `undefined` if neither keyring can
   * decrypt the check record. Also tries the disabled keys of each keyring.
   *
   * @param next the keyring that is to replace `previous`. Both are whole keyrings from the key provider, not derived
   * for a scope.
   */
  async recognizes(next: Keyring, previous: Keyring): Promise<Recognition | undefined> {
    if (this.#unscoped !== undefined) return await this.#unscoped.recognizes(next, previous);
    const record = this.#record;
    if (record === undefined) return undefined;
    const stored = await record.read(previous);
    const hadRightRing = this.#hasVerified;
    if (stored === undefined) return { next: false, previous: false, hadRightRing };
    const recognized = {
      next: record.isDecryptableWith(next, stored),
      previous: record.isDecryptableWith(previous, stored),
    };
    return recognized.next || recognized.previous ? { ...recognized, hadRightRing } : undefined;
  }

  /**
   * Re-encrypts the check record under the primary, so that the check record needs no older key. If the option `scope`
   * of the store is a function, also re-encrypts the check record of every scope.
   */
  async renew(keyring: Keyring): Promise<void> {
    await this.#withUnscoped((check, unscopedKeyring) => check.renew(unscopedKeyring));
    const record = this.#record;
    if (record === undefined || keyring.primary === "") return;
    const stored = await record.read(keyring);
    if (stored !== undefined) await decryptAndReencrypt(record, keyring, stored);
    if (this.#scopes.differByRecord && keyring.scopeName === undefined) await renewScoped(record, keyring);
  }

  /**
   * Writes the check record under the primary of `keyring`, even if `keyring` cannot decrypt the stored check record.
   */
  async overwrite(keyring: Keyring): Promise<void> {
    await this.#withUnscoped((check, unscopedKeyring) => check.overwrite(unscopedKeyring));
    if (keyring.primary !== "") await this.#record?.overwrite(keyring);
  }

  async #withUnscoped(use: (check: KeyringCheck, keyring: Keyring) => Promise<void> | undefined): Promise<void> {
    const unscoped = this.#record?.unscoped;
    if (unscoped === undefined || this.#unscoped === undefined) return;
    const keyring = await unscoped.keyringInUse();
    // A process with only a scoped keyring cannot and need not decrypt the unscoped check record.
    if (keyring.scopeName === undefined) await use(this.#unscoped, keyring);
  }

  async #verifyOnce(record: CheckRecord, keyring: Keyring): Promise<void> {
    await this.#withUnscoped((check, unscopedKeyring) => check.verify(unscopedKeyring));
    const decrypted = await this.#readAndDecrypt(record, keyring);
    if (decrypted !== undefined) return await reencryptIfOutdated(record, keyring, decrypted);
    if (keyring.primary === "") return;
    // If several new processes start together, only one creates the check record. The others must decrypt it.
    if (await record.replace(keyring, undefined)) return;
    await this.#verifyOnce(record, keyring);
  }

  /**
   * Returns the decrypted check record; `undefined` if there is no check record, so that the keyring may create one.
   */
  async #readAndDecrypt(record: CheckRecord, keyring: Keyring): Promise<DecryptedCheckRecord | undefined> {
    const stored = await record.read(keyring);
    if (stored !== undefined) {
      const opened = await record.decrypt(stored);
      requirePrimaryInUse(record, opened, keyring);
      return { stored, opened };
    }
    if (keyring.primary !== "" && (await hasRecordsOfAnotherKeyring(record, keyring, this.#scopes))) {
      throw notDecryptable(record.store.description, keyring);
    }
    return undefined;
  }
}

/**
 * Checks that no guided rotation took the primary out of use. Checks nothing if the check record belongs to a scope: a
 * process with only the keyring of that scope may have written it, so it is not trusted.
 *
 * @throws KeywardError `KEYRING_ROLLBACK` if the primary is such a key.
 */
function requirePrimaryInUse(record: CheckRecord, opened: OpenedRecord, { primary, generation }: Keyring): void {
  const content = record.scope === undefined ? parseCheckRecord(opened) : undefined;
  // A keyring with a later generation than the check record is not from before the rotation.
  if (content?.retired?.includes(primary) !== true || generation > content.generation) return;
  throw retiredPrimary(primary);
}

/** Returns the error `KEYRING_ROLLBACK` for a process whose primary was already replaced by a guided rotation. */
export function retiredPrimary(keyId: string): KeywardError {
  return new KeywardError(
    "KEYRING_ROLLBACK",
    `Nothing was written: key "${keyId}" is the primary of this process, but a rotation took this key out of use`,
    {
      keyId,
      hint:
        "The keys of this process are from before the rotation, for example because an earlier deployment was restored. " +
        "Give this process the keys of the other processes. Only if all processes were set back to the old keys on purpose, " +
        `and key "${keyId}" is to encrypt records again, call \`overwriteCheckRecord()\` of the EncryptedStore ` +
        "(`keyv.encryptedStore`).",
    },
  );
}

/** A stored check record, and its decrypted content. */
interface DecryptedCheckRecord {
  readonly stored: StoredCheckRecord;
  readonly opened: OpenedRecord;
}

/** Re-encrypts the check record of every scope, except those that the keyring cannot decrypt. */
async function renewScoped(unscoped: CheckRecord, keyring: Keyring): Promise<void> {
  for (const scoped of await scopedCheckRecords(unscoped, keyring)) {
    try {
      const scopedKeyring = await scoped.keyringInUse();
      const stored = await scoped.read(scopedKeyring);
      if (stored !== undefined) await decryptAndReencrypt(scoped, scopedKeyring, stored);
    } catch (error) {
      if (!isUnusableScope(error)) throw error;
    }
  }
}

async function decryptAndReencrypt(record: CheckRecord, keyring: Keyring, stored: StoredCheckRecord): Promise<void> {
  await reencryptIfOutdated(record, keyring, { stored, opened: await record.decrypt(stored) });
}

/** Re-encrypts the check record under the primary, unless a later generation of the keyring wrote the check record. */
async function reencryptIfOutdated(
  record: CheckRecord,
  keyring: Keyring,
  { stored, opened }: DecryptedCheckRecord,
): Promise<void> {
  if (opened.current) return;
  const content = await trustedContent(record, opened, keyring);
  if (content !== undefined && content.encryptedBy > keyring.generation) return;
  await record.replace(keyring, stored.stored, { retired: content?.retired });
}
