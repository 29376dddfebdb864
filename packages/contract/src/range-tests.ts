import assert from "node:assert/strict";
import { isRanged, type RangedStore, type ScannedRecord } from "@keyward/core";
import { unusualKeys } from "./keyv-tests.ts";
import { reservedOf } from "./reserved-tests.ts";
import { addressOf, scanAll } from "./scan-tests.ts";
import { numbered, type OpenStore, type StoreTest, secondWriter } from "./store-under-test.ts";

const namespaces = ["", "a", "a*", "\u00e9"];

function asRanged(store: object): RangedStore {
  if (isRanged(store)) return store;
  assert.fail("the store has no ranges()");
}

/** Scans one range to its last page, and returns its records. Takes the options of {@link scanAll}. */
async function scanRange(
  store: RangedStore,
  range: string,
  options: Parameters<typeof scanAll>[1] = {},
): Promise<ScannedRecord[]> {
  return await scanAll({ scan: (page) => store.scan({ ...page, range }) }, options);
}

/**
 * Scans all ranges, and returns a map from the address of each record to its range. Fails if a record is in two ranges.
 */
async function rangeOfEach(
  store: RangedStore,
  ranges: readonly string[],
  options: Parameters<typeof scanAll>[1] = {},
): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  for (const range of ranges) {
    for (const record of await scanRange(store, range, options)) {
      const address = addressOf(record);
      assert.equal(found.get(address) ?? range, range, "a record is in two ranges");
      found.set(address, range);
    }
  }
  return found;
}

/** Writes records into several namespaces, and returns their addresses. */
async function fill({ inNamespace }: OpenStore, value: string): Promise<Set<string>> {
  const addresses = new Set<string>();
  for (const namespace of namespaces) {
    const keys = [...numbered("key-", 60), ...(namespace === "a" ? unusualKeys : [])];
    await inNamespace(namespace).setMany(keys.map((key) => ({ key, value })));
    for (const key of keys) addresses.add(addressOf({ namespace, key }));
  }
  return addresses;
}

/**
 * Tests that each record is in exactly one range, and that the range is the same for every process. Writes and
 * deletions of other records must not change the range of a record.
 */
export function describeRanges(test: StoreTest): void {
  test("ranges() puts every record of every namespace into exactly one range, for any number of ranges", async (opened) => {
    const store = asRanged(opened.store);
    const addresses = await fill(opened, "value");
    for (const count of [1, 2, 7, 16]) {
      const ranges = await store.ranges(count);
      assert.ok(ranges.length >= 1 && ranges.length <= count, `${ranges.length} ranges instead of ${count}`);
      assert.equal(new Set(ranges).size, ranges.length, "a range was returned twice");
      assert.deepEqual(new Set((await rangeOfEach(store, ranges)).keys()), addresses);
    }
  });

  test("ranges() returns ranges with about equal numbers of records", async ({ store, inNamespace }) => {
    const count = 2_000;
    await inNamespace("a").setMany(numbered("key-", count).map((key) => ({ key, value: "value" })));
    const ranges = await asRanged(store).ranges(4);
    const fair = count / ranges.length;
    for (const range of ranges) {
      const { length } = await scanRange(asRanged(store), range);
      assert.ok(
        length > fair / 2 && length < fair * 2,
        `${length} records in a range, where ${fair} are an equal share`,
      );
    }
  });

  test("a record stays in its range when the record is written again", async (opened) => {
    const store = asRanged(opened.store);
    const ranges = await store.ranges(5);
    const addresses = await fill(opened, "value");
    const before = await rangeOfEach(store, ranges);
    assert.deepEqual(new Set(before.keys()), addresses);
    await opened.inNamespace("a").deleteMany(numbered("key-", 30));
    await opened.inNamespace("a").setMany(numbered("other-", 200).map((key) => ({ key, value: "value" })));
    await fill(opened, "written again");
    const after = await rangeOfEach(store, ranges);
    for (const [address, range] of before) {
      assert.equal(after.get(address), range, "a record changed its range");
    }
  });

  test("each record stays in exactly one range while other records are written and deleted", async (opened) => {
    const store = asRanged(opened.store);
    const busy = opened.inNamespace("busy");
    const leaving = numbered("leaving-", 200);
    await busy.setMany(leaving.map((key) => ({ key, value: "value" })));
    const addresses = await fill(opened, "value");
    let pages = 0;
    const found = await rangeOfEach(store, await store.ranges(4), {
      limit: 10,
      async between() {
        // The changes are spread over all ranges, and each record changes at most once, because a scan may never end while
        // records are added faster than the scan reads them.
        const from = pages++ * 2;
        if (from % 10 !== 0 || from >= leaving.length) return;
        await busy.deleteMany(leaving.slice(from, from + 10));
        await busy.setMany(numbered(`coming-${from}-`, 10).map((key) => ({ key, value: "value" })));
      },
    });
    for (const address of addresses) assert.ok(found.has(address), "a record that stayed was not found");
  });

  test("two stores over the same backend find the same records in each range", async (opened) => {
    const store = asRanged(opened.store);
    await fill(opened, "value");
    const ranges = await store.ranges(3);
    const other = asRanged(await secondWriter(opened));
    assert.deepEqual(await rangeOfEach(other, ranges), await rangeOfEach(store, ranges));
  });

  test("a scan of a range continues from its cursor, also in another store over the same backend", async (opened) => {
    const store = asRanged(opened.store);
    await fill(opened, "value");
    const ranges = await store.ranges(3);
    const rangeOf = await rangeOfEach(store, ranges);
    const other = asRanged(await secondWriter(opened));
    for (const range of ranges) {
      const first = await store.scan({ range, limit: 5 });
      const rest = first.cursor === undefined ? [] : await scanRange(other, range, { cursor: first.cursor, limit: 20 });
      const found = new Set([...first.entries, ...rest].map(addressOf));
      const own = [...rangeOf].filter(([, each]) => each === range).map(([address]) => address);
      assert.deepEqual(found, new Set(own));
    }
  });

  test("a scan of a range returns pages with about as many records as the limit", async ({ store, inNamespace }) => {
    await inNamespace("a").setMany(numbered("key-", 1_000).map((key) => ({ key, value: "value" })));
    const [range = ""] = await asRanged(store).ranges(2);
    const page = await asRanged(store).scan({ range, limit: 10 });
    assert.ok(page.entries.length <= 100, `${page.entries.length} records in a page of about 10`);
    assert.ok(page.cursor !== undefined, "half of 1,000 records were returned as one page of about 10");
  });

  test("scan() of a range returns no expired record", async ({ store }) => {
    await store.set("gone", "value", Date.now() - 1);
    await store.set("there", "value", Date.now() + 3_600_000);
    const found = await rangeOfEach(asRanged(store), await asRanged(store).ranges(3));
    assert.deepEqual([...found.keys()], [addressOf({ namespace: "", key: "there" })]);
  });

  test("an invalid range, an invalid cursor and an invalid number of ranges are rejected", async (opened) => {
    const store = asRanged(opened.store);
    await fill(opened, "value");
    const [range = ""] = await store.ranges(2);
    const refused = { name: "KeywardError", code: "VALUE_INVALID" };
    for (const invalid of ["", " ", "no range", "\0", `${range}x`, `x${range}`]) {
      await assert.rejects(
        store.scan({ range: invalid }),
        refused,
        `${JSON.stringify(invalid)} was accepted as a range`,
      );
    }
    await assert.rejects(store.scan({ range, cursor: "no cursor" }), refused);
    for (const count of [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY]) {
      await assert.rejects(store.ranges(count), refused, `${count} was accepted as a count`);
    }
  });
}

/** Tests that ranges contain no record of the reserved space. */
export function describeReservedRanges(test: StoreTest): void {
  test("a scan of a range finds no record of the reserved space", async ({ store }) => {
    await reservedOf(store).set("reserved key", "reserved");
    await store.set("key", "record");
    const found = await rangeOfEach(asRanged(store), await asRanged(store).ranges(3));
    assert.deepEqual([...found.keys()], [addressOf({ namespace: "", key: "key" })]);
  });
}
