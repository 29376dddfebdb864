import assert from "node:assert/strict";
import { type AtomicStore, isAtomic, type StoredValue } from "@keyward/core";
import { expire, unusualKeys } from "./keyv-tests.ts";
import {
  assertValue,
  assertValues,
  numbered,
  type OpenStore,
  type StoreTest,
  secondWriter,
} from "./store-under-test.ts";
import { eventually } from "./waiting.ts";

const shortMs = 300;

/**
 * The arguments of {@link describeAtomic}, which tests `replace` of a store, or of the store's reserved space (where
 * Keyward keeps its own records).
 */
export interface AtomicUnderTest {
  readonly test: StoreTest;
  /** `true` if the store returns bytes as bytes. In this case, `replace` is tested with bytes, too. */
  readonly bytes: boolean;
  /** Returns the part of a store that is tested: the store itself, or its reserved space. */
  of(store: object): AtomicStore;
}

/** Returns the store itself, with the type `AtomicStore`. Fails if the store has no `replace`. */
export function asAtomic(store: object): AtomicStore {
  if (isAtomic(store)) return store;
  assert.fail("the store has no replace()");
}

/** Tests that `replace` is atomic: it replaces a value only if the stored value is still the expected value. */
export function describeAtomic({ test: register, bytes, of }: AtomicUnderTest): void {
  function test(name: string, body: (store: AtomicStore, other: () => Promise<AtomicStore>) => Promise<void>): void {
    register(name, (opened: OpenStore) => body(of(opened.store), async () => of(await secondWriter(opened))));
  }

  test("replace() replaces the stored value if it is the expected value", async (store) => {
    await store.set("key", "old");
    assert.equal(await store.replace("key", "old", "new"), true);
    assertValue(await store.get("key"), "new");
    assert.equal(await store.replace("key", "new", ""), true);
    assert.equal(await store.replace("key", "", "again"), true);
    assertValue(await store.get("key"), "again");
  });

  test("replace() replaces values under unusual keys", async (store) => {
    await store.setMany(unusualKeys.map((key, index) => ({ key, value: `value ${index}` })));
    for (const [index, key] of unusualKeys.entries()) {
      assert.equal(await store.replace(key, `value ${index}`, `new ${index}`), true);
    }
    assertValues(
      await store.getMany([...unusualKeys]),
      unusualKeys.map((_, index) => `new ${index}`),
    );
  });

  test("replace() does not replace a value that is only similar to the expected value", async (store) => {
    const similar = [
      "value",
      "valu",
      "value ",
      "Value",
      "value\0",
      "value\0a",
      " value",
      "valu\u00e9",
      "value\u0301",
      "",
      "%",
      "v%",
    ];
    for (const stored of similar) {
      await store.set("key", stored);
      for (const expected of similar) {
        if (expected === stored) continue;
        assert.equal(await store.replace("key", expected, "new"), false, `${JSON.stringify(stored)} is stored`);
      }
      assertValue(await store.get("key"), stored);
    }
  });

  test("replace() compares a large value with the expected value up to the last byte", async (store) => {
    const large = "x".repeat(2 ** 20);
    await store.set("key", `${large}y`);
    assert.equal(await store.replace("key", `${large}z`, "new"), false);
    assert.equal(await store.replace("key", large, "new"), false);
    assert.equal(await store.replace("key", `${large}y`, `${large}z`), true);
    assertValue(await store.get("key"), `${large}z`);
  });

  if (bytes) {
    test("replace() compares bytes with bytes, and treats text as a different value", async (store) => {
      const values: StoredValue[] = [
        Buffer.from("value"),
        "value",
        Buffer.from("valu"),
        Uint8Array.of(0, 255, 128),
        new Uint8Array(0),
        "",
      ];
      for (const [index, stored] of values.entries()) {
        await store.set("key", stored);
        for (const [other, expected] of values.entries()) {
          if (other !== index) assert.equal(await store.replace("key", expected, "new"), false);
        }
        assertValue(await store.get("key"), stored);
        assert.equal(await store.replace("key", stored, Uint8Array.of(1)), true);
        assertValue(await store.get("key"), Uint8Array.of(1));
      }
    });
  }

  test("replace() does not overwrite a value that is newer than the expected value", async (store, other) => {
    await store.set("key", "read");
    await (await other()).set("key", "newer");
    assert.equal(await store.replace("key", "read", "encrypted again"), false);
    assertValue(await store.get("key"), "newer");
  });

  test("replace() does not restore a deleted record", async (store) => {
    await store.set("key", "read");
    await store.delete("key");
    assert.equal(await store.replace("key", "read", "encrypted again"), false);
    assert.equal(await store.has("key"), false);
    assert.equal(await store.replace("never", "read", "encrypted again"), false);
    assert.equal(await store.has("never"), false);
  });

  test("replace() does not restore an expired record", async (store) => {
    await expire(store, "key");
    assert.equal(await store.replace("key", "expired", "encrypted again"), false);
    assert.equal(await store.has("key"), false);
  });

  test("replace() keeps the expiry of the record if it is called without an expiry", async (store) => {
    // On a slow machine the record may expire before it is replaced: then try again with a longer expiry.
    let expires: number;
    let durationMs = shortMs;
    for (;;) {
      expires = Date.now() + durationMs;
      await store.set("key", "old", expires);
      if (await store.replace("key", "old", "new")) break;
      assert.ok(Date.now() >= expires, "the record was not replaced, although it had not expired");
      durationMs *= 2;
    }
    await store.set("forever", "old");
    assert.equal(await store.replace("forever", "old", "new"), true);
    await eventually("the replaced record expires", async () => (await store.get("key")) === undefined);
    assert.ok(Date.now() >= expires, "the replaced record was missing before it expired");
    assertValue(await store.get("forever"), "new");
  });

  test("replace() writes only a missing record if the expected value is undefined", async (store) => {
    assert.equal(await store.replace("key", undefined, "first"), true);
    assert.equal(await store.replace("key", undefined, "second"), false);
    assertValue(await store.get("key"), "first");
    await store.set("empty", "");
    assert.equal(await store.replace("empty", undefined, "value"), false);
    await store.delete("key");
    assert.equal(await store.replace("key", undefined, "third"), true);
    assertValue(await store.get("key"), "third");
  });

  test("replace() treats an expired record as missing, and the new record does not expire", async (store) => {
    await expire(store, "key");
    assert.equal(await store.replace("key", undefined, "new"), true);
    await expire(store, "witness");
    assertValue(await store.get("key"), "new");
  });

  test("replace() sets the expiry with which it is called", async (store) => {
    for (const before of [undefined, Date.now() + 3_600_000]) {
      await store.set("key", "old", before);
      const expires = Date.now() + shortMs;
      assert.equal(await store.replace("key", "old", "new", expires), true);
      await eventually("the replaced record expires", async () => (await store.get("key")) === undefined);
      assert.ok(Date.now() >= expires, "the replaced record was missing before it expired");
    }
  });

  test("replace() removes the expiry if it is called with the expiry null", async (store) => {
    let durationMs = shortMs;
    for (;;) {
      const expires = Date.now() + durationMs;
      await store.set("key", "old", expires);
      if (await store.replace("key", "old", "new", null)) break;
      assert.ok(Date.now() >= expires, "the record was not replaced, although it had not expired");
      durationMs *= 2;
    }
    await expire(store, "witness");
    assertValue(await store.get("key"), "new");
  });

  test("replace() gives a new record the expiry with which it is called", async (store) => {
    const expires = Date.now() + shortMs;
    assert.equal(await store.replace("key", undefined, "new", expires), true);
    await eventually("the new record expires", async () => (await store.get("key")) === undefined);
    assert.ok(Date.now() >= expires, "the new record was missing before it expired");
    assert.equal(await store.replace("key", undefined, "newer", null), true);
    await expire(store, "witness");
    assertValue(await store.get("key"), "newer");
  });

  test("replace() removes the record if it is called with an expiry in the past", async (store) => {
    await store.set("key", "old");
    assert.equal(await store.replace("key", "other", "new", Date.now() - 60_000), false);
    assertValue(await store.get("key"), "old");
    assert.equal(await store.replace("key", "old", "new", Date.now() - 60_000), true);
    assertValue(await store.get("key"), undefined);
    assert.equal(await store.replace("key", undefined, "new", 1), true);
    assertValue(await store.get("key"), undefined);
  });

  test("replaceMany() sets a different expiry in each of its replacements", async (store) => {
    if (store.replaceMany === undefined) return;
    const far = Date.now() + 3_600_000;
    const keys = ["kept", "ends", "forever", "made", "made for ever", "past"];
    for (const key of ["kept", "ends", "forever", "past"]) await store.set(key, "old", far);
    const soon = Date.now() + shortMs;
    const replaced = await store.replaceMany([
      { key: "kept", expected: "old", next: "new" },
      { key: "ends", expected: "old", next: "new", expires: soon },
      { key: "forever", expected: "old", next: "new", expires: null },
      { key: "made", expected: undefined, next: "new", expires: soon },
      { key: "made for ever", expected: undefined, next: "new" },
      { key: "past", expected: "old", next: "new", expires: 1 },
    ]);
    assert.deepEqual(
      replaced,
      keys.map(() => true),
    );
    await eventually("two records expire", async () => {
      const [ends, made] = await store.getMany(["ends", "made"]);
      return ends === undefined && made === undefined;
    });
    assert.ok(Date.now() >= soon, "a record was missing before it expired");
    assertValues(await store.getMany(keys), ["new", undefined, "new", undefined, "new", undefined]);
  });

  test("replace() rejects if the expiry is not a time", async (store) => {
    await store.set("key", "old");
    // 60,000 looks like a duration, which `set` accepts.
    for (const expires of ["60s", Number.NaN, {}, 60_000]) {
      await assert.rejects(async () => Reflect.apply(store.replace, store, ["key", "old", "new", expires]), {
        code: "VALUE_INVALID",
      });
    }
    assertValue(await store.get("key"), "old");
  });

  test("replace() succeeds for exactly one of two concurrent replacements, in each of 50 rounds", async (store, other) => {
    const writers = [store, await other()];
    for (let round = 0; round < 50; round++) {
      const expected = round % 2 === 0 ? "old" : undefined;
      if (expected === undefined) await store.delete("key");
      else await store.set("key", expected);
      const replaced = await Promise.all(
        writers.map((writer, index) => writer.replace("key", expected, `writer ${index}`)),
      );
      assert.equal(
        replaced.filter(Boolean).length,
        1,
        `${replaced.filter(Boolean).length} of two replacements succeeded`,
      );
      assertValue(await store.get("key"), `writer ${replaced.indexOf(true)}`);
    }
  });

  test("replace() loses no increment of a counter that several writers increment", async (store, other) => {
    const writers = [store, await other(), store, await other()];
    const steps = 10;
    await store.set("counter", "0");
    await Promise.all(
      writers.map(async (writer) => {
        for (let step = 0; step < steps; ) {
          const read = String(await writer.get("counter"));
          if (await writer.replace("counter", read, String(Number(read) + 1))) step++;
        }
      }),
    );
    assertValue(await store.get("counter"), String(writers.length * steps));
  });

  test("replaceMany() makes its replacements in order, even if some of them do not match the stored value", async (store) => {
    if (store.replaceMany === undefined) return;
    assert.deepEqual(await store.replaceMany([]), []);
    await store.setMany(["a", "b", "c"].map((key) => ({ key, value: "old" })));
    const replaced = await store.replaceMany([
      { key: "a", expected: "old", next: "new" },
      { key: "b", expected: "other", next: "new" },
      { key: "none", expected: "old", next: "new" },
      { key: "made", expected: undefined, next: "new" },
      { key: "c", expected: undefined, next: "new" },
      { key: "a", expected: "old", next: "newer" },
      { key: "made", expected: "new", next: "newer" },
    ]);
    assert.deepEqual(replaced, [true, false, false, true, false, false, true]);
    assertValues(await store.getMany(["a", "b", "none", "made", "c"]), ["new", "old", undefined, "newer", "old"]);
  });

  test("replaceMany() accepts thousands of replacements", async (store) => {
    if (store.replaceMany === undefined) return;
    const keys = numbered("key-", 2_000);
    await store.setMany(keys.map((key) => ({ key, value: "old" })));
    await store.set("key-1000", "newer");
    const replaced = await store.replaceMany(keys.map((key) => ({ key, expected: "old", next: "new" })));
    assert.deepEqual(
      replaced,
      keys.map((key) => key !== "key-1000"),
    );
  });
}

/** Tests that `replace` changes only records in the namespace of its store. */
export function describeAtomicNamespaces(test: StoreTest): void {
  test("replace() replaces records only in the namespace of its store", async ({ inNamespace }) => {
    for (const namespace of ["", "a", "b"]) await inNamespace(namespace).set("key", "old");
    const store = asAtomic(inNamespace("a"));
    assert.equal(await store.replace("key", "old", "new"), true);
    assertValue(await inNamespace("").get("key"), "old");
    assertValue(await inNamespace("b").get("key"), "old");
    assert.equal(await asAtomic(inNamespace("c")).replace("key", undefined, "made"), true);
    assertValue(await inNamespace("c").get("key"), "made");
  });
}
