import { requireOneOf } from "../../errors/options.ts";
import { type RecordAddress, type RecordContent, recordError } from "../../store-interface/record.ts";
import type { StoredValue } from "../../store-interface/store-capabilities.ts";
import type { ForeignFormat, UnauthenticatedFormat } from "../foreign-format.ts";
import { type DecryptedValue, decryptedValues, plausibility, storedValueOf } from "./decrypted-value.ts";

/**
 * The description of a format that tries several keys: its keys, and the functions that read and decrypt a value.
 * {@link authenticatedFormat} and {@link unauthenticatedFormat} make a {@link ForeignFormat} of the description.
 */
export interface KeyedFormat<Parsed, Key> {
  /** The name of the format in events and reports. */
  readonly name: string;
  /** The keys, in the order in which they are tried. */
  readonly keys: readonly Key[];
  /** The kind of value that the format decrypts: JSON, text, or a value that the store returns unchanged. */
  readonly value: DecryptedValue;
  /** Reads the parts of a stored value. Returns `undefined` for a value of another format. */
  parse(stored: StoredValue): Parsed | undefined;
  /** Decrypts with one key. Returns `undefined` if the key is wrong, or if a part was altered. */
  decrypt(parsed: Parsed, key: Key): Uint8Array | undefined | Promise<Uint8Array | undefined>;
  /**
   * Returns the expiry of a record in milliseconds since the epoch; `undefined` if the format has none for the record.
   */
  expires?(parsed: Parsed, decrypted: Uint8Array): number | undefined;
}

/**
 * The error for a value that is in a format, but cannot be read, for example because it is compressed. The message
 * completes the sentence "A record of the format "x" …", and contains nothing of the value.
 */
export class UnsupportedValue extends Error {
  override readonly name = "UnsupportedValue";
  readonly hint: string;

  constructor(problem: string, hint: string) {
    super(problem);
    this.hint = hint;
  }
}

/** The error for a value that has the parts of a format, but a part is cut off or wrongly encoded. */
export class AlteredValue extends Error {
  override readonly name = "AlteredValue";
}

/**
 * Returns a format that tries its keys in order. The function `decrypt` of `format` must detect a wrong key and an
 * altered value.
 *
 * @throws KeywardError `VALUE_INVALID` for an unknown `value`.
 */
export function authenticatedFormat<Parsed, Key>(format: KeyedFormat<Parsed, Key>): ForeignFormat {
  requireOneOf("value", format.value, decryptedValues);
  const { name, keys } = format;
  return {
    name,
    read(stored, address) {
      const parsed = supported(name, address, () => format.parse(stored));
      if (parsed === undefined) return undefined;
      const tryFrom = (first: number): RecordContent | Promise<RecordContent> => {
        for (let index = first; index < keys.length; index++) {
          const key = keys[index];
          const decrypted = key === undefined ? undefined : supported(name, address, () => format.decrypt(parsed, key));
          if (decrypted instanceof Promise) {
            return decrypted.then((bytes) =>
              bytes === undefined ? tryFrom(index + 1) : contentOf(format, parsed, bytes, address),
            );
          }
          if (decrypted !== undefined) return contentOf(format, parsed, decrypted, address);
        }
        throw notDecrypted(name, address);
      };
      return tryFrom(0);
    },
  };
}

/**
 * Returns a format that decrypts with each of its keys, and returns the result that looks most like a value. The format
 * cannot detect a wrong key, so its result can be garbage.
 *
 * @throws KeywardError `VALUE_INVALID` for an unknown `value`.
 */
export function unauthenticatedFormat<Parsed, Key>(
  format: KeyedFormat<Parsed, Key>,
  encryptUnauthenticated: boolean,
): UnauthenticatedFormat {
  requireOneOf("value", format.value, decryptedValues);
  const { name, keys, value } = format;
  return {
    name,
    authenticated: false,
    encryptUnauthenticated,
    async read(stored, address) {
      const parsed = supported(name, address, () => format.parse(stored));
      if (parsed === undefined) return undefined;
      let best: Uint8Array | undefined;
      let bestPlausibility = 0;
      for (const key of keys) {
        const decrypted = await format.decrypt(parsed, key);
        const plausible = decrypted === undefined ? 0 : plausibility(decrypted, value);
        if (plausible <= bestPlausibility) continue;
        best = decrypted;
        bestPlausibility = plausible;
      }
      if (best === undefined) throw notDecrypted(name, address);
      return contentOf(format, parsed, best, address);
    },
  };
}

function supported<Result>(name: string, address: RecordAddress, read: () => Result): Result {
  try {
    return read();
  } catch (error) {
    if (error instanceof AlteredValue) throw notDecrypted(name, address);
    if (!(error instanceof UnsupportedValue)) throw error;
    const { message, hint } = error;
    throw recordError("RECORD_MALFORMED", address, `of the format "${name}" ${message}`, { hint });
  }
}

function contentOf<Parsed, Key>(
  format: KeyedFormat<Parsed, Key>,
  parsed: Parsed,
  decrypted: Uint8Array,
  address: RecordAddress,
): RecordContent {
  const value = storedValueOf(decrypted, format.value);
  if (value === undefined) {
    const wanted = format.value === "json" ? "JSON" : "text";
    throw recordError(
      "RECORD_MALFORMED",
      address,
      `of the format "${format.name}" was decrypted, but its value is not ${wanted}`,
      { hint: "Set the option `value` of the format to the kind of value that the application encrypted." },
    );
  }
  const expires = format.expires?.(parsed, decrypted);
  return expires === undefined ? { value } : { value, expires };
}

function notDecrypted(name: string, address: RecordAddress) {
  return recordError("RECORD_TAMPERED", address, `of the format "${name}" cannot be decrypted with any of its keys`, {
    hint:
      "Compare the keys and the options of the format in `accept` with those that the record was written with. If they " +
      "are right, the record was altered: restore it from a backup, or delete it.",
  });
}
