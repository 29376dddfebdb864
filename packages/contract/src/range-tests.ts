import assert from "node:assert/strict";
import { isRanged, type RangedStore, type ScannedRecord } from "@keyward/core";
import { oddKeys } from "./keyv-tests.ts";
import { reservedOf } from "./reserved-tests.ts";
import { placeOf, scanAll } from "./scan-tests.ts";
import { numbered, type OpenStore, type StoreTest, secondWriter } from "./store-under-test.ts";

const namespaces = ["", "a", "a*", "\u00e9"];

function asRanged(store: object): RangedStore {
  if (isRanged(store)) return store;
  assert.fail("the store has no ranges()");
}

/** Everything of one range from a cursor on; `between` is called after each page. */
async function scanRange(
  store: RangedStore,
  range: string,
  options: Parameters<typeof scanAll>[1] = {},
): Promise<ScannedRecord[]> {
  return await scanAll({ scan: (page) => store.scan({ ...page, range }) }, options);
}

/** For each record the range it is in; none may be in two. */
async function rangeOfEach(
  store: RangedStore,
  ranges: readonly string[],
  options: Parameters<typeof scanAll>[1] = {},
): Promise<Map<string, string>> {
  const found = new Map<string, string>();
  for (const range of ranges) {
    for (const record of await scanRange(store, range, options)) {
      const at = placeOf(record);
      assert.equal(found.get(at) ?? range, range, "a record is in one range only");
      found.set(at, range);
    }
  }
  return found;
}

/** Writes records into several namespaces, and says where. */
async function fill({ inNamespace }: OpenStore, value: string): Promise<Set<string>> {
  const places = new Set<string>();
  for (const namespace of namespaces) {
    const keys = [...numbered("key-", 60), ...(namespace === "a" ? oddKeys : [])];
    await inNamespace(namespace).setMany(keys.map((key) => ({ key, value })));
    for (const key of keys) places.add(placeOf({ namespace, key }));
  }
  return places;
}

/** Ranges share the records, whatever is done to these, and say the same in every process. */
export function describeRanges(test: StoreTest): void {
  test("have every record of every namespace in exactly one, however many they are", async (opened) => {
    const store = asRanged(opened.store);
    const places = await fill(opened, "value");
    for (const count of [1, 2, 7, 16]) {
      const ranges = await store.ranges(count);
      assert.ok(ranges.length >= 1 && ranges.length <= count, `${ranges.length} ranges instead of ${count}`);
      assert.equal(new Set(ranges).size, ranges.length, "no range comes twice");
      assert.deepEqual(new Set((await rangeOfEach(store, ranges)).keys()), places);
    }
  });

  test("are of about equal size", async ({ store, inNamespace }) => {
    const count = 2_000;
    await inNamespace("a").setMany(numbered("key-", count).map((key) => ({ key, value: "value" })));
    const ranges = await asRanged(store).ranges(4);
    const fair = count / ranges.length;
    for (const range of ranges) {
      const { length } = await scanRange(asRanged(store), range);
      assert.ok(length > fair / 2 && length < fair * 2, `${length} records where ${fair} are a fair share`);
    }
  });

  test("have a record in the same one whenever it is written", async (opened) => {
    const store = asRanged(opened.store);
    const ranges = await store.ranges(5);
    const places = await fill(opened, "value");
    const before = await rangeOfEach(store, ranges);
    assert.deepEqual(new Set(before.keys()), places);
    await opened.inNamespace("a").deleteMany(numbered("key-", 30));
    await opened.inNamespace("a").setMany(numbered("other-", 200).map((key) => ({ key, value: "value" })));
    await fill(opened, "written again");
    const after = await rangeOfEach(store, ranges);
    for (const [at, range] of before) assert.equal(after.get(at), range, "a record stays in its range");
  });

  test("have what stays in exactly one, while others are written and deleted", async (opened) => {
    const store = asRanged(opened.store);
    const busy = opened.inNamespace("busy");
    const leaving = numbered("leaving-", 200);
    await busy.setMany(leaving.map((key) => ({ key, value: "value" })));
    const places = await fill(opened, "value");
    let pages = 0;
    const found = await rangeOfEach(store, await store.ranges(4), {
      limit: 10,
      async between() {
        // From the first range to the last, and each record once at most: a scan over what grows faster than it reads
        // need not end.
        const from = pages++ * 2;
        if (from % 10 !== 0 || from >= leaving.length) return;
        await busy.deleteMany(leaving.slice(from, from + 10));
        await busy.setMany(numbered(`coming-${from}-`, 10).map((key) => ({ key, value: "value" })));
      },
    });
    for (const at of places) assert.ok(found.has(at), "a record that was there throughout was found");
  });

  test("mean the same in another store on the same records", async (opened) => {
    const store = asRanged(opened.store);
    await fill(opened, "value");
    const ranges = await store.ranges(3);
    const other = asRanged(await secondWriter(opened));
    assert.deepEqual(await rangeOfEach(other, ranges), await rangeOfEach(store, ranges));
  });

  test("hold for the cursors that come from them, in another store on the same records too", async (opened) => {
    const store = asRanged(opened.store);
    await fill(opened, "value");
    const ranges = await store.ranges(3);
    const rangeOf = await rangeOfEach(store, ranges);
    const other = asRanged(await secondWriter(opened));
    for (const range of ranges) {
      const first = await store.scan({ range, limit: 5 });
      const rest = first.cursor === undefined ? [] : await scanRange(other, range, { cursor: first.cursor, limit: 20 });
      const found = new Set([...first.entries, ...rest].map(placeOf));
      const own = [...rangeOf].filter(([, each]) => each === range).map(([at]) => at);
      assert.deepEqual(found, new Set(own));
    }
  });

  test("have pages of about the limit", async ({ store, inNamespace }) => {
    await inNamespace("a").setMany(numbered("key-", 1_000).map((key) => ({ key, value: "value" })));
    const [range = ""] = await asRanged(store).ranges(2);
    const page = await asRanged(store).scan({ range, limit: 10 });
    assert.ok(page.entries.length <= 100, `${page.entries.length} records in a page of about 10`);
    assert.ok(page.cursor !== undefined, "half of 1,000 records are not one page of about 10");
  });

  test("have nothing that has expired", async ({ store }) => {
    await store.set("gone", "value", Date.now() - 1);
    await store.set("there", "value", Date.now() + 3_600_000);
    const found = await rangeOfEach(asRanged(store), await asRanged(store).ranges(3));
    assert.deepEqual([...found.keys()], [placeOf({ namespace: "", key: "there" })]);
  });

  test("are refused where they are none, and so are cursors and counts", async (opened) => {
    const store = asRanged(opened.store);
    await fill(opened, "value");
    const [range = ""] = await store.ranges(2);
    const refused = { name: "KeywardError", code: "VALUE_INVALID" };
    for (const none of ["", " ", "no range", "\0", `${range}x`, `x${range}`]) {
      await assert.rejects(store.scan({ range: none }), refused, `${JSON.stringify(none)} is no range`);
    }
    await assert.rejects(store.scan({ range, cursor: "no cursor" }), refused);
    for (const count of [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY]) {
      await assert.rejects(store.ranges(count), refused, `${count} is no count`);
    }
  });
}

/** Ranges of a store with a reserved space have nothing of it. */
export function describeReservedRanges(test: StoreTest): void {
  test("have nothing that is reserved", async ({ store }) => {
    await reservedOf(store).set("reserved key", "reserved");
    await store.set("key", "record");
    const found = await rangeOfEach(asRanged(store), await asRanged(store).ranges(3));
    assert.deepEqual([...found.keys()], [placeOf({ namespace: "", key: "key" })]);
  });
}
