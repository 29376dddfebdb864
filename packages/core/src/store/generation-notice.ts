import { keyIdIn } from "../envelope/header.ts";
import { isEnabled, type Keyring, withPrimary } from "../keyring/keyring.ts";
import { type CheckRecord, maxRetired, parseCheckRecord, type StoredCheckRecord } from "./check-record.ts";
import { isUnusableScope, scopedCheckRecords, trustedContent } from "./scoped-check-records.ts";

/**
 * Reads and writes, in the check record of a store, the lowest generation of the keyring with which a process may
 * write. A rotation raises this number. Each replica reads the number with every heartbeat, and reloads its keyring if
 * its generation is lower.
 */
export class GenerationNotice {
  readonly #record: CheckRecord | undefined;

  /**
   * @param record the check record of the store. `undefined` if the store has no reserved space: a process may then
   * write with any generation.
   */
  constructor(record: CheckRecord | undefined) {
    this.#record = record;
  }

  /**
   * The `GenerationNotice` for the whole keyring, which is not derived for a scope. If the option `scope` of the store
   * is not the name of a scope, this is the same object.
   */
  get unscoped(): GenerationNotice {
    const unscoped = this.#record?.unscoped;
    return unscoped === undefined ? this : new GenerationNotice(unscoped);
  }

  /**
   * Reads, from the check record, the lowest generation number of the keyring with which a process may write. Returns 0
   * if there is no check record.
   *
   * @throws KeywardError `OVERWRITE_REFUSED`, with the cause, if the keyring in use cannot decrypt the check record.
   */
  async requiredGeneration(keyring: Keyring): Promise<number> {
    const stored = await this.#record?.read(keyring);
    if (this.#record === undefined || stored === undefined) return 0;
    return parseCheckRecord(await this.#record.decrypt(stored))?.generation ?? 0;
  }

  /**
   * Writes the generation number of `keyring` into the check record of the store, as the lowest number with which a
   * process may write. Encrypts the check record under the primary of `keyring`. Then does the same for the check
   * record of each scope, because a process that has only the keyring of a scope reads only the check record of this
   * scope.
   *
   * @param keyring the whole keyring from the key provider, not derived for the scope of the store.
   * @throws KeywardError `OVERWRITE_REFUSED`, with the cause, if the keyring in use cannot decrypt the check record.
   */
  async raise(keyring: Keyring): Promise<void> {
    await this.#write(keyring, keyring.generation);
  }

  /**
   * Encrypts all check records under the primary of `next`, a keyring that is about to be saved. The check records do
   * not require the generation of `next` yet, because the save may still fail. A process with an earlier generation
   * does not re-encrypt these check records.
   *
   * @param current the whole keyring in use, not derived for the scope of the store.
   * @throws KeywardError `OVERWRITE_REFUSED`, with the cause, if the keyring in use cannot decrypt the check record.
   */
  async prepare(next: Keyring, current: Keyring): Promise<void> {
    await this.#write(next, current.generation);
  }

  /**
   * Adds the key `retired` to the retired keys in the check record of the store, and in the check records of its
   * scopes. A process whose primary is such a key must not write. A guided rotation needs this list, because it may
   * leave the generation number of the keyring unchanged.
   *
   * @param keyring the keyring with which the check records are encrypted. Its primary is not the key `retired`.
   * @throws KeywardError `OVERWRITE_REFUSED`, with the cause, if the keyring in use cannot decrypt the check record.
   */
  async retire(keyring: Keyring, retired: string): Promise<void> {
    await this.#note(keyring, (noted) => [...noted.filter((id) => id !== retired), retired].slice(-maxRetired));
  }

  /**
   * Removes the key `keyId` from the retired keys in all check records, because it is about to become the primary
   * again.
   */
  async useAgain(keyring: Keyring, keyId: string): Promise<void> {
    await this.#note(keyring, (noted) => noted.filter((id) => id !== keyId));
  }

  /** Returns the ids of the retired keys, which must not be the primary of a process that writes. */
  async retired(keyring: Keyring): Promise<readonly string[]> {
    const unscoped = this.#record?.unscoped ?? this.#record;
    const stored = await unscoped?.read(keyring);
    if (unscoped === undefined || stored === undefined) return [];
    return parseCheckRecord(await unscoped.decrypt(stored))?.retired ?? [];
  }

  async #note(keyring: Keyring, noteFor: (noted: readonly string[]) => readonly string[]): Promise<void> {
    const unscoped = this.#record?.unscoped ?? this.#record;
    if (unscoped === undefined || keyring.primary === "" || keyring.scopeName !== undefined) return;
    await noteRetired(unscoped, keyring, noteFor);
    for (const scoped of await scopedCheckRecords(unscoped, keyring)) {
      await noteRetired(scoped, keyring, noteFor).catch((error: unknown) => {
        if (!isUnusableScope(error)) throw error;
      });
    }
  }

  async #write(keyring: Keyring, generation: number): Promise<void> {
    const record = this.#record;
    if (record === undefined || keyring.primary === "") return;
    if (keyring.scopeName !== undefined) return await requireGeneration(record, keyring, generation);
    const unscoped = record.unscoped ?? record;
    await requireGeneration(unscoped, keyring, generation);
    for (const scoped of await scopedCheckRecords(unscoped, keyring)) {
      await requireGeneration(scoped, keyring, generation).catch((error: unknown) => {
        if (!isUnusableScope(error)) throw error;
      });
    }
    if (record !== unscoped) await requireGeneration(record, keyring, generation);
  }
}

/**
 * Raises the required generation in one check record, and encrypts the check record under the primary of the keyring.
 * Writes nothing if the check record already requires this generation and is encrypted under this primary. Compares the
 * primary, too, because some sources change their keys without a new generation.
 */
async function requireGeneration(record: CheckRecord, keyring: Keyring, generation: number): Promise<void> {
  const scoped = record.scope === undefined || keyring.scopeName !== undefined ? keyring : keyring.scope(record.scope);
  for (;;) {
    const stored = await record.read(scoped);
    const opened = stored === undefined ? undefined : await record.decrypt(stored);
    const content = opened === undefined ? undefined : await trustedContent(record, opened, keyring);
    const isNewer = content !== undefined && content.encryptedBy > keyring.generation;
    const isEncrypted = isNewer || (content?.encryptedBy === keyring.generation && keyIdOf(stored) === keyring.primary);
    if (content !== undefined && content.generation >= generation && isEncrypted) return;
    // The required generation must never fall, and another process may have raised it since.
    const required = Math.max(generation, content?.generation ?? 0);
    if (await record.replace(scoped, stored?.stored, { generation: required, retired: content?.retired })) return;
  }
}

function keyIdOf(check: StoredCheckRecord | undefined): string | undefined {
  return check === undefined ? undefined : keyIdIn(check.stored, check.address);
}

async function noteRetired(
  record: CheckRecord,
  keyring: Keyring,
  noteFor: (noted: readonly string[]) => readonly string[],
): Promise<void> {
  for (;;) {
    const stored = await record.read(keyring);
    // Keep the key under which the check record is encrypted, because this keyring may be from before a promotion.
    const keyId = keyIdOf(stored);
    const encrypting = keyId !== undefined && isEnabled(keyring, keyId) ? withPrimary(keyring, keyId) : keyring;
    const scoped = record.scope === undefined ? encrypting : encrypting.scope(record.scope);
    const opened = stored === undefined ? undefined : await record.decrypt(stored);
    const content = opened === undefined ? undefined : await trustedContent(record, opened, keyring);
    const noted = content?.retired ?? [];
    const retired = noteFor(noted);
    if (retired.length === noted.length && retired.every((id) => noted.includes(id))) return;
    const generation = Math.max(keyring.generation, content?.generation ?? 0);
    if (await record.replace(scoped, stored?.stored, { generation, retired })) return;
  }
}
