import { type KeyProvider, type Keyring, KeywardError } from "@keyward/core";

/**
 * Returns the error that explains why a provider cannot save a keyring; `undefined` if the provider can save one.
 *
 * @throws KeywardError the error of the provider, if it cannot find out whether it can save.
 */
export async function whyReadOnly(provider: KeyProvider): Promise<KeywardError | undefined> {
  try {
    await provider.requireWritable?.();
  } catch (error) {
    if (error instanceof KeywardError && error.code === "PROVIDER_READ_ONLY") return error;
    throw error;
  }
  if (provider.save !== undefined) return undefined;
  return new KeywardError("PROVIDER_READ_ONLY", "This source of keys cannot save a keyring", {
    hint: "Use a keyring document in a file, a secret of AWS or Vault, or a wrapped keyring.",
  });
}

/**
 * Saves a changed keyring.
 *
 * @param atSource what the operator has to change at a source that cannot be saved.
 * @throws KeywardError `PROVIDER_READ_ONLY` with the instruction `atSource`; `KEYRING_CONFLICT` and the other errors of the
 * provider.
 */
export async function saveChanged(
  provider: KeyProvider,
  next: Keyring,
  previous: Keyring,
  atSource: string,
): Promise<void> {
  const readOnly = await whyReadOnly(provider);
  if (readOnly !== undefined) {
    throw new KeywardError("PROVIDER_READ_ONLY", readOnly.message, { hint: `${atSource} ${readOnly.hint}` });
  }
  await provider.save?.(next, previous);
}
