import { isUtf8 } from "node:buffer";
import type { KeyvValue } from "keyv";
import type { StoredValue } from "./capabilities.ts";
import type { RecordContent } from "./record.ts";
import { asBuffer } from "./stored-bytes.ts";

// What Keyv's own value is, said once: an object with the fields `value` and, at most, `expires`, a number or null. For
// `undefined` Keyv writes no `value`.

/**
 * Whether something is a value as Keyv keeps it, of which Keyv would lose nothing: it has no other field than `value`
 * and `expires`. Without `value` it is what Keyv keeps for `undefined`.
 */
export function isKeyvValue<Value>(given: unknown): given is KeyvValue<Value> {
  // A list, a Map or a Date, of whatever realm, says something else.
  if (typeof given !== "object" || given === null || Object.prototype.toString.call(given) !== "[object Object]")
    return false;
  for (const field of Object.keys(given)) if (field !== "value" && field !== "expires") return false;
  const expires: unknown = "expires" in given ? given.expires : undefined;
  return expires === undefined || expires === null || typeof expires === "number";
}

/**
 * Reads Keyv's own JSON, `{"value":…}` or `{"value":…,"expires":…}`, as plain Keyv wrote it before there was any
 * encryption.
 *
 * @param stored text, or its bytes in UTF-8.
 * @returns the whole text as the value of a record, with its expiry in milliseconds since the epoch; `undefined` for
 * anything else. That includes an object without `value`, which nothing tells from JSON of another program.
 * @example
 * const read = readKeyvJson('{"value":"checkout","expires":4102444800000}');
 * console.log(read?.expires);
 */
export function readKeyvJson(stored: StoredValue): RecordContent | undefined {
  const text = textOf(stored);
  if (text?.startsWith("{") !== true) return undefined;
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    return undefined;
  }
  if (!isKeyvValue(parsed) || !("value" in parsed)) return undefined;
  const { expires = null } = parsed;
  if (expires === null) return { value: text };
  return Number.isFinite(expires) ? { value: text, expires } : undefined;
}

/** The text that a store holds, given back as bytes by a store of bytes; `undefined` for bytes that are not UTF-8. */
export function textOf(stored: StoredValue): string | undefined {
  if (typeof stored === "string") return stored;
  return isUtf8(stored) ? asBuffer(stored).toString("utf8") : undefined;
}
