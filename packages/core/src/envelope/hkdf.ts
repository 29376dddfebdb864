import { createHmac, createSecretKey, type KeyObject } from "node:crypto";

const noSalt = createSecretKey(Buffer.alloc(32));

/**
 * A key that HKDF-SHA-256 has extracted without a salt, from which keys of 32 bytes are derived.
 *
 * The steps are composed of HMAC, because `hkdfSync` extracts the key again at each call and takes four times as long.
 *
 * Source: RFC 5869.
 */
export class HkdfKey {
  readonly #extracted: KeyObject;

  /** @param material the input keying material, which is not kept. */
  constructor(material: Uint8Array) {
    const extracted = createHmac("sha256", noSalt).update(material).digest();
    this.#extracted = createSecretKey(extracted);
    extracted.fill(0);
  }

  /** Derives the key of 32 bytes that belongs to `info`. */
  derive(info: string): Buffer {
    return createHmac("sha256", this.#extracted).update(info, "utf8").update("\x01").digest();
  }
}
