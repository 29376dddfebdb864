import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";
import { invalid } from "./protocol.ts";

/** Length of the encryption key for scan cursors, in bytes. */
export const cursorKeyBytes = 32;
/** Cursors are padded to a multiple of this length. */
const paddedBytes = 256;
const lengthBytes = 4;
const nonceBytes = 12;
const tagBytes = 16;

/**
 * Encrypts the cursors of the server's store with AES-256-GCM. Such a cursor can contain the key of another tenant's
 * record, so clients get only encrypted cursors. A cursor is padded, so that the length of the cursor does not reveal
 * the length of the record's key.
 */
export class ScanCursors {
  readonly #key: Uint8Array;

  /** @param key the encryption key: 32 random bytes. */
  constructor(key: Uint8Array) {
    this.#key = key;
  }

  /** Encrypts a cursor of the store. Only a scan of records with the same storage prefix accepts the encrypted cursor. */
  encrypt(prefix: string, cursor: string): string {
    const text = Buffer.from(cursor);
    const padded = Buffer.alloc(Math.ceil((text.length + lengthBytes) / paddedBytes) * paddedBytes);
    padded.writeUInt32BE(text.length);
    text.copy(padded, lengthBytes);
    const nonce = randomBytes(nonceBytes);
    const cipher = createCipheriv("aes-256-gcm", this.#key, nonce, { authTagLength: tagBytes });
    cipher.setAAD(Buffer.from(prefix));
    return Buffer.concat([nonce, cipher.update(padded), cipher.final(), cipher.getAuthTag()]).toString("base64url");
  }

  /**
   * Decrypts a cursor that {@link ScanCursors.encrypt} returned.
   *
   * @throws Refusal `REQUEST_INVALID` for a text that `encrypt` did not return, and for a cursor of another storage
   * prefix.
   */
  decrypt(prefix: string, cursor: string): string {
    const encrypted = Buffer.from(cursor, "base64url");
    try {
      const nonce = encrypted.subarray(0, nonceBytes);
      const decipher = createDecipheriv("aes-256-gcm", this.#key, nonce, { authTagLength: tagBytes });
      decipher.setAAD(Buffer.from(prefix)).setAuthTag(encrypted.subarray(-tagBytes));
      const padded = Buffer.concat([decipher.update(encrypted.subarray(nonceBytes, -tagBytes)), decipher.final()]);
      return padded.toString("utf8", lengthBytes, lengthBytes + padded.readUInt32BE());
    } catch {
      throw invalid("The cursor does not come from a scan of this tenant namespace and space");
    }
  }
}
