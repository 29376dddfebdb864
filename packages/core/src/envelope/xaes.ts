import { type Cipheriv, createCipheriv, createSecretKey, type KeyObject } from "node:crypto";

/** Length of a nonce in bytes. */
export const nonceBytes = 24;
/** Length in bytes of the first half of a nonce, from which the subkey is derived. AES-256-GCM uses the second half. */
export const subkeyPrefixBytes = 12;

/**
 * Derives keys as XAES-256-GCM does: from a 256-bit key and the first half of a 192-bit nonce, an AES-256-GCM key,
 * which is used with the second half of the nonce.
 *
 * Source: C2SP, XAES-256-GCM, https://c2sp.org/XAES-256-GCM (CMAC counter-mode KDF, NIST SP 800-108r1, with the
 * context fixed at "X").
 */
export class XaesKey {
  // One ECB cipher encrypts all blocks. Creating a cipher for each record would take longer than encrypting the record.
  readonly #blocks: Cipheriv;
  readonly #k1: Buffer;

  /** @param key 32 bytes, which are copied. */
  constructor(key: Uint8Array) {
    this.#blocks = createCipheriv("aes-256-ecb", createSecretKey(key), null).setAutoPadding(false);
    this.#k1 = double(this.#blocks.update(Buffer.alloc(16)));
  }

  /** Derives the AES-256-GCM key for nonces that begin with the 12 bytes of `prefix`. */
  subkey(prefix: Uint8Array): KeyObject {
    const blocks = Buffer.alloc(32);
    for (const half of [0, 1]) {
      const at = half * 16;
      blocks[at + 1] = half + 1;
      blocks[at + 2] = 0x58;
      blocks.set(prefix, at + 4);
      for (let i = 0; i < 16; i++) blocks[at + i] = (blocks[at + i] ?? 0) ^ (this.#k1[i] ?? 0);
    }
    const derived = this.#blocks.update(blocks);
    const subkey = createSecretKey(derived);
    derived.fill(0);
    return subkey;
  }
}

/** Multiplies by x in GF(2^128), as in the subkey generation of CMAC (NIST SP 800-38B, 6.1). */
function double(block: Buffer): Buffer {
  const doubled = Buffer.alloc(16);
  for (let i = 0; i < 16; i++) doubled[i] = ((block[i] ?? 0) << 1) | ((block[i + 1] ?? 0) >> 7);
  // 0x87 if the top bit was set, 0 otherwise, without a branch on a secret bit.
  doubled[15] = (doubled[15] ?? 0) ^ (0x87 & -((block[0] ?? 0) >> 7));
  return doubled;
}
