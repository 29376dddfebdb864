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

/** Keys that a store may be tempted to cut, join, fold, escape or look up in a prototype. All different. */
export const oddKeys: readonly string[] = [
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

/** What Keyv asks of a store: values, batches, presence, deletion, namespaces, iteration. */
export function describeValues(test: StoreTest, options: StoreContractOptions): void {
  test("declares that it takes absolute expiries", async ({ store }) => {
    assert.equal(store.capabilities?.expires, true);
  });

  test("gives back what was stored, and undefined for what was not", async ({ store }) => {
    assert.equal(await store.get("key"), undefined);
    assert.equal(await store.set("key", "value"), true);
    assertValue(await store.get("key"), "value");
    assert.equal(await store.get("other"), undefined);
  });

  test("stores the last of several values", async ({ store }) => {
    await store.set("key", "a longer value");
    await store.set("key", "value");
    assertValue(await store.get("key"), "value");
  });

  test("keeps any text as it is", async ({ store }) => {
    const texts = ["", " ", "0", "null", '{"value":1}', "a\0b", "\ufeffa", "\u00e9", "e\u0301", "😀", ":base64:aaaa"];
    for (const [index, text] of texts.entries()) await store.set(`key-${index}`, text);
    for (const [index, text] of texts.entries()) assertValue(await store.get(`key-${index}`), text);
  });

  test("keeps a text of a mebibyte", async ({ store }) => {
    const text = `${"x".repeat(oneMebibyte - 4)}😀`;
    await store.set("key", text);
    assertValue(await store.get("key"), text);
  });

  test("refuses ill-formed text, or gives it back as it was", async ({ store }) => {
    const stored = await isAccepted(() => store.set("key", "a\ud800"));
    assertValue(await store.get("key"), stored ? "a\ud800" : undefined);
  });

  if (options.roundTripsBytes ?? options.expect.bytes) describeBytes(test);

  test("answers a batch in the order of its keys, with duplicates and misses", async ({ store }) => {
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

  test("takes empty batches", async ({ store }) => {
    await store.setMany([]);
    assert.deepEqual(await store.getMany([]), []);
    assert.deepEqual(await store.hasMany([]), []);
    assert.deepEqual(await store.deleteMany([]), []);
  });

  test("takes batches of thousands", async ({ store }) => {
    const keys = numbered("key-", 3_000);
    await store.setMany(keys.map((key) => ({ key, value: `value of ${key}` })));
    assertValues(
      await store.getMany(keys),
      keys.map((key) => `value of ${key}`),
    );
    assert.deepEqual(new Set(await store.deleteMany(keys)), new Set([true]));
    assert.deepEqual(new Set(await store.hasMany(keys)), new Set([false]));
  });

  test("has what was stored", async ({ store }) => {
    await store.set("empty", "");
    assert.equal(await store.has("empty"), true);
    assert.equal(await store.has("none"), false);
  });

  test("says of a deletion whether there was something", async ({ store }) => {
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

  test("works under Keyv", async ({ inNamespace }) => {
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

  test("disconnects, also twice", async ({ store }) => {
    await store.set("key", "value");
    await store.disconnect?.();
    await store.disconnect?.();
  });
}

function describeBytes(test: StoreTest): void {
  const allBytes = Uint8Array.from({ length: 256 }, (_, index) => index);

  test("keeps bytes as bytes, and text beside them as text", async ({ store }) => {
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

  test("keeps a part of a larger buffer", async ({ store }) => {
    await store.set("key", allBytes.subarray(10, 20));
    assertValue(await store.get("key"), allBytes.slice(10, 20));
  });

  test("does not let callers change what lies in it", async ({ store }) => {
    const mine = Uint8Array.of(1, 2, 3);
    await store.set("key", mine);
    mine.fill(9);
    const read: unknown = await store.get("key");
    assertValue(read, Uint8Array.of(1, 2, 3));
    if (read instanceof Uint8Array) read.fill(9);
    assertValue(await store.get("key"), Uint8Array.of(1, 2, 3));
  });
}

/** Namespaces that a store may be tempted to join with keys, or to take for patterns. */
const oddNamespaces = [
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

/** Records of one namespace are out of reach of all others. */
export function describeNamespaces(test: StoreTest, options: StoreContractOptions): void {
  const namespaces = oddNamespaces.filter((namespace) => !isRefused(namespace, options));

  test("keeps namespaces apart", async ({ inNamespace }) => {
    for (const namespace of namespaces) await inNamespace(namespace).set("key", `in ${namespace}`);
    for (const namespace of namespaces) {
      assertValue(await inNamespace(namespace).get("key"), `in ${namespace}`);
      assertValues(await inNamespace(namespace).getMany(["key", "none"]), [`in ${namespace}`, undefined]);
    }
    assert.equal(await inNamespace("a").delete("key"), true);
    assert.deepEqual(await inNamespace("a").hasMany(["key"]), [false]);
    assert.equal(await inNamespace("abc").has("key"), true);
  });

  test("goes on in the other namespaces when a store in one of them is disconnected", async ({
    store,
    inNamespace,
  }) => {
    const [gone, other] = [inNamespace("a"), inNamespace("b")];
    for (const each of [gone, other, store]) await each.set("key", "value");
    // With calls of the others on their way, and twice.
    const [read] = await Promise.all([other.get("key"), gone.disconnect?.(), store.set("key", "newer")]);
    assertValue(read, "value");
    await gone.disconnect?.();
    assertValue(await other.get("key"), "value");
    assertValue(await store.get("key"), "newer");
    assertValue(await inNamespace("b").get("key"), "value");
    for (const each of [other, store]) assert.equal(await each.delete("key"), true);
  });

  if (!isRefused("a::b", options)) {
    test(
      "takes nothing of a namespace that begins like its own",
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

  test("finds without a namespace what was stored without one", async ({ store, inNamespace }) => {
    await store.set("key", "value");
    assertValue(await inNamespace("").get("key"), "value");
    assert.equal(await inNamespace("a").get("key"), undefined);
  });

  for (const separator of [":", "::", "/", "\0", "%", "."]) {
    test(
      `does not join namespace and key at ${JSON.stringify(separator)}`,
      async ({ inNamespace }) => {
        const places = [
          [`a${separator}b`, "c"],
          ["a", `b${separator}c`],
          ["", `a${separator}b${separator}c`],
        ].filter(([namespace = ""]) => !isRefused(namespace, options));
        for (const [namespace = "", key = ""] of places) await inNamespace(namespace).set(key, `in "${namespace}"`);
        for (const [namespace = "", key = ""] of places) {
          assertValue(await inNamespace(namespace).get(key), `in "${namespace}"`);
        }
      },
      separator === "::" ? "namespaces-collide" : undefined,
    );
  }

  for (const cleared of ["a*", "a?c", "[abc]", "%", "_", "a", "abc"]) {
    test(`clears ${JSON.stringify(cleared)} and nothing else`, async ({ inNamespace }) => {
      await fillNamespaces(inNamespace, namespaces);
      await inNamespace(cleared).clear();
      await assertOnlyCleared(inNamespace, namespaces, cleared);
    });
  }

  test(
    "clears the records without a namespace and nothing else",
    async ({ store, inNamespace }) => {
      await fillNamespaces(inNamespace, namespaces);
      await store.clear();
      await assertOnlyCleared(inNamespace, namespaces, "");
    },
    "no-namespace-is-all",
  );

  test("iterates over its own namespace", async ({ inNamespace }) => {
    await fillNamespaces(inNamespace, namespaces);
    for (const namespace of namespaces.slice(1)) {
      const found = await iterated(inNamespace(namespace));
      assert.deepEqual([...found.keys()].sort(), ["key", "other"]);
      assertValue(found.get("key"), `in ${namespace}`);
    }
    assert.equal((await iterated(inNamespace("empty"))).size, 0);
  });

  test(
    "iterates over the records without a namespace and nothing else",
    async ({ store, inNamespace }) => {
      await fillNamespaces(inNamespace, namespaces);
      const found = await iterated(store);
      assert.deepEqual([...found.keys()].sort(), ["key", "other"]);
      assertValue(found.get("key"), "in ");
    },
    "no-namespace-is-all",
  );

  test("iterates on while records are changed, added and deleted", async ({ inNamespace }) => {
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
    for (const key of staying) assert.ok(seen.has(key), "a record that was there throughout was iterated over");
  });

  if (options.expect.bytes) {
    test("iterates over values of both types", async ({ inNamespace }) => {
      const store = inNamespace("mixed");
      await store.set("text", "text");
      await store.set("bytes", Buffer.from("text"));
      const found = await iterated(store);
      assertValue(found.get("text"), "text");
      assertValue(found.get("bytes"), Buffer.from("text"));
    });
  }
}

/** A store that cannot keep a namespace apart from others says so at every call, and writes nothing. */
function describeRefusals(test: StoreTest, separator: string): void {
  for (const namespace of [separator, `a${separator}b`, `a${separator}`, `${separator}b`]) {
    test(`refuses the namespace ${JSON.stringify(namespace)}`, async ({ inNamespace }) => {
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
    const there = namespace !== cleared;
    assert.deepEqual(await inNamespace(namespace).hasMany(["key", "other"]), [there, there], `in "${namespace}"`);
  }
}

/** Keys are places: no two of them are one, and none is more than a name. */
export function describeKeys(test: StoreTest): void {
  test("keeps odd keys apart", async ({ inNamespace }) => {
    const store = inNamespace("odd");
    for (const key of oddKeys) assert.equal(await store.has(key), false);
    await store.setMany(oddKeys.map((key, index) => ({ key, value: `value ${index}` })));
    const expected = oddKeys.map((_, index) => `value ${index}`);
    assertValues(await store.getMany([...oddKeys]), expected);
    for (const [index, key] of oddKeys.entries()) assertValue(await store.get(key), `value ${index}`);
    const found = await iterated(store);
    assert.deepEqual(new Set(found.keys()), new Set(oddKeys));
    for (const [index, key] of oddKeys.entries()) {
      assert.equal(await store.delete(key), true);
      assert.deepEqual(
        await store.hasMany([...oddKeys]),
        oddKeys.map((_, other) => other > index),
      );
    }
  });

  test("refuses keys that are not well-formed, or keeps them apart", async ({ store }) => {
    const keys = ["\ufffd", "\ud800", "\ud801", "\udc00", "a\ud800", "a\ufffd"];
    const stored: string[] = [];
    for (const key of keys) if (await isAccepted(() => store.set(key, JSON.stringify(key)))) stored.push(key);
    assert.ok(stored.includes("\ufffd"), "U+FFFD is well-formed");
    for (const key of stored) assertValue(await store.get(key), JSON.stringify(key));
  });

  test("agrees with a Map on any sequence of calls with any well-formed keys", async ({ inNamespace }) => {
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

/** A record stops being there at its time, not before and not after. */
export function describeExpiry(test: StoreTest, { takesDurations = false }: StoreContractOptions): void {
  test("has nothing where the expiry has passed already", async ({ store }) => {
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
    "has nothing in the millisecond of the expiry",
    async ({ store }) => {
      for (let round = 0; round < 100; round++) {
        await store.set("key", "value", Date.now());
        assert.equal(await store.get("key"), undefined);
      }
      for (let round = 0; round < 10; round++) {
        const expires = Date.now() + 3;
        await store.set("key", "value", expires);
        let asked: number;
        let answer: unknown;
        do {
          asked = Date.now();
          answer = await store.get("key");
        } while (asked < expires);
        assert.equal(answer, undefined);
      }
    },
    "alive-when-expiring",
  );

  test("keeps a record until it expires, and not longer", async ({ store }) => {
    const expires = Date.now() + shortMs;
    await store.setMany([
      { key: "short", value: "value", expires },
      { key: "long", value: "value", expires: Date.now() + longMs },
      { key: "for ever", value: "value" },
    ]);
    const early = await store.get("short");
    if (Date.now() < expires) assertValue(early, "value");
    await eventually("the record expires", async () => (await store.get("short")) === undefined);
    assert.ok(Date.now() >= expires, "the record was gone before it expired");
    assert.equal(await store.has("short"), false);
    assertValues(await store.getMany(["short", "long", "for ever"]), [undefined, "value", "value"]);
    assert.deepEqual([...(await iterated(store)).keys()].sort(), ["for ever", "long"]);
  });

  test(
    "deletes nothing where a record has expired",
    async ({ store }) => {
      await expire(store, "key");
      assert.equal(await store.delete("key"), false);
      await expire(store, "key");
      assert.deepEqual(await store.deleteMany(["key"]), [false]);
    },
    "delete-finds-expired",
  );

  test("takes the expiry of the last write, also none", async ({ store }) => {
    const expires = Date.now() + shortMs;
    await store.set("longer", "value", expires);
    await store.set("longer", "value", Date.now() + longMs);
    await store.set("for ever", "value", expires);
    await store.set("for ever", "value");
    await store.set("witness", "value", expires);
    await eventually("the first expiry passes", async () => !(await store.has("witness")));
    assertValues(await store.getMany(["longer", "for ever"]), ["value", "value"]);
  });

  test("takes a fraction of a millisecond and times far away", async ({ store }) => {
    await store.set("fraction", "value", Date.now() + longMs + 0.5);
    await store.set("far", "value", 2 ** 48 - 1);
    assertValues(await store.getMany(["fraction", "far"]), ["value", "value"]);
  });

  test("stores anew where a record has expired", async ({ store }) => {
    await expire(store, "key");
    await store.set("key", "new");
    assertValue(await store.get("key"), "new");
  });

  if (takesDurations) describeDurations(test);
}

/** How Keyv 5 says until when a record stays. */
function describeDurations(test: StoreTest): void {
  test("counts a duration from now", async ({ store }) => {
    const startMs = Date.now();
    const tenYearsMs = 315_360_000_000;
    for (const durationMs of [longMs, tenYearsMs]) {
      await store.set("key", "value", durationMs);
      assertValue(await store.get("key"), "value", `after a write for ${durationMs} ms`);
    }
    await store.set("key", "new", shortMs);
    await eventually("the record expires", async () => !(await store.has("key")));
    assert.ok(Date.now() >= startMs + shortMs, "the record was gone before it expired");
  });

  test("counts the ttl of an entry from now", async ({ store }) => {
    const startMs = Date.now();
    const entries = [
      { key: "short", value: "value", ttl: shortMs },
      { key: "long", value: "value", ttl: longMs },
      { key: "for ever", value: "value", ttl: undefined },
      { key: "zero", value: "value", ttl: 0 },
      { key: "replaced", value: "value", ttl: -1 },
    ];
    await store.set("replaced", "value");
    await store.setMany(entries);
    assertValues(await store.getMany(["long", "for ever", "zero", "replaced"]), ["value", "value", "value", undefined]);
    await eventually("the short record expires", async () => !(await store.has("short")));
    assert.ok(Date.now() >= startMs + shortMs, "the record was gone before it expired");
    assertValues(await store.getMany(["long", "for ever", "zero"]), ["value", "value", "value"]);
  });
}

/** What several callers write at once is all there. */
export function describeConcurrency(test: StoreTest): void {
  test("loses no write of many at once to keys of their own", async (opened) => {
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

  test("keeps one of many writes at once to one key, the same for everybody", async (opened) => {
    const writers = [opened.store, await secondWriter(opened)];
    const values = numbered("value-", 50);
    await Promise.all(values.map((value, index) => writers[index % 2]?.set("key", value)));
    const [one, other] = await Promise.all(writers.map((writer) => writer.get<string>("key")));
    assert.ok(values.some((value) => value === one));
    assert.equal(other, one);
  });

  test("lets one of many deletions at once find the record", async (opened) => {
    const writers = [opened.store, await secondWriter(opened)];
    for (let round = 0; round < 10; round++) {
      await opened.store.set("key", "value");
      const found = await Promise.all(writers.flatMap((writer) => [writer.delete("key"), writer.delete("key")]));
      assert.equal(found.filter(Boolean).length, 1);
    }
  });

  test("takes batches, reads and deletions at once", async (opened) => {
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

/** Leaves a record under `key` that has expired, and that nobody has looked at since. */
export async function expire(store: KeyvStorageAdapter, key: string): Promise<void> {
  const expires = Date.now() + shortMs;
  await store.set(key, "expired", expires);
  const witness = `${key}, witness`;
  await store.set(witness, "expired", expires);
  await eventually("a record expires", async () => !(await store.has(witness)));
}

/** Whether the store takes a write: a rejection and a `false` are both a refusal. */
async function isAccepted(write: () => Promise<boolean>): Promise<boolean> {
  try {
    return await write();
  } catch {
    return false;
  }
}
