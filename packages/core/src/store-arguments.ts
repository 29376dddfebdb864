import type { StoredValue } from "./capabilities.ts";
import { KeywardError } from "./errors.ts";
import { requireAmount } from "./options.ts";

// What every store must refuse in the same way, for those who write one.

/**
 * The key, if it is one that every store can hold as it is.
 *
 * @throws KeywardError `VALUE_INVALID` for what is not a well-formed string.
 */
export function requireKey(key: unknown): string {
  if (typeof key === "string" && key.isWellFormed()) return key;
  throw invalid("A key is not a well-formed string", "Remove lone surrogates from it.", key);
}

/**
 * The namespace, "" where there is none.
 *
 * @throws KeywardError `VALUE_INVALID` for what is not a well-formed string.
 */
export function requireNamespace(namespace: unknown): string {
  if (namespace === undefined) return "";
  if (typeof namespace === "string" && namespace.isWellFormed()) return namespace;
  throw invalid("The namespace is not a well-formed string", "Remove lone surrogates from it.");
}

/**
 * The value, if it is one that a store keeps.
 *
 * @throws KeywardError `VALUE_INVALID` for what is neither a well-formed string nor bytes.
 */
export function requireValue(key: string, value: unknown): StoredValue {
  if (value instanceof Uint8Array) return value;
  if (typeof value === "string" && value.isWellFormed()) return value;
  throw invalid(
    "A value is neither a well-formed string nor a Uint8Array",
    "Let Keyv serialize values (no `serialization: false`), and pass bytes for what is not Unicode text.",
    key,
  );
}

/**
 * The expiry in whole milliseconds since the epoch, never earlier than asked; `undefined` for a record that stays.
 *
 * @throws KeywardError `VALUE_INVALID` for what is not a number.
 */
export function requireExpires(key: string, expires: unknown): number | undefined {
  if (expires === undefined) return undefined;
  if (typeof expires === "number" && !Number.isNaN(expires))
    return Math.max(0, Math.min(Math.ceil(expires), 2 ** 48 - 1));
  throw invalid("An expiry is not a number", "Pass milliseconds since the epoch, or nothing.", key);
}

/**
 * The number of records a page of a scan may have.
 *
 * @throws KeywardError `VALUE_INVALID` for what is not a whole number from 1.
 */
export function requireLimit(limit: number | undefined): number {
  return requireAmount("limit", limit ?? 1_000, "records");
}

/**
 * The error for a cursor that means nothing to the store.
 */
export function invalidCursor(): KeywardError {
  return invalid("The cursor is not one that a scan of this store returned", "Begin the scan without a cursor.");
}

/** Whether two values that lie in a store are the same, type included. */
export function sameStored(one: unknown, other: unknown): boolean {
  if (one instanceof Uint8Array && other instanceof Uint8Array) return Buffer.compare(one, other) === 0;
  return one === other;
}

function invalid(message: string, hint: string, key?: unknown): KeywardError {
  return new KeywardError("VALUE_INVALID", message, { hint, key: typeof key === "string" ? key : undefined });
}
