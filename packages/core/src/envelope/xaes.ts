import { type Cipheriv, createCipheriv, createSecretKey, type KeyObject } from "node:crypto";

/** Bytes of a nonce that choose the subkey; the other 12 go to AES-256-GCM. */
export const nonceBytes = 24;
export const subkeyPrefixBytes = 12;

/**
 * The key derivation of XAES-256-GCM: from a 256-bit key and the first half of a 192-bit nonce, the AES-256-GCM key
 * for the second half.
 *
 * Source: C2SP, XAES-256-GCM, https://c2sp.org/XAES-256-GCM (CMAC counter-mode KDF, NIST SP 800-108r1, with the
 * context fixed at "X").
 */
export class XaesKey {
  // One ECB cipher kept alive encrypts block after block; a new one for each record would cost more than the record.
  readonly #blocks: Cipheriv;
  readonly #k1: Buffer;

  /** @param key 32 bytes, copied. */
  constructor(key: Uint8Array) {
    this.#blocks = createCipheriv("aes-256-ecb", createSecretKey(key), null).setAutoPadding(false);
    this.#k1 = double(this.#blocks.update(Buffer.alloc(16)));
  }

  /** The AES-256-GCM key for nonces that begin with these 12 bytes. */
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

/** Multiplication by x in GF(2^128), as CMAC's subkey generation has it (NIST SP 800-38B, 6.1). */
function double(block: Buffer): Buffer {
  const doubled = Buffer.alloc(16);
  for (let i = 0; i < 16; i++) doubled[i] = ((block[i] ?? 0) << 1) | ((block[i + 1] ?? 0) >> 7);
  // Without a branch on a secret bit: 0x87 where the top bit was set, 0 elsewhere.
  doubled[15] = (doubled[15] ?? 0) ^ (0x87 & -((block[0] ?? 0) >> 7));
  return doubled;
}
