import { KeywardError } from "../errors/errors.ts";
import type { Keyring } from "../keyring/keyring.ts";
import { EncryptedStore, type EncryptedStoreOrKeyv, encryptedStoreOf } from "../store/encrypted-store.ts";
import { isKeyv } from "../store-interface/adapters.ts";

/**
 * The stores that use a keyring. The name of each property is the name that the keyring lists for the store. Each store
 * is an `EncryptedStore`, or a Keyv that `createKeyv` made.
 */
export type NamedStores = Readonly<Record<string, EncryptedStoreOrKeyv>>;

/**
 * Checks the argument `stores`, because no compiler checks JavaScript code.
 *
 * @throws KeywardError `VALUE_INVALID` if `stores` is not an object whose properties are stores; `STORE_INVALID` if one
 * of its properties is not a store.
 */
export function requireStores(stores: NamedStores): void {
  const isObject = typeof stores === "object" && stores !== null && !Array.isArray(stores);
  if (!isObject || stores instanceof EncryptedStore || isKeyv(stores)) {
    throw new KeywardError("VALUE_INVALID", "`stores` is not an object whose properties are stores", {
      hint:
        "Pass an object such as `{ sessions: store }`. If the keyring lists stores, use the names in that list. " +
        "Otherwise use any names.",
    });
  }
  for (const store of Object.values(stores)) encryptedStoreOf(store);
}

/**
 * Checks that `stores` has at least one store, and every store that the keyring lists.
 *
 * @param keyId the id of the key that the error names; `undefined` if the call concerns no single key.
 * @throws KeywardError `STORES_MISSING` if `stores` has no store, or lacks one that the keyring lists.
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
