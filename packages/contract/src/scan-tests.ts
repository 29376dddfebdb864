import assert from "node:assert/strict";
import { isScannable, type ScannableStore, type ScannedRecord, type StoredValue } from "@keyward/core";
import { unusualKeys } from "./keyv-tests.ts";
import { assertValue, isRefused, numbered, type StoreContractOptions, type StoreTest } from "./store-under-test.ts";

/** Returns the store itself, with the type `ScannableStore`. Fails if the store has no `scan`. */
export function asScannable(store: object): ScannableStore {
  if (isScannable(store)) return store;
  assert.fail("the store has no scan()");
}

/**
 * Scans a store to its last page, and returns all records. Starts at `cursor`, or at the first page if `cursor` is
 * absent. Calls `between` after each page.
 */
export async function scanAll(
  store: ScannableStore,
  options: { readonly cursor?: string | undefined; readonly limit?: number; between?(): Promise<void> } = {},
): Promise<ScannedRecord[]> {
  const { limit, between } = options;
  const found: ScannedRecord[] = [];
  let { cursor } = options;
  do {
    const page = await store.scan({
      ...(cursor === undefined ? {} : { cursor }),
      ...(limit === undefined ? {} : { limit }),
    });
    found.push(...page.entries);
    cursor = page.cursor;
    await between?.();
  } while (cursor !== undefined);
  return found;
}

/** Tests that a scan finds every record of every namespace while records change, and continues from a cursor. */
export function describeScan(test: StoreTest, options: StoreContractOptions): void {
  const namespaces = ["", "a", "a*", "a::b", "\u00e9", "e\u0301"].filter((each) => !isRefused(each, options));

  test("scan() of an empty store returns no record", async ({ store }) => {
    assert.deepEqual(await scanAll(asScannable(store)), []);
  });

  for (const limit of [undefined, 1, 7, 10_000]) {
    test(
      `a scan finds every record and its value in every namespace, with ${limit === undefined ? "the default limit" : `a limit of ${limit}`}`,
      async (opened) => {
        const expected = new Map<string, StoredValue>();
        for (const namespace of namespaces) {
          const entries = unusualKeys.map((key, index) => ({ key, value: storedValue(index, options.expect.bytes) }));
          await opened.inNamespace(namespace).setMany(entries);
          for (const { key, value } of entries) expected.set(addressOf({ namespace, key }), value);
        }
        const found = new Map<string, StoredValue>();
        const records = await scanAll(asScannable(opened.store), limit === undefined ? {} : { limit });
        for (const record of records) found.set(addressOf(record), record.value);
        assert.deepEqual(new Set(found.keys()), new Set(expected.keys()));
        for (const [address, value] of expected) assertValue(found.get(address), value);
      },
      "namespaces-collide",
    );
  }

  test("a scan finds the records of all namespaces even if the store has a namespace", async ({ inNamespace }) => {
    await inNamespace("a").set("key", "value");
    await inNamespace("b").set("key", "value");
    const found = await scanAll(asScannable(inNamespace("b")));
    assert.deepEqual(found.map(addressOf).sort(), [
      addressOf({ namespace: "a", key: "key" }),
      addressOf({ namespace: "b", key: "key" }),
    ]);
  });

  test("a scan returns pages with about as many records as the limit", async ({ store }) => {
    await store.setMany(numbered("key-", 500).map((key) => ({ key, value: "value" })));
    const page = await asScannable(store).scan({ limit: 10 });
    assert.ok(page.entries.length <= 100, `${page.entries.length} records in a page of about 10`);
    assert.ok(page.cursor !== undefined, "500 records were returned as one page of about 10");
  });

  test("scan() returns no expired record", async ({ store }) => {
    await store.set("gone", "value", Date.now() - 1);
    await store.set("there", "value", Date.now() + 3_600_000);
    assert.deepEqual(
      (await scanAll(asScannable(store))).map(({ key }) => key),
      ["there"],
    );
  });

  test("a scan continues from the same cursor several times, also in another store over the same backend", async ({
    store,
    again,
  }) => {
    const keys = numbered("key-", 300);
    await store.setMany(keys.map((key) => ({ key, value: "value" })));
    const first = await asScannable(store).scan({ limit: 20 });
    const stores = [store, store, ...(again === undefined ? [] : [await again()])];
    for (const each of stores) {
      const rest = await scanAll(asScannable(each), { cursor: first.cursor, limit: 20 });
      const found = new Set([...first.entries, ...rest].map(({ key }) => key));
      assert.deepEqual(found, new Set(keys));
    }
  });

  test("a scan finds every record that is not deleted during the scan, even if other records change", async ({
    store,
    inNamespace,
  }) => {
    const staying = numbered("staying-", 300);
    const leaving = numbered("leaving-", 300);
    const busy = inNamespace("busy");
    const interleaved = staying.flatMap((key, index) => [key, leaving[index] ?? key]);
    await busy.setMany(interleaved.map((key) => ({ key, value: "old" })));
    let step = 0;
    const found = await scanAll(asScannable(store), {
      limit: 20,
      async between() {
        // Stops after 30 steps, because a scan may never end while records are added faster than the scan reads them.
        if (step >= 30) return;
        const from = step++ * 10;
        await busy.deleteMany(leaving.slice(from, from + 10));
        await busy.setMany(staying.slice(from, from + 10).map((key) => ({ key, value: "new" })));
        await busy.setMany(numbered(`coming-${from}-`, 5).map((key) => ({ key, value: "new" })));
      },
    });
    const keys = new Set(found.filter(({ namespace }) => namespace === "busy").map(({ key }) => key));
    for (const key of staying) assert.ok(keys.has(key), "a record that stayed was not found");
  });

  test("a scan continues from a cursor after the records before the cursor were deleted", async ({ store }) => {
    const keys = numbered("key-", 100);
    await store.setMany(keys.map((key) => ({ key, value: "value" })));
    const first = await asScannable(store).scan({ limit: 10 });
    const read = first.entries.map(({ key }) => key);
    await store.deleteMany(read);
    const rest = await scanAll(asScannable(store), { cursor: first.cursor, limit: 10 });
    for (const key of keys) assert.ok(read.includes(key) || rest.some((record) => record.key === key));
  });
}

function storedValue(index: number, bytes: boolean): StoredValue {
  return bytes && index % 2 === 1 ? Buffer.from(`value ${index}`) : `value ${index}`;
}

/** Returns the address of a record as a text, so that addresses can be compared. */
export function addressOf({ namespace, key }: Pick<ScannedRecord, "namespace" | "key">): string {
  return JSON.stringify([namespace, key]);
}
