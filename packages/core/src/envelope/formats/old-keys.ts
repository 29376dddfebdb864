import { createHash, createSecretKey, type KeyObject, pbkdf2, type ScryptOptions, scrypt } from "node:crypto";
import { promisify } from "node:util";
import { KeywardError } from "../../errors/errors.ts";
import { type OptionNames, requireAmount, requireOneOf, requireOptions } from "../../errors/options.ts";

/** A secret with which an application encrypted records before it used Keyward: bytes, or text. */
export type OldKey = string | Uint8Array;

/** One old key, or a list of old keys. A format tries the keys of a list in order, so the current key comes first. */
export type OldKeys = OldKey | readonly OldKey[];

/** Derives an encryption key from a password with scrypt, as `crypto.scrypt` does. */
export interface ScryptKey {
  /** Selects scrypt as the function that derives the encryption key. */
  readonly kdf: "scrypt";
  /**
   * The salt, as bytes or text, if all records have the same salt. Default: each record contains its own salt, as the
   * part `salt` of the layout.
   */
  readonly salt?: OldKey;
  /** The cost N, a power of two. Default: 16,384. */
  readonly cost?: number;
  /** The block size r. Default: 8. */
  readonly blockSize?: number;
  /** The parallelization p. Default: 1. */
  readonly parallelization?: number;
}

/** Derives an encryption key from a password with PBKDF2, as `crypto.pbkdf2` does. */
export interface Pbkdf2Key {
  /** Selects PBKDF2 as the function that derives the encryption key. */
  readonly kdf: "pbkdf2";
  /**
   * The salt, as bytes or text, if all records have the same salt. Default: each record contains its own salt, as the
   * part `salt` of the layout.
   */
  readonly salt?: OldKey;
  /** The number of iterations. */
  readonly iterations: number;
  /** The hash function. */
  readonly digest: "sha1" | "sha256" | "sha512";
}

/**
 * The method by which the application made its encryption key from the option `key` of a format (the old key).
 *
 * - `"sha256"`: text becomes its SHA-256, cut to the length of the encryption key. Bytes stay unchanged.
 * - `"utf8"`, `"hex"`, `"base64"`: text is decoded from this encoding. Bytes stay unchanged.
 * - {@link ScryptKey}, {@link Pbkdf2Key}: the encryption key is derived from the old key, which is a password, and a
 *   salt.
 */
export type KeyFrom = "sha256" | "utf8" | "hex" | "base64" | ScryptKey | Pbkdf2Key;

/** Returns the encryption key for a record. `salt` is the salt that the record contains, if it contains one. */
export type EncryptionKey = (salt: Uint8Array | undefined) => KeyObject | Promise<KeyObject>;

const scryptKeyNames = {
  kdf: true,
  salt: true,
  cost: true,
  blockSize: true,
  parallelization: true,
} as const satisfies OptionNames<ScryptKey>;
const pbkdf2KeyNames = {
  kdf: true,
  salt: true,
  iterations: true,
  digest: true,
} as const satisfies OptionNames<Pbkdf2Key>;

const scryptAsync = promisify<string | Uint8Array, string | Uint8Array, number, ScryptOptions, Buffer>(scrypt);
const pbkdf2Async = promisify(pbkdf2);

/**
 * Returns the old keys in the option `key` of a format as a list.
 *
 * @param taker the name of the function that has the option, for the error message.
 * @throws KeywardError `KEY_INVALID` for an empty list, and for a key that is empty, or neither text nor bytes.
 */
export function listOldKeys(taker: string, key: OldKeys): readonly OldKey[] {
  const keys: readonly OldKey[] = isList(key) ? key : [key];
  const isSound = (each: unknown) => (typeof each === "string" || each instanceof Uint8Array) && each.length > 0;
  if (keys.length > 0 && keys.every(isSound)) return keys;
  throw invalidKey(taker, "is neither bytes nor text, or is empty");
}

/**
 * Returns, for each old key, a function that returns the encryption key for a record.
 *
 * @param keyBytes the length of the encryption keys.
 * @throws KeywardError `KEY_INVALID` for a key that does not result in `keyBytes` bytes; `VALUE_INVALID` for an invalid
 * `keyFrom`.
 */
export function encryptionKeys(taker: string, key: OldKeys, keyFrom: KeyFrom, keyBytes: number): EncryptionKey[] {
  const oldKeys = listOldKeys(taker, key);
  if (typeof keyFrom === "object") {
    const derive = derivation(taker, keyFrom, keyBytes);
    return oldKeys.map((oldKey) => derivedKey(oldKey, derive, keyFrom.salt));
  }
  const hint = 'Set keyFrom to "sha256", "utf8", "hex" or "base64", or to an object with a `kdf`.';
  requireKeyFrom(taker, keyFrom, ["sha256", "utf8", "hex", "base64"], hint);
  return oldKeys.map((oldKey) => {
    const bytes = typeof oldKey === "string" ? bytesOfText(oldKey, keyFrom, keyBytes) : oldKey;
    if (bytes.length !== keyBytes) throw invalidKey(taker, `has ${bytes.length} bytes, but must have ${keyBytes}`);
    const encryptionKey = createSecretKey(bytes);
    return () => encryptionKey;
  });
}

/**
 * Checks the option `keyFrom` of a format, which determines how a key that is text becomes bytes. The error does not
 * show the given value, because it may be a misplaced key.
 *
 * @param taker the name of the function that has the option, for the error message.
 * @throws KeywardError `VALUE_INVALID` if `keyFrom` is not one of `known`.
 */
export function requireKeyFrom(taker: string, keyFrom: string, known: readonly string[], hint: string): void {
  if (known.includes(keyFrom)) return;
  throw new KeywardError("VALUE_INVALID", `The option keyFrom of ${taker}() has an unknown value`, { hint });
}

/** Returns whether each record contains the salt from which its encryption key is derived. */
export function needsRecordSalt(keyFrom: KeyFrom): boolean {
  return typeof keyFrom === "object" && keyFrom.salt === undefined;
}

/** Calls `use` with an encryption key. Returns a promise only if the key has to be derived. */
export function withKey<Result>(
  encryptionKey: EncryptionKey,
  salt: Uint8Array | undefined,
  use: (key: KeyObject) => Result,
): Result | Promise<Result> {
  const key = encryptionKey(salt);
  return key instanceof Promise ? key.then(use) : use(key);
}

/** Returns the error `KEY_INVALID` for an old key. The message does not contain the key. */
export function invalidKey(taker: string, problem: string): KeywardError {
  return new KeywardError("KEY_INVALID", `A key of ${taker}() ${problem}`, {
    hint: "Pass the key with which the stored records were encrypted. If the key is text and the format has the option `keyFrom`, set `keyFrom` to how the key is made from the text.",
  });
}

type Derive = (oldKey: OldKey, salt: OldKey) => Promise<Buffer>;

function derivation(taker: string, keyFrom: ScryptKey | Pbkdf2Key, keyBytes: number): Derive {
  switch (keyFrom.kdf) {
    case "scrypt": {
      const { cost = 16_384, blockSize = 8, parallelization = 1 } = requireOptions("keyFrom", keyFrom, scryptKeyNames);
      for (const [name, given] of Object.entries({ cost, blockSize, parallelization })) {
        requireAmount(`keyFrom.${name}`, given, "iterations", { most: 2 ** 20 });
      }
      if (cost < 2 || !Number.isInteger(Math.log2(cost))) {
        throw new KeywardError("VALUE_INVALID", "keyFrom.cost is not a power of two of at least 2", {
          hint: "Set keyFrom.cost to the cost N with which the application called scrypt, or omit it for 16384.",
        });
      }
      const options = { cost, blockSize, parallelization, maxmem: 256 * cost * blockSize + 2 ** 20 };
      return (oldKey, salt) => scryptAsync(oldKey, salt, keyBytes, options);
    }
    case "pbkdf2": {
      const { iterations, digest } = requireOptions("keyFrom", keyFrom, pbkdf2KeyNames);
      requireAmount("keyFrom.iterations", iterations, "iterations", { most: 10_000_000 });
      requireOneOf("keyFrom.digest", digest, ["sha1", "sha256", "sha512"]);
      return (oldKey, salt) => pbkdf2Async(oldKey, salt, iterations, keyBytes, digest);
    }
    default:
      throw new KeywardError("VALUE_INVALID", `The option keyFrom of ${taker}() has an unknown kdf`, {
        hint: 'Set kdf to "scrypt" or "pbkdf2".',
      });
  }
}

/**
 * Returns a function that derives the encryption key of a record. If all records have the same salt, the key is derived
 * only once.
 */
function derivedKey(oldKey: OldKey, derive: Derive, commonSalt: OldKey | undefined): EncryptionKey {
  let common: Promise<KeyObject> | undefined;
  return async (salt) => {
    if (commonSalt === undefined) return createSecretKey(await derive(oldKey, salt ?? new Uint8Array()));
    common ??= derive(oldKey, commonSalt).then(createSecretKey);
    try {
      return await common;
    } catch (error) {
      // The next record tries again, for example after memory was short.
      common = undefined;
      throw error;
    }
  };
}

function bytesOfText(text: string, keyFrom: "sha256" | "utf8" | "hex" | "base64", keyBytes: number): Buffer {
  if (keyFrom === "sha256") return createHash("sha256").update(text).digest().subarray(0, keyBytes);
  return Buffer.from(text, keyFrom);
}

function isList(key: OldKeys): key is readonly OldKey[] {
  return Array.isArray(key);
}
