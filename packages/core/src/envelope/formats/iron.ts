import { createDecipheriv, createHmac, createSecretKey, pbkdf2, timingSafeEqual } from "node:crypto";
import { promisify } from "node:util";
import { type OptionNames, requireAmount, requireOneOf, requireOptions } from "../../errors/options.ts";
import { textOf } from "../../store-interface/keyv-value.ts";
import type { ForeignFormat } from "../foreign-format.ts";
import type { DecryptedValue } from "./decrypted-value.ts";
import { openCbc } from "./decryption.ts";
import { authenticatedFormat, type KeyedFormat, unauthenticatedFormat } from "./keyed-format.ts";
import { decodeText } from "./layout.ts";
import { listOldKeys, type OldKey } from "./old-keys.ts";

/** A password for both encryption and integrity of iron, or an object with one password for each. */
export type IronPassword = OldKey | { readonly encryption: OldKey; readonly integrity: OldKey };

/** Options of {@link iron}. */
export interface IronOptions {
  /**
   * The password, or current and former passwords, which are tried in order. If a sealed value contains the id of a
   * password, the format ignores the id.
   */
  readonly password: IronPassword | readonly IronPassword[];
  /** The option `encryption.algorithm` of iron. Default: "aes-256-cbc". */
  readonly algorithm?: "aes-256-cbc" | "aes-128-ctr";
  /** The options `encryption.iterations` and `integrity.iterations` of iron. Default: 1. */
  readonly iterations?: number;
  /**
   * The kind of value that the application encrypted: "json", "text" or "as-is". Default: "json", because iron encrypts
   * objects as JSON.
   */
  readonly value?: DecryptedValue;
  /**
   * If true, re-encryption encrypts the records even if `encryption` and `integrity` of a password differ. In this
   * case, the format cannot detect a wrong password for encryption. Default: false, so that such records stay as they
   * are.
   */
  readonly encryptUnauthenticated?: boolean;
}

const ironOptionNames = {
  password: true,
  algorithm: true,
  iterations: true,
  value: true,
  encryptUnauthenticated: true,
} as const satisfies OptionNames<IronOptions>;

/** The parts of a sealed value, and the text that its MAC authenticates. */
interface SealedParts {
  readonly covered: string;
  readonly encryptionSalt: string | undefined;
  readonly iv: string | undefined;
  readonly ciphertext: string | undefined;
  readonly expiration: string | undefined;
  readonly macSalt: string | undefined;
  readonly mac: string | undefined;
}

interface IronKey {
  readonly encryption: OldKey;
  readonly integrity: OldKey;
}

const prefix = "Fe26.2";
const keyBytesOfAlgorithm = { "aes-256-cbc": 32, "aes-128-ctr": 16 } as const;
const macKeyBytes = 32;
const pbkdf2Async = promisify(pbkdf2);

/**
 * Returns the format of values that iron sealed (`Fe26.2*…`), as `@hapi/iron`, `iron-webcrypto` and `iron-session` write
 * them. The expiry in a sealed value is the expiry of its record.
 *
 * @throws KeywardError `KEY_INVALID` if a password is empty; `VALUE_INVALID` for an invalid option.
 * @example
 * const accept = [iron({ password: ["the current password of the cookies", "the former password of the cookies"] })];
 */
export function iron(options: IronOptions): ForeignFormat {
  const checked = requireOptions("iron", options, ironOptionNames);
  const { password, algorithm = "aes-256-cbc", iterations = 1, value = "json" } = checked;
  requireOneOf("algorithm", algorithm, Object.keys(keyBytesOfAlgorithm));
  requireAmount("iterations", iterations, "iterations", { most: 10_000_000 });
  const keys = listPasswords(password);
  const format: KeyedFormat<SealedParts, IronKey> = {
    name: "iron",
    keys,
    value,
    parse(stored) {
      // iron-session appends the version of its own format.
      const sealed = textOf(stored)?.replace(/~\d+$/, "");
      const parts = sealed?.split("*", 9) ?? [];
      const [version, , encryptionSalt, iv, ciphertext, expiration, macSalt, mac] = parts;
      if (sealed === undefined || version !== prefix || parts.length !== 8) return undefined;
      const covered = sealed.slice(0, sealed.lastIndexOf("*", sealed.lastIndexOf("*") - 1));
      return { covered, encryptionSalt, iv, ciphertext, expiration, macSalt, mac };
    },
    async decrypt({ covered, encryptionSalt, iv, ciphertext, macSalt, mac }, { encryption, integrity }) {
      const given = decodeText(mac ?? "", "base64url");
      const macKey = await derive(integrity, macSalt, iterations, macKeyBytes);
      const expected = createHmac("sha256", macKey).update(covered).digest();
      if (given?.length !== expected.length || !timingSafeEqual(given, expected)) return undefined;
      const key = createSecretKey(await derive(encryption, encryptionSalt, iterations, keyBytesOfAlgorithm[algorithm]));
      const nonce = Buffer.from(iv ?? "", "base64url");
      const encrypted = Buffer.from(ciphertext ?? "", "base64url");
      switch (algorithm) {
        case "aes-256-cbc":
          return openCbc(key, nonce, encrypted);
        case "aes-128-ctr":
          return createDecipheriv(algorithm, key, nonce).update(encrypted);
      }
    },
    // Text that is not a number becomes NaN, which a store refuses.
    expires: ({ expiration = "" }) => (expiration === "" ? undefined : Number(expiration)),
  };
  return keys.every(({ encryption, integrity }) => encryption === integrity)
    ? authenticatedFormat(format)
    : unauthenticatedFormat(format, checked.encryptUnauthenticated ?? false);
}

function listPasswords(password: IronPassword | readonly IronPassword[]) {
  const passwords: readonly IronPassword[] = isList(password) ? password : [password];
  // An empty list is refused like an empty password.
  if (passwords.length === 0) listOldKeys("iron", []);
  return passwords.map((each) => {
    const isPair = typeof each === "object" && !(each instanceof Uint8Array) && each !== null;
    const [encryption = "", integrity = ""] = isPair
      ? listOldKeys("iron", [each.encryption, each.integrity])
      : [...listOldKeys("iron", [each]), each];
    return { encryption, integrity };
  });
}

function isList(password: IronPassword | readonly IronPassword[]): password is readonly IronPassword[] {
  return Array.isArray(password);
}

/** Derives a key from a password that is text, with PBKDF2. A password of bytes is the key itself, as in iron. */
async function derive(password: OldKey, salt = "", iterations: number, keyBytes: number): Promise<Uint8Array> {
  return typeof password === "string" ? await pbkdf2Async(password, salt, iterations, keyBytes, "sha1") : password;
}
