import type { Keyring } from "../keyring/keyring.ts";
import { type CheckRecord, parseCheckRecord } from "./check-record.ts";
import { isUnusableScope, scopedCheckRecords, trustedContent } from "./scoped-check-records.ts";

/**
 * The generation, in the check record of a store, of the oldest keyring with which a process may write. A rotation
 * raises this generation. Replicas read it with each heartbeat, and reload their keyring.
 */
export class GenerationNotice {
  readonly #record: CheckRecord | undefined;

  /** @param record `undefined` for a store without a reserved space, which has no notice. */
  constructor(record: CheckRecord | undefined) {
    this.#record = record;
  }

  /** The notice in the check record of the unscoped keyring; this notice itself if the store has no scope. */
  get unscoped(): GenerationNotice {
    const unscoped = this.#record?.unscoped;
    return unscoped === undefined ? this : new GenerationNotice(unscoped);
  }

  /**
   * Reads the lowest generation that a process needs in order to write; 0 if there is no check record.
   *
   * @throws KeywardError `OVERWRITE_REFUSED`, with the cause, if the keyring in use cannot decrypt the check record.
   */
  async requiredGeneration(keyring: Keyring): Promise<number> {
    const stored = await this.#record?.read(keyring);
    if (this.#record === undefined || stored === undefined) return 0;
    return parseCheckRecord(await this.#record.decrypt(stored))?.generation ?? 0;
  }

  /**
   * Writes into the check record that a process needs the generation of this keyring in order to write, and encrypts
   * the check record under the primary of this keyring. Then writes the check records of all scopes in the same way,
   * because a process that was given the keyring of a scope reads no other check record.
   *
   * @param keyring the keyring as the key provider returned it, not derived for the scope of the store.
   * @throws KeywardError `OVERWRITE_REFUSED`, with the cause, if the keyring in use cannot decrypt the check record.
   */
  async raise(keyring: Keyring): Promise<void> {
    await this.#write(keyring, keyring.generation);
  }

  /**
   * Encrypts the check records under the primary of a keyring that is about to be saved. The check records do not yet
   * require the generation of that keyring from other processes, because the save may still fail. Processes with an
   * earlier generation do not re-encrypt these check records.
   *
   * @param current the keyring in use, as the key provider returned it, not derived for the scope of the store.
   * @throws KeywardError `OVERWRITE_REFUSED`, with the cause, if the keyring in use cannot decrypt the check record.
   */
  async prepare(next: Keyring, current: Keyring): Promise<void> {
    await this.#write(next, current.generation);
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
 * Writes one check record, unless it requires this generation already and this generation of the keyring encrypted it.
 */
async function requireGeneration(record: CheckRecord, keyring: Keyring, generation: number): Promise<void> {
  const scoped = record.scope === undefined || keyring.scopeName !== undefined ? keyring : keyring.scope(record.scope);
  for (;;) {
    const stored = await record.read(scoped);
    const opened = stored === undefined ? undefined : await record.decrypt(stored);
    const content = opened === undefined ? undefined : await trustedContent(record, opened, keyring);
    if (content !== undefined && content.generation >= generation && content.encryptedBy >= keyring.generation) return;
    // Another process may have raised the required generation since it was read: it must never fall.
    if (await record.replace(scoped, stored?.stored, Math.max(generation, content?.generation ?? 0))) return;
  }
}
