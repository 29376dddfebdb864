import type { KeyvStorageEntry } from "keyv";
import { KeywardError } from "../errors/errors.ts";
import { requireAmount } from "../errors/options.ts";
import type { StoredValue } from "./capabilities.ts";

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
 * The latest number that is a duration where a time is asked for: as a time it is in the year 2001, as a duration it is
 * 31 years.
 */
const longestDurationMs = 10 ** 12;

/** Numbers up to this one also stand for "long ago", and no caller can tell two milliseconds from none. */
const passedAtOnceMs = 2;

/**
 * When a record expires, in whole milliseconds since the epoch and never earlier than asked; `undefined` for a record
 * that stays. Keyv 6 passes a time, Keyv 5 a duration: a number above 2 and up to 10^12 that is not in the future counts
 * from now.
 *
 * @throws KeywardError `VALUE_INVALID` for what is not a number.
 */
export function requireExpires(key: string, expires: unknown): number | undefined {
  const time = requireTime(key, expires);
  if (time === undefined || time <= passedAtOnceMs || time > longestDurationMs) return time;
  const nowMs = Date.now();
  return time > nowMs ? time : nowMs + time;
}

/**
 * As {@link requireExpires}, of an entry of a batch: Keyv 6 gives it `expires`, Keyv 5 `ttl`, where 0 is none.
 *
 * @throws KeywardError `VALUE_INVALID` where one of them is not a number.
 */
export function requireEntryExpires(entry: KeyvStorageEntry<unknown>): number | undefined {
  const { key, expires } = entry;
  if (expires !== undefined || !("ttl" in entry) || entry.ttl === 0) return requireExpires(key, expires);
  if (entry.ttl === undefined || entry.ttl === null) return undefined;
  return requireTime(key, typeof entry.ttl === "number" ? Date.now() + entry.ttl : entry.ttl);
}

/**
 * A time in whole milliseconds since the epoch, never earlier than given.
 *
 * @throws KeywardError `VALUE_INVALID` for what is not a number.
 */
export function requireTime(key: string, time: unknown): number | undefined {
  if (time === undefined) return undefined;
  if (typeof time === "number" && !Number.isNaN(time)) return Math.max(0, Math.min(Math.ceil(time), 2 ** 48 - 1));
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
