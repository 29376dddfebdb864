import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { MemoryStore } from "@keyward/store-memory";
import { SqliteStore } from "@keyward/store-sqlite";
import { createStorage, type Driver, type Storage } from "unstorage";
import httpDriver from "unstorage/drivers/http";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { startServer, type TestServer, temporaryFolder } from "./servers.ts";

const backends = {
  memory: () => new MemoryStore(),
  SQLite: (folder: string) => new SqliteStore(join(folder, "kv.db")),
};

describe.each(Object.entries(backends))("the http driver of unstorage, with records in %s,", (_, openBackend) => {
  async function start(basePath = ""): Promise<{
    readonly storage: Storage;
    readonly driver: Driver;
    readonly server: TestServer;
  }> {
    const folder = temporaryFolder();
    const server = await startServer({ store: openBackend(folder.path), basePath });
    onTestFinished(async () => {
      await server.close();
      await server.store.disconnect?.();
      folder.remove();
    });
    const driver = httpDriver({ base: server.url, headers: { authorization: `Bearer ${server.apiKey}` } });
    return { storage: createStorage({ driver }), driver, server };
  }

  it.each(["", "/kv"])("reads back the items that it wrote if the base path of the server is %j", async (basePath) => {
    const { storage } = await start(basePath);
    const items: Record<string, unknown> = {
      text: "text",
      number: 42,
      yes: true,
      object: { nested: ["täxt", null] },
      "a:b:c": "deep",
      "ünï cödé %2F +&=": "odd",
    };
    for (const [key, value] of Object.entries(items)) await storage.setItem(key, value as never);
    for (const [key, value] of Object.entries(items)) {
      expect(await storage.hasItem(key)).toBe(true);
      expect(await storage.getItem(key)).toEqual(value);
    }
    expect(await storage.getItem("missing")).toBeNull();
    expect(await storage.hasItem("missing")).toBe(false);
    await storage.removeItem("a:b:c");
    await storage.removeItem("a:b:c");
    expect(await storage.getItem("a:b:c")).toBeNull();
  });

  it("reads back the raw bytes that it wrote", async () => {
    const { storage } = await start();
    const bytes = randomBytes(100_000);
    await storage.setItemRaw("raw", bytes);
    const read: unknown = await storage.getItemRaw("raw");
    expect(read instanceof ArrayBuffer && Buffer.from(read).equals(bytes)).toBe(true);
  });

  it("lists all keys, or only the keys below a base", async () => {
    const { storage } = await start();
    for (const key of ["a", "a:b", "a:b:c", "ab", "b:a"]) await storage.setItem(key, key);
    expect((await storage.getKeys()).sort()).toEqual(["a", "a:b", "a:b:c", "ab", "b:a"]);
    expect((await storage.getKeys("a")).sort()).toEqual(["a:b", "a:b:c"]);
    expect(await storage.getKeys("none")).toEqual([]);
  });

  it("removes all items, or only the items below a base", async () => {
    const { storage, driver } = await start();
    for (const key of ["a", "a:b", "a:b:c", "ab", "b:a"]) await storage.setItem(key, key);
    // A storage passes a base only to drivers that are mounted below it, so the driver is called directly.
    await driver.clear?.("a:", {});
    expect((await storage.getKeys()).sort()).toEqual(["a", "ab", "b:a"]);
    await storage.clear();
    expect(await storage.getKeys()).toEqual([]);
  });

  it("writes items that expire after their ttl in seconds", async () => {
    const { storage } = await start();
    await storage.setItem("short", "value", { ttl: 0.2 });
    await storage.setItem("long", "value", { ttl: 60 });
    await vi.waitFor(async () => expect(await storage.hasItem("short")).toBe(false), 5_000);
    expect(await storage.getItem("long")).toBe("value");
  });

  it("gets status 200 when it reads the meta of an item", async () => {
    const { storage } = await start();
    await storage.setItem("key", "value");
    expect(await storage.getMeta("key")).toMatchObject({ status: 200 });
  });

  it("reads the time of the last write, and the ttl, from the meta of an item", async () => {
    const { storage, server } = await start();
    const before = Math.floor(Date.now() / 1000) * 1000;
    await storage.setItem("stays", "value");
    await storage.setItem("ends", "value", { ttl: 100 });
    await server.client().set("bytes", Uint8Array.of(1), Date.now() + 100_000);
    const [stays, ends, bytes] = await Promise.all(["stays", "ends", "bytes"].map((key) => storage.getMeta(key)));
    expect(stays?.ttl).toBeUndefined();
    for (const meta of [stays, ends, bytes]) {
      expect(meta?.mtime?.getTime()).toBeGreaterThanOrEqual(before);
      expect(meta?.mtime?.getTime()).toBeLessThanOrEqual(Date.now());
    }
    for (const meta of [ends, bytes]) {
      expect(meta?.ttl).toBeGreaterThan(50);
      expect(meta?.ttl).toBeLessThanOrEqual(100);
    }
    // A replacement keeps the expiry.
    expect(await server.client().replace("ends", "value", "new")).toBe(true);
    expect((await storage.getMeta("ends")).ttl).toBeGreaterThan(50);
  });

  it("shares records with HttpStore, which uses a slash for each colon in a key of the driver", async () => {
    const { storage, server } = await start();
    await storage.setItem("a:b", "by unstorage");
    expect(await server.client().get("a/b")).toBe("by unstorage");
    await server.client().set("c/d", "by HttpStore");
    expect(await storage.getItem("c:d")).toBe("by HttpStore");
  });
});
