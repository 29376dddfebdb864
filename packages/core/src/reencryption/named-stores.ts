import { KeywardError } from "../errors/errors.ts";
import type { Keyring } from "../keyring/keyring.ts";
import { EncryptedStore, type EncryptedStoreOrKeyv, encryptedStoreOf } from "../store/encrypted-store.ts";
import { isKeyv } from "../store-interface/adapters.ts";

/**
 * The stores that use a keyring, each under the name that the keyring document lists for it. Each is an
 * `EncryptedStore` or a Keyv of `createKeyv`.
 */
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
    throw new KeywardError("VALUE_INVALID", "`stores` is not an object whose properties are stores", {
      hint: "Pass `{ name: store }`. Use the names of stores that the keyring lists, or any names if the keyring lists none.",
    });
  }
  for (const store of Object.values(stores)) encryptedStoreOf(store);
}

/**
 * Checks that at least one store was passed, and every store that the keyring lists.
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
    hint: "Pass every store that uses the keyring, because this call has to look at the records of all of them.",
  });
}
