import { createHmac, createSecretKey, timingSafeEqual } from "node:crypto";
import { type OptionNames, requireAmount, requireOptions } from "../../errors/options.ts";
import type { ForeignFormat } from "../foreign-format.ts";
import type { DecryptedValue } from "./decrypted-value.ts";
import { openCbc } from "./decryption.ts";
import { authenticatedFormat } from "./keyed-format.ts";
import { bytesOf, decodeText } from "./layout.ts";
import { invalidKey, listOldKeys, type OldKeys } from "./old-keys.ts";

/** Options of {@link fernet}. */
export interface FernetOptions {
  /**
   * The key, or current and former keys. A key is 32 bytes, or their base64url, as `Fernet.generate_key()` returns it.
   */
  readonly key: OldKeys;
  /**
   * Time to live of a record, in milliseconds, counted from the time in its token. Default: the record does not expire.
   */
  readonly ttlMs?: number;
  /**
   * The kind of value that the application encrypted: "json", "text", or "as-is" for a value that the store returns
   * unchanged. Default: "as-is".
   */
  readonly value?: DecryptedValue;
}

const fernetOptionNames = { key: true, ttlMs: true, value: true } as const satisfies OptionNames<FernetOptions>;

const version = 0x80;
// Version, time, initialization vector, ciphertext, MAC.
const headBytes = 1 + 8;
const ivBytes = 16;
const blockBytes = 16;
const macBytes = 32;
const keyBytes = 32;

/**
 * Returns the format of Fernet tokens, as `cryptography.fernet` of Python and the npm package `fernet` write them.
 *
 * @throws KeywardError `KEY_INVALID` if a key is not 32 bytes; `VALUE_INVALID` for an invalid option.
 * @example
 * const accept = [fernet({ key: [currentKey, formerKey], value: "json" })];
 */
export function fernet(options: FernetOptions): ForeignFormat {
  const { key, ttlMs, value = "as-is" } = requireOptions("fernet", options, fernetOptionNames);
  if (ttlMs !== undefined) requireAmount("ttlMs", ttlMs, "milliseconds", { most: 2 ** 43 });
  return authenticatedFormat({
    name: "fernet",
    keys: listOldKeys("fernet", key).map((each) => {
      const bytes = typeof each === "string" ? decodeText(each.trim(), "base64url") : each;
      if (bytes?.length !== keyBytes) throw invalidKey("fernet", "is not 32 bytes, or their text in base64url");
      return { signing: createSecretKey(bytes.subarray(0, 16)), encryption: createSecretKey(bytes.subarray(16)) };
    }),
    value,
    parse(stored) {
      const token = bytesOf(stored, "base64url");
      if (token === undefined || token[0] !== version) return undefined;
      const ciphertextBytes = token.length - headBytes - ivBytes - macBytes;
      if (ciphertextBytes < blockBytes || ciphertextBytes % blockBytes !== 0) return undefined;
      return token;
    },
    decrypt(token, { signing, encryption }) {
      const end = token.length - macBytes;
      const expected = createHmac("sha256", signing).update(token.subarray(0, end)).digest();
      if (!timingSafeEqual(expected, token.subarray(end))) return undefined;
      const start = headBytes + ivBytes;
      return openCbc(encryption, token.subarray(headBytes, start), token.subarray(start, end));
    },
    expires: (token) => (ttlMs === undefined ? undefined : Number(token.readBigUInt64BE(1)) * 1_000 + ttlMs),
  });
}
