import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type OpenStore, storeContract } from "@keyward/contract";
import { EncryptedStore } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { SqliteStore } from "@keyward/store-sqlite";
import { KeyvMemoryAdapter } from "keyv";
import { describe, it } from "vitest";
import { newRing } from "../rings.ts";

const runner = { describe, it };
/**
 * An EncryptedStore replaces atomically if the wrapped store does. The other capabilities of the wrapped store are for the
 * tools of core.
 */
const expected = {
  atomic: true,
  scannable: false,
  ranged: false,
  bytes: false,
  reserved: false,
  namespaced: false,
} as const;

storeContract(runner, {
  name: "EncryptedStore over Keyv's memory adapter",
  expect: { ...expected, atomic: false },
  takesDurations: true,
  roundTripsBytes: true,
  exceptions: ["delete-finds-expired"],
  async open(): Promise<OpenStore> {
    const keys = newRing();
    // Over one Map, a store without a namespace would see the records of all namespaces, and could not decrypt them.
    const maps = new Map<string, Map<string, unknown>>();
    const inNamespace = (namespace: string) => {
      const map = maps.get(namespace) ?? new Map<string, unknown>();
      maps.set(namespace, map);
      return new EncryptedStore(new KeyvMemoryAdapter(map, namespace === "" ? {} : { namespace }), { keys });
    };
    return { store: inNamespace(""), inNamespace, again: async () => inNamespace(""), close: async () => undefined };
  },
});

storeContract(runner, {
  name: "EncryptedStore over MemoryStore",
  expect: expected,
  takesDurations: true,
  roundTripsBytes: true,
  async open(): Promise<OpenStore> {
    const keys = newRing();
    const inner = new MemoryStore();
    return {
      store: new EncryptedStore(inner, { keys }),
      inNamespace: (namespace) => new EncryptedStore(inner.namespaced(namespace), { keys }),
      again: async () => new EncryptedStore(inner.namespaced(""), { keys }),
      close: async () => undefined,
    };
  },
});

storeContract(runner, {
  name: "EncryptedStore over SqliteStore",
  expect: expected,
  takesDurations: true,
  roundTripsBytes: true,
  async open(): Promise<OpenStore> {
    const keys = newRing();
    const folder = await mkdtemp(join(tmpdir(), "keyward-contract-"));
    const path = join(folder, "records.db");
    const opened = [new SqliteStore(path, { synchronous: "normal" })];
    const [inner = new SqliteStore(path)] = opened;
    return {
      store: new EncryptedStore(inner, { keys }),
      inNamespace: (namespace) => new EncryptedStore(inner.namespaced(namespace), { keys }),
      again: async () => {
        const other = new SqliteStore(path, { synchronous: "normal" });
        opened.push(other);
        return new EncryptedStore(other, { keys });
      },
      close: async () => {
        for (const store of opened) await store.disconnect();
        await rm(folder, { recursive: true, force: true });
      },
    };
  },
});
