import { randomBytes } from "node:crypto";
import { EncryptedStore, exportKeyring, Keyring, KeywardError, requiredGeneration, sameKeyring } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { describe, expect, it } from "vitest";
import { withGeneration, withKeysOf } from "../../src/keyring/keyring-restoration.ts";
import { storeParts } from "../../src/store/encrypted-store.ts";

function codeOf(call: () => unknown): string | undefined {
  try {
    call();
    return undefined;
  } catch (error) {
    return error instanceof KeywardError ? error.code : String(error);
  }
}

const statuses = (ring: Keyring) => Object.fromEntries(ring.keys.map(({ id, status }) => [id, status]));

describe("withGeneration", () => {
  it("raises the generation and changes nothing else", () => {
    const ring = Keyring.parse(
      JSON.stringify({
        ...JSON.parse(exportKeyring(Keyring.generate("one").add({ id: "two", status: "disabled" }))),
        stores: ["sessions"],
        sealed: ["flows"],
        "x-note": { kept: true },
      }),
    );
    const raised = withGeneration(ring, 9);
    expect(raised.generation).toBe(9);
    const before = JSON.parse(exportKeyring(ring));
    expect(JSON.parse(exportKeyring(raised))).toEqual({ ...before, generation: 9 });
  });

  it("keeps a generation that is not lower than the number, and refuses a number that is not a generation", () => {
    const ring = withGeneration(Keyring.generate(), 5);
    expect(withGeneration(ring, 4)).toBe(ring);
    for (const least of [0, -1, 1.5, Number.NaN, 2 ** 53]) {
      expect(codeOf(() => withGeneration(ring, least))).toBe("VALUE_INVALID");
    }
  });
});

describe("withKeysOf", () => {
  it("adds keys that were removed after the backup as disabled keys, and keeps primary and statuses", () => {
    const backup = Keyring.generate("one").add({ id: "two" });
    const ring = backup.add({ id: "three" }).promote("three").remove("one").disable("two");
    const restored = withKeysOf(ring, backup);
    expect(restored.primary).toBe("three");
    expect(statuses(restored)).toEqual({ one: "disabled", two: "disabled", three: "enabled" });
    expect(restored.generation).toBe(ring.generation + 1);
    const [one] = JSON.parse(exportKeyring(backup)).keys;
    expect(JSON.parse(exportKeyring(restored)).keys).toContainEqual({ ...one, status: "disabled" });
  });

  it("adds the keys of a later backup with the status that they have in the backup", () => {
    const ring = Keyring.generate("one");
    const backup = ring.add({ id: "two" }).add({ id: "three", status: "disabled" });
    const restored = withKeysOf(ring, backup);
    expect(statuses(restored)).toEqual({ one: "enabled", two: "enabled", three: "disabled" });
    expect(restored.primary).toBe("one");
    expect(restored.generation).toBe(backup.generation + 1);
  });

  it("adds the keys of an unrelated keyring as disabled keys", () => {
    const restored = withKeysOf(Keyring.generate("one"), withGeneration(Keyring.generate("two"), 7));
    expect(statuses(restored)).toEqual({ one: "enabled", two: "disabled" });
    expect(restored.generation).toBe(8);
  });

  it("returns the keyring itself if it contains all keys of the backup", () => {
    const backup = Keyring.generate("one");
    const ring = backup.add({ id: "two" });
    expect(withKeysOf(ring, backup)).toBe(ring);
    expect(sameKeyring(withKeysOf(ring, ring), ring)).toBe(true);
  });

  it("refuses a key with other material, the same material under two ids, and a keyring of a scope", () => {
    const ring = Keyring.generate("one");
    expect(codeOf(() => withKeysOf(ring, Keyring.generate("one")))).toBe("KEYRING_CONFLICT");
    const material = randomBytes(32);
    const twin = (id: string) => Keyring.fromKeys([{ id, material }]);
    expect(codeOf(() => withKeysOf(twin("one"), twin("two")))).toBe("KEYRING_INVALID");
    expect(codeOf(() => withKeysOf(ring, ring.scope("part")))).toBe("KEYRING_INVALID");
    expect(codeOf(() => withKeysOf(ring.scope("part"), ring))).toBe("KEYRING_INVALID");
  });
});

describe("requiredGeneration", () => {
  it("returns the generation that a rotation has announced, even for a store with a scope, and writes nothing", async () => {
    const inner = new MemoryStore();
    const keys = withGeneration(Keyring.generate("one"), 3);
    const store = new EncryptedStore(inner, { keys });
    expect(await requiredGeneration(store)).toBe(0);
    await store.set("key", "value");
    expect(await requiredGeneration(store)).toBe(3);
    await storeParts(store).generationNotice.raise(withGeneration(keys, 8));
    const scoped = new EncryptedStore(inner, { keys, scope: "part" });
    expect(await requiredGeneration(scoped)).toBe(8);
    expect(await requiredGeneration(store)).toBe(8);
    const reserved = await inner.reserved().scan({ limit: 10 });
    expect(reserved.entries.map(({ key }) => key)).toEqual(["check"]);
  });

  it("rejects if the keyring does not belong to the store", async () => {
    const inner = new MemoryStore();
    await new EncryptedStore(inner, { keys: Keyring.generate("one") }).set("key", "value");
    const other = new EncryptedStore(inner, { keys: Keyring.generate("two") });
    await expect(requiredGeneration(other)).rejects.toMatchObject({ code: "OVERWRITE_REFUSED" });
  });
});
