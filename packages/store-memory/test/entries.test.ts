import { MemoryStore } from "@keyward/store-memory";
import { describe, expect, it, vi } from "vitest";
import { Entries } from "../src/entries.ts";

describe("expired records", () => {
  it("stay in memory after reads, and are removed by later writes", async () => {
    const entries = new Entries();
    const expires = Date.now() + 50;
    for (let index = 0; index < 100; index++) entries.put("", `key-${index}`, "value", expires);
    await vi.waitFor(() => expect(entries.find("", "key-0")).toBeUndefined(), 20_000);
    expect([...entries.list("")]).toEqual([]);
    expect(entries.size).toBe(100);
    for (let write = 0; write < 100; write++) entries.put("", "written", "value", undefined);
    expect(entries.size).toBe(1);
  });

  it("do not accumulate in memory if all records expire at the same time", async () => {
    const store = new Entries();
    for (let index = 0; index < 10_000; index++) store.put("", `key-${index}`, "value", Date.now() + 1);
    await vi.waitFor(() => expect([...store.list("")]).toEqual([]), 20_000);
    for (let index = 0; index < 10_000; index++) store.put("", `later-${index}`, "value", Date.now() + 60_000);
    expect(store.size).toBe(10_000);
  });
});

describe("a scan", () => {
  it("continues from each of its cursors, even if the records of all earlier pages were removed", async () => {
    const store = new MemoryStore();
    const keys = Array.from({ length: 2000 }, (_, index) => `key-${index}`);
    await store.setMany(keys.map((key) => ({ key, value: "value" })));
    const found: string[] = [];
    let cursor: string | undefined;
    do {
      const page = await store.scan({ limit: 50, ...(cursor === undefined ? {} : { cursor }) });
      found.push(...page.entries.map(({ key }) => key));
      await store.deleteMany(page.entries.map(({ key }) => key));
      cursor = page.cursor;
    } while (cursor !== undefined);
    expect(found).toEqual(keys);
  });

  it("leaves out records that were added after the scan began", async () => {
    const store = new MemoryStore();
    await store.setMany(["a", "b", "c"].map((key) => ({ key, value: "old" })));
    const { cursor = "" } = await store.scan({ limit: 1 });
    await store.delete("a");
    await store.set("a", "new");
    expect((await store.scan({ cursor })).entries.map(({ key }) => key)).toEqual(["b", "c"]);
    expect((await store.scan()).entries.map(({ key }) => key)).toEqual(["b", "c", "a"]);
  });
});

describe("an iteration", () => {
  it("ends even if each record is deleted and stored again during the iteration", async () => {
    const store = new MemoryStore();
    await store.setMany(["a", "b", "c"].map((key) => ({ key, value: "old" })));
    const seen: string[] = [];
    for await (const [key] of store.iterator()) {
      seen.push(key);
      await store.delete(key);
      await store.set(key, "new");
    }
    expect(seen).toEqual(["a", "b", "c"]);
  });
});

describe("invalid arguments", () => {
  it("make a call of MemoryStore reject before anything is stored", async () => {
    const store = new MemoryStore();
    const invalid = { code: "VALUE_INVALID" };
    await expect(store.get("\ud800")).rejects.toMatchObject(invalid);
    await expect(store.set("key", "\ud800")).rejects.toMatchObject(invalid);
    await expect(store.set("key", { value: 1 })).rejects.toMatchObject({ ...invalid, key: "key" });
    await expect(store.set("key", "value", Number.NaN)).rejects.toMatchObject(invalid);
    await expect(
      store.setMany([
        { key: "good", value: "value" },
        { key: "bad", value: 1 },
      ]),
    ).rejects.toMatchObject(invalid);
    await expect(store.scan({ cursor: "not a cursor" })).rejects.toMatchObject(invalid);
    await expect(store.scan({ limit: 0 })).rejects.toMatchObject(invalid);
    await expect(store.namespaced("\udfff").clear()).rejects.toMatchObject(invalid);
    expect((await store.scan()).entries).toEqual([]);
  });
});
