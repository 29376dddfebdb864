import { createCipheriv, createDecipheriv, createHash, randomBytes } from "node:crypto";
import { describe, expect, it } from "vitest";
import { subkeyPrefixBytes, XaesKey } from "../../src/envelope/xaes.ts";
import { fromHex, vectors } from "./envelope-vectors.ts";
import { subkeyOf } from "./naive-envelope.ts";

function sealXaes(key: Uint8Array, nonce: Buffer, plaintext: Uint8Array, associatedData: Uint8Array): Buffer {
  const subkey = new XaesKey(key).subkey(nonce.subarray(0, subkeyPrefixBytes));
  const cipher = createCipheriv("aes-256-gcm", subkey, nonce.subarray(subkeyPrefixBytes), { authTagLength: 16 });
  cipher.setAAD(associatedData);
  return Buffer.concat([cipher.update(plaintext), cipher.final(), cipher.getAuthTag()]);
}

function openXaes(key: Uint8Array, nonce: Buffer, sealed: Buffer, associatedData: Uint8Array): Buffer {
  const subkey = new XaesKey(key).subkey(nonce.subarray(0, subkeyPrefixBytes));
  const decipher = createDecipheriv("aes-256-gcm", subkey, nonce.subarray(subkeyPrefixBytes), { authTagLength: 16 });
  decipher.setAAD(associatedData);
  decipher.setAuthTag(sealed.subarray(-16));
  return Buffer.concat([decipher.update(sealed.subarray(0, -16)), decipher.final()]);
}

/** The inputs of the accumulated test of C2SP: the output of SHAKE128 for the empty input, read from its beginning. */
class InputStream {
  readonly #stream: Buffer;
  #at = 0;

  constructor(maxBytes: number) {
    this.#stream = createHash("shake128", { outputLength: maxBytes }).digest();
  }

  take(count: number): Buffer {
    const taken = this.#stream.subarray(this.#at, this.#at + count);
    this.#at += count;
    return taken;
  }

  takeCounted(): Buffer {
    return this.take(this.take(1).readUInt8());
  }
}

describe("XAES-256-GCM", () => {
  it.each(vectors.xaes256gcm)("encrypts each example of C2SP to the output that C2SP expects: $sealed", (vector) => {
    const key = fromHex(vector.key);
    const nonce = fromHex(vector.nonce);
    const data = fromHex(vector.associatedData);
    expect(sealXaes(key, nonce, fromHex(vector.plaintext), data).toString("hex")).toBe(vector.sealed);
    expect(openXaes(key, nonce, fromHex(vector.sealed), data).toString("hex")).toBe(vector.plaintext);
  });

  it("computes the hash that C2SP's accumulated test expects", () => {
    const { rounds, digest } = vectors.xaes256gcmAccumulated;
    const source = new InputStream(rounds * (32 + 24 + 2 * 256));
    const accumulated = createHash("shake128", { outputLength: 32 });
    for (let round = 0; round < rounds; round++) {
      const key = source.take(32);
      const nonce = source.take(24);
      const plaintext = source.takeCounted();
      const data = source.takeCounted();
      const sealed = sealXaes(key, nonce, plaintext, data);
      if (!openXaes(key, nonce, sealed, data).equals(plaintext))
        throw new Error(`The ciphertext of round ${round} cannot be decrypted`);
      accumulated.update(sealed);
    }
    expect(accumulated.digest("hex")).toBe(digest);
  });

  it("derives the same subkeys as the second implementation, with and without a carry in the doubling of CMAC", () => {
    for (let round = 0; round < 200; round++) {
      const key = randomBytes(32);
      const nonce = randomBytes(24);
      const xaes = new XaesKey(key);
      // Use one instance for several subkeys: its cipher must have no state between blocks.
      xaes.subkey(randomBytes(subkeyPrefixBytes));
      expect(xaes.subkey(nonce.subarray(0, subkeyPrefixBytes)).export()).toEqual(subkeyOf(key, nonce));
    }
  });
});
