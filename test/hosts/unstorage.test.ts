import { getRequestListener } from "@hono/node-server";
import { createApiKey, createKvHandler } from "@keyward/http-kv";
import { createStorage, restoreSnapshot, type Storage, snapshot } from "unstorage";
import httpDriver from "unstorage/drivers/http";
import { describe, expect, it, onTestFinished } from "vitest";
import { serve, stores } from "./opened-stores.ts";

// unstorage does not publish its tests of drivers. The tests here have the same expectations of the
// http driver of unstorage on an HTTP KV server.

describe.each(Object.entries(stores))("unstorage's http driver on HTTP KV over %s", (_, openStore) => {
  async function open(): Promise<Storage> {
    const { apiKey, entry } = createApiKey({ tenant: "acme" });
    const limits = { requestsPerSecond: Number.POSITIVE_INFINITY };
    const handler = createKvHandler({ store: await openStore(), tenants: [entry], limits });
    const base = await serve(getRequestListener((request) => handler(request)));
    const storage = createStorage({ driver: httpDriver({ base, headers: { authorization: `Bearer ${apiKey}` } }) });
    onTestFinished(() => storage.dispose());
    return storage;
  }

  async function filled(...keys: readonly string[]): Promise<Storage> {
    const storage = await open();
    for (const key of keys) await storage.setItem(key, `value of ${key}`);
    return storage;
  }

  it("finds no item in a new store", async () => {
    const storage = await open();
    expect(await storage.hasItem("a:b")).toBe(false);
    expect(await storage.getItem("a:b")).toBeNull();
    expect(await storage.getKeys()).toEqual([]);
    await storage.clear();
    await storage.removeItem("a:b");
  });

  it("restores a snapshot, and takes the same snapshot again", async () => {
    const storage = await open();
    await restoreSnapshot(storage, { initial: "works", "deep:key": { a: 1 } });
    expect(await storage.getItem("initial")).toBe("works");
    expect(await snapshot(storage, "")).toEqual({ initial: "works", "deep:key": { a: 1 } });
  });

  it("sets and gets items, and ignores a question mark in a key and all characters after it", async () => {
    const storage = await filled("s1:a", "s2:a", "s3:a?q=1");
    expect(await storage.hasItem("s1:a")).toBe(true);
    expect(await storage.getItem("s1:a")).toBe("value of s1:a");
    expect(await storage.getItem("s3:a?q=2")).toBe("value of s3:a?q=1");
  });

  it("lists all keys, the keys that begin with a base, and the keys up to a depth", async () => {
    const storage = await filled("s1:a", "s2:a", "s3:a?q=1", "top", "d0:d1:d2");
    const keys = async (...given: Parameters<typeof storage.getKeys>) => (await storage.getKeys(...given)).sort();
    expect(await keys()).toEqual(["d0:d1:d2", "s1:a", "s2:a", "s3:a", "top"]);
    expect(await keys("s1")).toEqual(["s1:a"]);
    expect(await keys(undefined, { maxDepth: 0 })).toEqual(["top"]);
    expect(await keys(undefined, { maxDepth: 1 })).toEqual(["s1:a", "s2:a", "s3:a", "top"]);
    expect(await keys(undefined, { maxDepth: 2 })).toEqual(["d0:d1:d2", "s1:a", "s2:a", "s3:a", "top"]);
  });

  it.each<[string, unknown, unknown]>([
    ["an object", { json: "works", deep: [null, { täxt: true }] }, { json: "works", deep: [null, { täxt: true }] }],
    ["true", true, true],
    ["false", false, false],
    ["zero", 0, 0],
    ["a text that is no JSON", "täxt", "täxt"],
    ["an object whose toJSON returns a string", { toJSON: () => "SERIALIZED" }, "SERIALIZED"],
    ["an object whose toJSON returns an object", { toJSON: () => ({ works: 1 }) }, { works: 1 }],
  ])("keeps %s", async (__, given, expected) => {
    const storage = await open();
    await Reflect.apply(storage.setItem, storage, ["/data/test.json", given]);
    expect(await storage.getItem("/data/test.json")).toEqual(expected);
    expect(await storage.getItem("data:test.json")).toEqual(expected);
  });

  it("stores nothing if unstorage refuses an instance of a class", async () => {
    class Odd {}
    const storage = await open();
    const writing = Reflect.apply(storage.setItem, storage, ["bad", new Odd()]);
    await expect(writing).rejects.toThrow("Cannot stringify value");
    expect(await storage.hasItem("bad")).toBe(false);
  });

  it("returns the same bytes that were set", async () => {
    const storage = await open();
    const bytes = Uint8Array.from({ length: 256 }, (__, index) => index);
    await storage.setItemRaw("/data/raw.bin", bytes);
    const read: unknown = await storage.getItemRaw("/data/raw.bin");
    if (!(read instanceof ArrayBuffer)) throw new Error("The driver did not return bytes");
    expect(new Uint8Array(read)).toEqual(bytes);
  });

  it("sets and gets several items in one call", async () => {
    const storage = await open();
    await storage.setItems(["t:1", "t:2", "t:3?q=1"].map((key) => ({ key, value: `value of ${key}` })));
    expect(await storage.getItems([{ key: "t:1" }, "t:2", { key: "t:3?q=1" }, "t:4"])).toEqual([
      { key: "t:1", value: "value of t:1" },
      { key: "t:2", value: "value of t:2" },
      { key: "t:3", value: "value of t:3?q=1" },
      { key: "t:4", value: null },
    ]);
  });

  it("removes a single item, and clears all items", async () => {
    const storage = await filled("s1:a", "s1:b", "s2:a");
    await storage.removeItem("s1:a");
    expect(await storage.hasItem("s1:a")).toBe(false);
    expect(await storage.getItem("s1:a")).toBeNull();
    await storage.clear();
    expect(await storage.getKeys()).toEqual([]);
    await storage.clear();
  });

  it("expires items after their ttl", async () => {
    const storage = await open();
    await storage.setItem("short", "value", { ttl: 0.05 });
    await storage.setItem("long", "value", { ttl: 60 });
    await expect.poll(() => storage.hasItem("short")).toBe(false);
    expect(await storage.getItem("long")).toBe("value");
  });
});
