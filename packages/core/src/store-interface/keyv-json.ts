import { KeyvJsonSerializer, type KeyvSerializationAdapter } from "keyv";

const keyvSerializer = new KeyvJsonSerializer();

/**
 * Matches JSON that may contain a string value with a colon as its first character, plain or escaped. Only such strings
 * can differ between Keyv's JSON and plain JSON. A string value is at the beginning of the JSON, or follows a colon, a
 * bracket or a comma.
 */
const mayBeMarked = /(?:^|[:[,])\s*"(?::|\\u003a)/i;

/**
 * A serializer for Keyv's JSON that is faster than Keyv's `KeyvJsonSerializer`. Both write the same text and read the
 * same values.
 *
 * `KeyvJsonSerializer` puts a mark, such as `:bigint:`, in front of bytes, big integers, and strings that begin with a
 * colon. To find such values, it copies every value that it writes, and calls a function for each part of the JSON that
 * it reads. The copy and these function calls take longer than the encryption of the record. `keyvJson` avoids them if
 * no part of the value needs a mark.
 */
export const keyvJson: KeyvSerializationAdapter = {
  stringify: toKeyvJson,
  parse: <Value>(text: string): Value =>
    mayBeMarked.test(text) ? keyvSerializer.parse<Value>(text) : JSON.parse(text),
};

/** Returns the JSON that Keyv writes for a value. */
export function toKeyvJson(value: unknown): string {
  return isPlain(value) ? JSON.stringify(value) : keyvSerializer.stringify(value);
}

/** Returns whether `JSON.stringify` writes a value exactly as Keyv does. */
function isPlain(value: unknown): boolean {
  switch (typeof value) {
    case "string":
      return !value.startsWith(":");
    case "number":
    case "boolean":
    case "undefined":
      return true;
    case "object":
      return value === null || (Array.isArray(value) ? isPlainArray(value) : isPlainObject(value));
    default:
      return false;
  }
}

function isPlainArray(value: readonly unknown[]): boolean {
  // Keyv ignores the toJSON of an array.
  return !("toJSON" in value) && value.every(isPlain);
}

function isPlainObject(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value);
  if ((prototype !== Object.prototype && prototype !== null) || "toJSON" in value) return false;
  return Object.values(value).every(isPlain);
}
