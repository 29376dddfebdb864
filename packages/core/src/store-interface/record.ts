import { KeywardError, type KeywardErrorCode } from "../errors/errors.ts";
import type { StoredValue } from "./store-capabilities.ts";

/**
 * The address of a record: its namespace and its key. The envelope of a record can be decrypted only at the address for
 * which it was encrypted.
 */
export interface RecordAddress {
  /** The namespace of the record; "" if the record has none. */
  readonly namespace: string;
  /** The key of the record in its namespace. */
  readonly key: string;
}

/** The decrypted content of a record. */
export interface RecordContent {
  /** The decrypted value: text or bytes, as the caller of `set` passed it. */
  readonly value: StoredValue;
  /** When the record expires, in milliseconds since the epoch. Absent if the record never expires. */
  readonly expires?: number;
}

/**
 * The form of an envelope (an encrypted record): "text" for stores that keep strings, "binary" for stores that keep
 * bytes.
 */
export type ValueForm = "text" | "binary";

/**
 * Checks the address of a record, and returns it.
 *
 * @throws KeywardError `VALUE_INVALID` for a key or namespace that is not a string, or that has a lone surrogate and so
 * no UTF-8 encoding.
 */
export function requireAddress(namespace: string, key: string): RecordAddress {
  if (typeof key === "string" && typeof namespace === "string" && key.isWellFormed() && namespace.isWellFormed()) {
    return { namespace, key };
  }
  throw new KeywardError("VALUE_INVALID", "The key or the namespace of a record is not a well-formed string", {
    namespace,
    key,
    hint: "Use strings without lone surrogates. Encode a key that is not text, for example as base64url.",
  });
}

/** Returns whether a record with this expiry has expired. */
export function hasExpired(expires: number | undefined, nowMs: number = Date.now()): boolean {
  return expires !== undefined && nowMs >= expires;
}

/**
 * Returns the expiry to pass to the store with a foreign record that is re-encrypted, because the store may not know
 * its expiry. Returns `undefined` for a record that never expires, and for an expiry that has passed, because passing
 * it would remove the record.
 */
export function expiryToSet({ expires }: RecordContent): number | undefined {
  return hasExpired(expires) ? undefined : expires;
}

/**
 * Returns an error about one record. The properties of the error contain the address of the record. The message does
 * not contain the address, because the key of the record may be a secret.
 */
export function recordError(
  code: KeywardErrorCode,
  address: RecordAddress,
  problem: string,
  details: { readonly hint: string; readonly keyId?: string; readonly cause?: unknown },
): KeywardError {
  return new KeywardError(code, `A record ${problem}`, { ...details, ...address });
}
