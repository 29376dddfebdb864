import { createHmac, createSecretKey, timingSafeEqual } from "node:crypto";
import { type OptionNames, requireOptions } from "../../errors/options.ts";
import { textOf } from "../../store-interface/keyv-value.ts";
import type { ForeignFormat } from "../foreign-format.ts";
import type { DecryptedValue } from "./decrypted-value.ts";
import { openAead, openCbc, tagBytes } from "./decryption.ts";
import { authenticatedFormat, UnsupportedValue } from "./keyed-format.ts";
import { decodeText, jsonObjectOf } from "./layout.ts";
import { invalidKey, listOldKeys, type OldKey, type OldKeys, requireKeyFrom } from "./old-keys.ts";

/** Options of {@link compactJwe}. */
export interface CompactJweOptions {
  /**
   * The content encryption key, or current and former keys. The format tries a key only for JWEs whose `enc` needs a
   * key of that length.
   */
  readonly key: OldKeys;
  /** The encoding of a key that is text. Default: "base64url", as in the field `k` of a JWK. */
  readonly keyFrom?: "base64url" | "base64" | "hex" | "utf8";
  /**
   * The kind of value that the application encrypted: "json", "text" or "as-is". Default: "json", such as the claims of
   * a JWT.
   */
  readonly value?: DecryptedValue;
}

const compactJweOptionNames = {
  key: true,
  keyFrom: true,
  value: true,
} as const satisfies OptionNames<CompactJweOptions>;

const gcm = {
  A128GCM: { cipher: "aes-128-gcm", keyBytes: 16 },
  A192GCM: { cipher: "aes-192-gcm", keyBytes: 24 },
  A256GCM: { cipher: "aes-256-gcm", keyBytes: 32 },
} as const;
const cbc = {
  "A128CBC-HS256": { digest: "sha256", keyBytes: 32 },
  "A192CBC-HS384": { digest: "sha384", keyBytes: 48 },
  "A256CBC-HS512": { digest: "sha512", keyBytes: 64 },
} as const;

interface Token {
  readonly enc: keyof typeof gcm | keyof typeof cbc;
  /** The encoded header, which is authenticated. */
  readonly associated: Buffer;
  readonly iv: Buffer;
  readonly ciphertext: Buffer;
  readonly tag: Buffer;
}

/**
 * Returns the format of compact JWEs with the algorithm `dir`, as `jose` writes them with `EncryptJWT` and
 * `CompactEncrypt`. If the encrypted JSON has the claim `exp`, in seconds, it is the expiry of the record.
 *
 * @throws KeywardError `KEY_INVALID` if a key is empty; `VALUE_INVALID` for an invalid option.
 * @example
 * const accept = [compactJwe({ key: [currentKey, formerKey] })];
 */
export function compactJwe(options: CompactJweOptions): ForeignFormat {
  const checked = requireOptions("compactJwe", options, compactJweOptionNames);
  const { key, keyFrom = "base64url", value = "json" } = checked;
  const hint = 'Set keyFrom to "base64url", "base64", "hex" or "utf8".';
  requireKeyFrom("compactJwe", keyFrom, ["base64url", "base64", "hex", "utf8"], hint);
  return authenticatedFormat({
    name: "jwe",
    keys: listOldKeys("compactJwe", key).map((each) => jweKeyOf(each, keyFrom)),
    value,
    parse: (stored) => parseToken(textOf(stored) ?? ""),
    decrypt: openToken,
    expires(_, decrypted) {
      const claims = jsonObjectOf(decrypted);
      if (claims === undefined || !("exp" in claims)) return undefined;
      // A store refuses NaN.
      return typeof claims.exp === "number" ? claims.exp * 1_000 : Number.NaN;
    },
  });
}

function jweKeyOf(key: OldKey, keyFrom: "base64url" | "base64" | "hex" | "utf8"): Uint8Array {
  const bytes = typeof key === "string" ? Buffer.from(key, keyFrom) : key;
  if ([16, 24, 32, 48, 64].includes(bytes.length)) return bytes;
  throw invalidKey("compactJwe", `has ${bytes.length} bytes, but must have 16, 24, 32, 48 or 64`);
}

function parseToken(text: string): Token | undefined {
  const [header = "", encryptedKey, ...others] = text.split(".", 6);
  if (encryptedKey !== "" || others.length !== 3) return undefined;
  const [iv, ciphertext, tag] = others.map((part) => decodeText(part, "base64url"));
  const headerBytes = decodeText(header, "base64url");
  const fields = headerBytes === undefined ? undefined : jsonObjectOf(headerBytes);
  if (fields === undefined || iv === undefined || ciphertext === undefined || tag === undefined) return undefined;
  if (!("alg" in fields && fields.alg === "dir" && "enc" in fields)) return undefined;
  if ("zip" in fields || "crit" in fields) {
    throw new UnsupportedValue(
      "is compressed, or has critical extensions",
      "Read such records with a format of your own, which calls `compactDecrypt` of jose. List it before this format.",
    );
  }
  const { enc } = fields;
  if (!isEnc(enc)) {
    throw new UnsupportedValue(
      "has an unknown enc",
      "Read such records with a format of your own, which calls `compactDecrypt` of jose. List it before this format.",
    );
  }
  return { enc, associated: Buffer.from(header, "ascii"), iv, ciphertext, tag };
}

function isEnc(enc: unknown): enc is Token["enc"] {
  return typeof enc === "string" && (Object.hasOwn(gcm, enc) || Object.hasOwn(cbc, enc));
}

function openToken(token: Token, key: Uint8Array): Buffer | undefined {
  const { enc, iv, tag } = token;
  switch (enc) {
    case "A128GCM":
    case "A192GCM":
    case "A256GCM": {
      const { cipher, keyBytes } = gcm[enc];
      if (key.length !== keyBytes || iv.length !== 12 || tag.length !== tagBytes) return undefined;
      return openAead(cipher, createSecretKey(key), token);
    }
    case "A128CBC-HS256":
    case "A192CBC-HS384":
    case "A256CBC-HS512":
      return openCbcHmac(token, key, cbc[enc]);
  }
}

function openCbcHmac(
  { associated, iv, ciphertext, tag }: Token,
  key: Uint8Array,
  { digest, keyBytes }: { readonly digest: string; readonly keyBytes: number },
): Buffer | undefined {
  const half = keyBytes / 2;
  if (key.length !== keyBytes || iv.length !== 16 || tag.length !== half) return undefined;
  const associatedBits = Buffer.alloc(8);
  associatedBits.writeBigUInt64BE(BigInt(associated.length) * 8n);
  const hmac = createHmac(digest, key.subarray(0, half));
  const expected = hmac.update(associated).update(iv).update(ciphertext).update(associatedBits).digest();
  if (!timingSafeEqual(expected.subarray(0, half), tag)) return undefined;
  return openCbc(createSecretKey(key.subarray(half)), iv, ciphertext);
}
