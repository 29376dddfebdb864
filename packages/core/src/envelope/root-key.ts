import { hkdfSync, type KeyObject } from "node:crypto";
import { drawRandom, seedGeneration } from "./nonces.ts";
import { nonceBytes, subkeyPrefixBytes, XaesKey } from "./xaes.ts";

export const rootBytes = 32;
export const commitmentBytes = 32;

// The limits after which a writer draws a new nonce prefix. With them, about 2^45 records under one key have a chance
// below 2^-32 that a nonce repeats.
const sessionRecords = 2 ** 20;
const sessionBytes = 2 ** 36;
const sessionAgeMs = 10 * 60 * 1000;

/**
 * Maximum number of recent subkeys in the cache. When it is reached, the recent subkeys become the older subkeys, and
 * the former older subkeys are dropped. So the cache holds at most twice this number.
 */
const recentSubkeys = 128;

interface WriterSession {
  readonly prefix: Buffer;
  readonly subkey: KeyObject;
  readonly seedGeneration: number;
  readonly startedAtMs: number;
  records: number;
  bytes: number;
}

function derive(root: Uint8Array, info: string | Uint8Array): Buffer {
  return Buffer.from(hkdfSync("sha256", root, "", info, 32));
}

/**
 * Copies a root to memory outside of Node's buffer pool, which any code that has a small Buffer can read through its
 * `buffer`.
 */
function copyOf(root: Uint8Array): Buffer {
  const copy = Buffer.alloc(root.length);
  copy.set(root);
  return copy;
}

/**
 * The root of a key, which is its 32 bytes of key material in a keyring. This class derives from the root what an
 * envelope needs: the commitment, the subkeys and the roots of scopes.
 *
 * Source of the derivations: `docs/envelope.md`; HKDF is RFC 5869.
 */
export class RootKey {
  readonly #root: Buffer;
  // Two Maps, of recent and of older subkeys, approximate a cache that drops the least recently used subkey. A hit in
  // the recent Map writes nothing: to move an entry within a Map takes longer than the rest of the lookup.
  #recentSubkeys = new Map<string, KeyObject>();
  #olderSubkeys = new Map<string, KeyObject>();
  #commitment: Buffer | undefined;
  #xaes: XaesKey | undefined;
  #session: WriterSession | undefined;

  /** @param root 32 bytes, which are copied. */
  constructor(root: Uint8Array) {
    this.#root = copyOf(root);
  }

  /** The commitment, C in `docs/envelope.md`: a hash that identifies the root, and reveals nothing else about it. */
  get commitment(): Buffer {
    this.#commitment ??= derive(this.#root, "keyward/v1 commit");
    return this.#commitment;
  }

  /** The default id of a key that is added without an id: "k" and 15 hex digits that are derived from the root. */
  get defaultId(): string {
    return `k${this.commitment.toString("hex").slice(0, 15)}`;
  }

  /** Derives the root for the scope `name`. A keyring with this scope uses the derived root instead of this root. */
  scoped(name: string): RootKey {
    return new RootKey(derive(this.#root, Buffer.from(`keyward/v1 scope\0${name}`)));
  }

  /** Returns a copy of the root, which is the key material. `exportKeyring` writes it into the keyring document. */
  material(): Buffer {
    return copyOf(this.#root);
  }

  /**
   * Writes a new nonce of 24 bytes into `target`, beginning at the index `at`. Returns the AES-256-GCM key to use with
   * the second half of the nonce.
   */
  drawNonce(target: Buffer, at: number, plaintextBytes: number): KeyObject {
    const nowMs = Date.now();
    const session = this.#currentSession(nowMs);
    session.records++;
    session.bytes += plaintextBytes;
    target.set(session.prefix, at);
    drawRandom(target, at + subkeyPrefixBytes, nonceBytes - subkeyPrefixBytes, nowMs);
    return session.subkey;
  }

  /**
   * Returns the AES-256-GCM key for nonces that begin with the 12 bytes at the index `at` of `source`. A small cache
   * keeps the latest keys.
   */
  subkey(source: Buffer, at: number): KeyObject {
    const name = source.toString("latin1", at, at + subkeyPrefixBytes);
    const recent = this.#recentSubkeys.get(name);
    if (recent !== undefined) return recent;
    const subkey = this.#olderSubkeys.get(name) ?? this.#deriveSubkey(source.subarray(at, at + subkeyPrefixBytes));
    if (this.#recentSubkeys.size >= recentSubkeys) {
      this.#olderSubkeys = this.#recentSubkeys;
      this.#recentSubkeys = new Map();
    }
    this.#recentSubkeys.set(name, subkey);
    return subkey;
  }

  #deriveSubkey(prefix: Buffer): KeyObject {
    this.#xaes ??= new XaesKey(derive(this.#root, "keyward/v1 seal"));
    return this.#xaes.subkey(prefix);
  }

  #currentSession(nowMs: number): WriterSession {
    const session = this.#session;
    if (
      session !== undefined &&
      session.records < sessionRecords &&
      session.bytes < sessionBytes &&
      session.seedGeneration === seedGeneration() &&
      nowMs - session.startedAtMs < sessionAgeMs &&
      nowMs >= session.startedAtMs
    ) {
      return session;
    }
    const prefix = Buffer.alloc(subkeyPrefixBytes);
    drawRandom(prefix, 0, subkeyPrefixBytes, nowMs);
    this.#session = {
      prefix,
      subkey: this.subkey(prefix, 0),
      seedGeneration: seedGeneration(),
      startedAtMs: nowMs,
      records: 0,
      bytes: 0,
    };
    return this.#session;
  }
}
