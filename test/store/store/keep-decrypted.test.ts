import { EncryptedStore } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { describe, expect, it, vi } from "vitest";
import { expectRefusal } from "../refusals.ts";
import { newRing, rotation, TestKeys } from "../rings.ts";

/** A store that has read the record `a` twice, so that its decrypted value was used again. */
async function storeWithRecord() {
  const inner = new MemoryStore();
  const keys = newRing();
  const store = new EncryptedStore(inner, { keys, keepDecrypted: 10 });
  await store.set("a", "first");
  expect([await store.get("a"), await store.get("a")]).toEqual(["first", "first"]);
  return { inner, keys, store };
}

describe("a store with the option keepDecrypted", () => {
  it("returns the newer value that another process has written", async () => {
    const { inner, keys, store } = await storeWithRecord();
    await new EncryptedStore(inner, { keys }).set("a", "second");
    expect(await store.get("a")).toBe("second");
  });

  it("returns undefined for a record that was deleted after a read", async () => {
    const { inner, store } = await storeWithRecord();
    await inner.delete("a");
    expect(await store.get("a")).toBeUndefined();
  });

  it("returns undefined for a record that has expired since a read, even if the backend still returns the record", async () => {
    const inner = new Map<string, unknown>();
    const store = new EncryptedStore(inner, { keys: newRing(), keepDecrypted: 10 });
    const expires = Date.now() + 100;
    await store.set("a", "first", expires);
    await store.get("a");
    await vi.waitUntil(() => Date.now() > expires, 20_000);
    expect(inner.size).toBe(1);
    expect(await store.get("a")).toBeUndefined();
  });

  it("refuses a record that was altered or copied to another key after a read", async () => {
    const { inner, store } = await storeWithRecord();
    const sealed = await inner.get("a");
    await inner.set("b", sealed);
    await expectRefusal(store.get("b"), "RECORD_TAMPERED");
    const altered = Buffer.from(sealed instanceof Uint8Array ? sealed : "");
    altered.writeUInt8(altered.readUInt8(altered.length - 1) ^ 1, altered.length - 1);
    await inner.set("a", altered);
    await expectRefusal(store.get("a"), "RECORD_TAMPERED");
    await inner.set("a", sealed);
    expect(await store.get("a")).toBe("first");
  });

  it("refuses a record whose key was disabled after a read", async () => {
    const { promoted, disabled } = rotation();
    const keys = new TestKeys(promoted);
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: promoted.promote("old") }).set("a", "first");
    const store = new EncryptedStore(inner, { keys, keepDecrypted: 10, reencrypt: "off" });
    expect([await store.get("a"), await store.get("a")]).toEqual(["first", "first"]);
    keys.push(disabled);
    await vi.waitFor(() => expectRefusal(store.get("a"), "KEY_DISABLED"), 20_000);
    await store.disconnect();
  });

  it("re-encrypts a record that it decrypted before a rotation", async () => {
    const { staged, promoted } = rotation();
    const keys = new TestKeys(staged);
    const inner = new MemoryStore();
    const store = new EncryptedStore(inner, { keys, keepDecrypted: 10 });
    await store.set("a", "first");
    await store.get("a");
    const before = await inner.get("a");
    keys.push(promoted);
    await vi.waitFor(async () => {
      expect(await store.get("a")).toBe("first");
      await store.settled();
      expect(await inner.get("a")).not.toBe(before);
    }, 20_000);
    await store.disconnect();
  });

  it("returns the stored bytes even if an application changed the bytes of an earlier read", async () => {
    const store = new EncryptedStore(new MemoryStore(), { keys: newRing(), keepDecrypted: 10 });
    await store.set("a", Buffer.from("bytes"));
    const value = await store.get("a");
    if (value instanceof Uint8Array) value.fill(0);
    expect(await store.get("a")).toEqual(Buffer.from("bytes"));
  });
});
