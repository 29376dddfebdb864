import assert from "node:assert/strict";
import { type AtomicStore, hasReservedSpace, isScannable, type ScannableStore } from "@keyward/core";
import { scanAll } from "./scan-tests.ts";
import { assertValue, iterated, type StoreTest } from "./store-under-test.ts";

/** Returns the reserved space of a store. Fails if the store has no reserved space. */
export function reservedOf(store: object): AtomicStore & ScannableStore {
  if (hasReservedSpace(store)) return store.reserved();
  assert.fail("the store has no reserved()");
}

/**
 * Tests that calls of the store do not reach its reserved space, and that calls of the reserved space do not reach
 * other records.
 */
export function describeReserved(test: StoreTest): void {
  test("a reserved record is separate from another record under the same key", async ({ store }) => {
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

  test("the store lists no reserved record, and the reserved space lists only reserved records", async (opened) => {
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

  test("clear() of the store keeps reserved records, and clear() of the reserved space keeps all other records", async ({
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

  test("a store has one reserved space for all namespaces and connections", async ({ store, inNamespace, again }) => {
    await reservedOf(store).set("key", "reserved");
    assertValue(await reservedOf(inNamespace("a")).get("key"), "reserved");
    if (again !== undefined) assertValue(await reservedOf(await again()).get("key"), "reserved");
  });

  test("reserved() returns the same object in each call", async ({ store }) => {
    assert.equal(reservedOf(store), reservedOf(store));
  });

  test("a store still reads and writes after its reserved space or a view is disconnected", async ({
    store,
    inNamespace,
  }) => {
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
