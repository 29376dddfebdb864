import type { ScannedRecord, StoredValue } from "@keyward/core";
import type { MemoryStore } from "@keyward/store-memory";

/** The options of `createKeyv` with which each host is tested. */
export const namespaces: readonly (readonly [where: string, options: { readonly namespace?: string }])[] = [
  ["without a namespace", {}],
  ["in a namespace", { namespace: "application" }],
];

/** Returns every record of the store, as it is stored. */
export async function recordsIn(store: MemoryStore): Promise<readonly ScannedRecord[]> {
  return (await store.scan({ limit: 1000 })).entries;
}

/** Returns every stored key and value as one text, to search it for plaintext. */
export async function storedText(store: MemoryStore): Promise<string> {
  const records = await recordsIn(store);
  return records.map(({ key, value }) => `${key} ${Buffer.from(value).toString("latin1")}`).join("\n");
}

/** Changes one bit in each stored record, as someone with access to the backend could. */
export async function tamperWith(store: MemoryStore): Promise<void> {
  for (const { namespace, key, value } of await recordsIn(store))
    await store.namespaced(namespace).set(key, changed(value));
}

/** Removes every record, as an eviction does. */
export async function evictAll(store: MemoryStore): Promise<void> {
  for (const { namespace, key } of await recordsIn(store)) await store.namespaced(namespace).delete(key);
}

function changed(value: StoredValue): StoredValue {
  if (typeof value === "string") throw new TypeError("A MemoryStore is given envelopes as bytes");
  const bytes = new Uint8Array(value);
  bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1;
  return bytes;
}
