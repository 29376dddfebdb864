import { inspectStored, type RecordInspection } from "../envelope/inspection.ts";
import { KeywardError } from "../errors/errors.ts";
import type { WrappableStore } from "../store-interface/adapters.ts";
import { type RecordAddress, requireAddress } from "../store-interface/record.ts";
import { isNamespaced } from "../store-interface/store-capabilities.ts";
import { WrappedStore } from "../store-interface/wrapped-store.ts";
import { EncryptedStore } from "./encrypted-store.ts";

/**
 * Describes a stored record without decrypting it: whether the record is an envelope, its form and size, and the id of
 * its key. Needs no key, and changes no record. The result contains no part of the value.
 *
 * @param store the store below the encryption: the store that the application passes to `createKeyv`.
 * @returns `undefined` if there is no record at the address.
 * @throws KeywardError
 * - `STORE_INVALID` if `store` is not a store, or is an `EncryptedStore`;
 * - `VALUE_INVALID` for an address that is ill-formed or reserved;
 * - `NAMESPACE_CONFLICT` if a store without views is in use with another namespace;
 * - `STORE_UNAVAILABLE` if the store fails.
 * @example
 * const shown = await inspectRecord(store, { namespace: "sessions", key: "42" });
 * console.log(shown?.kind === "envelope" ? shown.keyId : shown?.kind);
 */
export async function inspectRecord(
  store: WrappableStore,
  address: RecordAddress,
): Promise<RecordInspection | undefined> {
  if (store instanceof EncryptedStore) {
    throw new KeywardError("STORE_INVALID", "The store is an EncryptedStore, which returns decrypted values", {
      hint: "Pass the store below the encryption: the store that was passed to createKeyv or EncryptedStore.",
    });
  }
  const { namespace, key } = requireAddress(address.namespace, address.key);
  const inner = new WrappedStore(store);
  // This refuses a reserved namespace before a view of the namespace is made.
  inner.setNamespace(namespace);
  const reader = isNamespaced(store) ? new WrappedStore(store.namespaced(namespace)) : inner;
  reader.useNamespace();
  try {
    const stored = await reader.get(key);
    return stored === undefined ? undefined : inspectStored(stored);
  } finally {
    reader.releaseNamespace();
  }
}
