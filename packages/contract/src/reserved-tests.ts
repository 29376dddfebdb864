import assert from "node:assert/strict";
import { type AtomicStore, hasReservedSpace, isScannable, type ScannableStore } from "@keyward/core";
import { scanAll } from "./scan-tests.ts";
import { assertValue, iterated, type StoreTest } from "./store-under-test.ts";

/** The reserved space of a store. */
export function reservedOf(store: object): AtomicStore & ScannableStore {
  if (hasReservedSpace(store)) return store.reserved();
  assert.fail("the store has no reserved()");
}

/** What lies in the reserved space is out of reach of everything that users of the store do. */
export function describeReserved(test: StoreTest): void {
  test("keeps the reserved space and the records apart", async ({ store }) => {
    const reserved = reservedOf(store);
    await reserved.set("key", "reserved");
    assert.equal(await store.get("key"), undefined);
    assert.equal(await store.has("key"), false);
    assert.deepEqual(await store.getMany(["key"]), [undefined]);
    assert.deepEqual(await store.hasMany(["key"]), [false]);
    assert.equal(await store.delete("key"), false);
    await store.set("key", "record");
    assertValue(await reserved.get("key"), "reserved");
    await reserved.delete("key");
    assertValue(await store.get("key"), "record");
  });

  test("shows nothing reserved to scans and iterators, and nothing else to those of the reserved space", async (opened) => {
    const { store, inNamespace } = opened;
    const reserved = reservedOf(store);
    await reserved.set("reserved key", "reserved");
    await store.set("key", "record");
    await inNamespace("a").set("key", "record");
    assert.deepEqual([...(await iterated(store)).keys()], ["key"]);
    assert.deepEqual([...(await iterated(inNamespace("a"))).keys()], ["key"]);
    if (isScannable(store)) {
      assert.deepEqual(
        (await scanAll(store)).map(({ key }) => key),
        ["key", "key"],
      );
    }
    assert.deepEqual(
      (await scanAll(reserved)).map(({ key }) => key),
      ["reserved key"],
    );
    assert.deepEqual([...(await iterated(reserved)).keys()], ["reserved key"]);
  });

  test("clears records without what is reserved, and what is reserved without records", async ({
    store,
    inNamespace,
  }) => {
    const reserved = reservedOf(store);
    await reserved.set("key", "reserved");
    await store.clear();
    await inNamespace("a").clear();
    assertValue(await reserved.get("key"), "reserved");
    await store.set("key", "record");
    await reserved.clear();
    assert.equal(await reserved.get("key"), undefined);
    assertValue(await store.get("key"), "record");
  });

  test("reaches one reserved space from every namespace and connection", async ({ store, inNamespace, again }) => {
    await reservedOf(store).set("key", "reserved");
    assertValue(await reservedOf(inNamespace("a")).get("key"), "reserved");
    if (again !== undefined) assertValue(await reservedOf(await again()).get("key"), "reserved");
  });

  test("gives the same reserved space each time", async ({ store }) => {
    assert.equal(reservedOf(store), reservedOf(store));
  });

  test("goes on when its reserved space is disconnected, which a view shares", async ({ store, inNamespace }) => {
    const reserved = reservedOf(store);
    await reserved.set("key", "reserved");
    await inNamespace("a").set("key", "record");
    await reserved.disconnect?.();
    await inNamespace("b").disconnect?.();
    assertValue(await reserved.get("key"), "reserved");
    assertValue(await inNamespace("a").get("key"), "record");
    await store.set("key", "record");
    assertValue(await store.get("key"), "record");
  });
}
