import { createCipheriv, randomBytes } from "node:crypto";

// Plain AES-GCM does not commit to its key: for any two keys there are ciphertexts that can be decrypted under both.
// This module builds such a ciphertext by solving for one block of it, as in Dodis, Grubbs, Ristenpart and Woodage,
// "Fast Message Franking", https://eprint.iacr.org/2019/016.

type Block = bigint;

const one: Block = 1n << 127n;
const toBlock = (bytes: Uint8Array): Block => BigInt(`0x${Buffer.from(bytes).toString("hex").padEnd(32, "0")}`);
const toBytes = (block: Block): Buffer => Buffer.from(block.toString(16).padStart(32, "0"), "hex");

/** Multiplication in GCM's GF(2^128), whose bits are numbered from the left (NIST SP 800-38D, 6.3). */
function multiply(left: Block, right: Block): Block {
  let product = 0n;
  let shifted = right;
  for (let bit = 127n; bit >= 0n; bit--) {
    if ((left >> bit) & 1n) product ^= shifted;
    shifted = (shifted >> 1n) ^ (shifted & 1n ? 0xe1n << 120n : 0n);
  }
  return product;
}

function power(base: Block, exponent: bigint): Block {
  let result = one;
  for (let square = base, left = exponent; left > 0n; left >>= 1n, square = multiply(square, square)) {
    if (left & 1n) result = multiply(result, square);
  }
  return result;
}

const invert = (block: Block): Block => power(block, (1n << 128n) - 2n);

function blocksOf(bytes: Uint8Array): Block[] {
  const count = Math.ceil(bytes.length / 16);
  return Array.from({ length: count }, (_, index) => toBlock(bytes.subarray(index * 16, index * 16 + 16)));
}

class GcmKey {
  readonly #key: Uint8Array;
  readonly #hash: Block;

  constructor(key: Uint8Array) {
    this.#key = key;
    this.#hash = toBlock(this.#encrypt(Buffer.alloc(16)));
  }

  /** Returns the bytes that are combined with the plaintext. */
  keystream(nonce: Uint8Array, bytes: number): Buffer {
    return createCipheriv("aes-256-gcm", this.#key, nonce).update(Buffer.alloc(bytes));
  }

  tag(nonce: Uint8Array, data: Uint8Array, ciphertext: Uint8Array): Block {
    const lengths = (BigInt(data.length * 8) << 64n) | BigInt(ciphertext.length * 8);
    const blocks = [...blocksOf(data), ...blocksOf(ciphertext), lengths];
    const hashed = blocks.reduce((sum, block) => multiply(sum ^ block, this.#hash), 0n);
    return hashed ^ toBlock(this.#encrypt(Buffer.concat([nonce, Buffer.of(0, 0, 0, 1)])));
  }

  /** The factor of the last ciphertext block in the tag. One more block follows it, with the lengths. */
  get weightOfLastBlock(): Block {
    return power(this.#hash, 2n);
  }

  #encrypt(block: Uint8Array): Buffer {
    return createCipheriv("aes-256-ecb", this.#key, null).setAutoPadding(false).update(block);
  }
}

/**
 * Returns a ciphertext and tag that can be decrypted under both keys, to plaintexts that both begin with a zero byte.
 * For 255 of 256 nonces there is no such ciphertext: the function then returns `undefined`.
 */
export function collide(
  keys: readonly [Uint8Array, Uint8Array],
  nonce: Uint8Array,
  data: Uint8Array,
): { readonly ciphertext: Buffer; readonly tag: Buffer } | undefined {
  const [first, second] = [new GcmKey(keys[0]), new GcmKey(keys[1])];
  const firstByte = first.keystream(nonce, 1);
  if (!firstByte.equals(second.keystream(nonce, 1))) return undefined;
  const ciphertext = Buffer.concat([firstByte, randomBytes(15), Buffer.alloc(16)]);
  const difference = first.tag(nonce, data, ciphertext) ^ second.tag(nonce, data, ciphertext);
  const last = multiply(difference, invert(first.weightOfLastBlock ^ second.weightOfLastBlock));
  toBytes(last).copy(ciphertext, 16);
  return { ciphertext, tag: toBytes(first.tag(nonce, data, ciphertext)) };
}
