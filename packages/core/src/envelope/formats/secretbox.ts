import { type OptionNames, requireMethods, requireOptions } from "../../errors/options.ts";
import type { ForeignFormat } from "../foreign-format.ts";
import type { DecryptedValue } from "./decrypted-value.ts";
import { authenticatedFormat } from "./keyed-format.ts";
import { layoutReader, type OrderOf, type PartEncoding } from "./layout.ts";
import { encryptionKeys, type OldKeys, requireKeyFrom, withKey } from "./old-keys.ts";

/** Options of {@link secretbox}. */
export interface SecretboxOptions {
  /** The key, or current and former keys, of 32 bytes each. */
  readonly key: OldKeys;
  /** The encoding of a key that is text. Default: "base64". */
  readonly keyFrom?: "base64" | "hex" | "utf8";
  /**
   * The function that decrypts: `crypto_secretbox_open_easy` of libsodium, or `nacl.secretbox.open`. For a wrong key,
   * the function throws, or returns `null`, `undefined` or `false`.
   */
  readonly open: (
    ciphertext: Uint8Array,
    nonce: Uint8Array,
    key: Uint8Array,
  ) => Uint8Array | null | undefined | false | Promise<Uint8Array | null | undefined | false>;
  /** The order of the nonce (iv, 24 bytes) and the ciphertext, or the fields of a JSON object. Default: "iv-ciphertext". */
  readonly layout?: OrderOf<"iv" | "ciphertext"> | { readonly iv: string; readonly ciphertext: string };
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
   * The kind of value that the application encrypted: "json", "text", or "as-is" for a value that the store returns
   * unchanged. Default: "as-is".
   */
  readonly value?: DecryptedValue;
}

const secretboxOptionNames = {
  key: true,
  keyFrom: true,
  open: true,
  layout: true,
  joinedBy: true,
  encoding: true,
  value: true,
} as const satisfies OptionNames<SecretboxOptions>;

const nonceBytes = 24;
const macBytes = 16;
const keyBytes = 32;

/**
 * Returns the format of values that `crypto_secretbox_easy` of libsodium encrypted. Keyward does not depend on
 * libsodium, so pass the function that decrypts as the option `open`.
 *
 * @throws KeywardError `KEY_INVALID` if a key does not have 32 bytes; `VALUE_INVALID` for an invalid option.
 * @example
 * await sodium.ready;
 * const accept = [secretbox({ key: [currentKey, formerKey], open: sodium.crypto_secretbox_open_easy })];
 */
export function secretbox(options: SecretboxOptions): ForeignFormat {
  const checked = requireOptions("secretbox", options, secretboxOptionNames);
  const { key, keyFrom = "base64", layout = "iv-ciphertext", joinedBy, encoding, value = "as-is" } = checked;
  const hint = "Set open to a function that decrypts, such as `sodium.crypto_secretbox_open_easy`.";
  requireMethods("The options of secretbox", checked, ["open"], hint);
  requireKeyFrom("secretbox", keyFrom, ["base64", "hex", "utf8"], 'Set keyFrom to "base64", "hex" or "utf8".');
  const parse = layoutReader({ layout, joinedBy, encoding }, [], { iv: [nonceBytes] });
  return authenticatedFormat({
    name: "secretbox",
    keys: encryptionKeys("secretbox", key, keyFrom, keyBytes),
    value,
    parse(stored) {
      const parts = parse(stored);
      return parts === undefined || parts.ciphertext.length < macBytes ? undefined : parts;
    },
    async decrypt({ iv, ciphertext }, encryptionKey) {
      const bytes = await withKey(encryptionKey, undefined, (secret) => secret.export());
      try {
        const opened = await checked.open(ciphertext, iv, bytes);
        return opened instanceof Uint8Array ? opened : undefined;
      } catch {
        return undefined;
      }
    },
  });
}
