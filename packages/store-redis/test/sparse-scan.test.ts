import { RedisStore } from "@keyward/store-redis";
import { expect, it, onTestFinished } from "vitest";
import { describeWithRedis, findRedisServers, startRedis } from "../../../test/servers/redis.ts";

const servers = await findRedisServers();

describeWithRedis(servers, "a few records among many keys of another application", () => {
  const foreign = 200_000;

  it("a few records among many keys of another application are found by scan, yielded by iterator and removed by clear, even if one call has no time to read all keys", async () => {
    const node = await startRedis(servers);
    const store = new RedisStore(node.url, { timeoutMs: 200 });
    onTestFinished(async () => {
      await store.disconnect();
      await node.stop();
    });
    await node.command("CONFIG", "SET", "appendonly", "no");
    const fill = `for number = 1, tonumber(ARGV[1]) do redis.call("SET", "foreign:" .. number, "") end`;
    await node.command("EVAL", fill, 0, foreign);
    const keys = ["one", "two"];
    await store.setMany(keys.map((key) => ({ key, value: "value" })));

    for (const range of [undefined, ...(await store.ranges(2))]) {
      const found = new Set<string>();
      let cursor: string | undefined;
      do {
        const page = await store.scan({
          limit: 10,
          ...(range === undefined ? {} : { range }),
          ...(cursor === undefined ? {} : { cursor }),
        });
        for (const { key } of page.entries) found.add(key);
        cursor = page.cursor;
      } while (cursor !== undefined);
      if (range === undefined) expect(found).toEqual(new Set(keys));
    }

    const iterated: string[] = [];
    for await (const [key] of store.iterator()) iterated.push(key);
    expect(iterated.toSorted()).toEqual(keys);
    await store.clear();
    expect(await store.hasMany(keys)).toEqual([false, false]);
    expect(await node.command("DBSIZE")).toBe(foreign);
  });

  it("a few records among many keys of another application are returned in pages of about the limit, even after a step of a scan that found none of them", async () => {
    const node = await startRedis(servers);
    const store = new RedisStore(node.url);
    onTestFinished(async () => {
      await store.disconnect();
      await node.stop();
    });
    const numbers = Array.from({ length: 2_000 }, (_, number) => number);
    await store.setMany(numbers.map((number) => ({ key: `key-${number}`, value: "value" })));
    for (const number of numbers) await node.command("SET", `foreign:${number}`, "");
    // Every second step of one key finds no record.
    const found = new Set<string>();
    let cursor: string | undefined;
    do {
      const page = await store.scan({ limit: 1, ...(cursor === undefined ? {} : { cursor }) });
      expect(page.entries.length).toBeLessThanOrEqual(100);
      for (const { key } of page.entries) found.add(key);
      cursor = page.cursor;
    } while (cursor !== undefined);
    expect(found.size).toBe(numbers.length);
  });
});
