import { promisify } from "node:util";
import { deserialize, serialize } from "node:v8";
import { gunzip, gzip } from "node:zlib";
import { KeyvBrotli } from "@keyv/compress-brotli";
import { KeyvGzip } from "@keyv/compress-gzip";
import { KeyvLz4 } from "@keyv/compress-lz4";
import { type CreateKeyvOptions, createKeyv, Keyring, type KeywardKeyv } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { SqliteStore } from "@keyward/store-sqlite";
import type { KeyvSerializationAdapter } from "keyv";
import { describe, expect, it } from "vitest";
import { expectRefusal } from "../refusals.ts";
import { newRing } from "../rings.ts";
import { marker } from "../secrets.ts";
import { contentOf } from "./inner-stores.ts";

type Codec = Pick<CreateKeyvOptions, "serialization" | "compression">;
type Call = (keyv: KeywardKeyv) => Promise<unknown>;

async function drain(keyv: KeywardKeyv): Promise<unknown[]> {
  const entries: unknown[] = [];
  for await (const entry of keyv.iterator()) entries.push(entry);
  return entries;
}

/** A serialization that writes bytes. The types allow text only, but code without types may write bytes. */
const bytesOfV8: KeyvSerializationAdapter = Object.assign(
  { stringify: JSON.stringify, parse: JSON.parse },
  {
    stringify: (value: unknown): unknown => serialize(value),
    parse: (bytes: Uint8Array): unknown => deserialize(bytes),
  },
);

/** A serialization that writes bytes which are valid UTF-8. Parsing must not depend on that. */
const bytesOfJson: KeyvSerializationAdapter = Object.assign(
  { stringify: JSON.stringify, parse: JSON.parse },
  {
    stringify: (value: unknown): unknown => Buffer.from(JSON.stringify(value)),
    parse: (bytes: unknown): unknown => {
      if (!(bytes instanceof Uint8Array)) throw new TypeError("expects bytes");
      return JSON.parse(Buffer.from(bytes).toString());
    },
  },
);

/** A parser that needs a string, unlike JSON.parse, which converts any argument to one. */
const strictText: KeyvSerializationAdapter = {
  stringify: (value) => `v1${JSON.stringify(value)}`,
  parse: (text) => {
    if (!text.startsWith("v1")) throw new TypeError("another version");
    return JSON.parse(text.slice(2));
  },
};

const bytesOfZlib = {
  compress: (text: string) => promisify(gzip)(text),
  decompress: (bytes: Uint8Array) => promisify(gunzip)(bytes),
};

const codecs: Readonly<Record<string, Codec>> = {
  "@keyv/compress-gzip": { compression: new KeyvGzip() },
  "@keyv/compress-brotli": { compression: new KeyvBrotli() },
  "@keyv/compress-lz4": { compression: new KeyvLz4() },
  "a compression that decompresses to bytes": { compression: bytesOfZlib },
  "a serialization that writes bytes": { serialization: bytesOfV8 },
  "a serialization that writes bytes of UTF-8": { serialization: bytesOfJson },
  "a serialization and a compression in bytes": { serialization: bytesOfV8, compression: bytesOfZlib },
  "a parser of strings after a compression to bytes": { serialization: strictText, compression: bytesOfZlib },
};

const stores: Readonly<Record<string, () => CreateKeyvOptions["store"]>> = {
  "a Map": () => new Map<string, unknown>(),
  MemoryStore: () => new MemoryStore(),
  SqliteStore: () => new SqliteStore(":memory:"),
};

for (const [storeName, open] of Object.entries(stores)) {
  describe.each(Object.entries(codecs))(`a Keyv with %s over ${storeName}`, (_, codec) => {
    it("returns written values unchanged from every method", async () => {
      for (const keys of [newRing(), Keyring.dangerouslyPlaintext()]) {
        const keyv = createKeyv({ store: open(), keys, namespace: "flows", ...codec });
        const value = { text: `${marker}żółw`, list: [1, null, true] };
        expect(await keyv.set("a", value)).toBe(true);
        expect(await keyv.setMany([{ key: "b", value: 7, ttl: 60_000 }])).toEqual([true]);
        expect(await keyv.setRaw("c", { value: "" })).toBe(true);
        const raw = { value: [marker], expires: Date.now() + 60_000 };
        expect(await keyv.setManyRaw([{ key: "d", value: raw }])).toEqual([true]);
        const names = ["a", "b", "c", "d", "none"];
        expect(await keyv.get("a")).toEqual(value);
        expect(await keyv.get(["a", "c"])).toEqual([value, ""]);
        expect(await keyv.getMany(names)).toEqual([value, 7, "", [marker], undefined]);
        expect(await keyv.getRaw("d")).toEqual(raw);
        expect(await keyv.getManyRaw(["d", "none"])).toEqual([raw, undefined]);
        expect(await keyv.has("a")).toBe(true);
        expect(await keyv.has("none")).toBe(false);
        expect(await keyv.hasMany(names)).toEqual([true, true, true, true, false]);
        expect(new Map((await drain(keyv)).filter(Array.isArray).map(([key, found]) => [key, found]))).toEqual(
          new Map<string, unknown>([
            ["a", value],
            ["b", 7],
            ["c", ""],
            ["d", [marker]],
          ]),
        );
        expect(await keyv.set("a", "other")).toBe(true);
        expect(await keyv.get("a")).toBe("other");
        expect(await keyv.delete("a")).toBe(true);
        expect(await keyv.deleteMany(["b", "none"])).toEqual([true, false]);
        expect(await keyv.has("a")).toBe(false);
        await keyv.disconnect();
      }
    });
  });
}

describe("the text that Keyv writes for undefined", () => {
  it("is accepted when decrypted, and a read returns undefined", async () => {
    for (const codec of [{}, { compression: new KeyvGzip() }, { serialization: bytesOfV8 }]) {
      const keyv = createKeyv({ store: new MemoryStore(), keys: newRing(), ...codec });
      await keyv.set("a", undefined);
      await keyv.set("b", undefined, 60_000);
      expect(await keyv.getMany(["a", "b"])).toEqual([undefined, undefined]);
      expect(await keyv.hasMany(["a", "b"])).toEqual([true, true]);
    }
  });
});

describe("a decrypted value that Keyv cannot have written", () => {
  const foreign: Readonly<Record<string, string | Uint8Array>> = {
    bytes: Buffer.from([1, 2, 255]),
    "bytes of a text": Buffer.from("text"),
    "an object without value": '{"cookie":{},"user":7}',
    "an object with an extra field": '{"value":10,"currency":"EUR"}',
    "an object with __proto__": '{"value":1,"__proto__":{}}',
    "an expiry that is not a number": '{"value":1,"expires":"soon"}',
    "a list": "[1]",
    "a text": '"text"',
    null: "null",
    "a text that is not JSON": "text",
  };
  const reads: Readonly<Record<string, Call>> = {
    get: (keyv) => keyv.get("odd"),
    "get of several": (keyv) => keyv.get(["good", "odd"]),
    getMany: (keyv) => keyv.getMany(["good", "odd"]),
    getRaw: (keyv) => keyv.getRaw("odd"),
    getManyRaw: (keyv) => keyv.getManyRaw(["good", "odd"]),
    has: (keyv) => keyv.has("odd"),
    hasMany: (keyv) => keyv.hasMany(["good", "odd"]),
    iterator: drain,
  };
  const writes: Readonly<Record<string, Call>> = {
    set: (keyv) => keyv.set("odd", "new"),
    setMany: (keyv) => keyv.setMany([{ key: "odd", value: "new" }]),
    setRaw: (keyv) => keyv.setRaw("odd", { value: "new" }),
    setManyRaw: (keyv) => keyv.setManyRaw([{ key: "odd", value: { value: "new" } }]),
  };

  for (const [what, content] of Object.entries(foreign)) {
    for (const [name, read] of Object.entries(reads)) {
      it(`makes ${name} reject, and is not overwritten: ${what}`, async () => {
        const inner = new MemoryStore();
        const keyv = createKeyv({ store: inner, keys: newRing() });
        await keyv.set("good", 1);
        await keyv.encryptedStore.set("odd", content);
        const error = await expectRefusal(read(keyv), "RECORD_MALFORMED");
        expect(error.errors?.map(({ key }) => key) ?? [error.key]).toEqual(["odd"]);
        const before = await contentOf(inner);
        for (const write of Object.values(writes)) await expectRefusal(write(keyv), "OVERWRITE_REFUSED");
        expect(await contentOf(inner)).toEqual(before);
        await keyv.delete("odd");
        expect(await keyv.set("odd", "new")).toBe(true);
      });
    }
  }

  it.each([
    ["@keyv/compress-gzip", { compression: new KeyvGzip() }],
    ["a serialization that writes bytes", { serialization: bytesOfV8 }],
  ] as const)("makes the read reject if only the reading Keyv or only the writing Keyv has %s", async (_, codec) => {
    const store = new MemoryStore();
    const keys = newRing();
    const plain = createKeyv({ store, keys, namespace: "flows" });
    const coded = createKeyv({ store, keys, namespace: "flows", ...codec });
    await plain.set("plain", 1);
    await coded.set("coded", 1);
    await expectRefusal(coded.get("plain"), "RECORD_MALFORMED");
    await expectRefusal(plain.get("coded"), "RECORD_MALFORMED");
    await expectRefusal(plain.set("coded", 2), "OVERWRITE_REFUSED");
    expect(await coded.get("coded")).toBe(1);
  });

  it("is listed in the error of a batch, together with every other unreadable record", async () => {
    const inner = new MemoryStore();
    const keys = newRing();
    const keyv = createKeyv({ store: inner, keys });
    await keyv.set("good", 1);
    await keyv.encryptedStore.set("odd 1", "1");
    await keyv.encryptedStore.set("odd 2", Buffer.from([255]));
    const some = await expectRefusal(keyv.getMany(["odd 1", "good", "odd 2"]), "RECORD_MALFORMED");
    expect(some.errors?.map(({ key }) => key)).toEqual(["odd 1", "odd 2"]);
    await inner.set("broken", "kw1.");
    const all = await expectRefusal(keyv.getMany(["odd 1", "good", "broken"]), "RECORDS_UNREADABLE");
    expect(all.errors?.map(({ key }) => key)).toEqual(["odd 1", "broken"]);
    const seen: unknown[] = [];
    const iterate = async () => {
      for await (const entry of keyv.iterator()) seen.push(entry);
    };
    await expectRefusal(iterate, "RECORDS_UNREADABLE");
    expect(seen).toEqual([["good", 1]]);
  });

  it("can be overwritten after allowOverwrite() was called for its key", async () => {
    const keyv = createKeyv({ store: new MemoryStore(), keys: newRing() });
    await keyv.encryptedStore.set("odd", "text");
    await expectRefusal(keyv.get("odd"), "RECORD_MALFORMED");
    keyv.encryptedStore.allowOverwrite("odd");
    expect(await keyv.set("odd", 1)).toBe(true);
    expect(await keyv.get("odd")).toBe(1);
  });

  it("cannot be written with setRaw or setManyRaw", async () => {
    const keyv = createKeyv({ store: new MemoryStore(), keys: newRing() });
    const price = { value: 10, currency: "EUR" };
    await expectRefusal(keyv.setRaw("price", price), "VALUE_INVALID");
    await expectRefusal(keyv.setManyRaw([{ key: "price", value: price }]), "VALUE_INVALID");
    expect(await keyv.has("price")).toBe(false);
  });

  it("is parsed with the serialization that was last assigned to the Keyv, and is not quoted in the error", async () => {
    const keyv = createKeyv({ store: new MemoryStore(), keys: newRing() });
    keyv.serialization = strictText;
    await keyv.set("a", 1);
    expect(await keyv.get("a")).toBe(1);
    keyv.serialization = {
      ...strictText,
      parse: (text) => {
        throw new SyntaxError(`cannot parse ${text}`);
      },
    };
    const error = await expectRefusal(keyv.get("a"), "RECORD_MALFORMED");
    expect(`${error.stack} ${JSON.stringify(error)}`).not.toContain("cannot parse");
    expect(error.cause).toBeUndefined();
  });
});
