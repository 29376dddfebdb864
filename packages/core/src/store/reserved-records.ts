import { keyIdIn } from "../envelope/header.ts";
import { KeywardError, requireKeywardError } from "../errors/errors.ts";
import { type Keyring, keyOf } from "../keyring/keyring.ts";
import type { KeyringSource } from "../keyring/keyring-source.ts";
import { reservedNamespace } from "../store-interface/namespace-use.ts";
import { pages } from "../store-interface/page-size.ts";
import { hasExpired } from "../store-interface/record.ts";
import {
  type AtomicStore,
  isStoredValue,
  type ScannableStore,
  type StoredValue,
} from "../store-interface/store-capabilities.ts";
import { type WrappedStore, wrapRejection } from "../store-interface/wrapped-store.ts";
import { isCurrent, RecordCodec } from "./record-codec.ts";
import { RecordScopes } from "./record-scopes.ts";

const pageSize = 1_000;

/** A record that was read from the reserved space of a store. */
export interface ReservedRecord {
  readonly stored: StoredValue;
  /** The decrypted text, or the error if the record cannot be decrypted. */
  readonly text: string | KeywardError;
}

/**
 * Reads and writes the records that Keyward itself stores in the reserved space of a store: heartbeats, the record of
 * the last rotation, and checkpoints, but not the check record. These records are encrypted with the keyring in use.
 */
export class ReservedRecords {
  /** The reserved space of the store. All stores of this process over the same backend share this object. */
  readonly space: AtomicStore & ScannableStore;
  readonly #source: KeyringSource;
  readonly #inner: WrappedStore;
  readonly #codecs = new Map<string | undefined, RecordCodec>();

  private constructor(space: AtomicStore & ScannableStore, inner: WrappedStore, source: KeyringSource) {
    this.space = space;
    this.#inner = inner;
    this.#source = source;
  }

  /** Returns a `ReservedRecords` for the reserved space of a store; `undefined` if the store has no reserved space. */
  static of(inner: WrappedStore, source: KeyringSource): ReservedRecords | undefined {
    return inner.reserved === undefined ? undefined : new ReservedRecords(inner.reserved, inner, source);
  }

  /**
   * Returns the keyring in use. If the application passed a keyring that is derived for a scope, this is that keyring.
   * The option `scope` of a store does not matter.
   */
  async ring(): Promise<Keyring> {
    return await this.#codec(undefined).ring();
  }

  /** Returns the key of each record in the reserved space whose key begins with `prefix`. */
  async keys(prefix: string): Promise<string[]> {
    const keys = new Set<string>();
    for await (const entries of pages(this.space, pageSize)) {
      for (const { key } of entries) if (key.startsWith(prefix)) keys.add(key);
    }
    return [...keys];
  }

  /**
   * Reads and decrypts a record of the reserved space. Returns `undefined` if there is no record under `key`, or if the
   * expiry in the envelope of the record has passed. Checks this expiry, because an attacker may have put an expired
   * record back into the store.
   *
   * @param scope the scope of the keyring that encrypted the record; `undefined` for the whole keyring.
   */
  async read(key: string, scope?: string): Promise<ReservedRecord | undefined> {
    const stored: unknown = await wrapRejection(() => this.space.get(key));
    if (!isStoredValue(stored)) return undefined;
    const address = { namespace: reservedNamespace, key };
    const opened = await this.#codec(scope).open(stored, address).catch(requireKeywardError);
    if (opened instanceof KeywardError) return { stored, text: opened };
    const { value, expires } = opened.content;
    return hasExpired(expires) ? undefined : { stored, text: String(value) };
  }

  /**
   * Encrypts `text` with `ring`, and writes it as the record under `key`. Replaces a record that is already stored
   * under `key`.
   */
  async write(ring: Keyring, key: string, text: string, expires: number): Promise<void> {
    const sealed = this.#seal(ring, key, text, expires);
    await wrapRejection(() => this.space.set(key, sealed, expires));
  }

  /**
   * Encrypts `text`, and writes it as the record under `key` if the stored record is still `read`. If `read` is
   * `undefined`, writes only if there is no record under `key`. The record keeps its expiry in the store.
   *
   * @returns whether the record was written.
   */
  async replace(ring: Keyring, key: string, read: ReservedRecord | undefined, text: string): Promise<boolean> {
    const sealed = this.#seal(ring, key, text, undefined);
    return await wrapRejection(() => this.space.replace(key, read?.stored, sealed));
  }

  /** Deletes the record under `key` from the reserved space. */
  async remove(key: string): Promise<void> {
    await wrapRejection(() => this.space.delete(key));
  }

  /**
   * Re-encrypts every record in the reserved space that can be decrypted, under the primary of `next`. These records
   * then need no older key.
   *
   * @param next a keyring that the process is about to use. Default: the keyring in use.
   */
  async renew(next?: Keyring): Promise<void> {
    const ring = next ?? (await this.ring());
    if (ring.primary === "") return;
    for await (const entries of pages(this.space, pageSize)) {
      for (const { key, value } of entries) {
        const address = { namespace: reservedNamespace, key };
        const keyId = keyIdIn(value, address);
        // Skip a record under an unknown key: opening it would make the provider load the keyring again.
        if (keyId === undefined || isCurrent(keyId, ring) || keyOf(ring, keyId) === undefined) continue;
        const codec = this.#codec(undefined);
        const opened = await codec.open(value, address).catch(requireKeywardError);
        if (opened instanceof KeywardError) continue;
        await wrapRejection(() => this.space.replace(key, value, codec.seal(ring, address, opened.content)));
      }
    }
  }

  #seal(ring: Keyring, key: string, value: string, expires: number | undefined): StoredValue {
    const address = { namespace: reservedNamespace, key };
    return this.#codec(ring.scopeName).seal(ring, address, expires === undefined ? { value } : { value, expires });
  }

  #codec(scope: string | undefined): RecordCodec {
    let codec = this.#codecs.get(scope);
    if (codec === undefined) {
      codec = new RecordCodec(this.#source, this.#inner.form, { scopes: new RecordScopes(scope), accept: [] });
      this.#codecs.set(scope, codec);
    }
    return codec;
  }
}
