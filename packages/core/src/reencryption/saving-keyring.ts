import { asKeywardError, KeywardError } from "../errors/errors.ts";
import type { KeyProvider } from "../keyring/key-provider.ts";
import { Keyring } from "../keyring/keyring.ts";

/**
 * Saves a changed keyring through its provider, if the provider can save.
 *
 * @returns `true` if the provider saved `next`; `false` if `keys` is a keyring without a provider, or a provider that
 * cannot save.
 * @throws KeywardError `KEYRING_CONFLICT`, `PROVIDER_UNAVAILABLE`, and the other errors of the provider.
 */
export async function saveIfPossible(keys: Keyring | KeyProvider, next: Keyring, previous: Keyring): Promise<boolean> {
  if (keys instanceof Keyring || !(await canSave(keys))) return false;
  try {
    await keys.save?.(next, previous);
    return true;
  } catch (error) {
    const hint = "Load the keyring again, to see whether the change was saved. If the change was not saved, repeat it.";
    throw asKeywardError(error, "PROVIDER_UNAVAILABLE", "The key provider failed to save the changed keyring", hint);
  }
}

/**
 * Returns whether a provider can save a changed keyring. Writes nothing.
 *
 * @throws KeywardError the error of `requireWritable` of the provider, if this error is not `PROVIDER_READ_ONLY`.
 */
export async function canSave(provider: KeyProvider): Promise<boolean> {
  if (provider.save === undefined) return false;
  try {
    await provider.requireWritable?.();
    return true;
  } catch (error) {
    if (error instanceof KeywardError && error.code === "PROVIDER_READ_ONLY") return false;
    throw error;
  }
}

/**
 * Checks that a provider has the method `save`.
 *
 * @throws KeywardError `PROVIDER_READ_ONLY` if the provider has no `save`.
 */
export function requireSave(provider: KeyProvider): void {
  if (typeof provider.save === "function") return;
  throw new KeywardError("PROVIDER_READ_ONLY", "The key provider cannot save a changed keyring", {
    hint:
      "Use a provider that has `save()`. If you cannot, pass the option `instruct` to the rotation: the rotation " +
      "then tells you which change to make at the source of the keys, and waits for that change. See " +
      "docs/guided-rotation.md.",
  });
}

/**
 * Checks that a provider can save a changed keyring. Checks nothing if `keys` is a keyring without a provider.
 *
 * @throws KeywardError `PROVIDER_READ_ONLY`; the other errors of the provider.
 */
export async function requireWritable(keys: Keyring | KeyProvider): Promise<void> {
  if (keys instanceof Keyring) return;
  requireSave(keys);
  await keys.requireWritable?.();
}

/**
 * Returns a function that adds up the numbers that it is called with, such as the number of records in each page, and
 * passes the sum so far to `onProgress`.
 */
export function recordCounter(onProgress: ((records: number) => void) | undefined): (records: number) => void {
  let total = 0;
  return (records) => {
    total += records;
    onProgress?.(total);
  };
}
