import type { StoredValue } from "@keyward/core";
import { RedisStore } from "@keyward/store-redis";
import fc from "fast-check";
import { Redis } from "ioredis";
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished, vi } from "vitest";
import { describeWithRedis, findRedisServers, type RedisNode, startRedis } from "../../../test/servers/redis.ts";
import { findValkeyServers } from "../../../test/servers/valkey.ts";
import { KeyLayout } from "../src/key-layout.ts";
import { Slots, slotCount } from "../src/slots.ts";
import { readValue, writeValue } from "../src/stored-value.ts";

const servers = await findRedisServers();
const envelope = Buffer.concat([Buffer.from("kw1:first:"), Buffer.from([0, 255, 128, 10])]);

describe("values", () => {
  const marked = fc.tuple(fc.constantFrom("kwt", "kwb"), fc.uint8Array({ maxLength: 12 })).map(([mark, rest]) => {
    return Buffer.concat([Buffer.from([0xff]), Buffer.from(mark), rest]);
  });
  const tempting = fc.constantFrom("kw1:", "kw1.a.b", "kw99:x", "kw:", "\ufeff", "\xff", "");
  const text = fc.oneof(
    fc.string({ unit: "binary" }),
    tempting,
    fc.tuple(tempting, fc.string()).map((both) => both.join("")),
  );
  const bytes = fc.oneof(
    fc.uint8Array().map((array) => Buffer.from(array)),
    text.map((each) => Buffer.from(each)),
    marked,
    fc.tuple(marked, marked).map((both) => Buffer.concat(both)),
    marked.map((each) => Buffer.concat([Buffer.from([0xff]), Buffer.from("kwb"), each])),
  );

  function same(one: StoredValue, other: StoredValue): boolean {
    if (typeof one === "string" || typeof other === "string") return one === other;
    return Buffer.compare(one, other) === 0;
  }

  it("are read with the type and content with which they were written, and different values have different bytes", () => {
    fc.assert(
      fc.property(fc.oneof(text, bytes), fc.oneof(text, bytes), (one, other) => {
        const [first, second] = [writeValue("", one), writeValue("", other)];
        expect(same(readValue(first), one)).toBe(true);
        expect(first.equals(second)).toBe(same(one, other));
      }),
      { numRuns: 5_000 },
    );
  });

  it("are stored unchanged if they are envelopes, text, or bytes that are not UTF-8", () => {
    for (const value of [envelope, "kw1.first.AAAA", '{"value":1}', "é", "", Buffer.from([0xff, 1])]) {
      expect(writeValue("", value).equals(Buffer.from(value))).toBe(true);
    }
  });

  it("are read as text if another program wrote UTF-8, and replace accepts this text as the expected value", () => {
    fc.assert(
      fc.property(bytes, (stored) => {
        const value = readValue(stored);
        if (typeof value === "string") expect(Buffer.from(value).equals(stored) || stored[0] === 0xff).toBe(true);
        // Only a value with an unnecessary mark is written differently. Such a value is neither Keyward's nor an
        // envelope.
        if (!writeValue("", value).equals(stored))
          expect(stored.equals(Buffer.from(value)) && stored[0] === 0xff).toBe(true);
      }),
      { numRuns: 5_000 },
    );
  });

  it.each([{ value: 1 }, { value: null }, { value: undefined }, { value: "\ud800" }, { value: {} }])(
    "are refused if they are neither text nor bytes, such as $value",
    ({ value }) => expect(() => writeValue("key", value)).toThrow(expect.objectContaining({ code: "VALUE_INVALID" })),
  );
});

describe("keys of Redis", () => {
  const place = fc.record({
    namespace: fc.oneof(
      fc.string({ unit: "binary" }),
      fc.constantFrom("", "a:b", "%", "%3A", "a%3Ab", "%reserved", "{a}", " "),
    ),
    key: fc.oneof(fc.string({ unit: "binary" }), fc.constantFrom("", ":", "a:b", "{x}")),
  });
  const layout = new KeyLayout("keyward");
  const [records, reserved] = [layout, layout.reserved()];
  const at = (each: KeyLayout, { namespace, key }: { namespace: string; key: string }) => each.startOf(namespace) + key;

  it("belong to exactly one record, which is either in a namespace or in the reserved space", () => {
    fc.assert(
      fc.property(place, place, (one, other) => {
        const alike = one.namespace === other.namespace && one.key === other.key;
        expect(at(records, one) === at(records, other)).toBe(alike);
        expect(at(records, one)).not.toBe(at(reserved, other));
        expect(records.placeOf(Buffer.from(at(records, one)))).toEqual({ ...one, at: at(records, one) });
        expect(records.placeOf(Buffer.from(at(reserved, one)))).toBeUndefined();
        expect(reserved.placeOf(Buffer.from(at(reserved, one)))).toEqual({ ...one, at: at(reserved, one) });
        expect(reserved.placeOf(Buffer.from(at(records, one)))).toBeUndefined();
      }),
      { numRuns: 3_000 },
    );
  });

  it("show the prefix, the namespace and the key of a record in readable form", () => {
    expect(at(records, { namespace: "flows", key: "session:42" })).toBe("keyward:flows:session:42");
    expect(at(records, { namespace: "", key: "session:42" })).toBe("keyward::session:42");
    expect(at(records, { namespace: "a:b {c}", key: "k" })).toBe("keyward:a%3Ab%20%7Bc%7D:k");
    expect(at(reserved, { namespace: "", key: "check" })).toBe("keyward:%reserved::check");
  });

  it("never contain a hash tag that comes from the namespace", () => {
    fc.assert(
      fc.property(place, ({ namespace }) => {
        expect(records.startOf(namespace)).not.toMatch(/[{}]/);
      }),
    );
  });

  it.each(["", "a:b", "\ud800"])("cannot have the prefix %j", (prefix) => {
    expect(() => new KeyLayout(prefix)).toThrow(expect.objectContaining({ code: "VALUE_INVALID" }));
  });
});

describe("slots", () => {
  it("are written and parsed in Redis' notation", () => {
    fc.assert(
      fc.property(fc.array(fc.nat({ max: slotCount - 1 })), (numbers) => {
        const slots = new Slots();
        for (const number of numbers) slots.add(number);
        expect([...(Slots.parse(String(slots)) ?? [])]).toEqual([...new Set(numbers)].sort((a, b) => a - b));
      }),
    );
    expect(String(Slots.parse("0-16383"))).toBe("0-16383");
    expect(Slots.parse("0-16383")?.isFull).toBe(true);
  });

  it.each(["-1", "1-", "16384", "5-1", "a", "1,,2", "1-2-3"])("cannot be parsed from %j", (text) => {
    expect(Slots.parse(text)).toBeUndefined();
  });
});

describeWithRedis(servers, "RedisStore", () => {
  let node: RedisNode;
  let client: Redis;
  let store: RedisStore;
  beforeAll(async () => {
    node = await startRedis(servers);
    client = new Redis(node.url);
    store = new RedisStore(node.url);
  });
  afterAll(async () => {
    client.disconnect();
    await store.disconnect();
    await node.stop();
  });
  beforeEach(async () => {
    await client.flushall();
  });

  it("a RedisStore stores an encrypted record so that GETRANGE shows the id of the encryption key", async () => {
    await store.namespaced("flows").set("session:42", envelope);
    expect(await client.getrange("keyward:flows:session:42", 0, 9)).toBe("kw1:first:");
  });

  it.each(["a*", "a?c", "[abc]", "a\\*", "abc", "a^c", "[^x]*"])(
    "a RedisStore clears only the namespace %j, even if another namespace would match this name as a pattern",
    async (namespace) => {
      const others = ["a*", "a?c", "[abc]", "a\\*", "abc", "a^c", "[^x]*", "a", "ab"].filter(
        (other) => other !== namespace,
      );
      for (const each of [...others, namespace]) await store.namespaced(each).set("key", "value");
      await store.namespaced(namespace).clear();
      expect(await store.namespaced(namespace).has("key")).toBe(false);
      for (const other of others) expect(await store.namespaced(other).has("key")).toBe(true);
    },
  );

  it("a RedisStore clears thousands of records, and keeps the keys of other applications", async () => {
    const keys = Array.from({ length: 5_000 }, (_, index) => `key ${index}`);
    await client.mset(...keys.flatMap((key) => [key, "of others"]));
    await store.setMany(keys.map((key) => ({ key, value: "value" })));
    await store.clear();
    expect(await client.dbsize()).toBe(keys.length);
  });

  it("a RedisStore reads a few records at a time in an iteration if the records are large", async () => {
    const large = "x".repeat(2 ** 20);
    await store.setMany(Array.from({ length: 20 }, (_, index) => ({ key: `${index}`, value: large })));
    let count = 0;
    for await (const _ of store.iterator()) if (++count === 1) await store.clear();
    // Records that were already read are still yielded.
    expect(count).toBeLessThanOrEqual(4);
  });

  it("a RedisStore never blocks the server with KEYS or DEL", async () => {
    await client.config("RESETSTAT");
    await store.setMany(Array.from({ length: 100 }, (_, index) => ({ key: `key ${index}`, value: "value" })));
    for await (const _ of store.iterator());
    await store.scan();
    await store.deleteMany(["key 1"]);
    await store.clear();
    const statistics = await client.info("commandstats");
    expect(statistics).toContain("cmdstat_unlink");
    expect(statistics).not.toMatch(/cmdstat_(?:keys|del|flushdb|flushall):/);
  });

  it("a RedisStore keeps the expiry of a record, exact to the millisecond, when it replaces the value", async () => {
    const expires = Date.now() + 3_600_000;
    await store.set("key", "old", expires);
    const before = await client.pexpiretime("keyward::key");
    expect(before).toBe(expires - 1);
    expect(await store.replace("key", "old", "new")).toBe(true);
    expect(await client.pexpiretime("keyward::key")).toBe(before);
  });

  it.each([60_000, -60_000])(
    "a RedisStore gives no expiry to a new record that replaces an expired record, even if the process's clock is %d ms ahead",
    async (aheadMs) => {
      const now = Date.now;
      const clock = vi.spyOn(Date, "now").mockImplementation(() => now() + aheadMs);
      onTestFinished(() => clock.mockRestore());
      const keys = ["first", "second"];
      await store.setMany(keys.map((key) => ({ key, value: "old" })));
      // Only the server's clock decides when this absolute time has come.
      const expires = now() + 1_000;
      for (const key of keys) await client.pexpireat(`keyward::${key}`, expires);
      const inserted = new Set<string>();
      await expect
        .poll(async () => {
          const left = keys.filter((key) => !inserted.has(key));
          const done = await store.replaceMany(left.map((key) => ({ key, expected: undefined, next: "new" })));
          for (const [index, key] of left.entries()) if (done[index] === true) inserted.add(key);
          return inserted.size;
        })
        .toBe(keys.length);
      expect(await store.getMany(keys)).toEqual(["new", "new"]);
      for (const key of keys) expect(await client.pexpiretime(`keyward::${key}`)).toBe(-1);
    },
  );

  it("a RedisStore still replaces records after the server has forgotten the scripts of the store", async () => {
    await store.setMany(Array.from({ length: 200 }, (_, index) => ({ key: `key ${index}`, value: "old" })));
    const changes = Array.from({ length: 200 }, (_, index) => ({ key: `key ${index}`, expected: "old", next: "new" }));
    for (const next of ["new", "old", "new"]) {
      const expected = next === "new" ? "old" : "new";
      await client.script("FLUSH");
      const flushing = client.script("FLUSH");
      const replaced = await store.replaceMany(changes.map((change) => ({ ...change, expected, next })));
      await flushing;
      expect(new Set(replaced)).toEqual(new Set([true]));
    }
    expect(await store.get("key 199")).toBe("new");
  });

  it("a RedisStore replaces records with a script if the server does not support SET IFEQ, and tries SET IFEQ only once", async () => {
    const fresh = new RedisStore(node.url);
    onTestFinished(() => fresh.disconnect());
    await fresh.set("key", "0");
    await client.config("RESETSTAT");
    expect(await fresh.replace("key", "0", "1")).toBe(true);
    const { refused } = await replacements(client);
    for (let step = 1; step < 5; step++) expect(await fresh.replace("key", `${step}`, `${step + 1}`)).toBe(true);
    expect(await fresh.replace("key", "0", "1")).toBe(false);
    const after = await replacements(client);
    // A newer server refuses nothing, and needs no script.
    expect([0, 1]).toContain(refused);
    expect(after.refused).toBe(refused);
    expect(after.scripts >= 6 * refused && after.scripts <= 7 * refused).toBe(true);
  });

  it("a RedisStore replaces many records with a few scripts of limited size, and only records that still have the expected value", async () => {
    await store.setMany(["one", "other"].map((key) => ({ key, value: "0" })));
    const known = ["one", "other"].map((key) => ({ key, expected: "0", next: "1" }));
    expect(await store.replaceMany(known)).toEqual([true, true]);
    const expires = Date.now() + 3_600_000;
    const keys = Array.from({ length: 150 }, (_, index) => `key ${index}`);
    await store.setMany(keys.map((key, index) => ({ key, value: `old ${index}`, expires: expires + index })));
    await store.setMany([
      { key: "key 3", value: "newer" },
      { key: "key 70", value: "newer" },
    ]);
    await store.delete("key 149");
    await client.config("RESETSTAT");
    const changes = keys.map((key, index) => ({ key, expected: `old ${index}`, next: Buffer.from([255, index]) }));
    const lost = new Set([3, 70, 149]);
    expect(await store.replaceMany(changes)).toEqual(keys.map((_, index) => !lost.has(index)));
    const { scripts } = await replacements(client);
    // The scripts have 64, 64 and 22 records.
    expect(scripts).toBe(3);
    expect(await store.getMany(["key 0", "key 3", "key 149"])).toEqual([Buffer.from([255, 0]), "newer", undefined]);
    expect(await client.pexpiretime("keyward::key 148")).toBe(expires + 147);

    // A script has at most 256 KiB of old and new values.
    const large = "x".repeat(100 * 1024);
    await store.setMany(keys.slice(0, 4).map((key) => ({ key, value: large })));
    await client.config("RESETSTAT");
    const replaced = await store.replaceMany(
      keys.slice(0, 4).map((key) => ({ key, expected: large, next: large.slice(1) })),
    );
    expect(replaced).toEqual([true, true, true, true]);
    // A record that does not share a script is replaced with SET IFEQ if the server has it.
    expect([0, 4]).toContain((await replacements(client)).scripts);
  });

  it("a RedisStore refuses a client or options of ioredis that have a keyPrefix", async () => {
    const prefixed = new Redis(node.url, { keyPrefix: "app:", lazyConnect: true });
    expect(() => new RedisStore(prefixed)).toThrow(expect.objectContaining({ code: "VALUE_INVALID" }));
    expect(() => new RedisStore({ port: node.port, keyPrefix: "app:" })).toThrow(
      expect.objectContaining({ code: "VALUE_INVALID" }),
    );
    prefixed.disconnect();
  });

  it.each([0, -1, Number.NaN, Number.POSITIVE_INFINITY])("a RedisStore refuses a timeoutMs of %d", (timeoutMs) => {
    expect(() => new RedisStore(node.url, { timeoutMs })).toThrow(expect.objectContaining({ code: "VALUE_INVALID" }));
  });

  it.each([
    "",
    "x",
    "{}",
    "[]",
    "0",
    '{"done":"1-","following":[],"runs":[]}',
    '{"done":"","following":[],"runs":[["a"]]}',
  ])("a RedisStore refuses a scan from the invalid cursor %j", async (cursor) => {
    await expect(store.scan({ cursor })).rejects.toMatchObject({ code: "VALUE_INVALID" });
  });

  it("a RedisStore makes get and scan reject with STORE_INVALID if the key of a record in Redis contains a list", async () => {
    await client.lpush("keyward::key", "item");
    await expect(store.get("key")).rejects.toMatchObject({ code: "STORE_INVALID" });
    await expect(store.scan()).rejects.toMatchObject({ code: "STORE_INVALID" });
    await store.clear();
    expect(await client.dbsize()).toBe(0);
  });

  it("a RedisStore leaves keys out of a scan if they begin with the store's prefix but are not keys of records", async () => {
    await client.mset("keyward:no end", "1", "keyward:%zz:key", "2", "keyward:%41:key", "3");
    await client.set(Buffer.from([...Buffer.from("keyward::"), 0xff]), "4");
    await store.set("key", "value");
    expect((await store.scan({ limit: 100 })).entries).toEqual([{ namespace: "", key: "key", value: "value" }]);
  });
});

describeWithRedis(await findValkeyServers(), "RedisStore on a server with SET IFEQ", () => {
  it("a RedisStore on a server with SET IFEQ replaces a record without a script, keeps the expiry, and rejects if the key contains a list", async () => {
    const node = await startRedis(await findValkeyServers());
    const client = new Redis(node.url);
    const store = new RedisStore(node.url);
    onTestFinished(async () => {
      client.disconnect();
      await store.disconnect();
      await node.stop();
    });
    const expires = Date.now() + 3_600_000;
    await store.set("key", "old", expires);
    expect(await store.replace("key", "old", "older")).toBe(true);
    expect(await store.replace("key", "old", "newer")).toBe(false);
    await client.lpush("keyward::list", "item");
    await expect(store.replace("list", "old", "new")).rejects.toMatchObject({ code: "STORE_INVALID" });
    expect(await replacements(client)).toEqual({ refused: 0, scripts: 0 });

    const changes = [
      { key: "key", expected: "older", next: "new" },
      { key: "key", expected: "older", next: "newer" },
      { key: "none", expected: "", next: "new" },
    ];
    expect(await store.replaceMany(changes)).toEqual([true, false, false]);
    expect(await client.pexpiretime("keyward::key")).toBe(expires - 1);
    // The script is sent by its digest, which the server does not know yet, and then by its text.
    expect(await replacements(client)).toEqual({ refused: 0, scripts: 2 });
    await expect(
      store.replaceMany(["list", "key"].map((key) => ({ key, expected: "", next: "" }))),
    ).rejects.toMatchObject({
      code: "STORE_INVALID",
    });
  });
});

/**
 * Returns how many commands the server has refused, and how many scripts it has run, since its statistics were reset.
 */
async function replacements(client: Redis): Promise<{ refused: number; scripts: number }> {
  const [commands, errors] = [await client.info("commandstats"), await client.info("errorstats")];
  const countOf = (pattern: RegExp, text: string) =>
    [...text.matchAll(pattern)].reduce((sum, [, count]) => sum + Number(count), 0);
  return {
    refused: countOf(/^errorstat_ERR:count=(\d+)/gm, errors),
    scripts: countOf(/^cmdstat_eval(?:sha)?:calls=(\d+)/gm, commands),
  };
}
