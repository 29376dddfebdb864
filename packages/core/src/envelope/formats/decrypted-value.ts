import { toKeyvJson } from "../../store-interface/keyv-json.ts";
import { readKeyvJson, textOf } from "../../store-interface/keyv-value.ts";
import type { StoredValue } from "../../store-interface/store-capabilities.ts";

/**
 * The kind of value that a format decrypts.
 *
 * - `"as-is"`: a value that an `EncryptedStore` returns unchanged, such as the JSON of a record that Keyv encrypted.
 * - `"json"`: JSON of the application. Keyv returns the parsed value.
 * - `"text"`: text of the application. Keyv returns the text as a string.
 */
export type DecryptedValue = "as-is" | "json" | "text";

/** Every value that the option `value` of a format allows. */
export const decryptedValues: readonly DecryptedValue[] = ["as-is", "json", "text"];

/**
 * Converts decrypted bytes into the value that a store returns. Returns `undefined` if the bytes are not of the kind
 * `value`, for example not JSON.
 */
export function storedValueOf(decrypted: Uint8Array, value: DecryptedValue): StoredValue | undefined {
  const text = textOf(decrypted);
  switch (value) {
    case "as-is":
      return text ?? decrypted;
    case "json":
      return text === undefined ? undefined : keyvTextOf(() => JSON.parse(text));
    case "text":
      return text === undefined ? undefined : keyvTextOf(() => text);
  }
}

/**
 * Rates how much decrypted bytes look like a value, for a format that cannot detect a wrong key: 2 for JSON that Keyv
 * or the application wrote, 1 for other text, 0 for anything else.
 */
export function plausibility(decrypted: Uint8Array, value: DecryptedValue): 0 | 1 | 2 {
  if (textOf(decrypted) === undefined || storedValueOf(decrypted, value) === undefined) return 0;
  return value === "json" || (value === "as-is" && readKeyvJson(decrypted) !== undefined) ? 2 : 1;
}

/** Returns the JSON that Keyv writes for the value that `parse` returns; `undefined` if `parse` throws. */
function keyvTextOf(parse: () => unknown): string | undefined {
  let value: unknown;
  try {
    value = parse();
  } catch {
    return undefined;
  }
  return toKeyvJson({ value });
}
