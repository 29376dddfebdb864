import { createDecipheriv, createHash, createSecretKey, type KeyObject } from "node:crypto";
import { KeywardError } from "../errors/errors.ts";
import { type OptionNames, requireMethods, requireOneOf, requireOptions } from "../errors/options.ts";
import { readKeyvJson, textOf } from "../store-interface/keyv-value.ts";
import { type RecordAddress, type RecordContent, recordError } from "../store-interface/record.ts";
import type { StoredValue } from "../store-interface/store-capabilities.ts";

/**
 * A format, other than the envelope, in which a store may contain records. A store tries the formats in the order of
 * its option `accept`, with plaintext last, and only for values that do not begin like an envelope.
 *
 * If a format does not authenticate the address of a record, which is its namespace and key, a store cannot detect that
 * a record of the format was moved to another address.
 */
export interface ForeignFormat {
  /** The name of the format in events and reports. Default: "foreign". */
  readonly name?: string;
  /**
   * Decodes a stored value. Returns `undefined` for a value of another format, and throws for a broken value of this
   * format.
   *
   * In the result, `value` is text or bytes. `expires` is in milliseconds since the epoch, and absent for a record that
   * does not expire. If `expires` is absent and `value` is Keyv's own JSON, the store uses the expiry in that JSON. The
   * store refuses any other result with the error `RECORD_MALFORMED`.
   */
  read(stored: StoredValue, address: RecordAddress): RecordContent | undefined | Promise<RecordContent | undefined>;
}

/** Options of {@link plaintext}. */
export interface PlaintextOptions {
  /**
   * Returns true if a stored value is plaintext of the application, and false otherwise. Default: returns true only for
   * the JSON that Keyv writes.
   */
  readonly matches?: (stored: StoredValue) => boolean;
}

/** Options of {@link aesGcm}. */
export interface AesGcmOptions {
  /** The encryption key: 32 bytes, or a string whose SHA-256 is the encryption key, as in `@keyv/encrypt-node`. */
  readonly key: string | Uint8Array;
  /**
   * The order of nonce (iv, 12 bytes), tag (16 bytes) and ciphertext. `@keyv/encrypt-node` writes "iv-tag-ciphertext".
   */
  readonly layout: "iv-tag-ciphertext" | "iv-ciphertext-tag";
  /** The encoding of the stored text. Default: "base64", with or without padding. */
  readonly encoding?: "base64" | "base64url" | "hex";
}

const plaintextOptionNames = { matches: true } as const satisfies OptionNames<PlaintextOptions>;
const aesGcmOptionNames = {
  key: true,
  layout: true,
  encoding: true,
} as const satisfies OptionNames<AesGcmOptions>;

const ivBytes = 12;
const tagBytes = 16;

// Symbol.for, because an application may load two copies of this package.
const readsPlaintextMark = Symbol.for("keyward.plaintext");

class Plaintext implements ForeignFormat {
  readonly [readsPlaintextMark] = true;
  readonly name = "plaintext";
  readonly #matches: (stored: StoredValue) => boolean;

  constructor(options: PlaintextOptions) {
    this.#matches = options.matches ?? ((stored) => readKeyvJson(stored) !== undefined);
  }

  read(stored: StoredValue): RecordContent | undefined {
    const matches: unknown = this.#matches(stored);
    // A promise is truthy, so it would match every value.
    if (typeof matches !== "boolean") throw new TypeError("matches() of plaintext() returned neither true nor false");
    if (!matches) return undefined;
    return readKeyvJson(stored) ?? { value: textOf(stored) ?? stored };
  }
}

/**
 * Returns the format of values that are not encrypted, such as those that Keyv wrote before Keyward was added. A store
 * with this format in its option `accept` reads such values. After it has read a value, it encrypts the value in the
 * background.
 *
 * While a store accepts plaintext, anyone who can write to its backend can plant a value. When the census, a count of
 * the stored records, finds no more plaintext, call `forbidPlaintext`. From then on, stores refuse plaintext.
 *
 * @example
 * const sessions = createKeyv({ store, keys, namespace: "sessions", accept: [plaintext()] });
 * const { reencrypted } = await reencrypt(sessions);
 */
export function plaintext(options: PlaintextOptions = {}): ForeignFormat {
  return new Plaintext(requireOptions("plaintext", options, plaintextOptionNames));
}

/**
 * Checks the option `accept` of a store, and returns it.
 *
 * @throws KeywardError `VALUE_INVALID` if the option is not a list of formats.
 */
export function requireFormats(accept: readonly ForeignFormat[]): readonly ForeignFormat[] {
  const hint = "Set the option `accept` to a list of formats: `plaintext()`, `aesGcm(…)` or your own.";
  if (!Array.isArray(accept))
    throw new KeywardError("VALUE_INVALID", "The option `accept` is not a list of formats", { hint });
  for (const [index, format] of accept.entries()) {
    requireMethods(`accept[${index}]`, format, ["read"], hint);
    if (format.name === undefined || typeof format.name === "string") continue;
    throw new KeywardError("VALUE_INVALID", `The name of accept[${index}] is not a string`, {
      hint: 'Set the name to a string, or omit it to use the default, "foreign".',
    });
  }
  return accept;
}

/**
 * Returns whether a format reads plaintext. A store tries such a format last, and does not try it in a namespace that
 * forbids plaintext.
 */
export function readsPlaintext(format: ForeignFormat): boolean {
  return readsPlaintextMark in format;
}

/**
 * Returns the format of values encrypted with AES-256-GCM under one key, without associated data. `@keyv/encrypt-node`
 * and most code examples write this format. A value that has the right encoding and length is treated as a value of
 * this format; if it cannot be decrypted, `read()` throws `RECORD_TAMPERED`.
 *
 * @throws KeywardError `KEY_INVALID` if the key is an empty string, or is bytes of another length than 32;
 * `VALUE_INVALID` for an unknown `layout` or `encoding`.
 * @example
 * const accept = [aesGcm({ key: "the key that @keyv/encrypt-node was given", layout: "iv-tag-ciphertext" })];
 * const sessions = createKeyv({ store, keys, namespace: "sessions", accept });
 */
export function aesGcm(options: AesGcmOptions): ForeignFormat {
  const { layout, encoding = "base64" } = requireOptions("aesGcm", options, aesGcmOptionNames);
  requireOneOf("layout", layout, ["iv-tag-ciphertext", "iv-ciphertext-tag"]);
  requireOneOf("encoding", encoding, ["base64", "base64url", "hex"]);
  const key = toSecretKey(options.key);
  const name = `aes-gcm ${layout}`;
  return {
    name,
    read(stored, address) {
      const text = textOf(stored);
      const packed = text === undefined ? undefined : decode(text, encoding);
      if (packed === undefined || packed.length < ivBytes + tagBytes) return undefined;
      const rest = packed.subarray(ivBytes);
      const [tag, ciphertext] =
        layout === "iv-tag-ciphertext"
          ? [rest.subarray(0, tagBytes), rest.subarray(tagBytes)]
          : [rest.subarray(rest.length - tagBytes), rest.subarray(0, rest.length - tagBytes)];
      const decipher = createDecipheriv("aes-256-gcm", key, packed.subarray(0, ivBytes), { authTagLength: tagBytes });
      decipher.setAuthTag(tag);
      const value = decipher.update(ciphertext);
      try {
        decipher.final();
      } catch (cause) {
        throw recordError("RECORD_TAMPERED", address, `of the format "${name}" cannot be decrypted`, {
          hint:
            "Compare the key and the layout of aesGcm() in accept with those that the record was written with. If they are " +
            "right, the record was altered: restore it from a backup, or delete it.",
          cause,
        });
      }
      return { value: textOf(value) ?? value };
    },
  };
}

function toSecretKey(key: string | Uint8Array): KeyObject {
  if (typeof key === "string" ? key !== "" : key.length === 32) {
    return createSecretKey(typeof key === "string" ? createHash("sha256").update(key).digest() : key);
  }
  throw new KeywardError("KEY_INVALID", "The key of aesGcm() is neither 32 bytes nor a non-empty string", {
    hint: "Pass the encryption key with which the stored values were written, as 32 bytes or as a string.",
  });
}

function decode(text: string, encoding: "base64" | "base64url" | "hex"): Buffer | undefined {
  const bytes = Buffer.from(text, encoding);
  const written = bytes.toString(encoding);
  const same =
    encoding === "hex" ? written === text.toLowerCase() : written.replace(/=+$/, "") === text.replace(/={1,2}$/, "");
  return same ? bytes : undefined;
}

// As milliseconds since the epoch this is in 1973. A smaller number is a time in seconds, or not a time.
const leastExpires = 1e11;
// As seconds since the epoch this is in 1973.
const leastSeconds = 1e8;

/**
 * Checks what `read()` of a foreign format returned, before a store uses the record.
 *
 * @param format the name of the format, for the error message.
 * @param read what `read()` returned.
 * @returns the record; `undefined` if the value is of another format.
 * @throws KeywardError `RECORD_MALFORMED` if `read` is neither a record nor `undefined`.
 */
export function requireContent(format: string, read: unknown, address: RecordAddress): RecordContent | undefined {
  if (read === undefined) return undefined;
  if (typeof read !== "object" || read === null || !("value" in read)) {
    throw badResult(format, address, "read() did not return a record", {
      hint: "Return an object `{ value }` from read() for a record, and `undefined` for a value of another format.",
    });
  }
  const value: unknown = read.value;
  const expires: unknown = "expires" in read ? read.expires : undefined;
  if (!isStorable(value)) {
    throw badResult(format, address, "read() returned a `value` that is neither well-formed text nor bytes", {
      hint: "Return a string or a Uint8Array in the field `value`. If the application reads an object, return the JSON from which Keyv parses the object.",
    });
  }
  const inJson = readKeyvJson(value)?.expires;
  const expiresAt = expires === undefined ? inJson : expires;
  if (expiresAt === undefined) return { value };
  if (isExpiry(expiresAt, expiresAt === inJson)) return { value, expires: expiresAt };
  throw badResult(format, address, "read() returned an `expires` that is not in milliseconds since the epoch", {
    hint:
      "Return `expires` from read() in milliseconds since the epoch: seconds times 1000, or date.getTime(). Omit it for a " +
      "record that does not expire.",
  });
}

function isStorable(value: unknown): value is StoredValue {
  return typeof value === "string" ? value.isWellFormed() : value instanceof Uint8Array;
}

/** An expiry that Keyv wrote may be any time in the past, such as 0. Keyv never writes seconds. */
function isExpiry(expires: unknown, writtenByKeyv: boolean): expires is number {
  if (typeof expires !== "number" || !Number.isFinite(expires)) return false;
  return expires >= leastExpires || (writtenByKeyv && expires < leastSeconds);
}

function badResult(
  format: string,
  address: RecordAddress,
  problem: string,
  { hint }: { readonly hint: string },
): KeywardError {
  return recordError("RECORD_MALFORMED", address, `of the format "${format}" cannot be read: ${problem}`, { hint });
}
