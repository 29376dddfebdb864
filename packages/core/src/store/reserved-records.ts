import { keyIdIn } from "../envelope/envelope.ts";
import { KeywardError, requireKeywardError } from "../errors/errors.ts";
import { type Keyring, keyOf } from "../keyring/keyring.ts";
import type { KeyringSource } from "../keyring/keyring-source.ts";
import {
  type AtomicStore,
  isStoredValue,
  type ScannableStore,
  type StoredValue,
} from "../store-interface/capabilities.ts";
import { type InnerStore, reservedNamespace, wrapRejection } from "../store-interface/inner-store.ts";
import { pages } from "../store-interface/page-size.ts";
import { hasExpired } from "../store-interface/record.ts";
import { isCurrent, RecordCodec } from "./record-codec.ts";

const pageSize = 1_000;

/** A record of the reserved space, as it was read. */
export interface ReservedRecord {
  readonly stored: StoredValue;
  /** What it says, or why it does not open. */
  readonly text: string | KeywardError;
}

/** What Keyward keeps for itself in a store, beside the check record: sealed under the ring of the process. */
export class ReservedRecords {
  /** The same object for every store of this process over the same backend. */
  readonly space: AtomicStore & ScannableStore;
  readonly #source: KeyringSource;
  readonly #inner: InnerStore;
  readonly #codecs = new Map<string | undefined, RecordCodec>();

  private constructor(space: AtomicStore & ScannableStore, inner: InnerStore, source: KeyringSource) {
    this.space = space;
    this.#inner = inner;
    this.#source = source;
  }

  /** Those of a store; `undefined` where it has no reserved space. */
  static of(inner: InnerStore, source: KeyringSource): ReservedRecords | undefined {
    return inner.reserved === undefined ? undefined : new ReservedRecords(inner.reserved, inner, source);
  }

  /** The ring in use, not scoped unless it was handed over so. */
  async ring(): Promise<Keyring> {
    return await this.#codec(undefined).ring();
  }

  /** The keys that begin like this. */
  async keys(prefix: string): Promise<string[]> {
    const keys = new Set<string>();
    for await (const entries of pages(this.space, pageSize)) {
      for (const { key } of entries) if (key.startsWith(prefix)) keys.add(key);
    }
    return [...keys];
  }

  /**
   * What lies under a key; `scope` is that of the ring that sealed it. What has expired by what is sealed in it is absent,
   * whoever put it there.
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

  /** Seals and writes, whatever lies there. */
  async write(ring: Keyring, key: string, text: string, expires: number): Promise<void> {
    const sealed = this.#seal(ring, key, text, expires);
    await wrapRejection(() => this.space.set(key, sealed, expires));
  }

  /** Seals and writes if what was read still lies there, whose time to live stays; `undefined`: if nothing does. */
  async replace(ring: Keyring, key: string, read: ReservedRecord | undefined, text: string): Promise<boolean> {
    const sealed = this.#seal(ring, key, text, undefined);
    return await wrapRejection(() => this.space.replace(key, read?.stored, sealed));
  }

  async remove(key: string): Promise<void> {
    await wrapRejection(() => this.space.delete(key));
  }

  /**
   * Takes along to the primary what opens, so that no key is needed for its sake alone.
   *
   * @param next a ring that is about to come into use; default, the one in use.
   */
  async renew(next?: Keyring): Promise<void> {
    const ring = next ?? (await this.ring());
    if (ring.primary === "") return;
    for await (const entries of pages(this.space, pageSize)) {
      for (const { key, value } of entries) {
        const address = { namespace: reservedNamespace, key };
        const keyId = keyIdIn(value, address);
        // For a key that the ring lacks, the provider would be asked for each.
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
      codec = new RecordCodec(this.#source, this.#inner.form, { scope, accept: [] });
      this.#codecs.set(scope, codec);
    }
    return codec;
  }
}
