import { KeywardError } from "../../errors/errors.ts";
import { type OptionNames, requireAmount, requireOptions } from "../../errors/options.ts";
import type { ForeignFormat } from "../foreign-format.ts";
import type { DecryptedValue } from "./decrypted-value.ts";
import { openAead, tagBytes } from "./decryption.ts";
import { authenticatedFormat } from "./keyed-format.ts";
import { layoutReader, type OrderOf, type PartEncoding } from "./layout.ts";
import {
  type EncryptionKey,
  encryptionKeys,
  type KeyFrom,
  needsRecordSalt,
  type OldKeys,
  withKey,
} from "./old-keys.ts";

/** The names of the fields of a JSON object. Each field contains one part of a value that AES-GCM encrypted. */
export interface AesGcmFields {
  /** The name of the field with the nonce. */
  readonly iv: string;
  /**
   * The name of the field with the authentication tag. Omit it if the field with the ciphertext ends with the tag, as
   * Web Crypto writes it.
   */
  readonly tag?: string;
  /** The name of the field with the ciphertext. */
  readonly ciphertext: string;
  /** The name of the field with the salt, if each record has its own salt. */
  readonly salt?: string;
}

/**
 * The layout of a value, which consists of parts: either the order of the parts, or the fields of a JSON object. The
 * parts are the nonce (iv), the authentication tag (16 bytes) and the ciphertext, and a salt if each record has its own
 * salt. Omit the tag if it is at the end of the ciphertext, as Web Crypto writes it.
 */
export type AesGcmLayout =
  | OrderOf<"iv" | "tag" | "ciphertext">
  | OrderOf<"salt" | "iv" | "tag" | "ciphertext">
  | OrderOf<"iv" | "ciphertext">
  | OrderOf<"salt" | "iv" | "ciphertext">
  | AesGcmFields;

/** Options of {@link aesGcm}. */
export interface AesGcmOptions {
  /** The encryption key, or several of them, which are tried in order. */
  readonly key: OldKeys;
  /** The method that makes the encryption key from the option `key`. Default: "sha256", as in `@keyv/encrypt-node`. */
  readonly keyFrom?: KeyFrom;
  /** The length of the encryption key in bytes: 16, 24 or 32. Default: 32, which is AES-256. */
  readonly keyBytes?: 16 | 24 | 32;
  /** The order of the parts, such as "iv-tag-ciphertext", or the fields of a JSON object. */
  readonly layout: AesGcmLayout;
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
  /** The length of the nonce in bytes. Default: 12 if the parts are concatenated, otherwise 12 or 16. */
  readonly ivBytes?: number;
  /**
   * The length of the salt in bytes, if each record has one. Default: 16 if the parts are concatenated, otherwise any
   * length.
   */
  readonly saltBytes?: number;
  /**
   * The kind of value that the application encrypted: "json", "text", or "as-is" for a value that the store returns
   * unchanged. Default: "as-is".
   */
  readonly value?: DecryptedValue;
}

const aesGcmOptionNames = {
  key: true,
  keyFrom: true,
  keyBytes: true,
  layout: true,
  joinedBy: true,
  encoding: true,
  ignoredFields: true,
  ivBytes: true,
  saltBytes: true,
  value: true,
} as const satisfies OptionNames<AesGcmOptions>;

/**
 * Returns the format of values encrypted with AES-GCM, without associated data. Most code examples write this format. A
 * value that has the right encoding and length is treated as a value of this format; if no key decrypts it, `read()`
 * throws `RECORD_TAMPERED`.
 *
 * @throws KeywardError `KEY_INVALID` if a key is empty or has another length than `keyBytes`; `VALUE_INVALID` for an
 * invalid option.
 * @example
 * const accept = [aesGcm({ key: ["current secret", "former secret"], layout: "iv-tag-ciphertext", joinedBy: ":", encoding: "hex" })];
 */
export function aesGcm(options: AesGcmOptions): ForeignFormat {
  const checked = requireOptions("aesGcm", options, aesGcmOptionNames);
  const { key, keyFrom = "sha256", keyBytes = 32, layout, joinedBy, encoding, ivBytes, saltBytes } = checked;
  requireKeyBytes(keyBytes);
  const cipher = ({ 16: "aes-128-gcm", 24: "aes-192-gcm", 32: "aes-256-gcm" } as const)[keyBytes];
  if (ivBytes !== undefined) requireAmount("ivBytes", ivBytes, "bytes", { least: 8, most: 64 });
  if (saltBytes !== undefined) requireAmount("saltBytes", saltBytes, "bytes", { most: 1_024 });
  const isPacked = typeof layout === "string" && joinedBy === undefined;
  const parse = layoutReader({ layout, joinedBy, encoding, ignoredFields: checked.ignoredFields }, ["tag"], {
    iv: ivBytes === undefined ? [12, ...(isPacked ? [] : [16])] : [ivBytes],
    tag: [tagBytes],
    ...(needsRecordSalt(keyFrom) ? { salt: saltLengths(saltBytes, isPacked) } : {}),
  });
  return authenticatedFormat({
    name: `aes-gcm ${typeof layout === "string" ? layout : "json"}`,
    keys: encryptionKeys("aesGcm", key, keyFrom, keyBytes),
    value: checked.value ?? "as-is",
    parse(stored) {
      const parts = parse(stored);
      if (parts === undefined) return undefined;
      const { tag, ciphertext } = parts;
      if (tag !== undefined) return { ...parts, tag };
      if (ciphertext.length < tagBytes) return undefined;
      const end = ciphertext.length - tagBytes;
      return { ...parts, tag: ciphertext.subarray(end), ciphertext: ciphertext.subarray(0, end) };
    },
    decrypt: (parts, encryptionKey: EncryptionKey) =>
      withKey(encryptionKey, parts.salt, (secret) => openAead(cipher, secret, parts)),
  });
}

/** Checks the option `keyBytes` of a format. */
export function requireKeyBytes(keyBytes: number): void {
  if (keyBytes === 16 || keyBytes === 24 || keyBytes === 32) return;
  throw new KeywardError("VALUE_INVALID", "keyBytes is not 16, 24 or 32", {
    hint: "Set keyBytes to the length of the AES key in bytes. Omit it for AES-256.",
  });
}

/**
 * Returns the allowed lengths of a record's salt in bytes.
 *
 * @param saltBytes the option `saltBytes`.
 * @param isPacked whether the parts of a value are concatenated.
 */
export function saltLengths(saltBytes: number | undefined, isPacked: boolean): readonly number[] | "any" {
  if (saltBytes !== undefined) return [saltBytes];
  return isPacked ? [16] : "any";
}
