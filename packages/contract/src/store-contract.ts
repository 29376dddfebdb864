import assert from "node:assert/strict";
import { hasReservedSpace, isAtomic, isBinary, isNamespaced, isRanged, isScannable } from "@keyward/core";
import type { KeyvStorageAdapter } from "keyv";
import { asAtomic, describeAtomic, describeAtomicNamespaces } from "./atomic-tests.ts";
import { describeConcurrency, describeExpiry, describeKeys, describeNamespaces, describeValues } from "./keyv-tests.ts";
import { describeRanges, describeReservedRanges } from "./range-tests.ts";
import { describeReserved, reservedOf } from "./reserved-tests.ts";
import type { TestRunner } from "./runner.ts";
import { describeScan } from "./scan-tests.ts";
import { assertValue, type StoreContractOptions, type StoreTest, storeTests } from "./store-under-test.ts";

/**
 * Registers the tests that a store must pass: everything that Keyv requires of a storage adapter, and each capability
 * that the store is expected to have. The tests use no fake clock, so you can run them against real servers.
 *
 * @param runner The functions of a test runner that register tests. Set the timeout of each test to at least 20
 * seconds.
 * @example
 * const expect = { atomic: true, scannable: true, ranged: false, bytes: true, reserved: true, namespaced: true };
 * async function open() {
 *   const store = new MemoryStore();
 *   return { store, inNamespace: (name: string) => store.namespaced(name), close: () => store.disconnect() };
 * }
 * storeContract({ describe, it }, { name: "MemoryStore", expect, open });
 */
export function storeContract(runner: TestRunner, options: StoreContractOptions): void {
  const { describe } = runner;
  const { expect } = options;
  const test = storeTests(runner, options);

  describe(`${options.name}: store contract`, () => {
    test("has exactly the expected capabilities", async ({ store, inNamespace }) => {
      for (const one of [store, inNamespace("a")]) {
        const { atomic, scannable, ranged, bytes, reserved } = expect;
        assert.deepEqual(
          {
            atomic: isAtomic(one),
            scannable: isScannable(one),
            ranged: isRanged(one),
            bytes: isBinary(one),
            reserved: hasReservedSpace(one),
          },
          { atomic, scannable, ranged, bytes, reserved },
        );
      }
      assert.equal(isNamespaced(store), expect.namespaced, "namespaced");
    });

    describe("values", () => describeValues(test, options));
    describe("keys", () => describeKeys(test));
    describe("namespaces", () => describeNamespaces(test, options));
    describe("expiry", () => describeExpiry(test, options));
    describe("concurrency", () => describeConcurrency(test));
    if (expect.atomic) {
      describe("atomic replacement", () => {
        describeAtomic({ test, bytes: expect.bytes, of: asAtomic });
        describeAtomicNamespaces(test);
      });
    }
    if (expect.scannable) describe("scan", () => describeScan(test, options));
    if (expect.ranged) {
      describe("ranges", () => {
        describeRanges(test);
        if (expect.reserved) describeReservedRanges(test);
      });
    }
    if (expect.namespaced) describe("views", () => describeViews(test));
    if (expect.reserved) {
      describe("reserved space", () => describeReserved(test));
      describe("atomic replacement in the reserved space", () => {
        describeAtomic({ test, bytes: expect.bytes, of: reservedOf });
      });
    }
  });
}

function describeViews(test: StoreTest): void {
  function view(store: KeyvStorageAdapter, namespace: string): KeyvStorageAdapter {
    if (isNamespaced(store)) return store.namespaced(namespace);
    assert.fail("the store has no namespaced()");
  }

  test("namespaced() returns a view in another namespace, and the store keeps its own namespace", async ({
    store,
    inNamespace,
  }) => {
    const [a, b] = [view(store, "a"), view(store, "b")];
    assert.equal(a.namespace, "a");
    assert.equal(b.namespace, "b");
    assert.ok(store.namespace === undefined || store.namespace === "");
    await a.set("key", "in a");
    await b.set("key", "in b");
    await store.set("key", "in none");
    assertValue(await inNamespace("a").get("key"), "in a");
    assertValue(await view(store, "b").get("key"), "in b");
    assertValue(await view(store, "").get("key"), "in none");
    await a.clear();
    assert.equal(await a.has("key"), false);
    assert.equal(await b.has("key"), true);
    assert.equal(await store.has("key"), true);
  });

  test("a store still reads, writes and returns further views after a view is disconnected", async ({
    store,
    inNamespace,
  }) => {
    const [a, b] = [view(store, "a"), view(store, "b")];
    const [none, inner] = [view(store, ""), view(a, "inner")];
    await b.set("key", "in b");
    for (const each of [a, none, inner]) await each.disconnect?.();
    for (const each of [b, view(store, "b"), view(b, "b"), inNamespace("b")])
      assertValue(await each.get("key"), "in b");
    await view(store, "a").set("key", "in a");
    assertValue(await inNamespace("a").get("key"), "in a");
    await store.set("key", "in none");
    assertValue(await inNamespace("").get("key"), "in none");
  });
}
