import { type EncryptedStoreOrKeyv, storeParts } from "./encrypted-store.ts";

/**
 * Returns the lowest generation number of the keyring with which a replica may write to a store. Returns 0 if no
 * process has written to the store yet, or if the store has no reserved space.
 *
 * Call this function before you restore a keyring from a backup: {@link withGeneration} raises the restored keyring to
 * this number. Writes nothing.
 *
 * @throws KeywardError `OVERWRITE_REFUSED`, with the cause, if the keyring of the store does not belong to the store;
 * `STORE_UNAVAILABLE`; the errors of the key provider.
 * @example
 * console.log(await requiredGeneration(sessions)); // 2
 */
export async function requiredGeneration(store: EncryptedStoreOrKeyv): Promise<number> {
  const { codec, generationNotice, source } = storeParts(store);
  const unscoped = generationNotice.unscoped;
  const required = await generationNotice.requiredGeneration(await codec.ring());
  if (unscoped === generationNotice) return required;
  const keyring = await source.current();
  // A process with only the keyring of a scope cannot decrypt the check record of the whole keyring.
  return keyring.scopeName === undefined ? Math.max(required, await unscoped.requiredGeneration(keyring)) : required;
}
