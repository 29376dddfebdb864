import { createHash, scrypt } from "node:crypto";

/** Minimum number of characters in a passphrase. */
export const passphraseMinCharacters = 32;

/**
 * Default of the option `salt`. Never change this text, because each passphrase would then give another key, which
 * cannot decrypt existing records.
 */
export const defaultSalt = "keyward/v1 passphrase";

const cost = { N: 2 ** 17, r: 8, p: 1 };
// scrypt needs 128·N·r bytes. The default limit of Node.js is 32 MiB, and OpenSSL also counts its small buffers.
const maxmem = 128 * cost.N * cost.r + 2 ** 20;

const derived = new Map<string, Promise<Buffer>>();
let lastDerivation: Promise<unknown> = Promise.resolve();

/**
 * Derives a key of 32 bytes from a passphrase and a salt. A derivation needs 128 MiB of memory and several hundred
 * milliseconds. So a process runs one derivation at a time, and never derives the key of the same passphrase and salt
 * twice.
 *
 * The algorithm is scrypt (RFC 7914) with N = 2^17, r = 8, p = 1.
 */
export function deriveKey(passphrase: string, salt: string): Promise<Buffer> {
  const name = createHash("sha256").update(`${salt.length}:${salt}${passphrase}`).digest("hex");
  let key = derived.get(name);
  if (key === undefined) {
    key = lastDerivation.then(() => runScrypt(passphrase, salt));
    lastDerivation = key.catch(() => derived.delete(name));
    derived.set(name, key);
  }
  return key;
}

function runScrypt(passphrase: string, salt: string): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    scrypt(passphrase, salt, 32, { ...cost, maxmem }, (error, key) => (error === null ? resolve(key) : reject(error)));
  });
}
