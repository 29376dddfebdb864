import { randomBytes } from "node:crypto";
import { createKeyv, EncryptedStore, inspectRecord, Keyring, type WrappableStore } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { KeyvMemoryAdapter } from "keyv";
import { describe, expect, it } from "vitest";

const address = { namespace: "sessions", key: "session:42" };
const stores: readonly (readonly [string, "text" | "binary", () => WrappableStore])[] = [
  ["a MemoryStore", "binary", () => new MemoryStore()],
  ["a Map", "text", () => new Map()],
  ["an adapter of Keyv", "text", () => new KeyvMemoryAdapter(new Map())],
];

async function holding(stored: unknown) {
  const store = new KeyvMemoryAdapter(new Map());
  store.namespace = address.namespace;
  await store.set(address.key, stored);
  return store;
}

describe("inspectRecord", () => {
  it.each(stores)("shows the header of an envelope in %s, and nothing of the value", async (_, form, newStore) => {
    const store = newStore();
    const keyv = createKeyv({ store, keys: Keyring.generate("2026-11"), namespace: address.namespace });
    await keyv.set(address.key, "a value that must not be shown");
    const shown = await inspectRecord(store, address);
    expect(shown).toEqual({ kind: "envelope", version: 1, form, keyId: "2026-11", bytes: expect.any(Number) });
    expect(await inspectRecord(store, { ...address, key: "session:43" })).toBeUndefined();
    expect(await keyv.get(address.key)).toBe("a value that must not be shown");
    await keyv.disconnect();
  });

  it("counts the bytes of the stored value", async () => {
    const store = await holding("é€");
    expect(await inspectRecord(store, address)).toEqual({ kind: "foreign", shape: "text, up to 2 long", bytes: 5 });
  });

  it.each([
    ["kw1.", "RECORD_MALFORMED", undefined],
    ["kw1.2026-11.AAAA", "RECORD_MALFORMED", "2026-11"],
    [`kw1.2026-11.${randomBytes(99).toString("base64url")}=`, "RECORD_MALFORMED", "2026-11"],
    ["kw1:2026-11:as text", "RECORD_MALFORMED", "2026-11"],
    ["kw2.2026-11.AAAA", "ENVELOPE_UNSUPPORTED", undefined],
  ])("returns the reason why %j is broken", async (stored, code, keyId) => {
    const shown = await inspectRecord(await holding(stored), address);
    const bytes = stored.length;
    const texts = { problem: expect.stringMatching(/^A record is /), hint: expect.any(String) };
    expect(shown).toEqual({ kind: "broken", code, ...texts, ...(keyId === undefined ? {} : { keyId }), bytes });
  });

  it("shows the shape of a record that Keyward did not encrypt", async () => {
    const shape = "JSON object { iv, 1 other field }";
    const stored = JSON.stringify({ iv: "x", secret: "y" });
    expect(await inspectRecord(await holding(stored), address)).toEqual({ kind: "foreign", shape, bytes: 23 });
    const object = await inspectRecord(await holding({ secret: "y" }), address);
    expect(object).toEqual({ kind: "foreign", shape: "an object, neither a string nor bytes" });
  });

  it("refuses a store that encrypts, a value that is not a store, and the namespace of Keyward's own records", async () => {
    const store = new MemoryStore();
    const encrypted = new EncryptedStore(store, { keys: Keyring.generate() });
    await expect(inspectRecord(encrypted, address)).rejects.toMatchObject({ code: "STORE_INVALID" });
    const keyv = createKeyv({ store, keys: Keyring.generate() });
    await expect(Reflect.apply(inspectRecord, undefined, [keyv, address])).rejects.toMatchObject({
      code: "STORE_INVALID",
    });
    for (const namespace of ["\0keyward", "\ud800"]) {
      await expect(inspectRecord(store, { namespace, key: "check" })).rejects.toMatchObject({ code: "VALUE_INVALID" });
    }
    await encrypted.disconnect();
  });

  it("rejects while a Keyv uses the same adapter with another namespace, and does not disturb the Keyv", async () => {
    const store = new KeyvMemoryAdapter(new Map());
    const keyv = createKeyv({ store, keys: Keyring.generate(), namespace: "sessions" });
    await keyv.set("42", 1);
    const other = inspectRecord(store, { namespace: "flows", key: "42" });
    await expect(other).rejects.toMatchObject({ code: "NAMESPACE_CONFLICT" });
    expect(await inspectRecord(store, { namespace: "sessions", key: "42" })).toMatchObject({ kind: "envelope" });
    expect(await keyv.get("42")).toBe(1);
    await keyv.disconnect();
  });
});
