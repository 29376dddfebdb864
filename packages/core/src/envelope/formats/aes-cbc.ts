import { createHmac, createSecretKey, type KeyObject, timingSafeEqual } from "node:crypto";
import { type OptionNames, requireAmount, requireOneOf, requireOptions } from "../../errors/options.ts";
import type { ForeignFormat, UnauthenticatedFormat } from "../foreign-format.ts";
import { requireKeyBytes, saltLengths } from "./aes-gcm.ts";
import type { DecryptedValue } from "./decrypted-value.ts";
import { openCbc } from "./decryption.ts";
import { authenticatedFormat, type KeyedFormat, unauthenticatedFormat } from "./keyed-format.ts";
import { layoutReader, type OrderOf, type PartEncoding, type Parts } from "./layout.ts";
import {
  type EncryptionKey,
  encryptionKeys,
  invalidKey,
  type KeyFrom,
  listOldKeys,
  needsRecordSalt,
  type OldKeys,
  withKey,
} from "./old-keys.ts";

/** The names of the fields of a JSON object. Each field contains one part of a value that AES-CBC encrypted. */
export interface AesCbcFields {
  /** The name of the field with the initialization vector. */
  readonly iv: string;
  /** The name of the field with the ciphertext. */
  readonly ciphertext: string;
  /** The name of the field with the MAC. Required with the option `hmac`. */
  readonly mac?: string;
  /** The name of the field with the salt, if each record has its own salt. */
  readonly salt?: string;
}

/**
 * The layout of a value, which consists of parts: either the order of the parts, or the fields of a JSON object. The
 * parts are the initialization vector (iv, 16 bytes) and the ciphertext. There is also a MAC if the option `hmac` is
 * set, and a salt if each record has its own salt.
 */
export type AesCbcLayout =
  | OrderOf<"iv" | "ciphertext">
  | OrderOf<"iv" | "ciphertext" | "mac">
  | OrderOf<"salt" | "iv" | "ciphertext">
  | OrderOf<"salt" | "iv" | "ciphertext" | "mac">
  | AesCbcFields;

/**
 * Describes the MAC of a value in an AES-CBC format: the bytes that it authenticates, its hash function and its key.
 */
export interface CbcHmac {
  /** The hash function of the HMAC. */
  readonly digest: "sha1" | "sha256" | "sha512";
  /** The bytes that the MAC authenticates. If the MAC leaves out the iv, the first 16 bytes of a value can be altered. */
  readonly covers: "iv-ciphertext" | "ciphertext";
  /**
   * The key of the MAC. If the option `key` is a list, this is a list of the same length, with the MAC key for each
   * entry in the same order. Text is used as its UTF-8 bytes. With a separate key for the MAC, the format cannot detect
   * a wrong encryption key. Default: the encryption key.
   */
  readonly key?: OldKeys;
}

/** Options of {@link aesCbc}. */
export interface AesCbcOptions {
  /** The encryption key, or several of them, which are tried in order. */
  readonly key: OldKeys;
  /** The method that makes the encryption key from the option `key`. Default: "sha256". */
  readonly keyFrom?: KeyFrom;
  /** The length of the encryption key in bytes: 16, 24 or 32. Default: 32, which is AES-256. */
  readonly keyBytes?: 16 | 24 | 32;
  /** The order of the parts, such as "iv-ciphertext", or the fields of a JSON object. */
  readonly layout: AesCbcLayout;
  /**
   * The text between the parts, such as ":" or ".". Each part is encoded by itself. Default: the parts are
   * concatenated.
   */
  readonly joinedBy?: string;
  /**
   * The encoding of the stored text. If the parts (such as nonce and ciphertext) are joined or are fields of a JSON object,
   * the encoding of each part. Default: "base64", with or without padding.
   */
  readonly encoding?: PartEncoding;
  /**
   * Fields of the stored JSON object that the format does not read, such as a version. Re-encryption discards their
   * content. The format reads an object only if all fields of the object are in `layout` or in this list. Default:
   * none.
   */
  readonly ignoredFields?: readonly string[];
  /**
   * The length of the salt in bytes, if each record has one. Default: 16 if the parts are concatenated, otherwise any
   * length.
   */
  readonly saltBytes?: number;
  /** The MAC. Without it, the format cannot detect a wrong key or an altered record. Default: no MAC. */
  readonly hmac?: CbcHmac;
  /**
   * The kind of value that the application encrypted: "json", "text", or "as-is" for a value that the store returns
   * unchanged. Default: "as-is". Without the option `hmac`, the value must be UTF-8 text.
   */
  readonly value?: DecryptedValue;
  /**
   * If true, re-encryption encrypts the records even if the format cannot detect a wrong key. Default: false, so that
   * such records stay as they are.
   */
  readonly encryptUnauthenticated?: boolean;
}

interface CbcKey {
  readonly encryptionKey: EncryptionKey;
  /** `undefined` if the MAC is computed with the encryption key. */
  readonly macKey: KeyObject | undefined;
}

const aesCbcOptionNames = {
  key: true,
  keyFrom: true,
  keyBytes: true,
  layout: true,
  joinedBy: true,
  encoding: true,
  ignoredFields: true,
  saltBytes: true,
  hmac: true,
  value: true,
  encryptUnauthenticated: true,
} as const satisfies OptionNames<AesCbcOptions>;
const cbcHmacNames = { digest: true, covers: true, key: true } as const satisfies OptionNames<CbcHmac>;

const blockBytes = 16;
const digestBytes = { sha1: 20, sha256: 32, sha512: 64 } as const;

/**
 * Returns the format of values encrypted with AES-CBC and PKCS #7 padding.
 *
 * Without the option `hmac`, the format cannot detect a wrong key or an altered record. If the option `hmac` has a
 * `key`, the format cannot detect a wrong encryption key. In both cases, `authenticated` of the format is false, and
 * re-encryption encrypts the records only if `encryptUnauthenticated` is true.
 *
 * @throws KeywardError `KEY_INVALID` if a key is empty or has another length than `keyBytes`; `VALUE_INVALID` for an
 * invalid option.
 * @example
 * const accept = [aesCbc({ key: "the secret", layout: "iv-ciphertext", joinedBy: ":", encoding: "hex" })];
 */
export function aesCbc(
  options: AesCbcOptions & { readonly hmac: CbcHmac & { readonly key?: undefined } },
): ForeignFormat;
export function aesCbc(options: AesCbcOptions): UnauthenticatedFormat;
export function aesCbc(options: AesCbcOptions): ForeignFormat {
  const checked = requireOptions("aesCbc", options, aesCbcOptionNames);
  const { key, keyFrom = "sha256", keyBytes = 32, layout, joinedBy, encoding, saltBytes, hmac } = checked;
  requireKeyBytes(keyBytes);
  if (saltBytes !== undefined) requireAmount("saltBytes", saltBytes, "bytes", { most: 1_024 });
  if (hmac !== undefined) {
    requireOptions("hmac", hmac, cbcHmacNames);
    requireOneOf("hmac.digest", hmac.digest, ["sha1", "sha256", "sha512"]);
    requireOneOf("hmac.covers", hmac.covers, ["iv-ciphertext", "ciphertext"]);
  }
  const isPacked = typeof layout === "string" && joinedBy === undefined;
  const parse = layoutReader({ layout, joinedBy, encoding, ignoredFields: checked.ignoredFields }, [], {
    iv: [blockBytes],
    ...(hmac === undefined ? {} : { mac: [digestBytes[hmac.digest]] }),
    ...(needsRecordSalt(keyFrom) ? { salt: saltLengths(saltBytes, isPacked) } : {}),
  });
  const macKeys = hmac?.key === undefined ? undefined : macKeysOf(hmac.key);
  const keys = encryptionKeys("aesCbc", key, keyFrom, keyBytes);
  if (macKeys !== undefined && macKeys.length !== keys.length) {
    throw invalidKey("aesCbc", "has no key for its MAC: the lists `key` and `hmac.key` have different numbers of keys");
  }
  const format: KeyedFormat<Parts, CbcKey> = {
    name: `aes-cbc ${typeof layout === "string" ? layout : "json"}`,
    keys: keys.map((encryptionKey, index) => ({ encryptionKey, macKey: macKeys?.[index] })),
    value: checked.value ?? "as-is",
    parse(stored) {
      const parts = parse(stored);
      const length = parts?.ciphertext.length ?? 0;
      return length > 0 && length % blockBytes === 0 ? parts : undefined;
    },
    decrypt: (parts, { encryptionKey, macKey }) =>
      withKey(encryptionKey, parts.salt, (secret) => {
        if (hmac !== undefined && !hasMac(parts, hmac, macKey ?? secret)) return undefined;
        return openCbc(secret, parts.iv, parts.ciphertext);
      }),
  };
  return hmac === undefined || macKeys !== undefined
    ? unauthenticatedFormat(format, checked.encryptUnauthenticated ?? false)
    : authenticatedFormat(format);
}

function macKeysOf(key: OldKeys): readonly KeyObject[] {
  return listOldKeys("aesCbc", key).map((each) => createSecretKey(typeof each === "string" ? Buffer.from(each) : each));
}

function hasMac({ iv, ciphertext, mac }: Parts, { digest, covers }: CbcHmac, key: KeyObject): boolean {
  const hmac = createHmac(digest, key);
  if (covers === "iv-ciphertext") hmac.update(iv);
  const expected = hmac.update(ciphertext).digest();
  return mac !== undefined && mac.length === expected.length && timingSafeEqual(mac, expected);
}
