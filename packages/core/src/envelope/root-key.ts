import type { KeyObject } from "node:crypto";
import { HkdfKey } from "./hkdf.ts";
import { drawRandom, seedGeneration } from "./nonces.ts";
import { RecentlyUsed } from "./recently-used.ts";
import { nonceBytes, subkeyPrefixBytes, XaesKey } from "./xaes.ts";

export const rootBytes = 32;
export const commitmentBytes = 32;

// After each of these limits, a writer draws a new nonce prefix. So among about 2^45 records under one key, a nonce
// repeats with a probability below 2^-32.
const sessionRecords = 2 ** 20;
const sessionBytes = 2 ** 36;
const sessionAgeMs = 10 * 60 * 1000;

/** Maximum number of cached subkeys. */
const cachedSubkeys = 256;
// A process may cache 10,000 scoped roots, and each subkey takes about 0.8 KB of memory.
const cachedScopeSubkeys = 4;

interface WriterSession {
  readonly prefix: Buffer;
  readonly subkey: KeyObject;
  readonly seedGeneration: number;
  readonly startedAtMs: number;
  records: number;
  bytes: number;
}

/**
 * Copies a root to memory outside of Node's buffer pool. Any code that has a small Buffer can read the whole pool
 * through the property `buffer`.
 */
function copyOf(root: Uint8Array): Buffer {
  const copy = Buffer.alloc(root.length);
  copy.set(root);
  return copy;
}

/**
 * Keeps the root of a key: its 32 bytes of key material in a keyring. Derives from the root the commitment and the
 * subkeys that envelopes need, and the roots of scopes.
 *
 * Source of the derivations: `docs/envelope.md`; HKDF is RFC 5869.
 */
export class RootKey {
  /** The function that derives the root. Called when the root is first used, and `undefined` from then on. */
  #deriveRoot: (() => Buffer) | undefined;
  #derivedRoot: Buffer | undefined;
  readonly #subkeys: RecentlyUsed<string, KeyObject>;
  #extracted: HkdfKey | undefined;
  #commitment: Buffer | undefined;
  #xaes: XaesKey | undefined;
  #session: WriterSession | undefined;

  /** @param root 32 bytes, which are copied, or a function that derives them when they are first used. */
  constructor(root: Uint8Array | (() => Buffer)) {
    if (typeof root === "function") this.#deriveRoot = root;
    else this.#derivedRoot = copyOf(root);
    this.#subkeys = new RecentlyUsed(typeof root === "function" ? cachedScopeSubkeys : cachedSubkeys);
  }

  /** The commitment, C in `docs/envelope.md`: a hash that identifies the root, and reveals nothing else about it. */
  get commitment(): Buffer {
    this.#commitment ??= this.#hkdf.derive("keyward/v1 commit");
    return this.#commitment;
  }

  /** The default id of a key that is added without an id: "k" and 15 hex digits that are derived from the root. */
  get defaultId(): string {
    return `k${this.commitment.toString("hex").slice(0, 15)}`;
  }

  /**
   * Returns the root that the same key has in a keyring scoped to `name`. That root is derived only when it is first
   * used, because most records of a scope need only one or two keys of the keyring.
   */
  scoped(name: string): RootKey {
    return new RootKey(() => this.#hkdf.derive(`keyward/v1 scope\0${name}`));
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
    const cached = this.#subkeys.get(name);
    if (cached !== undefined) return cached;
    const subkey = this.#deriveSubkey(source.subarray(at, at + subkeyPrefixBytes));
    this.#subkeys.set(name, subkey);
    return subkey;
  }

  get #hkdf(): HkdfKey {
    this.#extracted ??= new HkdfKey(this.#root);
    return this.#extracted;
  }

  get #root(): Buffer {
    const root = this.#derivedRoot ?? this.#deriveRoot?.();
    if (root === undefined) throw new Error("The root of a key has neither bytes nor a derivation");
    this.#derivedRoot = root;
    this.#deriveRoot = undefined;
    return root;
  }

  #deriveSubkey(prefix: Buffer): KeyObject {
    this.#xaes ??= new XaesKey(this.#hkdf.derive("keyward/v1 seal"));
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
