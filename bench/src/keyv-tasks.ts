import { createSecretKey, randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createKeyv, Keyring } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { SqliteStore } from "@keyward/store-sqlite";
import { Keyv, type KeyvEncryptionAdapter } from "keyv";
import { decrypt, encrypt } from "./node-crypto.ts";
import { type SampleRecord, sampleRecords } from "./sample-records.ts";
import { inTurn, type PreparedTask, type Task } from "./task.ts";

type StoreName = "memory" | "SQLite";
type Operation = "set" | "get" | "setMany of 100" | "getMany of 100";

/** Makes stores of one kind, and removes what they leave behind. */
interface Stores {
  readonly make: () => MemoryStore | SqliteStore;
  readonly remove: () => void;
}

const namespace = "flows";
const batchSize = 100;

interface Entry {
  readonly key: string;
  readonly value: { readonly id: number };
}

/** Keyv over a bare store, compared with Keyv over an EncryptedStore and with Keyv's own encryption hook. */
export function keyvTasks(sizesBytes: readonly number[]): Task[] {
  const small = sizesBytes.filter((sizeBytes) => sizeBytes <= 16 * 1024);
  return (["memory", "SQLite"] as const).flatMap((store) => [
    ...sizesBytes.map((sizeBytes) => keyvTask(store, "set", sizeBytes)),
    ...sizesBytes.map((sizeBytes) => keyvTask(store, "get", sizeBytes)),
    ...small.map((sizeBytes) => keyvTask(store, "setMany of 100", sizeBytes)),
    ...small.map((sizeBytes) => keyvTask(store, "getMany of 100", sizeBytes)),
  ]);
}

function keyvTask(store: StoreName, operation: Operation, sizeBytes: number): Task {
  const prepare = async (): Promise<PreparedTask> => {
    const stores = storesOf(store);
    const entries = entriesOf(sampleRecords(sizeBytes, operation.endsWith("100") ? { count: batchSize } : {}));
    const contestants = [
      { name: "Keyv", keyv: new Keyv({ store: stores.make(), namespace }) },
      { name: "with Keyward", keyv: createKeyv({ store: stores.make(), namespace, keys: Keyring.generate() }) },
      { name: "with its encryption hook", keyv: new Keyv({ store: stores.make(), namespace, encryption: aesGcm() }) },
    ];
    for (const { name, keyv } of contestants) {
      await keyv.setMany(entries);
      const read = await keyv.getMany(entries.map(({ key }) => key));
      if (JSON.stringify(read) !== JSON.stringify(entries.map(({ value }) => value))) {
        throw new Error(`Keyv ${name} does not give back what it was given`);
      }
    }
    return {
      contestants: contestants.map(({ name, keyv }) => ({ name, operation: operationOn(keyv, operation, entries) })),
      close: async () => {
        for (const { keyv } of contestants) await keyv.disconnect();
        stores.remove();
      },
    };
  };
  return { name: `${operation}, ${store}`, sizeBytes, prepare };
}

function entriesOf(records: readonly SampleRecord[]): Entry[] {
  return records.map(({ place, text }) => ({ key: place.key, value: JSON.parse(text) }));
}

function operationOn(keyv: Keyv, operation: Operation, entries: readonly Entry[]): () => unknown {
  const keys = entries.map(({ key }) => key);
  // SQLite writes nothing where nothing changes, which a sealed value always does: every write brings another value.
  const changed = entries.map(({ key, value }) => ({ key, value: { ...value, id: 99 - (value.id % 90) } }));
  switch (operation) {
    case "set":
      return inTurn([...changed, ...entries], ({ key, value }) => keyv.set(key, value));
    case "get":
      return inTurn(keys, (key) => keyv.get(key));
    case "setMany of 100":
      return inTurn([changed, entries], (batch) => keyv.setMany([...batch]));
    case "getMany of 100":
      return () => keyv.getMany(keys);
  }
}

function storesOf(store: StoreName): Stores {
  switch (store) {
    case "memory":
      return { make: () => new MemoryStore(), remove: () => {} };
    case "SQLite": {
      const folder = mkdtempSync(join(tmpdir(), "keyward-bench-"));
      let made = 0;
      return {
        make: () => new SqliteStore(join(folder, `${made++}.sqlite`)),
        remove: () => rmSync(folder, { recursive: true, force: true }),
      };
    }
  }
}

/** Plain AES-256-GCM: all that a hook can do, which is told neither key nor namespace. */
function aesGcm(): KeyvEncryptionAdapter {
  const key = createSecretKey(randomBytes(32));
  return {
    encrypt: (text) => encrypt(key, text).toString("base64"),
    decrypt: (sealed) => decrypt(key, Buffer.from(sealed, "base64")),
  };
}
