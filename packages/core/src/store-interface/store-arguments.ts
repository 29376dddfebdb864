import type { KeyvStorageEntry } from "keyv";
import { KeywardError } from "../errors/errors.ts";
import { requireAmount } from "../errors/options.ts";
import type { StoredValue } from "./store-capabilities.ts";

// Checks of arguments that every store must make in the same way, for authors of a store.

/**
 * Checks that the key of a record is a well-formed string, and returns the key.
 *
 * @throws KeywardError `VALUE_INVALID` for anything but a well-formed string.
 */
export function requireKey(key: unknown): string {
  if (typeof key === "string" && key.isWellFormed()) return key;
  throw invalid(
    "The key of a record is not a well-formed string",
    "Use a string without lone surrogates as the key.",
    key,
  );
}

/**
 * Checks that a namespace is a well-formed string, and returns the namespace. Returns "" for `undefined`.
 *
 * @throws KeywardError `VALUE_INVALID` for anything but a well-formed string or `undefined`.
 */
export function requireNamespace(namespace: unknown): string {
  if (namespace === undefined) return "";
  if (typeof namespace === "string" && namespace.isWellFormed()) return namespace;
  throw invalid("The namespace is not a well-formed string", "Use a string without lone surrogates as the namespace.");
}

/**
 * Checks that a store can keep a value, and returns the value.
 *
 * @throws KeywardError `VALUE_INVALID` for anything but a well-formed string or a Uint8Array.
 */
export function requireValue(key: string, value: unknown): StoredValue {
  if (value instanceof Uint8Array) return value;
  if (typeof value === "string" && value.isWellFormed()) return value;
  throw invalid(
    "A value is neither a well-formed string nor a Uint8Array",
    "If a Keyv made this call, remove its option `serialization: false`, so that it serializes values. If you call the store yourself, pass a string, or bytes for a value that is not Unicode text.",
    key,
  );
}

/**
 * The largest number that is treated as a duration, and not as a time. As a time, it is in the year 2001. As a
 * duration, it is about 31 years.
 */
const longestDurationMs = 10 ** 12;

/**
 * The largest number that is treated as a time in 1970, and not as a duration. A record with such a short duration
 * would expire before the caller could use it.
 */
const passedAtOnceMs = 2;

/**
 * Returns when a record expires, in whole milliseconds since the epoch, rounded up; `undefined` for a record that does
 * not expire. Keyv 6 passes a time, and Keyv 5 passes a duration in milliseconds. A number above 2 and up to 10^12 is
 * treated as a duration from now, if as a time it would have passed already. Any other number is treated as a time.
 *
 * @throws KeywardError `VALUE_INVALID` for anything but a number or `undefined`.
 */
export function requireExpires(key: string, expires: unknown): number | undefined {
  const time = requireTime(key, expires);
  if (time === undefined || time <= passedAtOnceMs || time > longestDurationMs) return time;
  const nowMs = Date.now();
  return time > nowMs ? time : nowMs + time;
}

/**
 * Returns when an entry of `setMany` expires, in whole milliseconds since the epoch; `undefined` for an entry that does
 * not expire. Keyv 6 sets the field `expires`, which is read as {@link requireExpires} reads it. Keyv 5 sets the field
 * `ttl`: a duration in milliseconds, or 0 for an entry that does not expire.
 *
 * @throws KeywardError `VALUE_INVALID` if `expires` or `ttl` is set and is not a number.
 */
export function requireEntryExpires(entry: KeyvStorageEntry<unknown>): number | undefined {
  const { key, expires } = entry;
  if (expires !== undefined || !("ttl" in entry) || entry.ttl === 0) return requireExpires(key, expires);
  if (entry.ttl === undefined || entry.ttl === null) return undefined;
  return requireTime(key, typeof entry.ttl === "number" ? Date.now() + entry.ttl : entry.ttl);
}

/**
 * Checks the expiry of a replacement, and returns it as a time in whole milliseconds since the epoch. `null` means that
 * the record does not expire, `undefined` that it keeps its expiry.
 *
 * @throws KeywardError `VALUE_INVALID` for anything but a number, `null` or `undefined`. Also for a number above 2 and
 * up to 10^12, which is probably a duration.
 */
export function requireNewExpires(key: string, expires: unknown): number | null | undefined {
  if (expires === undefined || expires === null) return expires;
  const hint = "Pass a time in milliseconds since the epoch, such as Date.now() + 60_000, or `null` for never.";
  if (typeof expires !== "number" || Number.isNaN(expires)) throw invalid("An expiry is not a number", hint, key);
  if (expires > passedAtOnceMs && expires <= longestDurationMs) {
    throw invalid(`The expiry ${expires} is a time before the year 2002, so it seems to be a duration`, hint, key);
  }
  return requireTime(key, expires);
}

/**
 * Returns a time in whole milliseconds since the epoch, rounded up and limited to the range between 0 and 2^48 - 1.
 * Returns `undefined` for `undefined`.
 *
 * @throws KeywardError `VALUE_INVALID` for anything but a number or `undefined`.
 */
export function requireTime(key: string, time: unknown): number | undefined {
  if (time === undefined) return undefined;
  if (typeof time === "number" && !Number.isNaN(time)) return Math.max(0, Math.min(Math.ceil(time), 2 ** 48 - 1));
  throw invalid("An expiry is not a number", "Pass milliseconds since the epoch, or omit the expiry.", key);
}

/**
 * Checks the option `limit` of a scan, the number of records of a page, and returns it. Returns 1,000 for `undefined`.
 *
 * @throws KeywardError `VALUE_INVALID` for anything but an integer of at least 1.
 */
export function requireLimit(limit: number | undefined): number {
  return requireAmount("limit", limit ?? 1_000, "records");
}

/** Returns the error `VALUE_INVALID` for a cursor that no scan of the store returned. */
export function invalidCursor(): KeywardError {
  return invalid("No scan of this store returned the cursor", "Begin the scan again without a cursor.");
}

/** Returns whether two stored values are equal, and of the same type (string or bytes). */
export function sameStored(one: unknown, other: unknown): boolean {
  if (one instanceof Uint8Array && other instanceof Uint8Array) return Buffer.compare(one, other) === 0;
  return one === other;
}

function invalid(message: string, hint: string, key?: unknown): KeywardError {
  return new KeywardError("VALUE_INVALID", message, { hint, key: typeof key === "string" ? key : undefined });
}
