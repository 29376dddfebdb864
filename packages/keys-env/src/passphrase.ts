import { createHash, scrypt } from "node:crypto";

/** The fewest characters a passphrase may have. */
export const passphraseMinCharacters = 32;

/** Stands in for a deployment's own salt. Changing it would change every key that was derived with it. */
export const defaultSalt = "keyward/v1 passphrase";

const cost = { N: 2 ** 17, r: 8, p: 1 };
// scrypt fills 128·N·r bytes; Node refuses more than 32 MiB unless told, and OpenSSL counts its small buffers as well.
const maxmem = 128 * cost.N * cost.r + 2 ** 20;

const derived = new Map<string, Promise<Buffer>>();
let turn: Promise<unknown> = Promise.resolve();

/**
 * The 32 bytes that follow from a passphrase and a salt. Each derivation takes 128 MiB and a good part of a second, so
 * all providers of a process wait for each other, and no pair is derived twice.
 *
 * Source: RFC 7914, with N = 2^17, r = 8, p = 1.
 */
export function deriveKey(passphrase: string, salt: string): Promise<Buffer> {
  const name = createHash("sha256").update(`${salt.length}:${salt}${passphrase}`).digest("hex");
  let key = derived.get(name);
  if (key === undefined) {
    key = turn.then(() => runScrypt(passphrase, salt));
    turn = key.catch(() => derived.delete(name));
    derived.set(name, key);
  }
  return key;
}

function runScrypt(passphrase: string, salt: string): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    scrypt(passphrase, salt, 32, { ...cost, maxmem }, (error, key) => (error === null ? resolve(key) : reject(error)));
  });
}
