import { createDecipheriv, type KeyObject } from "node:crypto";

/** The length of the authentication tag in all formats, in bytes. */
export const tagBytes = 16;

/** A cipher that detects a wrong key and altered bytes when it decrypts. */
export type AeadCipher =
  | "aes-128-gcm"
  | "aes-192-gcm"
  | "aes-256-gcm"
  | "aes-128-ccm"
  | "aes-192-ccm"
  | "aes-256-ccm"
  | "chacha20-poly1305";

/** The length of the encryption key of each cipher, in bytes. */
export const keyBytesOf: Readonly<Record<AeadCipher, number>> = {
  "aes-128-gcm": 16,
  "aes-192-gcm": 24,
  "aes-256-gcm": 32,
  "aes-128-ccm": 16,
  "aes-192-ccm": 24,
  "aes-256-ccm": 32,
  "chacha20-poly1305": 32,
};

/** The parts of a value that an AEAD cipher encrypted. */
export interface AeadParts {
  readonly iv: Uint8Array;
  readonly tag: Uint8Array;
  readonly ciphertext: Uint8Array;
  /** Bytes that are authenticated, but not encrypted. Default: none. */
  readonly associated?: Uint8Array;
}

/** Decrypts with an AEAD cipher. Returns `undefined` if the key is wrong, or if a part was altered. */
export function openAead(cipher: AeadCipher, key: KeyObject, parts: AeadParts): Buffer | undefined {
  const { iv, tag, ciphertext, associated = new Uint8Array() } = parts;
  const decipher = createDecipher(cipher, key, iv);
  decipher.setAuthTag(tag);
  try {
    decipher.setAAD(associated, { plaintextLength: ciphertext.length });
    return Buffer.concat([decipher.update(ciphertext), decipher.final()]);
  } catch {
    return undefined;
  }
}

function createDecipher(cipher: AeadCipher, key: KeyObject, iv: Uint8Array) {
  const options = { authTagLength: tagBytes };
  switch (cipher) {
    case "aes-128-gcm":
    case "aes-192-gcm":
    case "aes-256-gcm":
      return createDecipheriv(cipher, key, iv, options);
    case "aes-128-ccm":
    case "aes-192-ccm":
    case "aes-256-ccm":
      return createDecipheriv(cipher, key, iv, options);
    case "chacha20-poly1305":
      return createDecipheriv(cipher, key, iv, options);
  }
}

/**
 * Decrypts with AES-CBC and PKCS #7 padding. A key of 16, 24 or 32 bytes selects AES-128, AES-192 or AES-256. Returns
 * `undefined` if the padding is wrong. A wrong key or altered bytes can result in garbage. If the format has a MAC, the
 * caller verifies the MAC first.
 */
export function openCbc(key: KeyObject, iv: Uint8Array, ciphertext: Uint8Array): Buffer | undefined {
  const decipher = createDecipheriv(`aes-${(key.symmetricKeySize ?? 0) * 8}-cbc`, key, iv);
  try {
    return Buffer.concat([decipher.update(ciphertext), decipher.final()]);
  } catch {
    return undefined;
  }
}
