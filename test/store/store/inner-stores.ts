import type { Replacement, StoredValue } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { type KeyvBridgeStore, KeyvMemoryAdapter, type KeyvStorageEntry } from "keyv";

/** Returns the content of a store in an order and form that can be compared. */
export async function contentOf(store: MemoryStore): Promise<readonly string[]> {
  const { entries } = await store.scan({ limit: 1_000_000 });
  return entries.map(({ namespace, key, value }) => JSON.stringify([namespace, key, textOf(value)])).sort();
}

/** Returns a stored value as text with one character for each byte. */
export function textOf(value: StoredValue): string {
  return typeof value === "string" ? value : Buffer.from(value).toString("latin1");
}

/** Returns an envelope with one changed byte or character in its ciphertext, in the same form, text or bytes. */
export function damaged(value: StoredValue): StoredValue {
  if (typeof value !== "string") {
    const bytes = Buffer.from(value);
    const at = bytes.length - 20;
    bytes[at] = (bytes[at] ?? 0) ^ 1;
    return bytes;
  }
  const at = value.length - 24;
  return value.slice(0, at) + (value[at] === "A" ? "B" : "A") + value.slice(at + 1);
}

/** Returns the id of the key under which an envelope was encrypted, or "" for any other value. */
export function keyIdIn(value: StoredValue | undefined): string {
  return /^kw1[.:]([\w-]+)[.:]/.exec(value === undefined ? "" : textOf(value))?.[1] ?? "";
}

/** A memory store that records its calls. A test can run code in the middle of a call. */
export class WatchedStore extends MemoryStore {
  readonly calls: string[] = [];
  /** Runs before a replacement: the action of another writer between the read and the replacement. */
  beforeReplace: (() => Promise<void>) | undefined;
  /** Runs after a write or delete was carried out, and before it returns. */
  answering: (() => Promise<void>) | undefined;
  /** Runs at the beginning of getMany(). */
  beforeGetMany: (() => Promise<void>) | undefined;

  override async get(key: string): Promise<StoredValue | undefined> {
    this.calls.push("get");
    return await super.get(key);
  }

  override async getMany(keys: readonly string[]): Promise<(StoredValue | undefined)[]> {
    this.calls.push("getMany");
    await this.beforeGetMany?.();
    return await super.getMany(keys);
  }

  override async set(key: string, value: unknown, expires?: number): Promise<boolean> {
    this.calls.push("set");
    return await this.#answer(super.set(key, value, expires));
  }

  override async setMany(entries: readonly KeyvStorageEntry<unknown>[]): Promise<boolean[]> {
    this.calls.push("setMany");
    return await this.#answer(super.setMany(entries));
  }

  override async delete(key: string): Promise<boolean> {
    this.calls.push("delete");
    return await this.#answer(super.delete(key));
  }

  override async deleteMany(keys: readonly string[]): Promise<boolean[]> {
    this.calls.push("deleteMany");
    return await this.#answer(super.deleteMany(keys));
  }

  override async clear(): Promise<void> {
    await this.#answer(super.clear());
  }

  override async replaceMany(changes: readonly Replacement[]): Promise<boolean[]> {
    this.calls.push("replaceMany");
    await this.beforeReplace?.();
    return await super.replaceMany(changes);
  }

  async #answer<Result>(answer: Promise<Result>): Promise<Result> {
    const answered = await answer;
    await this.answering?.();
    return answered;
  }
}

/** A Keyv 6 adapter that enforces no expiry, like a backend with coarse or lazy expiry. */
export class ForgetsExpiry extends KeyvMemoryAdapter {
  override async set(key: string, value: unknown): Promise<boolean> {
    return await super.set(key, value);
  }

  override async setMany<Value>(entries: KeyvStorageEntry<Value>[]): Promise<boolean[] | undefined> {
    return await super.setMany(entries.map(({ key, value }) => ({ key, value })));
  }
}

/** A Keyv 6 adapter over a Map. Every call fails after a test has set `failure`. */
export class BreakableAdapter extends KeyvMemoryAdapter {
  failure: Error | undefined;

  override async get<Value>(key: string) {
    this.#check();
    return await super.get<Value>(key);
  }

  override async getMany<Value>(keys: string[]) {
    this.#check();
    return await super.getMany<Value>(keys);
  }

  override async set(key: string, value: unknown, expires?: number) {
    this.#check();
    return await super.set(key, value, expires);
  }

  override async setMany<Value>(entries: KeyvStorageEntry<Value>[]) {
    this.#check();
    return await super.setMany(entries);
  }

  override async delete(key: string) {
    this.#check();
    return await super.delete(key);
  }

  override async deleteMany(keys: string[]) {
    this.#check();
    return await super.deleteMany(keys);
  }

  override async clear() {
    this.#check();
    await super.clear();
  }

  override async *iterator<Value>(): AsyncGenerator<Array<string | Awaited<Value> | undefined>, void> {
    this.#check();
    yield* super.iterator<Value>();
  }

  override async disconnect() {
    this.#check();
  }

  #check(): void {
    if (this.failure !== undefined) throw this.failure;
  }
}

/** The smallest Keyv 5 adapter: relative times to live, no capabilities, no batches. */
export class LeastKeyv5Adapter implements KeyvBridgeStore {
  readonly entries = new Map<string, { readonly value: unknown; readonly ttlMs: number | undefined }>();
  failure: Error | undefined;

  async get(key: string): Promise<unknown> {
    this.#check();
    return this.entries.get(key)?.value;
  }

  async set(key: string, value: unknown, ttlMs?: number): Promise<void> {
    this.#check();
    this.entries.set(key, { value, ttlMs });
  }

  async delete(key: string): Promise<boolean> {
    this.#check();
    return this.entries.delete(key);
  }

  async clear(): Promise<void> {
    this.#check();
    this.entries.clear();
  }

  #check(): void {
    if (this.failure !== undefined) throw this.failure;
  }
}
