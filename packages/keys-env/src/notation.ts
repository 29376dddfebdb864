import { Keyring, KeywardError, type OptionNames } from "@keyward/core";
import { adviceOn, byteOrderMark } from "./key-slips.ts";
import { defaultSalt, deriveKey, passphraseMinCharacters } from "./passphrase.ts";

/** Options for keys that are derived from a passphrase. */
export interface PassphraseOptions {
  /**
   * If true, every value is used as a passphrase, except a keyring document and a key in hex (`hex:…`). If false, only
   * a value that begins with `passphrase:` is used as a passphrase. A passphrase needs at least 32 characters. Default:
   * false.
   */
  readonly passphrase?: boolean;
  /**
   * Salt for the derivation of keys from passphrases. The salt is not secret. With different salts, deployments derive
   * different keys from the same passphrase. All processes that share records need the same salt. Default:
   * `keyward/v1 passphrase`.
   */
  readonly salt?: string;
}

/**
 * Names of all options in {@link PassphraseOptions}. A provider adds its own option names, and refuses options with any
 * other name.
 */
export const passphraseOptionNames: OptionNames<PassphraseOptions> = { passphrase: true, salt: true };

/** A key that was read from a text, with its id. */
export interface WrittenKey {
  /**
   * The id of the key. A text of the form `id=key` contains the id. In a directory, the name of the key's file is the
   * id. For any other key, the id is derived from the key material.
   */
  readonly id: string;
  readonly material: Uint8Array;
}

/**
 * Text at the end of each hint to restore a missing or invalid key. The text explains why a new key cannot replace the
 * earlier key, and how to make a first key.
 */
export const onlyForAFirstKey =
  "because a new key cannot decrypt these records. If no encrypted records exist yet, make a first key with `openssl rand -base64 32`.";

const restoreKey = `If records were encrypted with this key, restore the key, ${onlyForAFirstKey}`;

const keyBytes = 32;
const base64Characters = 43;
const hexDigits = 64;
const expected = `${keyBytes} bytes in base64 are expected (${base64Characters} characters, or ${base64Characters + 1} with the final "=")`;

// The maximum length of a text that is examined for advice. Every key with its id is far shorter.
const maxKeyCharacters = 4_096;
const space = "\t\n\v\f\r ";
// A padded base64 key has "=" only as its last character, so an id and a key cannot be confused.
const identified = /^([A-Za-z0-9_-]{1,32})=(?!=*$)(.*)$/s;
const identifiedWithNotation = /^([A-Za-z0-9_-]{1,32})=((?:hex|passphrase):.*)$/s;

/** Removes ASCII white space at both ends of a text, because a mounted file usually ends with a newline. */
export function trim(text: string): string {
  // A regular expression would take quadratic time on a long run of spaces inside the text.
  let start = 0;
  let end = text.length;
  while (start < end && space.includes(text.charAt(start))) start++;
  while (end > start && space.includes(text.charAt(end - 1))) end--;
  return text.slice(start, end);
}

/** Returns true if a trimmed text begins like a keyring document. Does not check whether the document is valid. */
export function isDocument(text: string): boolean {
  return text.startsWith("{");
}

/**
 * Reads the keyring in a keyring document.
 *
 * @param source Name of the environment variable or file that the document comes from. Errors show this name.
 * @throws KeywardError `KEYRING_INVALID` for an invalid document, `KEY_INVALID` for an invalid key in the document.
 */
export function readDocument(text: string, source: string): Keyring {
  return located(source, () => Keyring.parse(text));
}

/**
 * Reads one key from a text. If the text has the form `id=key`, the key gets this id.
 *
 * @param source Name of the environment variable, file or directory that the text comes from. Errors show this name.
 * @throws KeywardError `KEY_INVALID` for an invalid key. The error states the length of the text, and never the text.
 */
export async function readIdentifiedKey(text: string, source: string, options: PassphraseOptions): Promise<WrittenKey> {
  // With `passphrase: true`, "a=b…" may be a passphrase. An id then needs `hex:` or `passphrase:` after it.
  const [, id, key] = (options.passphrase === true ? identifiedWithNotation : identified).exec(text) ?? [];
  return readKey(key ?? text, source, options, id);
}

/**
 * Reads one key from a text that contains only the key and no id.
 *
 * @param source Name of the environment variable, file or directory that the text comes from. Errors show this name.
 * @param givenId Id of the key. Default: an id that is derived from the key material.
 * @throws KeywardError `KEY_INVALID` for an invalid key. The error states the length of the text, and never the text.
 */
export async function readKey(
  text: string,
  source: string,
  options: PassphraseOptions,
  givenId?: string,
): Promise<WrittenKey> {
  const material = await readMaterial(text, source, options);
  const key = givenId === undefined ? { material } : { id: givenId, material };
  const id = located(source, () => Keyring.fromKeys([key]).primary);
  return { id, material };
}

/**
 * Returns a keyring of the keys in `keys`. The first key is the primary key. `keys` may contain a key twice, because
 * two environment variables may hold the same key during a rotation.
 *
 * @throws KeywardError `KEYRING_INVALID` if two different keys have the same id, or if one key has two ids.
 */
export function ringOf(keys: readonly WrittenKey[], source: string): Keyring {
  const distinct: WrittenKey[] = [];
  for (const key of keys) {
    const listed = distinct.some((other) => other.id === key.id && Buffer.compare(other.material, key.material) === 0);
    if (!listed) distinct.push(key);
  }
  return located(source, () => Keyring.fromKeys(distinct));
}

/**
 * Returns the error for an invalid key. `source` names the environment variable or file that holds the value. `problem`
 * describes the value, and must not contain the value.
 */
export function invalidKey(source: string, problem: string, hint: string = restoreKey): KeywardError {
  return new KeywardError("KEY_INVALID", `${source} holds no valid key: ${problem}`, { hint });
}

function readMaterial(text: string, source: string, options: PassphraseOptions): Uint8Array | Promise<Uint8Array> {
  if (text === "") throw invalidKey(source, `the value is empty (0 characters found), but ${expected}`);
  if (isDocument(text)) {
    throw invalidKey(
      source,
      `a keyring document of ${text.length} characters found, but a single key is expected`,
      "To use the keyring document, first check that the document holds every key that records need. Then set the document instead of the primary key, and remove all single keys.",
    );
  }
  if (text.startsWith(byteOrderMark) && /^.\s*(?:\{|hex:|passphrase:)/s.test(text)) {
    throw invalidKey(
      source,
      `${text.length} characters found, the first of which is a byte order mark`,
      `${adviceOn(text)}${restoreKey}`,
    );
  }
  if (text.startsWith("hex:")) return readHex(text.slice("hex:".length), source);
  if (text.startsWith("passphrase:")) return readPassphrase(text.slice("passphrase:".length), source, options);
  if (options.passphrase === true) return readPassphrase(text, source, options);
  return readBase64(text, source);
}

function readHex(digits: string, source: string): Uint8Array {
  const stray = digits.replace(/[0-9a-f]/gi, "").length;
  if (digits.length !== hexDigits || stray > 0) {
    const strayText = stray === 0 ? "" : `, ${stray} of them not hex digits`;
    throw invalidKey(
      source,
      `${digits.length} characters found after "hex:"${strayText}, but ${hexDigits} hex digits are expected`,
      restoreKey.replace("openssl rand -base64 32", "echo hex:$(openssl rand -hex 32)"),
    );
  }
  return unpooled(Buffer.from(digits, "hex"));
}

async function readPassphrase(passphrase: string, source: string, options: PassphraseOptions): Promise<Uint8Array> {
  const characters = [...passphrase].length;
  if (characters < passphraseMinCharacters) {
    throw invalidKey(
      source,
      `a passphrase of ${characters} characters found, but at least ${passphraseMinCharacters} characters are expected`,
      `${restoreKey} A random key is safer than a passphrase.`,
    );
  }
  if (!passphrase.isWellFormed()) {
    throw invalidKey(
      source,
      `the passphrase contains half of a Unicode character (a lone surrogate)`,
      `${restoreKey} Check that the passphrase was copied whole.`,
    );
  }
  const salt = options.salt ?? defaultSalt;
  if (salt === "" || !salt.isWellFormed()) {
    throw new KeywardError("KEY_INVALID", 'The option "salt" for passphrases must be a non-empty, well-formed string', {
      hint: "If `salt` had a value before, restore this value, because another salt derives a different key from the same passphrase. If `salt` was never set, omit `salt` to use the default, `keyward/v1 passphrase`.",
    });
  }
  return deriveKey(passphrase, salt);
}

function readBase64(text: string, source: string): Uint8Array {
  const problem = base64Problem(text);
  if (problem === undefined) return unpooled(Buffer.from(text, "base64"));
  const found = `${text.length} characters found (${problem}), but ${expected}`;
  throw invalidKey(source, found, `${text.length > maxKeyCharacters ? "" : adviceOn(text)}${restoreKey}`);
}

/** Copies a key out of the memory pool that all small Buffers share, and clears it there. */
function unpooled(bytes: Buffer): Uint8Array {
  const material = new Uint8Array(bytes);
  bytes.fill(0);
  return material;
}

function base64Problem(text: string): string | undefined {
  if (text.length > maxKeyCharacters) return "more than any key has";
  const body = text.replace(/=+$/, "");
  const padding = text.length - body.length;
  const stray = body.replace(/[A-Za-z0-9+/_-]/g, "").length;
  if (stray > 0) return `${stray} of them not base64`;
  if (body.length !== base64Characters) return `${Math.floor((body.length * 3) / 4)} bytes`;
  if (padding > 1) return `${padding} of them "="`;
  if (/[+/]/.test(body) && /[_-]/.test(body)) return "in a mix of base64 and base64url";
  // Node.js ignores extra bits in the last character. A text with such bits is not the encoding of 32 bytes.
  const bytes = Buffer.from(body, "base64");
  const canonical = bytes.toString("base64url");
  bytes.fill(0);
  if (canonical !== body.replaceAll("+", "-").replaceAll("/", "_")) {
    return "the last of which has extra bits, so the text was altered or cut";
  }
  return undefined;
}

/** Calls `read`. If `read` throws a KeywardError, the name of the source is added before the message of the error. */
function located<Result>(source: string, read: () => Result): Result {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof KeywardError)) throw error;
    const { code, message, hint, keyId } = error;
    throw new KeywardError(code, `${source}: ${message}`, { hint, keyId });
  }
}
