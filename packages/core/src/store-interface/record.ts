import { KeywardError, type KeywardErrorCode } from "../errors/errors.ts";
import type { StoredValue } from "./store-capabilities.ts";

/** The address of a record. Its envelope is bound to the address. */
export interface RecordAddress {
  /** The namespace; "" for none. */
  readonly namespace: string;
  /** The key in that namespace. */
  readonly key: string;
}

/** The decrypted content of a record. */
export interface RecordContent {
  /** Text or bytes, as the caller passed them. */
  readonly value: StoredValue;
  /** When the record expires, in milliseconds since the epoch. Default: never. */
  readonly expires?: number;
}

/** The form of an envelope: text for stores of strings, binary for stores of bytes. */
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
  throw new KeywardError("VALUE_INVALID", "A key or namespace is not a well-formed string", {
    namespace,
    key,
    hint: "Use strings without lone surrogates. Encode a key that is not text, for example as base64url.",
  });
}

/** Returns whether a record with this expiry has expired. */
export function hasExpired(expires: number | undefined, nowMs: number = Date.now()): boolean {
  return expires !== undefined && nowMs >= expires;
}

/** Returns an error about one record. Its properties have the address of the record; its message does not. */
export function recordError(
  code: KeywardErrorCode,
  address: RecordAddress,
  problem: string,
  details: { readonly hint: string; readonly keyId?: string; readonly cause?: unknown },
): KeywardError {
  return new KeywardError(code, `A record ${problem}`, { ...details, ...address });
}
