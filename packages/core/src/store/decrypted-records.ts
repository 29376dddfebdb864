import { Buffer } from "node:buffer";
import { RecentlyUsed } from "../envelope/recently-used.ts";
import type { Keyring } from "../keyring/keyring.ts";
import type { RecordAddress, RecordContent } from "../store-interface/record.ts";
import type { StoredValue } from "../store-interface/store-capabilities.ts";

/** A decrypted record, with the stored value, the namespace and the keyring from which it was decrypted. */
interface Kept<Decrypted> {
  readonly namespace: string;
  readonly stored: StoredValue;
  readonly ring: Keyring;
  readonly record: Decrypted;
}

const unusedMs = 60_000;
// Larger records would need much memory, and applications rarely read them often.
const maxStoredLength = 16_384;

/**
 * Keeps decrypted records in memory, so that a read does not decrypt the same bytes again. A record is used again only if
 * the store returned the same text or bytes for the same address, and the same keyring is in use. So no read returns an older value.
 * A record that was not used for a minute is dropped within the next minute.
 */
export class DecryptedRecords<Decrypted extends { readonly content: RecordContent }> {
  readonly #kept: RecentlyUsed<string, Kept<Decrypted>>;
  #timer: NodeJS.Timeout | undefined;

  /** @param maxRecords maximum number of records that are kept. */
  constructor(maxRecords: number) {
    this.#kept = new RecentlyUsed(maxRecords);
  }

  /** Returns the record that was decrypted from `stored`, if the record was kept. */
  find(stored: StoredValue, ring: Keyring, { namespace, key }: RecordAddress): Decrypted | undefined {
    const kept = this.#kept.get(key);
    if (kept === undefined || kept.ring !== ring || kept.namespace !== namespace) return undefined;
    return isEqual(kept.stored, stored) ? kept.record : undefined;
  }

  /** Keeps a record that was decrypted from `stored`. A value of bytes is not kept, because the application may change it. */
  keep(stored: StoredValue, ring: Keyring, { namespace, key }: RecordAddress, record: Decrypted): void {
    if (typeof record.content.value !== "string" || stored.length > maxStoredLength) return;
    // Copy the bytes, because the store may reuse their memory for another read.
    const own = typeof stored === "string" ? stored : Buffer.from(stored);
    this.#kept.set(key, { namespace, stored: own, ring, record });
    this.#dropUnusedLater();
  }

  #dropUnusedLater(): void {
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      if (this.#kept.dropUnused()) this.#dropUnusedLater();
    }, unusedMs).unref();
  }
}

function isEqual(one: StoredValue, other: StoredValue): boolean {
  if (typeof one === "string" || typeof other === "string") return one === other;
  return Buffer.compare(one, other) === 0;
}
