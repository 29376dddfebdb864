import { KeyvJsonSerializer, type KeyvSerializationAdapter } from "keyv";

const keyvs = new KeyvJsonSerializer();

/**
 * Text with a string value that begins with a colon, as it stands or escaped: after the beginning, a colon, a bracket or a
 * comma. Keyv writes nothing else than such strings in a way that is not plain JSON.
 */
const mayBeMarked = /(?:^|[:[,])\s*"(?::|\\u003a)/i;

/**
 * Keyv's JSON, byte for byte what `KeyvJsonSerializer` writes and value for value what it reads. Keyv copies every value
 * before it is written, and reads with a function called for each part: to mark bytes, big integers and strings that look
 * marked. Where there are none, this leaves both out, which takes longer than sealing does.
 */
export const keyvJson: KeyvSerializationAdapter = {
  stringify: (value) => (isPlain(value) ? JSON.stringify(value) : keyvs.stringify(value)),
  parse: <Value>(text: string): Value => (mayBeMarked.test(text) ? keyvs.parse<Value>(text) : JSON.parse(text)),
};

/** Whether `JSON.stringify` writes this as Keyv would. */
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
  // Keyv asks no array for its toJSON.
  return !("toJSON" in value) && value.every(isPlain);
}

function isPlainObject(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value);
  if ((prototype !== Object.prototype && prototype !== null) || "toJSON" in value) return false;
  return Object.values(value).every(isPlain);
}
