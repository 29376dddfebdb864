import { KeywardError } from "../errors/errors.ts";
import { type OptionNames, requireMethods, requireOneOf, requireOptions } from "../errors/options.ts";
import { readKeyvJson, textOf } from "../store-interface/keyv-value.ts";
import { type RecordAddress, type RecordContent, recordError } from "../store-interface/record.ts";
import type { StoredValue } from "../store-interface/store-capabilities.ts";
import { type DecryptedValue, decryptedValues, storedValueOf } from "./formats/decrypted-value.ts";

/**
 * A format of records that Keyward did not encrypt, which a store can read. A store tries its formats only for values
 * that do not begin like an envelope. First the store tries the formats that can detect a wrong key, then those that
 * cannot, and last plaintext. Within each of the three groups, the store keeps the order of its option `accept`.
 *
 * If a format does not authenticate the address of a record, which is its namespace and key, a store cannot detect that
 * a record of the format was moved to another address.
 */
export interface ForeignFormat {
  /** The name of the format in events and reports. Default: "foreign". */
  readonly name?: string;
  /**
   * False if the format cannot detect a wrong key or an altered record, so that reading a record can result in garbage.
   * The store reads records of such a format, but encrypts them only if `encryptUnauthenticated` is true. Default: true.
   */
  readonly authenticated?: boolean;
  /**
   * If true, lazy and bulk re-encryption encrypt the records of a format with `authenticated: false`. Set this option
   * to true only after you have verified that the format reads your records correctly. Default: false.
   */
  readonly encryptUnauthenticated?: boolean;
  /**
   * Decodes a stored value. Returns `undefined` if the value is in another format, and throws if the value is in this
   * format but broken. If `read` throws `RECORD_TAMPERED`, the store tries the other formats, but not plaintext. If
   * `read` throws any other error, the call that reads the record rejects.
   *
   * In the result, `value` is text or bytes. `expires` is in milliseconds since the epoch, and absent for a record that
   * does not expire. If `value` is Keyv's own JSON with an expiry, the earlier of the two expiries applies. The store
   * refuses any other result with the error `RECORD_MALFORMED`.
   */
  read(stored: StoredValue, address: RecordAddress): RecordContent | undefined | Promise<RecordContent | undefined>;
}

/**
 * A format that cannot detect a wrong key or an altered record, such as AES-CBC without a MAC. A wrong key usually fails,
 * but sometimes results in garbage.
 */
export interface UnauthenticatedFormat extends ForeignFormat {
  /** Marks the format as one that cannot detect a wrong key or an altered record. */
  readonly authenticated: false;
  /** If true, re-encryption encrypts the records of this format. If false, the records stay as they are. */
  readonly encryptUnauthenticated: boolean;
}

/** Options of {@link plaintext}. */
export interface PlaintextOptions {
  /**
   * Returns true if a stored value is plaintext of the application, and false otherwise. Default: returns true only for
   * the JSON that Keyv writes.
   */
  readonly matches?: (stored: StoredValue) => boolean;
  /**
   * The kind of value that the plaintext contains. Default: "as-is".
   *
   * - `"as-is"`: the JSON that Keyv wrote, or another value that `matches` recognizes. The `EncryptedStore` returns the
   *   value unchanged.
   * - `"json"`: JSON of the application. Keyv returns the parsed value. Without `matches`, the format reads every JSON
   *   object or list that Keyv did not write.
   * - `"text"`: text of the application. Keyv returns the text as a string. Requires `matches`.
   */
  readonly value?: DecryptedValue;
}

const plaintextOptionNames = { matches: true, value: true } as const satisfies OptionNames<PlaintextOptions>;
// Symbol.for, because an application may load two copies of this package.
const readsPlaintextMark = Symbol.for("keyward.plaintext");

class Plaintext implements ForeignFormat {
  readonly [readsPlaintextMark] = true;
  readonly name = "plaintext";
  readonly #matches: (stored: StoredValue) => boolean;
  readonly #value: DecryptedValue;

  constructor({ matches, value = "as-is" }: PlaintextOptions) {
    requireOneOf("value", value, decryptedValues);
    if (value === "text" && matches === undefined) {
      throw new KeywardError(
        "VALUE_INVALID",
        'plaintext({ value: "text" }) without the option `matches` would accept every stored value as plaintext',
        {
          hint: "Set the option `matches` to a function that recognizes the text of your application.",
        },
      );
    }
    this.#matches = matches ?? (value === "json" ? isOwnJson : (stored) => readKeyvJson(stored) !== undefined);
    this.#value = value;
  }

  read(stored: StoredValue): RecordContent | undefined {
    const matches: unknown = this.#matches(stored);
    // A promise is truthy, so it would match every value.
    if (typeof matches !== "boolean") throw new TypeError("matches() of plaintext() returned neither true nor false");
    if (!matches) return undefined;
    if (this.#value === "as-is") return readKeyvJson(stored) ?? { value: textOf(stored) ?? stored };
    const value = storedValueOf(typeof stored === "string" ? Buffer.from(stored) : stored, this.#value);
    if (value === undefined) throw new TypeError(`A value that matches() recognized is not ${this.#value}`);
    return { value };
  }
}

/** Returns whether a value is a JSON object or list that Keyv did not write. */
function isOwnJson(stored: StoredValue): boolean {
  const text = textOf(stored);
  if (text === undefined || !/^\s*[{[]/.test(text) || readKeyvJson(text.trimStart()) !== undefined) return false;
  return storedValueOf(Buffer.from(text), "json") !== undefined;
}

/**
 * Returns the format of records whose value the application encrypted itself, and which Keyv then wrote without further
 * encryption: `keyv.set(key, encrypt(value))`. `encrypt` returns text, or the object of a JSON format. With this
 * format, Keyv returns the decrypted value, so remove the encryption from the application. A record keeps the expiry that
 * Keyv wrote, or the expiry that `format` reads, if this is earlier.
 *
 * @param format the format of the encrypted value, which needs the option `value` "json" or "text".
 * @throws KeywardError `VALUE_INVALID` if `format` is plaintext, or not a format.
 * @example
 * const accept = [insideKeyvValue(aesGcm({ key: "the secret", layout: "iv-tag-ciphertext", value: "text" }))];
 */
export function insideKeyvValue(format: ForeignFormat): ForeignFormat {
  const hint =
    'Pass the format of the encrypted text, such as `aesGcm({ …, value: "json" })`. To read plaintext too, list `plaintext()` in `accept`, beside `insideKeyvValue(…)`.';
  requireMethods("The format in insideKeyvValue()", format, ["read"], hint);
  // In a namespace that forbids plaintext, another format must not read plaintext either.
  if (readsPlaintext(format)) {
    throw new KeywardError(
      "VALUE_INVALID",
      "The format in insideKeyvValue() reads plaintext, but must read encrypted text",
      { hint },
    );
  }
  const { name = "foreign", authenticated = true, encryptUnauthenticated = false } = format;
  return {
    name: `${name} in Keyv's value`,
    authenticated,
    encryptUnauthenticated,
    async read(stored, address) {
      const outer = readKeyvJson(stored);
      const given: unknown = outer === undefined ? undefined : JSON.parse(String(outer.value)).value;
      // An application may also have passed the object of a JSON format to set(), and not its text.
      const encrypted = typeof given === "object" && given !== null ? JSON.stringify(given) : given;
      if (outer === undefined || typeof encrypted !== "string") return undefined;
      const inner = await format.read(encrypted, address);
      if (inner === undefined) return undefined;
      const ends = [outer.expires, inner.expires, readKeyvJson(inner.value)?.expires];
      const expires = Math.min(...ends.map((end) => end ?? Number.POSITIVE_INFINITY));
      return expires === Number.POSITIVE_INFINITY ? { value: inner.value } : { value: inner.value, expires };
    },
  };
}

/**
 * Returns the format of values that are not encrypted, such as those that Keyv wrote before Keyward was added. A store
 * with this format in its option `accept` reads such values. After it has read a value, it encrypts the value in the
 * background.
 *
 * While a store accepts plaintext, anyone who can write to its backend can plant a value. When the census, a count of
 * the stored records, finds no more plaintext, call `forbidPlaintext`. From then on, stores refuse plaintext.
 *
 * @throws KeywardError `VALUE_INVALID` for an invalid option.
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
    if (format.name !== undefined && typeof format.name !== "string") {
      throw new KeywardError("VALUE_INVALID", `The name of the format accept[${index}] is not a string`, {
        hint: 'Set the name to a string, or omit it to use the default, "foreign".',
      });
    }
    for (const option of ["authenticated", "encryptUnauthenticated"] as const) {
      if (format[option] === undefined || typeof format[option] === "boolean") continue;
      throw new KeywardError("VALUE_INVALID", `accept[${index}].${option} is neither true nor false`, {
        hint: `Set ${option} to true or false, or omit it to use the default.`,
      });
    }
  }
  return accept;
}

/**
 * Returns whether re-encryption may encrypt the records of a format. It may if the format detects a wrong key, or if
 * `encryptUnauthenticated` of the format is true.
 */
export function mayBeEncrypted({ authenticated, encryptUnauthenticated }: ForeignFormat): boolean {
  return authenticated !== false || encryptUnauthenticated === true;
}

/**
 * Returns whether a format reads plaintext. A store tries such a format last, and does not try it in a namespace that
 * forbids plaintext.
 */
export function readsPlaintext(format: ForeignFormat): boolean {
  return readsPlaintextMark in format;
}

/**
 * The smallest expiry that is accepted as milliseconds since the epoch: a time in 1973. A smaller number may be a time
 * in seconds, or a duration.
 */
export const leastExpires = 1e11;
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
  // A record that has expired by one of the two expiries must not become readable because of the other.
  const isEarlier = typeof expires === "number" && inJson !== undefined && inJson < expires;
  const expiresAt = expires === undefined || isEarlier ? inJson : expires;
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

/**
 * Returns whether `expires` is a time in milliseconds since the epoch. An expiry that Keyv wrote may also be a small
 * number, such as 0, because Keyv never writes seconds.
 */
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
