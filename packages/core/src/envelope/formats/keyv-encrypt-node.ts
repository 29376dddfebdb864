import { type OptionNames, requireOneOf, requireOptions } from "../../errors/options.ts";
import type { ForeignFormat } from "../foreign-format.ts";
import type { DecryptedValue } from "./decrypted-value.ts";
import { type AeadCipher, keyBytesOf, openAead, tagBytes } from "./decryption.ts";
import { authenticatedFormat } from "./keyed-format.ts";
import { layoutReader } from "./layout.ts";
import { encryptionKeys, type OldKeys, withKey } from "./old-keys.ts";

/** Options of {@link keyvEncryptNode}, with the names and defaults of the options of `@keyv/encrypt-node`. */
export interface KeyvEncryptNodeOptions {
  /** The option `key` of `@keyv/encrypt-node`, or a list of current and former keys. */
  readonly key: OldKeys;
  /** The option `algorithm` of `@keyv/encrypt-node`. Default: "aes-256-gcm". */
  readonly algorithm?: AeadCipher;
  /** The option `encoding` of `@keyv/encrypt-node`. Default: "base64". */
  readonly encoding?: "base64" | "base64url" | "hex";
  /**
   * The kind of value that was encrypted: "json", "text", or "as-is" for a value that the store returns unchanged.
   * Default: "as-is", which fits values that Keyv wrote.
   */
  readonly value?: DecryptedValue;
}

const keyvEncryptNodeOptionNames = {
  key: true,
  algorithm: true,
  encoding: true,
  value: true,
} as const satisfies OptionNames<KeyvEncryptNodeOptions>;

/**
 * Returns the format of records that a Keyv with `encryption: new KeyvEncryptNode(…)` of `@keyv/encrypt-node` wrote.
 *
 * @throws KeywardError `KEY_INVALID` if a key is empty, or is bytes of another length than the algorithm needs;
 * `VALUE_INVALID` for an invalid option, such as an algorithm without authentication, which pre-releases of
 * `@keyv/encrypt-node` had. To read AES-CBC, use `aesCbc`.
 * @example
 * const accept = [keyvEncryptNode({ key: ["current secret", "former secret"] })];
 */
export function keyvEncryptNode(options: KeyvEncryptNodeOptions): ForeignFormat {
  const checked = requireOptions("keyvEncryptNode", options, keyvEncryptNodeOptionNames);
  const { key, algorithm = "aes-256-gcm", encoding = "base64", value = "as-is" } = checked;
  requireOneOf("algorithm", algorithm, Object.keys(keyBytesOf));
  requireOneOf("encoding", encoding, ["base64", "base64url", "hex"]);
  const parse = layoutReader({ layout: "iv-tag-ciphertext", encoding }, [], { iv: [12], tag: [tagBytes] });
  return authenticatedFormat({
    name: "@keyv/encrypt-node",
    keys: encryptionKeys("keyvEncryptNode", key, "sha256", keyBytesOf[algorithm]),
    value,
    parse(stored) {
      const parts = parse(stored);
      return parts?.tag === undefined ? undefined : { ...parts, tag: parts.tag };
    },
    decrypt: (parts, encryptionKey) =>
      withKey(encryptionKey, undefined, (secret) => openAead(algorithm, secret, parts)),
  });
}
