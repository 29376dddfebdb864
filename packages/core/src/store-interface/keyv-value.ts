import { isUtf8 } from "node:buffer";
import type { KeyvValue } from "keyv";
import type { RecordContent } from "./record.ts";
import type { StoredValue } from "./store-capabilities.ts";
import { asBuffer } from "./stored-bytes.ts";

// Keyv keeps each value in an object with the field `value` and, optionally, the field `expires`, a number or null. It
// keeps `undefined` as an object without the field `value`.

/**
 * Returns whether `given` is an object in the form in which Keyv keeps a value. Such an object has no fields other than
 * `value` and `expires`, because Keyv would lose any other field. The field `value` may be absent, because Keyv keeps
 * `undefined` as an object without `value`.
 */
export function isKeyvValue<Value>(given: unknown): given is KeyvValue<Value> {
  // This excludes an array, a Map or a Date, even from another realm.
  if (typeof given !== "object" || given === null || Object.prototype.toString.call(given) !== "[object Object]")
    return false;
  for (const field of Object.keys(given)) if (field !== "value" && field !== "expires") return false;
  const expires: unknown = "expires" in given ? given.expires : undefined;
  return expires === undefined || expires === null || typeof expires === "number";
}

/**
 * Reads a record that Keyv wrote as JSON, without encryption: `{"value":…}` or `{"value":…,"expires":…}`.
 *
 * @param stored the JSON as a string, or its bytes in UTF-8.
 * @returns the content of the record. Its `value` is the whole JSON text, and not the content of the field `value` in
 * the JSON. Its `expires` is the expiry in milliseconds since the epoch. Returns `undefined` if `stored` has another
 * form, such as an object without `value` from another program.
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

/** Returns whether a text begins with a brace, after optional white space, and so may be a JSON object. */
export function beginsLikeObject(text: string): boolean {
  return /^[\t\n\r ]*\{/.test(text);
}

/**
 * Returns a stored value as text. Decodes bytes as UTF-8, because a store that keeps bytes returns text as bytes.
 * Returns `undefined` for bytes that are not UTF-8.
 */
export function textOf(stored: StoredValue): string | undefined {
  if (typeof stored === "string") return stored;
  return isUtf8(stored) ? asBuffer(stored).toString("utf8") : undefined;
}
