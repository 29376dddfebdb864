import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { census, createKeyv, EncryptedStore, Keyring, reencrypt, retireKey, rotateKey } from "@keyward/core";
import { createApiKey, createKvHandler, HttpStore } from "@keyward/http-kv";
import { MemoryStore } from "@keyward/store-memory";
import { SqliteStore } from "@keyward/store-sqlite";
import { describe, expect, it, onTestFinished } from "vitest";
import { type Fault, startProxy } from "./faulty-proxy.ts";
import { startServer, temporaryFolder } from "./servers.ts";

const backends = {
  memory: () => new MemoryStore(),
  SQLite: (folder: string) => new SqliteStore(join(folder, "kv.db")),
};

describe.each(Object.entries(backends))("a rotation through HttpStore, with records in %s,", (_, openBackend) => {
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

  it("re-encrypts every record of every namespace, and retires the old encryption key", async () => {
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
    const { keyring: without } = await retireKey(ring, { http: store }, "old");
    const opened = new EncryptedStore(server.client().namespaced("b"), { keys: without });
    expect(await opened.get("key-699")).toBe("b699");
  });

  it("loses no concurrent write, even if connections break", async () => {
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

it("rotateKey waits until the last write of another process (replica) has reached the server", async () => {
  const { apiKey, entry } = createApiKey({ tenant: "acme" });
  const handler = createKvHandler({ store: new MemoryStore(), tenants: [entry] });
  let ring = Keyring.generate("old").withStores(["records"]);
  const provider = () => ({
    load: async () => ring,
    save: async (next: Keyring) => {
      ring = next;
    },
  });
  let cut = false;
  let attempts = 0;
  const client = (apart: boolean) =>
    new HttpStore({
      url: "http://localhost",
      apiKey,
      // The other clients have a longer timeout, since a busy machine may be slow.
      ...(apart ? { timeoutMs: 1_000 } : {}),
      async fetch(request) {
        if (apart && request.url.endsWith("/set") && (await request.clone().text()).includes("late")) attempts++;
        // The last attempt reaches the server.
        if (attempts === 4) cut = false;
        if (apart && cut) await sleep(60_000, undefined, { signal: request.signal });
        return await handler(request);
      },
    });
  const replica = { heartbeatMs: 50, lapseMs: 500 };
  const application = new EncryptedStore(client(true), { keys: provider(), replica });
  const neighbour = new EncryptedStore(client(false), { keys: provider(), replica });
  onTestFinished(async () => {
    await application.disconnect();
    await neighbour.disconnect();
  });
  await application.set("late", "first");
  await neighbour.set("other", "value");
  attempts = 0;
  cut = true;
  const writing = application.set("late", "acknowledged");
  const keys = provider();
  const stores = { records: new EncryptedStore(client(false), { keys }) };
  const report = await rotateKey(keys, { stores, graceMs: 0, newKey: { id: "new" } });
  cut = false;
  expect(await writing).toBe(true);
  expect(report.keyring.keys.map(({ id }) => id)).toEqual(["new"]);
  expect(await neighbour.get("late")).toBe("acknowledged");
});
