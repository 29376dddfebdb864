import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { census, createKeyv, EncryptedStore, Keyring, reencrypt, retireKey } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { SqliteStore } from "@keyward/store-sqlite";
import { describe, expect, it, onTestFinished } from "vitest";
import { type Fault, startProxy } from "./faulty-proxy.ts";
import { startServer, temporaryFolder } from "./servers.ts";

const backends = {
  memory: () => new MemoryStore(),
  SQLite: (folder: string) => new SqliteStore(join(folder, "kv.db")),
};

describe.each(Object.entries(backends))("rotation through HttpStore, on a server over %s", (_, openBackend) => {
  async function start() {
    const folder = temporaryFolder();
    const server = await startServer({ store: openBackend(folder.path) });
    onTestFinished(async () => {
      await server.close();
      await server.store.disconnect?.();
      folder.remove();
    });
    return server;
  }

  it("seals every record of every namespace again, and lets the old key go", async () => {
    const server = await start();
    const old = Keyring.generate("old");
    for (const namespace of ["", "a", "b"]) {
      const store = new EncryptedStore(server.client().namespaced(namespace), { keys: old });
      await store.setMany(
        Array.from({ length: 700 }, (_, index) => ({ key: `key-${index}`, value: `${namespace}${index}` })),
      );
    }
    const ring = old.add({ id: "new", material: randomBytes(32) }).promote("new");
    const store = new EncryptedStore(server.client(), { keys: ring });
    expect((await census(store)).keys).toEqual(new Map([["old", 2_100]]));
    await expect(retireKey(ring, { http: store }, "old")).rejects.toMatchObject({ code: "KEY_IN_USE" });
    expect(await reencrypt(store, { batchSize: 200 })).toMatchObject({
      complete: true,
      reencrypted: 2_100,
      conflicts: 0,
    });
    expect((await census(store)).keys).toEqual(new Map([["new", 2_100]]));
    const { ring: without } = await retireKey(ring, { http: store }, "old");
    const opened = new EncryptedStore(server.client().namespaced("b"), { keys: without });
    expect(await opened.get("key-699")).toBe("b699");
  });

  it("loses no write that is made meanwhile, through connections that break", async () => {
    const server = await start();
    let request = 0;
    const faults: readonly Fault[] = ["cut request", "lose answer", "cut answer"];
    const proxy = await startProxy(server.url, () => {
      request++;
      return request % 7 === 0 ? (faults[(request / 7) % faults.length] ?? "none") : "none";
    });
    onTestFinished(() => proxy.close());
    const client = () => server.client({ url: proxy.url, retries: 10 });

    const old = Keyring.generate("old");
    const ring = old.add({ id: "new", material: randomBytes(32) }).promote("new");
    const keyv = createKeyv({ store: server.client(), keys: old, namespace: "flows" });
    const keys = Array.from({ length: 400 }, (_, index) => `key-${index}`);
    await keyv.setMany(keys.map((key) => ({ key, value: "first" })));

    const model = new Map<string, string | undefined>(keys.map((key) => [key, "first"]));
    const writer = createKeyv({ store: client(), keys: old, namespace: "flows" });
    const job = reencrypt(new EncryptedStore(client(), { keys: ring }), { batchSize: 20 });
    for (const [index, key] of keys.entries()) {
      if (index % 4 === 0) {
        await writer.set(key, `second ${index}`);
        model.set(key, `second ${index}`);
      } else if (index % 4 === 1) {
        expect(await writer.delete(key)).toBe(true);
        model.set(key, undefined);
      }
    }
    expect(await job).toMatchObject({ complete: true, unreadable: 0 });
    await reencrypt(new EncryptedStore(client(), { keys: ring }));
    const reader = createKeyv({ store: client(), keys: ring, namespace: "flows" });
    expect(await reader.getMany(keys)).toEqual(keys.map((key) => model.get(key)));
    expect((await census(new EncryptedStore(client(), { keys: ring }))).keys).toEqual(new Map([["new", 300]]));
  });
});
