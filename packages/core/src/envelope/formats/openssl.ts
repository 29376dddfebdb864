import { createHash, createSecretKey, pbkdf2 } from "node:crypto";
import { promisify } from "node:util";
import { type OptionNames, requireAmount, requireOneOf, requireOptions } from "../../errors/options.ts";
import { textOf } from "../../store-interface/keyv-value.ts";
import type { StoredValue } from "../../store-interface/store-capabilities.ts";
import { asBuffer } from "../../store-interface/stored-bytes.ts";
import type { UnauthenticatedFormat } from "../foreign-format.ts";
import type { DecryptedValue } from "./decrypted-value.ts";
import { openCbc } from "./decryption.ts";
import { unauthenticatedFormat } from "./keyed-format.ts";
import { decodeText } from "./layout.ts";
import { listOldKeys, type OldKeys } from "./old-keys.ts";

/** Options of {@link cryptoJs}. */
export interface CryptoJsOptions {
  /** The passphrase, or current and former passphrases. */
  readonly passphrase: OldKeys;
  /**
   * The kind of value that the application encrypted: "json", "text", or "as-is" for a value that the store returns
   * unchanged. Default: "as-is". The value must be UTF-8 text.
   */
  readonly value?: DecryptedValue;
  /**
   * If true, re-encryption encrypts the records of this format, although the format cannot detect a wrong passphrase.
   * Default: false, so that the records stay as they are.
   */
  readonly encryptUnauthenticated?: boolean;
}

/** Options of {@link openssl}. */
export interface OpensslOptions extends CryptoJsOptions {
  /** The cipher that `openssl enc` was called with. Default: "aes-256-cbc". */
  readonly cipher?: "aes-128-cbc" | "aes-192-cbc" | "aes-256-cbc";
  /** The option `-md` of `openssl enc`. Default: "sha256", the default since OpenSSL 1.1. OpenSSL 1.0 used "md5". */
  readonly digest?: "md5" | "sha1" | "sha256" | "sha512";
  /**
   * For values that `openssl enc -pbkdf2` wrote: the number of its option `-iter`, or 10,000 if the option was omitted.
   * Default: the values were written without `-pbkdf2`.
   */
  readonly pbkdf2Iterations?: number;
}

const cryptoJsOptionNames = {
  passphrase: true,
  value: true,
  encryptUnauthenticated: true,
} as const satisfies OptionNames<CryptoJsOptions>;
const opensslOptionNames = {
  ...cryptoJsOptionNames,
  cipher: true,
  digest: true,
  pbkdf2Iterations: true,
} as const satisfies OptionNames<OpensslOptions>;

const magic = Buffer.from("Salted__");
const saltBytes = 8;
const blockBytes = 16;
const keyBytesOfCipher = { "aes-128-cbc": 16, "aes-192-cbc": 24, "aes-256-cbc": 32 } as const;
const pbkdf2Async = promisify(pbkdf2);

/**
 * Returns the format of values that `CryptoJS.AES.encrypt(text, passphrase)` wrote (`U2FsdGVkX1…`).
 *
 * The format has no MAC, so it cannot detect a wrong passphrase or an altered record. Therefore re-encryption leaves
 * the records as they are, unless `encryptUnauthenticated` is true.
 *
 * @throws KeywardError `KEY_INVALID` if a passphrase is empty; `VALUE_INVALID` for an invalid option.
 * @example
 * const accept = [cryptoJs({ passphrase: ["current passphrase", "former passphrase"], value: "json" })];
 */
export function cryptoJs(options: CryptoJsOptions): UnauthenticatedFormat {
  const checked = requireOptions("cryptoJs", options, cryptoJsOptionNames);
  return salted("cryptojs", checked, { cipher: "aes-256-cbc", digest: "md5" });
}

/**
 * Returns the format of values that `openssl enc` wrote with a passphrase: bytes that begin with `Salted__`, or their
 * base64.
 *
 * The format has no MAC, so it cannot detect a wrong passphrase or an altered record. Therefore re-encryption leaves
 * the records as they are, unless `encryptUnauthenticated` is true.
 *
 * @throws KeywardError `KEY_INVALID` if a passphrase is empty; `VALUE_INVALID` for an invalid option.
 * @example
 * const accept = [openssl({ passphrase: "the passphrase", pbkdf2Iterations: 10_000 })];
 */
export function openssl(options: OpensslOptions): UnauthenticatedFormat {
  const checked = requireOptions("openssl", options, opensslOptionNames);
  const { cipher = "aes-256-cbc", digest = "sha256", pbkdf2Iterations } = checked;
  requireOneOf("cipher", cipher, Object.keys(keyBytesOfCipher));
  requireOneOf("digest", digest, ["md5", "sha1", "sha256", "sha512"]);
  if (pbkdf2Iterations !== undefined) {
    requireAmount("pbkdf2Iterations", pbkdf2Iterations, "iterations", { most: 10_000_000 });
  }
  return salted("openssl", checked, { cipher, digest, pbkdf2Iterations });
}

interface Derivation {
  readonly cipher: keyof typeof keyBytesOfCipher;
  readonly digest: string;
  readonly pbkdf2Iterations?: number | undefined;
}

function salted(name: string, options: CryptoJsOptions, derivation: Derivation): UnauthenticatedFormat {
  const { passphrase, value = "as-is", encryptUnauthenticated = false } = options;
  const keyBytes = keyBytesOfCipher[derivation.cipher];
  const format = {
    name,
    keys: listOldKeys(name === "openssl" ? "openssl" : "cryptoJs", passphrase).map((each) => Buffer.from(each)),
    value,
    parse: parseSalted,
    async decrypt({ salt, ciphertext }: Salted, secret: Buffer): Promise<Buffer | undefined> {
      const derived = await derive(secret, salt, keyBytes + blockBytes, derivation);
      return openCbc(createSecretKey(derived.subarray(0, keyBytes)), derived.subarray(keyBytes), ciphertext);
    },
  };
  return unauthenticatedFormat(format, encryptUnauthenticated);
}

interface Salted {
  readonly salt: Buffer;
  readonly ciphertext: Buffer;
}

function parseSalted(stored: StoredValue): Salted | undefined {
  const text = textOf(stored);
  // `openssl enc -a` breaks lines.
  const isText = text?.startsWith("U2FsdGVkX1") === true;
  const bytes = isText ? decodeText(text.replace(/\s/g, ""), "base64") : asBytes(stored);
  if (bytes?.subarray(0, magic.length).equals(magic) !== true) return undefined;
  const ciphertext = bytes.subarray(magic.length + saltBytes);
  if (ciphertext.length === 0 || ciphertext.length % blockBytes !== 0) return undefined;
  return { salt: bytes.subarray(magic.length, magic.length + saltBytes), ciphertext };
}

function asBytes(stored: StoredValue): Buffer | undefined {
  return typeof stored === "string" ? undefined : asBuffer(stored);
}

/** Derives `length` bytes from a passphrase and a salt: first the key, then the initialization vector. */
async function derive(secret: Buffer, salt: Buffer, length: number, derivation: Derivation): Promise<Buffer> {
  const { digest, pbkdf2Iterations } = derivation;
  if (pbkdf2Iterations !== undefined) return await pbkdf2Async(secret, salt, pbkdf2Iterations, length, digest);
  // EVP_BytesToKey of OpenSSL, with one iteration.
  const blocks: Buffer[] = [];
  let last = Buffer.alloc(0);
  for (let derived = 0; derived < length; derived += last.length) {
    last = createHash(digest).update(last).update(secret).update(salt).digest();
    blocks.push(last);
  }
  return Buffer.concat(blocks).subarray(0, length);
}
