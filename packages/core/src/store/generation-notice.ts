import { keyIdIn } from "../envelope/header.ts";
import type { Keyring } from "../keyring/keyring.ts";
import { type CheckRecord, parseCheckRecord, type StoredCheckRecord } from "./check-record.ts";
import { isUnusableScope, scopedCheckRecords, trustedContent } from "./scoped-check-records.ts";

/**
 * Reads and writes a number in the check record of a store: the lowest generation of the keyring with which a process
 * may write to the store. A rotation raises the number. Each replica reads the number with every heartbeat, and reloads
 * its keyring if the generation of its keyring is lower.
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
   * The `GenerationNotice` for the keyring that is not derived for a scope. If the option `scope` of the store is not
   * the name of a scope, this is the same object.
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
   * @param keyring the keyring as the key provider returned it, not derived for the scope of the store.
   * @throws KeywardError `OVERWRITE_REFUSED`, with the cause, if the keyring in use cannot decrypt the check record.
   */
  async raise(keyring: Keyring): Promise<void> {
    await this.#write(keyring, keyring.generation);
  }

  /**
   * Encrypts all check records under the primary of `next`, a keyring that is about to be saved. The check records do
   * not require the generation of `next` yet, because the save may still fail. A process whose keyring has an earlier
   * generation does not re-encrypt these check records.
   *
   * @param current the keyring in use, as the key provider returned it, not derived for the scope of the store.
   * @throws KeywardError `OVERWRITE_REFUSED`, with the cause, if the keyring in use cannot decrypt the check record.
   */
  async prepare(next: Keyring, current: Keyring): Promise<void> {
    await this.#write(next, current.generation);
  }

  /**
   * Notes in the check record of the store that the key `retired` may no longer be the primary of a process that
   * writes. A guided rotation needs this, because it may leave the generation number of the keyring unchanged.
   *
   * @param keyring the keyring as the key provider returned it. Its primary is another key.
   * @throws KeywardError `OVERWRITE_REFUSED`, with the cause, if the keyring in use cannot decrypt the check record.
   */
  async retire(keyring: Keyring, retired: string): Promise<void> {
    await this.#note(keyring, () => retired);
  }

  /**
   * Removes the note of {@link GenerationNotice.retire} about the key `keyId`, which is about to become the primary
   * again.
   */
  async useAgain(keyring: Keyring, keyId: string): Promise<void> {
    await this.#note(keyring, (retired) => (retired === keyId ? undefined : retired));
  }

  async #note(keyring: Keyring, noteFor: (retired: string | undefined) => string | undefined): Promise<void> {
    const unscoped = this.#record?.unscoped ?? this.#record;
    if (unscoped === undefined || keyring.primary === "" || keyring.scopeName !== undefined) return;
    for (;;) {
      const stored = await unscoped.read(keyring);
      const content = stored === undefined ? undefined : parseCheckRecord(await unscoped.decrypt(stored));
      const retired = noteFor(content?.retired);
      if (retired === content?.retired) return;
      const generation = Math.max(keyring.generation, content?.generation ?? 0);
      if (await unscoped.replace(keyring, stored?.stored, { generation, retired })) return;
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
 * Writes one check record, unless it requires this generation already, and is under the primary of this generation of
 * the keyring. The primary is compared too, because some sources change their keys without a new generation.
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
    // Another process may have raised the required generation since it was read: it must never fall.
    const required = Math.max(generation, content?.generation ?? 0);
    if (await record.replace(scoped, stored?.stored, { generation: required, retired: content?.retired })) return;
  }
}

function keyIdOf(check: StoredCheckRecord | undefined): string | undefined {
  return check === undefined ? undefined : keyIdIn(check.stored, check.address);
}
