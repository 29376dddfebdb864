import { KeywardError } from "../errors/errors.ts";
import type { Keyring } from "../keyring/keyring.ts";
import { EncryptedStore, type EncryptedStoreOrKeyv, encryptedStoreOf } from "../store/encrypted-store.ts";
import { isKeyv } from "../store-interface/wrappable-store.ts";

/** The stores that use a keyring, or Keyvs over them, by the names that the keyring document lists. */
export type NamedStores = Readonly<Record<string, EncryptedStoreOrKeyv>>;

/**
 * Checks the option `stores`, which code without types may have passed.
 *
 * @throws KeywardError `VALUE_INVALID` if it is not an object of stores by name; `STORE_INVALID` if one of its values is
 * not a store.
 */
export function requireStores(stores: NamedStores): void {
  const isObject = typeof stores === "object" && stores !== null && !Array.isArray(stores);
  if (!isObject || stores instanceof EncryptedStore || isKeyv(stores)) {
    throw new KeywardError("VALUE_INVALID", "stores is not an object with stores by name", {
      hint: "Pass { name: store } with the names that the keyring lists, or with any name if the keyring lists none.",
    });
  }
  for (const store of Object.values(stores)) encryptedStoreOf(store);
}

/**
 * Checks that every store that the keyring lists was passed, and at least one store.
 *
 * @param keyId the key that the error names, if any.
 * @throws KeywardError `STORES_MISSING`.
 */
export function requireAllStores(keyring: Keyring, stores: NamedStores, keyId: string | undefined): void {
  const missing = keyring.stores.filter((name) => !Object.hasOwn(stores, name));
  if (missing.length === 0 && Object.keys(stores).length > 0) return;
  const problem =
    missing.length === 0
      ? "No store was passed"
      : `The keyring lists stores that were not passed: ${missing.join(", ")}`;
  throw new KeywardError("STORES_MISSING", problem, {
    keyId,
    hint: "Pass every store that uses the keyring: records in any of them may still need the key.",
  });
}
