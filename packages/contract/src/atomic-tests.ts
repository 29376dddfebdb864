import assert from "node:assert/strict";
import { type AtomicStore, isAtomic, type StoredValue } from "@keyward/core";
import { expire, oddKeys } from "./keyv-tests.ts";
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

/** Finds in an opened store what is to be tested, over each way to the records. */
export interface AtomicUnderTest {
  readonly test: StoreTest;
  readonly bytes: boolean;
  /** From a store to the one that can replace: itself, or its reserved space. */
  of(store: object): AtomicStore;
}

/** The store itself, as one that can replace. */
export function asAtomic(store: object): AtomicStore {
  if (isAtomic(store)) return store;
  assert.fail("the store has no replace()");
}

/** A value is replaced only while it is still the one that was read, and nobody can come between. */
export function describeAtomic({ test: register, bytes, of }: AtomicUnderTest): void {
  function test(name: string, body: (store: AtomicStore, other: () => Promise<AtomicStore>) => Promise<void>): void {
    register(name, (opened: OpenStore) => body(of(opened.store), async () => of(await secondWriter(opened))));
  }

  test("replaces the value that is expected", async (store) => {
    await store.set("key", "old");
    assert.equal(await store.replace("key", "old", "new"), true);
    assertValue(await store.get("key"), "new");
    assert.equal(await store.replace("key", "new", ""), true);
    assert.equal(await store.replace("key", "", "again"), true);
    assertValue(await store.get("key"), "again");
  });

  test("replaces under odd keys", async (store) => {
    await store.setMany(oddKeys.map((key, index) => ({ key, value: `value ${index}` })));
    for (const [index, key] of oddKeys.entries()) {
      assert.equal(await store.replace(key, `value ${index}`, `new ${index}`), true);
    }
    assertValues(
      await store.getMany([...oddKeys]),
      oddKeys.map((_, index) => `new ${index}`),
    );
  });

  test("refuses where another value lies, however alike", async (store) => {
    const alike = [
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
    for (const stored of alike) {
      await store.set("key", stored);
      for (const expected of alike) {
        if (expected === stored) continue;
        assert.equal(await store.replace("key", expected, "new"), false, `${JSON.stringify(stored)} is no match`);
      }
      assertValue(await store.get("key"), stored);
    }
  });

  test("compares all of a large value", async (store) => {
    const large = "x".repeat(2 ** 20);
    await store.set("key", `${large}y`);
    assert.equal(await store.replace("key", `${large}z`, "new"), false);
    assert.equal(await store.replace("key", large, "new"), false);
    assert.equal(await store.replace("key", `${large}y`, `${large}z`), true);
    assertValue(await store.get("key"), `${large}z`);
  });

  if (bytes) {
    test("compares bytes, and does not take text for bytes", async (store) => {
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

  test("lets a newer write win", async (store, other) => {
    await store.set("key", "read");
    await (await other()).set("key", "newer");
    assert.equal(await store.replace("key", "read", "sealed again"), false);
    assertValue(await store.get("key"), "newer");
  });

  test("lets a deletion win", async (store) => {
    await store.set("key", "read");
    await store.delete("key");
    assert.equal(await store.replace("key", "read", "sealed again"), false);
    assert.equal(await store.has("key"), false);
    assert.equal(await store.replace("never", "read", "sealed again"), false);
    assert.equal(await store.has("never"), false);
  });

  test("lets an expiry win", async (store) => {
    await expire(store, "key");
    assert.equal(await store.replace("key", "expired", "sealed again"), false);
    assert.equal(await store.has("key"), false);
  });

  test("keeps the time that a record has left", async (store) => {
    // On a slow machine the record may be gone before it could be replaced: then it is given longer.
    let expires: number;
    let livesMs = shortMs;
    for (;;) {
      expires = Date.now() + livesMs;
      await store.set("key", "old", expires);
      if (await store.replace("key", "old", "new")) break;
      assert.ok(Date.now() >= expires, "the record was not replaced, although it had not expired");
      livesMs *= 2;
    }
    await store.set("for ever", "old");
    assert.equal(await store.replace("for ever", "old", "new"), true);
    await eventually("the replaced record expires", async () => (await store.get("key")) === undefined);
    assert.ok(Date.now() >= expires, "the replaced record was gone before it expired");
    assertValue(await store.get("for ever"), "new");
  });

  test("writes what is expected not to be there only where nothing lies", async (store) => {
    assert.equal(await store.replace("key", undefined, "first"), true);
    assert.equal(await store.replace("key", undefined, "second"), false);
    assertValue(await store.get("key"), "first");
    await store.set("empty", "");
    assert.equal(await store.replace("empty", undefined, "value"), false);
    await store.delete("key");
    assert.equal(await store.replace("key", undefined, "third"), true);
    assertValue(await store.get("key"), "third");
  });

  test("takes an expired record for nothing, and writes one that stays", async (store) => {
    await expire(store, "key");
    assert.equal(await store.replace("key", undefined, "new"), true);
    await expire(store, "witness");
    assertValue(await store.get("key"), "new");
  });

  test("lets exactly one of two racers win, every time", async (store, other) => {
    const racers = [store, await other()];
    for (let round = 0; round < 50; round++) {
      const expected = round % 2 === 0 ? "old" : undefined;
      if (expected === undefined) await store.delete("key");
      else await store.set("key", expected);
      const won = await Promise.all(racers.map((racer, index) => racer.replace("key", expected, `racer ${index}`)));
      assert.equal(won.filter(Boolean).length, 1, `${won.filter(Boolean).length} of two racers won`);
      assertValue(await store.get("key"), `racer ${won.indexOf(true)}`);
    }
  });

  test("loses no step of a counter that many increment", async (store, other) => {
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

  test("replaces many, one after the other, each for itself", async (store) => {
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

  test("replaces thousands at once", async (store) => {
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

/** A replacement stays in its namespace. */
export function describeAtomicNamespaces(test: StoreTest): void {
  test("replaces in its own namespace only", async ({ inNamespace }) => {
    for (const namespace of ["", "a", "b"]) await inNamespace(namespace).set("key", "old");
    const store = asAtomic(inNamespace("a"));
    assert.equal(await store.replace("key", "old", "new"), true);
    assertValue(await inNamespace("").get("key"), "old");
    assertValue(await inNamespace("b").get("key"), "old");
    assert.equal(await asAtomic(inNamespace("c")).replace("key", undefined, "made"), true);
    assertValue(await inNamespace("c").get("key"), "made");
  });
}
