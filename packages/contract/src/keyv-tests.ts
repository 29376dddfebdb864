import assert from "node:assert/strict";
import { isAtomic, type StoredValue } from "@keyward/core";
import fc from "fast-check";
import { Keyv, type KeyvStorageAdapter } from "keyv";
import {
  assertValue,
  assertValues,
  isRefused,
  iterated,
  numbered,
  type StoreContractOptions,
  type StoreTest,
  secondWriter,
} from "./store-under-test.ts";
import { eventually } from "./waiting.ts";

const oneMebibyte = 2 ** 20;
const shortMs = 150;
const longMs = 3_600_000;

/**
 * Keys that a faulty store may confuse with each other, such as keys that differ only in case, in an escape or in the
 * last character.
 */
export const unusualKeys: readonly string[] = [
  "/",
  "a/b",
  "a:b",
  "a::b",
  ":",
  "::",
  "%",
  "%2F",
  "a%3Ab",
  " ",
  " a",
  "a ",
  "a",
  "A",
  "\0",
  "a\0",
  "a\0b",
  "\n",
  "*",
  "?",
  "a*",
  "[a]",
  "..",
  "\\",
  "'",
  '"',
  "ß",
  "ss",
  "\u00e9",
  "e\u0301",
  "\ufeff",
  "\ufffd",
  "\uffff",
  "😀",
  "👩‍👩‍👧",
  "__proto__",
  "constructor",
  "toString",
  "null",
  "undefined",
  "0",
  "00",
  "k".repeat(1024),
  `${"k".repeat(1023)}l`,
  "é".repeat(512),
];

/** Tests that a store returns values unchanged, and that batches, `has` and `delete` return the right results. */
export function describeValues(test: StoreTest, options: StoreContractOptions): void {
  test("a store declares that it accepts expiries as absolute times", async ({ store }) => {
    assert.equal(store.capabilities?.expires, true);
  });

  test("get() returns the stored value, and undefined for a missing record", async ({ store }) => {
    assert.equal(await store.get("key"), undefined);
    assert.equal(await store.set("key", "value"), true);
    assertValue(await store.get("key"), "value");
    assert.equal(await store.get("other"), undefined);
  });

  test("get() returns the value of the last write", async ({ store }) => {
    await store.set("key", "a longer value");
    await store.set("key", "value");
    assertValue(await store.get("key"), "value");
  });

  test("get() returns any text unchanged", async ({ store }) => {
    const texts = ["", " ", "0", "null", '{"value":1}', "a\0b", "\ufeffa", "\u00e9", "e\u0301", "😀", ":base64:aaaa"];
    for (const [index, text] of texts.entries()) await store.set(`key-${index}`, text);
    for (const [index, text] of texts.entries()) assertValue(await store.get(`key-${index}`), text);
  });

  test("get() returns a text of 1 MiB unchanged", async ({ store }) => {
    const text = `${"x".repeat(oneMebibyte - 4)}😀`;
    await store.set("key", text);
    assertValue(await store.get("key"), text);
  });

  test("a store refuses text with a lone surrogate, or returns this text unchanged", async ({ store }) => {
    const isStored = await isAccepted(() => store.set("key", "a\ud800"));
    assertValue(await store.get("key"), isStored ? "a\ud800" : undefined);
  });

  if (options.roundTripsBytes ?? options.expect.bytes) describeBytes(test);

  test("a batch returns its results in the order of its keys, also for duplicate and missing keys", async ({
    store,
  }) => {
    const set = await store.setMany([
      { key: "a", value: "1" },
      { key: "b", value: "2" },
      { key: "a", value: "3" },
    ]);
    if (set !== undefined) assert.deepEqual(set, [true, true, true]);
    const keys = ["b", "none", "a", "b", "a", "none"];
    assertValues(await store.getMany(keys), ["2", undefined, "3", "2", "3", undefined]);
    assert.deepEqual(await store.hasMany(keys), [true, false, true, true, true, false]);
  });

  test("setMany(), getMany(), hasMany() and deleteMany() accept empty batches", async ({ store }) => {
    await store.setMany([]);
    assert.deepEqual(await store.getMany([]), []);
    assert.deepEqual(await store.hasMany([]), []);
    assert.deepEqual(await store.deleteMany([]), []);
  });

  test("a store accepts batches of thousands of records", async ({ store }) => {
    const keys = numbered("key-", 3_000);
    await store.setMany(keys.map((key) => ({ key, value: `value of ${key}` })));
    assertValues(
      await store.getMany(keys),
      keys.map((key) => `value of ${key}`),
    );
    assert.deepEqual(new Set(await store.deleteMany(keys)), new Set([true]));
    assert.deepEqual(new Set(await store.hasMany(keys)), new Set([false]));
  });

  test("has() returns whether a record exists", async ({ store }) => {
    await store.set("empty", "");
    assert.equal(await store.has("empty"), true);
    assert.equal(await store.has("none"), false);
  });

  test("delete() returns whether the record existed", async ({ store }) => {
    await store.set("key", "value");
    assert.equal(await store.delete("key"), true);
    assert.equal(await store.delete("key"), false);
    assert.equal(await store.get("key"), undefined);
    await store.setMany([
      { key: "a", value: "1" },
      { key: "b", value: "2" },
    ]);
    assert.deepEqual(await store.deleteMany(["b", "none", "a", "b"]), [true, false, true, false]);
    assertValues(await store.getMany(["a", "b"]), [undefined, undefined]);
  });

  test("a Keyv over the store stores, lists, deletes and clears its records", async ({ inNamespace }) => {
    const keyv = new Keyv({ store: inNamespace("flows"), namespace: "flows", checkExpired: false });
    await keyv.set("a", { step: 1 });
    await keyv.setMany([
      { key: "b", value: [2], ttl: longMs },
      { key: "c", value: null },
    ]);
    assert.deepEqual(await keyv.getMany(["c", "a", "none", "b"]), [null, { step: 1 }, undefined, [2]]);
    const found: unknown[] = [];
    for await (const [key] of keyv.iterator()) found.push(key);
    assert.deepEqual(found.sort(), ["a", "b", "c"]);
    assert.equal(await keyv.delete("a"), true);
    assert.equal(await keyv.has("a"), false);
    await keyv.clear();
    assert.equal(await keyv.get("b"), undefined);
  });

  test("disconnect() can be called twice", async ({ store }) => {
    await store.set("key", "value");
    await store.disconnect?.();
    await store.disconnect?.();
  });
}

function describeBytes(test: StoreTest): void {
  const allBytes = Uint8Array.from({ length: 256 }, (_, index) => index);

  test("get() returns bytes as bytes and text as text", async ({ store }) => {
    const values: StoredValue[] = [
      allBytes,
      new Uint8Array(0),
      Buffer.from("text"),
      "text",
      "",
      new Uint8Array(oneMebibyte).fill(7),
    ];
    const keys = numbered("key-", values.length);
    await store.setMany(keys.map((key, index) => ({ key, value: values[index] })));
    assertValues(await store.getMany(keys), values);
    for (const [index, key] of keys.entries()) assertValue(await store.get(key), values[index]);
    const found = await iterated(store);
    for (const [index, key] of keys.entries()) assertValue(found.get(key), values[index]);
  });

  test("set() stores only the bytes of a Uint8Array, and not the rest of its larger buffer", async ({ store }) => {
    await store.set("key", allBytes.subarray(10, 20));
    assertValue(await store.get("key"), allBytes.slice(10, 20));
  });

  test("stored bytes stay unchanged if a caller changes the bytes that it wrote or read", async ({ store }) => {
    const mine = Uint8Array.of(1, 2, 3);
    await store.set("key", mine);
    mine.fill(9);
    const read: unknown = await store.get("key");
    assertValue(read, Uint8Array.of(1, 2, 3));
    if (read instanceof Uint8Array) read.fill(9);
    assertValue(await store.get("key"), Uint8Array.of(1, 2, 3));
  });
}

/** Namespaces that a faulty store may use as patterns, or may confuse with each other. */
const unusualNamespaces = [
  "",
  "a",
  "abc",
  "a*",
  "a?c",
  "[abc]",
  "a:b",
  "a%3Ab",
  "%",
  "_",
  "A",
  "__proto__",
  "\u00e9",
  "e\u0301",
];

/** Tests that no call in one namespace reaches the records of another namespace. */
export function describeNamespaces(test: StoreTest, options: StoreContractOptions): void {
  const namespaces = unusualNamespaces.filter((namespace) => !isRefused(namespace, options));

  test("a store keeps the records of each namespace separate", async ({ inNamespace }) => {
    for (const namespace of namespaces) await inNamespace(namespace).set("key", `in ${namespace}`);
    for (const namespace of namespaces) {
      assertValue(await inNamespace(namespace).get("key"), `in ${namespace}`);
      assertValues(await inNamespace(namespace).getMany(["key", "none"]), [`in ${namespace}`, undefined]);
    }
    assert.equal(await inNamespace("a").delete("key"), true);
    assert.deepEqual(await inNamespace("a").hasMany(["key"]), [false]);
    assert.equal(await inNamespace("abc").has("key"), true);
  });

  test("stores in other namespaces still read and write after a store in one namespace is disconnected", async ({
    store,
    inNamespace,
  }) => {
    const [leaving, other] = [inNamespace("a"), inNamespace("b")];
    for (const each of [leaving, other, store]) await each.set("key", "value");
    // Disconnect one store while calls of the other stores are in progress, and again afterwards.
    const [read] = await Promise.all([other.get("key"), leaving.disconnect?.(), store.set("key", "newer")]);
    assertValue(read, "value");
    await leaving.disconnect?.();
    assertValue(await other.get("key"), "value");
    assertValue(await store.get("key"), "newer");
    assertValue(await inNamespace("b").get("key"), "value");
    for (const each of [other, store]) assert.equal(await each.delete("key"), true);
  });

  if (!isRefused("a::b", options)) {
    test(
      'a store in the namespace "a" does not iterate over or clear the namespace "a::b"',
      async ({ inNamespace }) => {
        await inNamespace("a::b").set("key", "value");
        assert.equal((await iterated(inNamespace("a"))).size, 0);
        await inNamespace("a").clear();
        assertValue(await inNamespace("a::b").get("key"), "value");
      },
      "namespaces-collide",
    );
  }

  if (options.refusesNamespacesWith !== undefined) describeRefusals(test, options.refusesNamespacesWith);

  test("only a store without a namespace finds a record without a namespace", async ({ store, inNamespace }) => {
    await store.set("key", "value");
    assertValue(await inNamespace("").get("key"), "value");
    assert.equal(await inNamespace("a").get("key"), undefined);
  });

  for (const separator of [":", "::", "/", "\0", "%", "."]) {
    test(
      `records are separate if their namespaces or keys contain ${JSON.stringify(separator)}`,
      async ({ inNamespace }) => {
        const addresses = [
          [`a${separator}b`, "c"],
          ["a", `b${separator}c`],
          ["", `a${separator}b${separator}c`],
        ].filter(([namespace = ""]) => !isRefused(namespace, options));
        for (const [namespace = "", key = ""] of addresses) await inNamespace(namespace).set(key, `in "${namespace}"`);
        for (const [namespace = "", key = ""] of addresses) {
          assertValue(await inNamespace(namespace).get(key), `in "${namespace}"`);
        }
      },
      separator === "::" ? "namespaces-collide" : undefined,
    );
  }

  for (const cleared of ["a*", "a?c", "[abc]", "%", "_", "a", "abc"]) {
    test(`clear() removes only the records of the namespace ${JSON.stringify(cleared)}`, async ({ inNamespace }) => {
      await fillNamespaces(inNamespace, namespaces);
      await inNamespace(cleared).clear();
      await assertOnlyCleared(inNamespace, namespaces, cleared);
    });
  }

  test(
    "clear() of a store without a namespace removes only the records without a namespace",
    async ({ store, inNamespace }) => {
      await fillNamespaces(inNamespace, namespaces);
      await store.clear();
      await assertOnlyCleared(inNamespace, namespaces, "");
    },
    "no-namespace-is-all",
  );

  test("iterator() yields only the records of the namespace of its store", async ({ inNamespace }) => {
    await fillNamespaces(inNamespace, namespaces);
    for (const namespace of namespaces.slice(1)) {
      const found = await iterated(inNamespace(namespace));
      assert.deepEqual([...found.keys()].sort(), ["key", "other"]);
      assertValue(found.get("key"), `in ${namespace}`);
    }
    assert.equal((await iterated(inNamespace("empty"))).size, 0);
  });

  test(
    "iterator() of a store without a namespace yields only the records without a namespace",
    async ({ store, inNamespace }) => {
      await fillNamespaces(inNamespace, namespaces);
      const found = await iterated(store);
      assert.deepEqual([...found.keys()].sort(), ["key", "other"]);
      assertValue(found.get("key"), "in ");
    },
    "no-namespace-is-all",
  );

  test("iterator() yields every record that is not deleted during the iteration, even if other records change", async ({
    inNamespace,
  }) => {
    const store = inNamespace("walked");
    const staying = numbered("staying-", 600);
    const leaving = numbered("leaving-", 600);
    await store.setMany([...staying, ...leaving].map((key) => ({ key, value: "old" })));
    const seen = new Set<unknown>();
    assert.ok(store.iterator);
    let step = 0;
    for await (const [key] of store.iterator()) {
      seen.add(key);
      if (step < leaving.length) {
        await store.delete(`leaving-${step}`);
        await store.set(`staying-${step}`, "new");
        if (step % 10 === 0) await store.set(`coming-${step}`, "new");
      }
      step++;
    }
    for (const key of staying) assert.ok(seen.has(key), "a record that stayed was not iterated over");
  });

  if (options.expect.bytes) {
    test("iterator() yields both text and bytes", async ({ inNamespace }) => {
      const store = inNamespace("mixed");
      await store.set("text", "text");
      await store.set("bytes", Buffer.from("text"));
      const found = await iterated(store);
      assertValue(found.get("text"), "text");
      assertValue(found.get("bytes"), Buffer.from("text"));
    });
  }
}

/** Tests that every call in a namespace that contains the separator rejects, and that nothing is written. */
function describeRefusals(test: StoreTest, separator: string): void {
  for (const namespace of [separator, `a${separator}b`, `a${separator}`, `${separator}b`]) {
    test(`every call rejects in the namespace ${JSON.stringify(namespace)}`, async ({ inNamespace }) => {
      const store = inNamespace(namespace);
      const entry = { key: "key", value: "value" };
      const calls: Record<string, () => unknown> = {
        set: () => store.set(entry.key, entry.value),
        setMany: () => store.setMany([entry]),
        get: () => store.get(entry.key),
        getMany: () => store.getMany([entry.key]),
        has: () => store.has(entry.key),
        hasMany: () => store.hasMany([entry.key]),
        delete: () => store.delete(entry.key),
        deleteMany: () => store.deleteMany([entry.key]),
        clear: () => store.clear(),
        iterator: () => store.iterator?.().next(),
        ...(isAtomic(store) ? { replace: () => store.replace(entry.key, undefined, entry.value) } : {}),
      };
      for (const [name, call] of Object.entries(calls)) {
        await assert.rejects(async () => call(), { name: "KeywardError", code: "VALUE_INVALID" }, name);
      }
      for (const other of ["", "a", "b"]) assert.equal((await iterated(inNamespace(other))).size, 0);
    });
  }
}

async function fillNamespaces(
  inNamespace: (namespace: string) => KeyvStorageAdapter,
  namespaces: readonly string[],
): Promise<void> {
  for (const namespace of namespaces) {
    await inNamespace(namespace).setMany([
      { key: "key", value: `in ${namespace}` },
      { key: "other", value: "other" },
    ]);
  }
}

async function assertOnlyCleared(
  inNamespace: (namespace: string) => KeyvStorageAdapter,
  namespaces: readonly string[],
  cleared: string,
): Promise<void> {
  for (const namespace of namespaces) {
    const exists = namespace !== cleared;
    assert.deepEqual(await inNamespace(namespace).hasMany(["key", "other"]), [exists, exists], `in "${namespace}"`);
  }
}

/** Tests that different keys are different records, whatever characters they contain. */
export function describeKeys(test: StoreTest): void {
  test("a store keeps records under unusual keys separate", async ({ inNamespace }) => {
    const store = inNamespace("odd");
    for (const key of unusualKeys) assert.equal(await store.has(key), false);
    await store.setMany(unusualKeys.map((key, index) => ({ key, value: `value ${index}` })));
    const expected = unusualKeys.map((_, index) => `value ${index}`);
    assertValues(await store.getMany([...unusualKeys]), expected);
    for (const [index, key] of unusualKeys.entries()) assertValue(await store.get(key), `value ${index}`);
    const found = await iterated(store);
    assert.deepEqual(new Set(found.keys()), new Set(unusualKeys));
    for (const [index, key] of unusualKeys.entries()) {
      assert.equal(await store.delete(key), true);
      assert.deepEqual(
        await store.hasMany([...unusualKeys]),
        unusualKeys.map((_, other) => other > index),
      );
    }
  });

  test("a store refuses keys that are not well-formed, or keeps their records separate", async ({ store }) => {
    const keys = ["\ufffd", "\ud800", "\ud801", "\udc00", "a\ud800", "a\ufffd"];
    const stored: string[] = [];
    for (const key of keys) if (await isAccepted(() => store.set(key, JSON.stringify(key)))) stored.push(key);
    assert.ok(stored.includes("\ufffd"), "the store refused U+FFFD, which is well-formed");
    for (const key of stored) assertValue(await store.get(key), JSON.stringify(key));
  });

  test("a store behaves like a Map for any sequence of calls with any well-formed keys", async ({ inNamespace }) => {
    const store = inNamespace("model");
    const text = fc.string({ unit: "binary", maxLength: 20 });
    const call = fc.record({
      method: fc.constantFrom("set", "delete", "get", "has", "getMany", "setMany", "deleteMany", "clear"),
      keys: fc.array(fc.nat({ max: 5 }), { minLength: 1, maxLength: 4 }),
      value: text,
    });
    await fc.assert(
      fc.asyncProperty(
        fc.uniqueArray(text, { minLength: 6, maxLength: 6 }),
        fc.array(call, { maxLength: 20 }),
        async (names, calls) => {
          await store.clear();
          const model = new Map<string, string>();
          for (const { method, keys: picks, value } of calls) {
            const keys = picks.map((pick) => names[pick] ?? "");
            const [key = ""] = keys;
            switch (method) {
              case "set":
                await store.set(key, value);
                model.set(key, value);
                break;
              case "setMany":
                await store.setMany(keys.map((each, index) => ({ key: each, value: `${value}${index}` })));
                for (const [index, each] of keys.entries()) model.set(each, `${value}${index}`);
                break;
              case "delete":
                assert.equal(await store.delete(key), model.delete(key));
                break;
              case "deleteMany":
                assert.deepEqual(
                  await store.deleteMany(keys),
                  keys.map((each) => model.delete(each)),
                );
                break;
              case "get":
                assertValue(await store.get(key), model.get(key));
                break;
              case "getMany":
                assertValues(
                  await store.getMany(keys),
                  keys.map((each) => model.get(each)),
                );
                break;
              case "has":
                assert.equal(await store.has(key), model.has(key));
                break;
              case "clear":
                await store.clear();
                model.clear();
                break;
            }
          }
          assert.deepEqual(await iterated(store), model);
        },
      ),
      { numRuns: 40 },
    );
  });
}

/** Tests that a record expires exactly at its expiry, not earlier and not later. */
export function describeExpiry(test: StoreTest, { takesDurations = false }: StoreContractOptions): void {
  test("a record is missing if it is written with a past expiry", async ({ store }) => {
    await store.set("replaced", "value");
    for (const key of ["replaced", "new"]) {
      await store.set(key, "value", Date.now() - 1);
      assert.equal(await store.get(key), undefined);
      assert.equal(await store.has(key), false);
    }
    await store.setMany([
      { key: "a", value: "1", expires: Date.now() - longMs },
      { key: "b", value: "2", expires: Date.now() + longMs },
    ]);
    assertValues(await store.getMany(["a", "b"]), [undefined, "2"]);
    assert.deepEqual([...(await iterated(store)).keys()], ["b"]);
  });

  test(
    "a record is missing from the very millisecond in which it expires",
    async ({ store }) => {
      for (let round = 0; round < 100; round++) {
        await store.set("key", "value", Date.now());
        assert.equal(await store.get("key"), undefined);
      }
      for (let round = 0; round < 10; round++) {
        const expires = Date.now() + 3;
        await store.set("key", "value", expires);
        let readAtMs: number;
        let value: unknown;
        do {
          readAtMs = Date.now();
          value = await store.get("key");
        } while (readAtMs < expires);
        assert.equal(value, undefined);
      }
    },
    "alive-when-expiring",
  );

  test("get() returns a record until it expires, and not afterwards", async ({ store }) => {
    const expires = Date.now() + shortMs;
    await store.setMany([
      { key: "short", value: "value", expires },
      { key: "long", value: "value", expires: Date.now() + longMs },
      { key: "forever", value: "value" },
    ]);
    const early = await store.get("short");
    if (Date.now() < expires) assertValue(early, "value");
    await eventually("the record expires", async () => (await store.get("short")) === undefined);
    assert.ok(Date.now() >= expires, "the record was missing before it expired");
    assert.equal(await store.has("short"), false);
    assertValues(await store.getMany(["short", "long", "forever"]), [undefined, "value", "value"]);
    assert.deepEqual([...(await iterated(store)).keys()].sort(), ["forever", "long"]);
  });

  test(
    "delete() returns false for an expired record",
    async ({ store }) => {
      await expire(store, "key");
      assert.equal(await store.delete("key"), false);
      await expire(store, "key");
      assert.deepEqual(await store.deleteMany(["key"]), [false]);
    },
    "delete-finds-expired",
  );

  test("a record has the expiry of its last write, or no expiry if the last write has none", async ({ store }) => {
    const expires = Date.now() + shortMs;
    await store.set("longer", "value", expires);
    await store.set("longer", "value", Date.now() + longMs);
    await store.set("forever", "value", expires);
    await store.set("forever", "value");
    await store.set("witness", "value", expires);
    await eventually("the first expiry passes", async () => !(await store.has("witness")));
    assertValues(await store.getMany(["longer", "forever"]), ["value", "value"]);
  });

  test("set() accepts an expiry that has a fraction of a millisecond, or that is far in the future", async ({
    store,
  }) => {
    await store.set("fraction", "value", Date.now() + longMs + 0.5);
    await store.set("far", "value", 2 ** 48 - 1);
    assertValues(await store.getMany(["fraction", "far"]), ["value", "value"]);
  });

  test("set() stores a new record under the key of an expired record", async ({ store }) => {
    await expire(store, "key");
    await store.set("key", "new");
    assertValue(await store.get("key"), "new");
  });

  if (takesDurations) describeDurations(test);
}

/** Tests expiries that Keyv 5 passes: durations from the time of the call. */
function describeDurations(test: StoreTest): void {
  test("set() counts a duration from the time of the call", async ({ store }) => {
    const startMs = Date.now();
    const tenYearsMs = 315_360_000_000;
    for (const durationMs of [longMs, tenYearsMs]) {
      await store.set("key", "value", durationMs);
      assertValue(await store.get("key"), "value", `after a write with a duration of ${durationMs} ms`);
    }
    await store.set("key", "new", shortMs);
    await eventually("the record expires", async () => !(await store.has("key")));
    assert.ok(Date.now() >= startMs + shortMs, "the record was missing before it expired");
  });

  test("setMany() counts the ttl of an entry from the time of the call", async ({ store }) => {
    const startMs = Date.now();
    const entries = [
      { key: "short", value: "value", ttl: shortMs },
      { key: "long", value: "value", ttl: longMs },
      { key: "forever", value: "value", ttl: undefined },
      { key: "zero", value: "value", ttl: 0 },
      { key: "replaced", value: "value", ttl: -1 },
    ];
    await store.set("replaced", "value");
    await store.setMany(entries);
    assertValues(await store.getMany(["long", "forever", "zero", "replaced"]), ["value", "value", "value", undefined]);
    await eventually("the short record expires", async () => !(await store.has("short")));
    assert.ok(Date.now() >= startMs + shortMs, "the record was missing before it expired");
    assertValues(await store.getMany(["long", "forever", "zero"]), ["value", "value", "value"]);
  });
}

/** Tests concurrent calls, through two connections if the backend allows two. */
export function describeConcurrency(test: StoreTest): void {
  test("no write is lost if many writes to different keys are concurrent", async (opened) => {
    const writers = [opened.store, await secondWriter(opened)];
    const keys = numbered("key-", 100);
    await Promise.all(keys.map((key, index) => writers[index % 2]?.set(key, `value of ${key}`)));
    for (const writer of writers) {
      assertValues(
        await writer.getMany(keys),
        keys.map((key) => `value of ${key}`),
      );
    }
  });

  test("a store keeps one of many concurrent writes to one key, and returns the value of that write to every reader", async (opened) => {
    const writers = [opened.store, await secondWriter(opened)];
    const values = numbered("value-", 50);
    await Promise.all(values.map((value, index) => writers[index % 2]?.set("key", value)));
    const [one, other] = await Promise.all(writers.map((writer) => writer.get<string>("key")));
    assert.ok(values.some((value) => value === one));
    assert.equal(other, one);
  });

  test("delete() returns true for exactly one of several concurrent deletions of a record", async (opened) => {
    const writers = [opened.store, await secondWriter(opened)];
    for (let round = 0; round < 10; round++) {
      await opened.store.set("key", "value");
      const found = await Promise.all(writers.flatMap((writer) => [writer.delete("key"), writer.delete("key")]));
      assert.equal(found.filter(Boolean).length, 1);
    }
  });

  test("a store accepts concurrent batches of writes, reads and deletions", async (opened) => {
    const writers = [opened.store, await secondWriter(opened)];
    await Promise.all(
      writers.map(async (writer, index) => {
        const kept = numbered(`kept-${index}-`, 50);
        const dropped = numbered(`dropped-${index}-`, 50);
        await writer.setMany([...kept, ...dropped].map((key) => ({ key, value: key })));
        await Promise.all([writer.deleteMany(dropped), writer.getMany(kept), writer.hasMany(dropped)]);
        assertValues(await writer.getMany(kept), kept);
        assert.deepEqual(new Set(await writer.hasMany(dropped)), new Set([false]));
      }),
    );
  });
}

/**
 * Writes a record that expires soon, and waits until it has expired. Does not read this record while it waits: instead,
 * reads a second record with the same expiry.
 */
export async function expire(store: KeyvStorageAdapter, key: string): Promise<void> {
  const expires = Date.now() + shortMs;
  await store.set(key, "expired", expires);
  const witness = `${key}, witness`;
  await store.set(witness, "expired", expires);
  await eventually("the record expires", async () => !(await store.has(witness)));
}

/** Returns whether a store accepts a write. A rejection and a result of `false` are both refusals. */
async function isAccepted(write: () => Promise<boolean>): Promise<boolean> {
  try {
    return await write();
  } catch {
    return false;
  }
}
