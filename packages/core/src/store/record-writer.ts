import type { KeyvStorageEntry } from "keyv";
import type { KeyringSource } from "../keyring/keyring-source.ts";
import { hasExpired, type RecordAddress, type RecordContent, requireAddress } from "../store-interface/record.ts";
import { requireEntryExpires, requireExpires, requireValue } from "../store-interface/store-arguments.ts";
import type { StoredValue } from "../store-interface/store-capabilities.ts";
import type { WrappedStore } from "../store-interface/wrapped-store.ts";
import type { OverwriteGuard } from "./overwrite-guard.ts";
import type { RecordCodec } from "./record-codec.ts";
import type { StoreAttachment } from "./store-attachment.ts";
import type { WriteGate } from "./write-gate.ts";

/** The parts of a store that {@link RecordWriter} uses. */
export interface RecordWriterParts {
  readonly attachment: StoreAttachment;
  readonly inner: WrappedStore;
  readonly codec: RecordCodec;
  readonly guard: OverwriteGuard;
  readonly writeGate: WriteGate;
  readonly source: KeyringSource;
}

/** Encrypts and writes records, and deletes them. */
export class RecordWriter {
  readonly #parts: RecordWriterParts;

  constructor(parts: RecordWriterParts) {
    this.#parts = parts;
  }

  set(key: string, value: unknown, expires: number | undefined): Promise<boolean> {
    return this.#parts.source.whileSealing(this.#set(key, value, expires));
  }

  setMany(entries: readonly KeyvStorageEntry<unknown>[]): Promise<boolean[]> {
    return this.#parts.source.whileSealing(this.#setMany(entries));
  }

  async delete(key: string): Promise<boolean> {
    const { attachment, inner, guard } = this.#parts;
    const { namespace } = requireAddress(attachment.namespaceForCall(), key);
    const since = guard.logicalTime;
    const deleted = await inner.delete(key);
    this.#updateGuard(namespace, key, deleted, since);
    return deleted;
  }

  async deleteMany(keys: string[]): Promise<boolean[]> {
    const { attachment, inner, guard } = this.#parts;
    const namespace = attachment.namespaceForCall();
    const addresses = keys.map((key) => requireAddress(namespace, key));
    const since = guard.logicalTime;
    const deleted = await inner.deleteMany(keys);
    for (const [index, { key }] of addresses.entries()) {
      this.#updateGuard(namespace, key, deleted[index] === true, since);
    }
    return deleted;
  }

  async clear(): Promise<void> {
    const { attachment, inner, guard } = this.#parts;
    const namespace = attachment.namespaceForCall();
    const since = guard.logicalTime;
    await inner.clear();
    guard.unmarkAll(namespace, since);
  }

  async #set(key: string, value: unknown, expires: number | undefined): Promise<boolean> {
    const { attachment, inner, codec, guard, writeGate } = this.#parts;
    const address = requireAddress(attachment.namespaceForCall(), key);
    const content = contentOf(key, value, requireExpires(key, expires));
    const gated = writeGate.keyringForWriting({ namespace: address.namespace, keys: [key] });
    const keyring = gated instanceof Promise ? await gated : gated;
    inner.requireNamespace(address.namespace);
    const since = guard.logicalTime;
    if (hasExpired(content.expires)) {
      this.#updateGuard(address.namespace, key, await inner.delete(key), since);
      return true;
    }
    const written = await inner.set(key, codec.seal(keyring, address, content), content.expires);
    if (written) guard.unmark(address.namespace, key, since);
    return written;
  }

  async #setMany(entries: readonly KeyvStorageEntry<unknown>[]): Promise<boolean[]> {
    const { attachment, inner, codec, guard, writeGate } = this.#parts;
    const namespace = attachment.namespaceForCall();
    const keys = entries.map(({ key }) => key);
    // If several entries have the same key, write only the last one.
    const records = new Map<string, { readonly address: RecordAddress; readonly content: RecordContent }>();
    for (const entry of entries) {
      const { key, value } = entry;
      const content = contentOf(key, value, requireEntryExpires(entry));
      records.set(key, { address: requireAddress(namespace, key), content });
    }
    const gated = writeGate.keyringForWriting({ namespace, keys });
    const keyring = gated instanceof Promise ? await gated : gated;
    inner.requireNamespace(namespace);

    const nowMs = Date.now();
    const live: KeyvStorageEntry<StoredValue>[] = [];
    const expired: string[] = [];
    for (const [key, { address, content }] of records) {
      const { expires } = content;
      if (hasExpired(expires, nowMs)) expired.push(key);
      else {
        const value = codec.seal(keyring, address, content);
        live.push(expires === undefined ? { key, value } : { key, value, expires });
      }
    }
    const since = guard.logicalTime;
    // Write the encrypted records first, before any other await, because another keyring may come into use during an
    // await.
    const results = live.length > 0 ? await inner.setMany(live) : [];
    const deleted = expired.length > 0 ? await inner.deleteMany(expired) : [];
    for (const [index, key] of expired.entries()) this.#updateGuard(namespace, key, deleted[index] === true, since);
    const failed = new Set(live.filter((_, index) => results[index] === false).map(({ key }) => key));
    for (const { key } of live) if (!failed.has(key)) guard.unmark(namespace, key, since);
    return keys.map((key) => !failed.has(key));
  }

  /**
   * Updates the overwrite guard after a delete. If the store deleted nothing, an unreadable record may still be stored.
   */
  #updateGuard(namespace: string, key: string, deleted: boolean, since: number): void {
    if (deleted) this.#parts.guard.unmark(namespace, key, since);
    else this.#parts.guard.withdrawAllowance(namespace, key);
  }
}

function contentOf(key: string, given: unknown, expires: number | undefined): RecordContent {
  const value = requireValue(key, given);
  return expires === undefined ? { value } : { value, expires };
}
