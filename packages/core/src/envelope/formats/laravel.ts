import { createHmac, createSecretKey, type KeyObject, timingSafeEqual } from "node:crypto";
import { type OptionNames, requireOptions } from "../../errors/options.ts";
import type { ForeignFormat } from "../foreign-format.ts";
import type { DecryptedValue } from "./decrypted-value.ts";
import { openAead, openCbc, tagBytes } from "./decryption.ts";
import { authenticatedFormat, UnsupportedValue } from "./keyed-format.ts";
import { bytesOf, decodeText, jsonObjectOf } from "./layout.ts";
import { invalidKey, listOldKeys, type OldKeys } from "./old-keys.ts";

/** Options of {@link laravel}. */
export interface LaravelOptions {
  /**
   * The key, or current and former keys: `APP_KEY` and `APP_PREVIOUS_KEYS` of Laravel with the prefix "base64:", or 16
   * or 32 bytes. A key of 16 bytes selects AES-128, a key of 32 bytes AES-256.
   */
  readonly key: OldKeys;
  /**
   * True if PHP serialized the value, as `Crypt::encrypt()` does. `Crypt::encryptString()` does not serialize. A
   * serialized value can be read only if it is a string. Default: false.
   */
  readonly serialized?: boolean;
  /**
   * The kind of value that the application encrypted: "json", "text", or "as-is" for a value that the store returns
   * unchanged. Default: "as-is".
   */
  readonly value?: DecryptedValue;
}

const laravelOptionNames = { key: true, serialized: true, value: true } as const satisfies OptionNames<LaravelOptions>;

interface Payload {
  /** The text that the MAC of AES-CBC authenticates. */
  readonly covered: string;
  readonly iv: Buffer;
  readonly ciphertext: Buffer;
  /** `undefined` for AES-GCM. */
  readonly mac: Buffer | undefined;
  /** `undefined` for AES-CBC. */
  readonly tag: Buffer | undefined;
}

/**
 * Returns the format of values that the `Crypt` of Laravel encrypted, with AES-CBC or AES-GCM.
 *
 * @throws KeywardError `KEY_INVALID` if a key has neither 16 nor 32 bytes; `VALUE_INVALID` for an invalid option.
 * @example
 * const accept = [laravel({ key: [currentKey, formerKey], value: "json" })];
 */
export function laravel(options: LaravelOptions): ForeignFormat {
  const { key, serialized = false, value = "as-is" } = requireOptions("laravel", options, laravelOptionNames);
  return authenticatedFormat({
    name: "laravel",
    keys: listOldKeys("laravel", key).map((each) => {
      const bytes = typeof each === "string" ? decodeText(each.replace(/^base64:/, ""), "base64") : each;
      if (bytes?.length !== 16 && bytes?.length !== 32) throw invalidKey("laravel", "has neither 16 nor 32 bytes");
      return createSecretKey(bytes);
    }),
    value,
    parse(stored) {
      const json = bytesOf(stored, "base64");
      return json === undefined ? undefined : payloadOf(jsonObjectOf(json));
    },
    decrypt(payload, secret) {
      const decrypted = openPayload(payload, secret);
      return decrypted === undefined || !serialized ? decrypted : unserialize(decrypted);
    },
  });
}

function payloadOf(fields: object | undefined): Payload | undefined {
  const [iv, value, mac, tag = ""] = ["iv", "value", "mac", "tag"].map((name): unknown =>
    fields === undefined ? undefined : Reflect.get(fields, name),
  );
  if (typeof iv !== "string" || typeof value !== "string" || typeof mac !== "string" || typeof tag !== "string") {
    return undefined;
  }
  const ivBytes = decodeText(iv, "base64");
  const ciphertext = decodeText(value, "base64");
  if (ivBytes === undefined || ciphertext === undefined) return undefined;
  const isGcm = tag !== "";
  if (ivBytes.length !== (isGcm ? 12 : 16)) return undefined;
  return {
    covered: iv + value,
    iv: ivBytes,
    ciphertext,
    mac: isGcm ? undefined : Buffer.from(mac, "hex"),
    tag: isGcm ? Buffer.from(tag, "base64") : undefined,
  };
}

function openPayload({ covered, iv, ciphertext, mac, tag }: Payload, secret: KeyObject): Buffer | undefined {
  if (tag !== undefined) {
    if (tag.length !== tagBytes) return undefined;
    return openAead(secret.symmetricKeySize === 16 ? "aes-128-gcm" : "aes-256-gcm", secret, { iv, tag, ciphertext });
  }
  const expected = createHmac("sha256", secret).update(covered).digest();
  if (mac?.length !== expected.length || !timingSafeEqual(mac, expected)) return undefined;
  return openCbc(secret, iv, ciphertext);
}

/** Returns the string from the serialized form `s:LENGTH:"STRING";` of PHP. */
function unserialize(decrypted: Buffer): Buffer {
  const [head = "", length] = /^s:(\d+):"/.exec(decrypted.toString("latin1")) ?? [];
  const end = head.length + Number(length);
  if (decrypted.subarray(end).toString("latin1") !== '";') {
    throw new UnsupportedValue(
      "was decrypted, but its value is not a string that PHP serialized",
      "If the application called Crypt::encryptString(), omit the option `serialized`. Otherwise read such records with a format of your own.",
    );
  }
  return decrypted.subarray(head.length, end);
}
