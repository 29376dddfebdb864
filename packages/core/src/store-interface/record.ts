import { KeywardError, type KeywardErrorCode } from "../errors/errors.ts";
import type { StoredValue } from "./capabilities.ts";

/** The address of a record. Its envelope is bound to the address. */
export interface RecordAddress {
  /** "" where the store has no namespace. */
  readonly namespace: string;
  /** The key in that namespace. */
  readonly key: string;
}

/** What a record holds, decrypted. */
export interface RecordContent {
  /** Text or bytes, as the caller passed them. */
  readonly value: StoredValue;
  /** When the record expires, in milliseconds since the epoch. Without it the record never expires. */
  readonly expires?: number;
}

/** The type of a value: text for stores of strings, binary for stores of bytes. */
export type ValueForm = "text" | "binary";

/**
 * Checks the address of a record.
 *
 * @throws KeywardError `VALUE_INVALID` for a key or namespace that is no string, or has a lone surrogate: such text has
 * no UTF-8 encoding.
 */
export function requireAddress(namespace: string, key: string): RecordAddress {
  if (typeof key === "string" && typeof namespace === "string" && key.isWellFormed() && namespace.isWellFormed()) {
    return { namespace, key };
  }
  throw new KeywardError("VALUE_INVALID", "A key or namespace is not a well-formed string", {
    namespace,
    key,
    hint: "Keys and namespaces are strings without lone surrogates: encode what is not text.",
  });
}

/** Whether a record with this expiry has expired. */
export function hasExpired(expires: number | undefined, nowMs: number = Date.now()): boolean {
  return expires !== undefined && nowMs >= expires;
}

/** An error about one record. The error's properties name the record's address; the message does not. */
export function recordError(
  code: KeywardErrorCode,
  address: RecordAddress,
  problem: string,
  details: { readonly hint: string; readonly keyId?: string; readonly cause?: unknown },
): KeywardError {
  return new KeywardError(code, `A record ${problem}`, { ...details, ...address });
}
