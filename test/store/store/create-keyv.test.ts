import { randomBytes } from "node:crypto";
import { inspect } from "node:util";
import { createKeyv, EncryptedStore, type Keyring, type KeywardKeyv } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { SqliteStore } from "@keyward/store-sqlite";
import { Keyv, type KeyvCompressionAdapter, type KeyvSerializationAdapter } from "keyv";
import { describe, expect, it } from "vitest";
import { expectRefusal } from "../refusals.ts";
import { newRing, TestKeys } from "../rings.ts";
import { expectNoSecrets, marker } from "../secrets.ts";
import { BreakableAdapter, damaged } from "./inner-stores.ts";

type Call = (keyv: KeywardKeyv) => Promise<unknown>;

async function drain(keyv: Keyv): Promise<unknown[]> {
  const entries: unknown[] = [];
  for await (const entry of keyv.iterator()) entries.push(entry);
  return entries;
}

const reads: Readonly<Record<string, Call>> = {
  get: (keyv) => keyv.get("broken"),
  "get of several": (keyv) => keyv.get(["good", "broken"]),
  getMany: (keyv) => keyv.getMany(["good", "broken"]),
  getRaw: (keyv) => keyv.getRaw("broken"),
  getManyRaw: (keyv) => keyv.getManyRaw(["good", "broken"]),
  has: (keyv) => keyv.has("broken"),
  "has of several": (keyv) => keyv.has(["good", "broken"]),
  hasMany: (keyv) => keyv.hasMany(["good", "broken"]),
  iterator: drain,
};

const writes: Readonly<Record<string, Call>> = {
  set: (keyv) => keyv.set("broken", `${marker}new`),
  setMany: (keyv) => keyv.setMany([{ key: "broken", value: `${marker}new` }]),
  setRaw: (keyv) => keyv.setRaw("broken", { value: `${marker}new` }),
  setManyRaw: (keyv) => keyv.setManyRaw([{ key: "broken", value: { value: `${marker}new` } }]),
};

const removals: Readonly<Record<string, Call>> = {
  delete: (keyv) => keyv.delete("broken"),
  "delete of several": (keyv) => keyv.delete(["good", "broken"]),
  deleteMany: (keyv) => keyv.deleteMany(["good", "broken"]),
  clear: (keyv) => keyv.clear(),
  disconnect: (keyv) => keyv.disconnect(),
};

const listenerCounts = [0, 1, 2];

/** Adds listeners of `error`. Returns, for each, the errors that it was called with. */
function listen(keyv: Keyv, count: number): unknown[][] {
  const emitted: unknown[][] = [];
  for (let index = 0; index < count; index++) {
    const errors: unknown[] = [];
    emitted.push(errors);
    keyv.on("error", (error: unknown) => errors.push(error));
  }
  return emitted;
}

async function withBrokenRecord(): Promise<{ keyv: KeywardKeyv; map: Map<string, unknown>; ring: Keyring }> {
  const ring = newRing();
  const map = new Map<string, unknown>();
  const keyv = createKeyv({ store: map, keys: ring });
  await keyv.set("good", `${marker}good`);
  await keyv.set("broken", `${marker}broken`);
  const entry = map.get("broken");
  if (typeof entry !== "object" || entry === null || !("value" in entry) || typeof entry.value !== "string") {
    throw new Error("Keyv's memory adapter does not keep { value }");
  }
  map.set("broken", { value: damaged(entry.value) });
  return { keyv, map, ring };
}

describe("a Keyv that createKeyv made", () => {
  for (const count of listenerCounts) {
    for (const [name, call] of Object.entries(reads)) {
      it(`rejects ${name} of a damaged record, with ${count} listeners for error`, async () => {
        const { keyv } = await withBrokenRecord();
        const emitted = listen(keyv, count);
        const single = ["get", "getRaw", "has"].includes(name);
        const error = await expectRefusal(call(keyv), single ? "RECORD_TAMPERED" : "RECORDS_UNREADABLE");
        expect(emitted).toEqual(emitted.map(() => [error]));
        // The listeners are called again for a second call that fails.
        const again = await expectRefusal(call(keyv), error.code);
        for (const errors of emitted) expect(errors).toEqual([error, again]);
      });
    }

    for (const [name, call] of Object.entries(writes)) {
      it(`rejects ${name} if it would replace a record that could not be read, with ${count} listeners for error`, async () => {
        const { keyv, map } = await withBrokenRecord();
        await expectRefusal(keyv.get("broken"), "RECORD_TAMPERED");
        const before = map.get("broken");
        const emitted = listen(keyv, count);
        const error = await expectRefusal(call(keyv), "OVERWRITE_REFUSED");
        for (const errors of emitted) expect(errors).toEqual([error]);
        expect(map.get("broken")).toBe(before);
      });
    }

    for (const [name, call] of Object.entries({ ...reads, ...writes, ...removals })) {
      it(`rejects ${name} if the store fails, with ${count} listeners for error`, async () => {
        const inner = new BreakableAdapter(new Map());
        const keyv = createKeyv({ store: inner, keys: newRing() });
        await keyv.set("broken", `${marker}value`);
        inner.failure = new Error("the disk is gone");
        const emitted = listen(keyv, count);
        const error = await expectRefusal(call(keyv), "STORE_UNAVAILABLE");
        expect(error.cause).toBe(inner.failure);
        for (const errors of emitted) expect(errors).toEqual([error]);
        // The adapter throws the identical error object, and the listeners are called again.
        const again = await expectRefusal(call(keyv), "STORE_UNAVAILABLE");
        for (const errors of emitted) expect(errors).toEqual([error, again]);
      });
    }

    it(`rejects a write of a symbol, for which Keyv emits a string as error, with ${count} listeners for error`, async () => {
      const keyv = createKeyv({ store: new Map(), keys: newRing() });
      const emitted = listen(keyv, count);
      const error = await expectRefusal(keyv.set("a", Symbol("x")), "VALUE_INVALID");
      for (const errors of emitted) expect(errors).toEqual([error]);
      await expectRefusal(keyv.setMany([{ key: "a", value: Symbol("x") }]), "VALUE_INVALID");
      for (const errors of emitted) expect(errors).toHaveLength(2);
      expect(await keyv.get("a")).toBeUndefined();
    });
  }

  it("emits one error for a batch of several symbols", async () => {
    const keyv = createKeyv({ store: new Map(), keys: newRing() });
    const [emitted = []] = listen(keyv, 1);
    const batch = ["a", "b", "c"].map((key) => ({ key, value: Symbol(key) }));
    const error = await expectRefusal(keyv.setMany(batch), "VALUE_INVALID");
    expect(emitted).toEqual([error]);
  });

  it("emits one error for each of two calls that fail at the same time", async () => {
    const keyv = createKeyv({ store: new Map(), keys: newRing() });
    const [emitted = []] = listen(keyv, 1);
    const failed = await Promise.all(
      ["a", "b"].map((key) => expectRefusal(keyv.setMany([{ key, value: Symbol(key) }]), "VALUE_INVALID")),
    );
    expect(emitted).toHaveLength(2);
    expect(new Set(emitted)).toEqual(new Set(failed));
  });

  it("emits one error for each of several calls that fail with the same error object", async () => {
    const keys = new TestKeys(newRing());
    keys.fail(new Error("the source is down"));
    const release = keys.hold();
    const keyv = createKeyv({ store: new Map(), keys });
    const [emitted = []] = listen(keyv, 1);
    // All three calls wait for the same load of the keyring, and fail with it.
    const failing = ["a", "b", "c"].map((key) => expectRefusal(keyv.set(key, 1), "PROVIDER_UNAVAILABLE"));
    release();
    await Promise.all(failing);
    expect(keys.loads).toBe(1);
    expect(emitted).toHaveLength(3);
  });

  it("rejects a read of an encrypted value that Keyv did not write", async () => {
    const { keyv } = await withBrokenRecord();
    await keyv.encryptedStore.set("odd", `${marker}not JSON`);
    listen(keyv, 1);
    await expectRefusal(keyv.get("odd"), "RECORD_MALFORMED");
    await expectRefusal(keyv.getMany(["odd"]), "RECORD_MALFORMED");
  });

  it("yields every record that can be decrypted before an iteration rejects because of a damaged record", async () => {
    const { keyv } = await withBrokenRecord();
    listen(keyv, 1);
    const seen: unknown[] = [];
    const iterate = async () => {
      for await (const entry of keyv.iterator()) seen.push(entry);
    };
    const error = await expectRefusal(iterate, "RECORDS_UNREADABLE");
    expect(error.errors?.map(({ key }) => key)).toEqual(["broken"]);
    expect(seen).toEqual([["good", `${marker}good`]]);
  });
});

/** Returns every text that a log could show for an error and its causes. */
function shown(error: unknown): string {
  const deep = { depth: Number.POSITIVE_INFINITY, showHidden: true, maxStringLength: null };
  if (!(error instanceof Error)) return `${inspect(error, deep)} ${String(error)}`;
  return [error.message, error.stack, inspect(error, deep), JSON.stringify(error), shown(error.cause)].join("\n");
}

/** Returns the first six consecutive characters of a secret that occur in a text, or undefined if there are none. */
function quoted(text: string, where: string): string | undefined {
  const starts = Array.from({ length: text.length - 5 }, (_, at) => text.slice(at, at + 6));
  return starts.find((stretch) => where.includes(stretch));
}

describe("a decrypted value that cannot be parsed", () => {
  const plain: KeyvSerializationAdapter = {
    stringify: (value) => JSON.stringify(value),
    parse: (text) => JSON.parse(text),
  };
  const quoting = (text: string) => new SyntaxError(`cannot parse ${text}`, { cause: { input: text } });
  const codecs: Readonly<
    Record<string, { serialization?: KeyvSerializationAdapter; compression?: KeyvCompressionAdapter }>
  > = {
    "Keyv's JSON": {},
    "a parser that throws": {
      serialization: {
        ...plain,
        parse: (text) => {
          throw quoting(text);
        },
      },
    },
    "a parser that rejects with a text": {
      serialization: { ...plain, parse: (text) => Promise.reject(`cannot parse ${text}`) },
    },
    "a decompressor that rejects": {
      compression: { compress: async (text) => text, decompress: (text) => Promise.reject(quoting(text)) },
    },
  };
  const calls: Readonly<Record<string, Call>> = {
    get: (keyv) => keyv.get("odd"),
    getMany: (keyv) => keyv.getMany(["odd"]),
    getRaw: (keyv) => keyv.getRaw("odd"),
    getManyRaw: (keyv) => keyv.getManyRaw(["odd"]),
    iterator: drain,
  };

  for (const [codec, options] of Object.entries(codecs)) {
    for (const [name, call] of Object.entries(calls)) {
      it.each(listenerCounts)(
        `is not quoted in the error (${name}, ${codec}, %d listeners for error)`,
        async (count) => {
          const token = randomBytes(30).toString("base64url");
          // The JSON parser fails at the first character of one text, and at the last one of the other.
          for (const text of [`x${token}`, `{"value":"${token}`]) {
            const keyv = createKeyv({ store: new MemoryStore(), keys: newRing(), ...options });
            await keyv.encryptedStore.set("odd", text);
            const emitted = listen(keyv, count);
            const error = await expectRefusal(call(keyv), "RECORD_MALFORMED");
            for (const errors of emitted) expect(errors).toEqual([error]);
            for (const one of [error, ...emitted.flat()]) expect(quoted(token, shown(one))).toBeUndefined();
          }
        },
      );
    }
  }
});

describe.each([
  ["createKeyv", (store: unknown, keys: unknown) => Reflect.apply(createKeyv, undefined, [{ store, keys }])],
  ["EncryptedStore", (store: unknown, keys: unknown) => Reflect.construct(EncryptedStore, [store, { keys }])],
] as const)("%s, called from code without types,", (_, construct) => {
  it.each([
    ["a text", `${marker}key`],
    ["bytes", Buffer.from(`${marker}key`)],
    ["an empty object", {}],
    ["an object without load()", { load: `${marker}key` }],
    ["null", null],
    ["nothing", undefined],
  ])("throws if keys is %s, with an error that does not quote the keys", async (_name, keys) => {
    const error = await expectRefusal(() => construct(new Map(), keys), "KEYRING_INVALID");
    expectNoSecrets(error);
    for (const separator of [" ", ", ", ","]) {
      expect(shown(error)).not.toContain([...marker].map((one) => one.charCodeAt(0)).join(separator));
      expect(shown(error)).not.toContain([...marker].map((one) => one.charCodeAt(0).toString(16)).join(separator));
    }
  });

  it.each([undefined, null, `${marker}path`])("throws if the store is %s", async (store) => {
    await expectRefusal(() => construct(store, newRing()), "STORE_INVALID");
  });
});

describe("a plain Keyv over an EncryptedStore", () => {
  it("returns undefined for a damaged record if it has a listener for error", async () => {
    const { map, ring } = await withBrokenRecord();
    const bare = new Keyv({ store: new EncryptedStore(map, { keys: ring }) });
    const emitted: unknown[] = [];
    bare.on("error", (error: unknown) => emitted.push(error));
    expect(await bare.get("broken")).toBeUndefined();
    expect(await bare.set("broken", "new")).toBe(false);
    expect(emitted).toMatchObject([{ code: "RECORD_TAMPERED" }, { code: "OVERWRITE_REFUSED" }]);
  });

  it("cannot write an object with the option serialization: false, because Keyv then does not serialize the object", async () => {
    const store = new EncryptedStore(new Map(), { keys: newRing() });
    const bare = new Keyv({ store, serialization: false });
    const emitted: unknown[] = [];
    bare.on("error", (error: unknown) => emitted.push(error));
    expect(await bare.set("a", { marker })).toBe(false);
    expect(emitted).toMatchObject([{ code: "VALUE_INVALID" }]);
    await expectRefusal(store.set("a", { value: marker }), "VALUE_INVALID");
    await expectRefusal(store.setMany([{ key: "a", value: 7 }]), "VALUE_INVALID");
  });
});

describe("createKeyv", () => {
  it("makes a Keyv whose reads do not delete an expired record", async () => {
    const inner = new MemoryStore();
    const keyv = createKeyv({ store: inner, keys: newRing() });
    expect(keyv.checkExpired).toBe(false);
    const past = { value: `${marker}old`, expires: Date.now() - 1 };
    // The envelope has no expiry. Only Keyv's JSON has one, in the past: Keyv itself would delete the record.
    await keyv.encryptedStore.set("a", JSON.stringify(past));
    await keyv.get("a");
    await keyv.getMany(["a"]);
    await keyv.has("a");
    await drain(keyv);
    expect((await inner.scan()).entries).toHaveLength(1);
  });

  it("makes a Keyv that returns every written value unchanged", async () => {
    const keyv = createKeyv({ store: new MemoryStore(), keys: newRing(), namespace: "flows" });
    const values = {
      text: "x",
      number: 1.5,
      none: null,
      list: [1, [2]],
      object: { a: { b: true } },
      bytes: Buffer.from([0, 255]),
    };
    for (const [key, value] of Object.entries(values)) expect(await keyv.set(key, value)).toBe(true);
    expect(await keyv.getMany(Object.keys(values))).toEqual(Object.values(values));
    expect(new Map((await drain(keyv)).filter(Array.isArray).map(([key, value]) => [key, value]))).toEqual(
      new Map(Object.entries(values)),
    );
    expect(await keyv.deleteMany(["text", "absent"])).toEqual([true, false]);
    await keyv.clear();
    expect(await drain(keyv)).toEqual([]);
  });

  it("makes Keyvs that disconnect their store only when the last of them disconnects", async () => {
    const store = new SqliteStore(":memory:");
    const keys = newRing();
    const flows = createKeyv({ store, keys, namespace: "flows" });
    const users = createKeyv({ store, keys, namespace: "users" });
    await users.set("key", `${marker}value`);
    await flows.disconnect();
    await flows.disconnect();
    expect(await users.get("key")).toBe(`${marker}value`);
    await users.disconnect();
    await expectRefusal(users.get("key"), "STORE_UNAVAILABLE");
  });

  it("makes a Keyv whose reads return undefined or false for a missing record", async () => {
    const keyv = createKeyv({ store: new MemoryStore(), keys: newRing() });
    expect(await keyv.get("absent")).toBeUndefined();
    expect(await keyv.getMany(["absent"])).toEqual([undefined]);
    expect(await keyv.getRaw("absent")).toBeUndefined();
    expect(await keyv.has("absent")).toBe(false);
    expect(await keyv.hasMany(["absent"])).toEqual([false]);
    expect(await keyv.delete("absent")).toBe(false);
  });
});

describe("a record with JSON that Keyv cannot have written", () => {
  it.each(["7", '"text"', "[]", "null", '{"a":1}'])(
    "makes every read reject, instead of counting as missing: %s",
    async (text) => {
      const keyv = createKeyv({ store: new Map(), keys: newRing() });
      await keyv.encryptedStore.set("key", text);
      await expectRefusal(keyv.get("key"), "RECORD_MALFORMED");
      await expectRefusal(keyv.getMany(["key"]), "RECORD_MALFORMED");
      await expectRefusal(drain(keyv), "RECORD_MALFORMED");
    },
  );
});

it("a Keyv that createKeyv made returns undefined for a record that was written with the value undefined", async () => {
  const keyv = createKeyv({ store: new Map(), keys: newRing() });
  await keyv.set("key", undefined, 60_000);
  expect(await keyv.get("key")).toBeUndefined();
});
