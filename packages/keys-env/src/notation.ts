import { Keyring, KeywardError, type OptionNames } from "@keyward/core";
import { adviceOn, byteOrderMark } from "./key-slips.ts";
import { defaultSalt, deriveKey, passphraseMinCharacters } from "./passphrase.ts";

/** How passphrases become keys. */
export interface PassphraseOptions {
  /**
   * Reads every value that names no other notation (`hex:`, a document) as a passphrase of at least 32 characters.
   * Without it, a passphrase must say so itself: `passphrase:…`. Default false.
   */
  readonly passphrase?: boolean;
  /**
   * A text of this deployment's own, not secret, so that the same passphrase gives another key elsewhere. Every process
   * that shares records needs the same. Default `keyward/v1 passphrase`.
   */
  readonly salt?: string;
}

/** The names of these options, for those that add their own. */
export const passphraseOptionNames: OptionNames<PassphraseOptions> = { passphrase: true, salt: true };

/** A key as it was written down. */
export interface WrittenKey {
  /** As given, or as it follows from the material. */
  readonly id: string;
  readonly material: Uint8Array;
}

/** How to have a good key, for hints: first the old one, since another key opens nothing that was written before. */
export const makeAKey =
  "If records were written under this key, restore it: a new key opens none of them. Only for a first key: `openssl rand -base64 32`.";

const keyBytes = 32;
const base64Characters = 43;
const hexDigits = 64;
const expected = `${keyBytes} bytes as base64 are expected (${base64Characters} characters, or ${base64Characters + 1} with the closing "=")`;

// No key, id included, is nearly as long; what is longer is not looked at.
const maxKeyCharacters = 4_096;
const space = "\t\n\v\f\r ";
// A padded base64 key has "=" at its very end only, so an id and a key cannot be mistaken for each other.
const identified = /^([A-Za-z0-9_-]{1,32})=(?!=*$)(.*)$/s;
const identifiedWithNotation = /^([A-Za-z0-9_-]{1,32})=((?:hex|passphrase):.*)$/s;

/** Takes off ASCII white space at both ends: a mounted file usually ends with a newline. */
export function trim(text: string): string {
  // A regular expression would look at each run of spaces inside again from each of them.
  let start = 0;
  let end = text.length;
  while (start < end && space.includes(text.charAt(start))) start++;
  while (end > start && space.includes(text.charAt(end - 1))) end--;
  return text.slice(start, end);
}

/** Whether a trimmed text claims to be a whole keyring document. */
export function isDocument(text: string): boolean {
  return text.startsWith("{");
}

/**
 * Reads a keyring document.
 *
 * @param source Where it stands, for the error.
 * @throws KeywardError `KEYRING_INVALID` or `KEY_INVALID`.
 */
export function readDocument(text: string, source: string): Keyring {
  return located(source, () => Keyring.parse(text));
}

/**
 * Reads one key, with its id when it has one: `id=key`.
 *
 * @param source Where it stands, for the error.
 * @throws KeywardError `KEY_INVALID`, which tells the length found and never the value.
 */
export async function readIdentifiedKey(text: string, source: string, options: PassphraseOptions): Promise<WrittenKey> {
  // With `passphrase: true`, "a=b…" may well be a passphrase: an id then needs a notation behind it.
  const [, id, key] = (options.passphrase === true ? identifiedWithNotation : identified).exec(text) ?? [];
  return readKey(key ?? text, source, options, id);
}

/**
 * Reads one key whose id, if any, is known from elsewhere.
 *
 * @param source Where it stands, for the error.
 * @throws KeywardError `KEY_INVALID`, which tells the length found and never the value.
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
 * A ring of keys, the first of which is primary. A key that is listed twice counts once: while a rotation moves a key
 * from one variable to another, both may hold it.
 *
 * @throws KeywardError `KEYRING_INVALID` when one id has two materials or one material two ids.
 */
export function ringOf(keys: readonly WrittenKey[], source: string): Keyring {
  const distinct: WrittenKey[] = [];
  for (const key of keys) {
    const listed = distinct.some((other) => other.id === key.id && Buffer.compare(other.material, key.material) === 0);
    if (!listed) distinct.push(key);
  }
  return located(source, () => Keyring.fromKeys(distinct));
}

/** What is wrong with the key at `source`; `problem` tells about the value, and never repeats it. */
export function invalidKey(source: string, problem: string, hint: string = makeAKey): KeywardError {
  return new KeywardError("KEY_INVALID", `${source} holds no valid key: ${problem}`, { hint });
}

function readMaterial(text: string, source: string, options: PassphraseOptions): Uint8Array | Promise<Uint8Array> {
  if (text === "") throw invalidKey(source, `it is empty, 0 characters found where ${expected}`);
  if (isDocument(text)) {
    throw invalidKey(
      source,
      `${text.length} characters of a keyring document found where a single key is expected`,
      "A keyring document stands alone and holds all its keys.",
    );
  }
  if (text.startsWith(byteOrderMark) && /^.\s*(?:\{|hex:|passphrase:)/s.test(text)) {
    throw invalidKey(
      source,
      `${text.length} characters found behind a byte order mark`,
      `${adviceOn(text)}${makeAKey}`,
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
    const strayText = stray === 0 ? "" : `, ${stray} of them no hex digits,`;
    throw invalidKey(
      source,
      `${digits.length} characters found after "hex:"${strayText} where ${hexDigits} hex digits are expected`,
      makeAKey.replace("openssl rand -base64 32", "echo hex:$(openssl rand -hex 32)"),
    );
  }
  return unpooled(Buffer.from(digits, "hex"));
}

async function readPassphrase(passphrase: string, source: string, options: PassphraseOptions): Promise<Uint8Array> {
  const characters = [...passphrase].length;
  if (characters < passphraseMinCharacters) {
    throw invalidKey(
      source,
      `a passphrase of ${characters} characters found where at least ${passphraseMinCharacters} are expected`,
      `A random key is better than a passphrase. ${makeAKey}`,
    );
  }
  if (!passphrase.isWellFormed()) {
    throw invalidKey(source, `a passphrase of ${characters} characters found that is no well-formed Unicode`);
  }
  const salt = options.salt ?? defaultSalt;
  if (salt === "" || !salt.isWellFormed()) {
    throw new KeywardError("KEY_INVALID", "The salt for passphrases is not a non-empty, well-formed string", {
      hint: "Give `salt` the text that it had before: with another one, the same passphrase is another key. Leave it out where it was never given.",
    });
  }
  return deriveKey(passphrase, salt);
}

function readBase64(text: string, source: string): Uint8Array {
  const problem = base64Problem(text);
  if (problem === undefined) return unpooled(Buffer.from(text, "base64"));
  const found = `${text.length} characters found, ${problem}, where ${expected}`;
  throw invalidKey(source, found, `${text.length > maxKeyCharacters ? "" : adviceOn(text)}${makeAKey}`);
}

/** Node decodes into a pool that every small Buffer shares and shows: the key is moved out of it. */
function unpooled(bytes: Buffer): Uint8Array {
  const material = new Uint8Array(bytes);
  bytes.fill(0);
  return material;
}

function base64Problem(text: string): string | undefined {
  if (text.length > maxKeyCharacters) return "too many for any key";
  const body = text.replace(/=+$/, "");
  const padding = text.length - body.length;
  const stray = body.replace(/[A-Za-z0-9+/_-]/g, "").length;
  if (stray > 0) return `${stray} of them not base64`;
  if (body.length !== base64Characters) return `${Math.floor((body.length * 3) / 4)} bytes`;
  if (padding > 1) return `${padding} of them "="`;
  if (/[+/]/.test(body) && /[_-]/.test(body)) return "in a mix of base64 and base64url";
  // Node decodes a last character with bits left over as if they were zero; such a text was not made from 32 bytes.
  const bytes = Buffer.from(body, "base64");
  const canonical = bytes.toString("base64url");
  bytes.fill(0);
  if (canonical !== body.replaceAll("+", "-").replaceAll("/", "_")) {
    return "the last of which has bits that belong to no byte, so it was altered or cut";
  }
  return undefined;
}

/** Says where a key or a ring stands that the core refused. */
function located<Result>(source: string, read: () => Result): Result {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof KeywardError)) throw error;
    const { code, message, hint, keyId } = error;
    throw new KeywardError(code, `${source}: ${message}`, { hint, keyId });
  }
}
