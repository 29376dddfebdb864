import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createKeyv, EncryptedStore, type StoredValue } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { SqliteStore } from "@keyward/store-sqlite";
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { expectRefusal } from "../refusals.ts";
import { newRing } from "../rings.ts";
import { contentOf, textOf } from "./inner-stores.ts";

const folder = await mkdtemp(join(tmpdir(), "keyward-values-"));
afterAll(() => rm(folder, { recursive: true, force: true }));

/** Returns all values in a Map as one text. */
function shown(map: ReadonlyMap<string, unknown>): string {
  return JSON.stringify([...map.values()]);
}

function same(found: unknown, expected: StoredValue): void {
  if (typeof expected === "string") expect(found).toBe(expected);
  else {
    expect(found).toBeInstanceOf(Uint8Array);
    if (found instanceof Uint8Array) expect(Buffer.compare(found, expected)).toBe(0);
  }
}

const anyValue = fc.oneof(
  fc.string({ unit: "binary", maxLength: 200 }).filter((text) => text.isWellFormed()),
  fc.uint8Array({ maxLength: 200 }),
  fc.constantFrom("", "kw1.", "kw1.k1.AAAA", "kw1:k1:", "kw2.x", "\ufeffBOM", "\0", "a\0b", '{"value":1}', "null"),
);
const anyKey = fc.string({ unit: "binary", maxLength: 40 }).filter((text) => text.isWellFormed());

describe.each([
  ["Map", () => new Map<string, unknown>()],
  ["MemoryStore", () => new MemoryStore()],
  ["SqliteStore", () => new SqliteStore(":memory:")],
] as const)("over %s", (name, open) => {
  it("text and bytes are returned unchanged under any key (property)", async () => {
    const inner = open();
    const store = new EncryptedStore(inner, { keys: newRing() });
    try {
      await fc.assert(
        fc.asyncProperty(fc.array(fc.tuple(anyKey, anyValue), { maxLength: 8 }), async (records) => {
          const entries = [...new Map(records)].map(([key, value]) => ({ key, value }));
          await store.setMany(entries);
          const found = await store.getMany(entries.map(({ key }) => key));
          for (const [index, { key, value }] of entries.entries()) {
            same(found[index], value);
            same(await store.get(key), value);
          }
          const iterated = new Map<unknown, unknown>();
          for await (const [key, value] of store.iterator()) iterated.set(key, value);
          expect(iterated.size).toBe(entries.length);
          for (const { key, value } of entries) same(iterated.get(key), value);
          await store.deleteMany(entries.map(({ key }) => key));
        }),
        { numRuns: name === "SqliteStore" ? 60 : 150 },
      );
    } finally {
      await store.disconnect();
    }
  });

  it("objects, numbers and ill-formed text are refused, and so is a batch that contains one of these values", async () => {
    const store = new EncryptedStore(open(), { keys: newRing() });
    try {
      for (const value of [
        {},
        { value: "x" },
        1,
        true,
        null,
        undefined,
        Symbol("x"),
        [],
        new Uint16Array(2),
        "\ud800",
      ]) {
        await expectRefusal(store.set("key", value), "VALUE_INVALID");
        await expectRefusal(
          store.setMany([
            { key: "good", value: "x" },
            { key: "key", value },
          ]),
          "VALUE_INVALID",
        );
      }
      expect(await store.getMany(["good", "key"])).toEqual([undefined, undefined]);
    } finally {
      await store.disconnect();
    }
  });
});

describe("at rest", () => {
  const secret = fc.string({ unit: "grapheme-ascii", minLength: 12, maxLength: 60 }).map((text) => `>${text}<`);

  it("a Map contains no part of a value (property)", async () => {
    await fc.assert(
      fc.asyncProperty(secret, fc.option(fc.integer({ min: 1, max: 300 })), async (value, padTo) => {
        const map = new Map<string, unknown>();
        const keyv = createKeyv({ store: map, keys: newRing(), ...(padTo === null ? {} : { padTo }) });
        await keyv.set("a", value, 60_000);
        await keyv.setMany([{ key: "b", value: { nested: [value] } }]);
        await keyv.setRaw("c", { value });
        await keyv.setManyRaw([{ key: "d", value: { value, expires: Date.now() + 60_000 } }]);
        const rest = shown(map);
        const escaped = JSON.stringify(value).slice(1, -1);
        for (let at = 0; at + 8 <= value.length; at += 4) expect(rest).not.toContain(value.slice(at, at + 8));
        for (const form of ["hex", "base64", "base64url"] as const) {
          expect(rest).not.toContain(Buffer.from(escaped).subarray(0, 9).toString(form));
        }
      }),
      { numRuns: 100 },
    );
  });

  it("a SQLite file and its log contain no part of a value", async () => {
    const path = join(folder, "rest.db");
    const values = Array.from({ length: 50 }, (_, index) => `a very private thing number ${index}`);
    const inner = new SqliteStore(path);
    const keyv = createKeyv({ store: inner, keys: newRing(), namespace: "flows" });
    for (const [index, value] of values.entries()) await keyv.set(`key ${index}`, value);
    await keyv.set("key 0", "an even more private thing");
    await keyv.delete("key 1");
    const files = (await readdir(folder)).filter((name) => name.startsWith("rest.db"));
    for (const when of ["open", "closed"]) {
      for (const name of files) {
        const bytes = await readFile(join(folder, name)).catch(() => Buffer.alloc(0));
        for (const piece of [
          "private thing",
          "very private",
          Buffer.from("private thing").toString("base64").slice(0, 12),
        ]) {
          expect(bytes.includes(piece), `${name}, ${when}`).toBe(false);
        }
      }
      if (when === "open") await keyv.disconnect();
    }
  });

  it("two envelopes of the same value differ", async () => {
    const inner = new MemoryStore();
    const store = new EncryptedStore(inner, { keys: newRing() });
    const seen = new Set<string>();
    for (let round = 0; round < 100; round++) {
      await store.set("key", "the same");
      seen.add((await contentOf(inner)).join());
    }
    expect(seen.size).toBe(100);
  });
});

describe("padTo", () => {
  it("makes the envelopes of values of different lengths equally long, and reads return the values unchanged", async () => {
    const inner = new MemoryStore();
    const store = new EncryptedStore(inner, { keys: newRing(), padTo: 256 });
    const lengths = [0, 1, 17, 200, 245];
    for (const length of lengths)
      await store.set("key", "x".repeat(length)).then(async () => {
        same(await store.get("key"), "x".repeat(length));
      });
    const sizes = new Set<number>();
    for (const length of lengths) {
      await store.set("key", "x".repeat(length));
      sizes.add(textOf((await inner.get("key")) ?? "").length);
      await store.set("key", Buffer.alloc(length), Date.now() + 60_000);
      sizes.add(textOf((await inner.get("key")) ?? "").length);
    }
    expect(sizes.size).toBe(1);
    await store.set("key", "x".repeat(300));
    expect(sizes).not.toContain(textOf((await inner.get("key")) ?? "").length);
  });

  it("can differ between the store that writes and the store that reads", async () => {
    const inner = new MemoryStore();
    const keys = newRing();
    const [padded, plain] = [new EncryptedStore(inner, { keys, padTo: 100 }), new EncryptedStore(inner, { keys })];
    const value = Buffer.from([1, 0, 0, 0]);
    await padded.set("key", value);
    same(await plain.get("key"), value);
    await plain.set("key", "text\0\0");
    same(await padded.get("key"), "text\0\0");
  });

  it.each([0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 20 + 1])("cannot be %d", (padTo) => {
    expect(() => new EncryptedStore(new Map(), { keys: newRing(), padTo })).toThrow(
      expect.objectContaining({ code: "VALUE_INVALID" }),
    );
  });
});

it("a record does not change if the application changes the bytes that it wrote or read", async () => {
  for (const inner of [new MemoryStore(), new Map<string, unknown>()]) {
    const store = new EncryptedStore(inner, { keys: newRing() });
    const bytes = Buffer.from("as it was");
    await store.set("key", bytes);
    bytes.fill(0);
    const found = await store.get("key");
    same(found, Buffer.from("as it was"));
    if (found instanceof Uint8Array) found.fill(0);
    same(await store.get("key"), Buffer.from("as it was"));
  }
});
