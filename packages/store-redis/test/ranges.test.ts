import { census, createKeyv, EncryptedStore, Keyring, rangesOf, reencrypt, type ScannedRecord } from "@keyward/core";
import { RedisStore } from "@keyward/store-redis";
import { expect, it, onTestFinished } from "vitest";
import { describeWithRedis, findRedisServers, startCluster, startRedis } from "../../../test/servers/redis.ts";
import { slotOf } from "../src/slots.ts";

const servers = await findRedisServers();
const plain = await findRedisServers({ anyWillDo: true });

async function scanRange(
  store: RedisStore,
  range: string,
  between: () => Promise<void> = async () => undefined,
): Promise<ScannedRecord[]> {
  const found: ScannedRecord[] = [];
  let cursor: string | undefined;
  do {
    const page = await store.scan({ limit: 20, range, ...(cursor === undefined ? {} : { cursor }) });
    found.push(...page.entries);
    cursor = page.cursor;
    await between();
  } while (cursor !== undefined);
  return found;
}

function namesOf(records: readonly ScannedRecord[]): string[] {
  return records.map(({ namespace, key }) => JSON.stringify([namespace, key]));
}

/** Writes records of several namespaces, and returns their addresses. */
async function filled(store: RedisStore, countPerNamespace: number): Promise<Set<string>> {
  const names = new Set<string>();
  for (const namespace of ["", "flows", "a:b"]) {
    const keys = Array.from({ length: countPerNamespace }, (_, index) => `${index % 10 === 0 ? "{tag}" : ""}${index}`);
    await store.namespaced(namespace).setMany(keys.map((key) => ({ key, value: "value" })));
    for (const key of keys) names.add(JSON.stringify([namespace, key]));
  }
  return names;
}

describeWithRedis(plain, "ranges of a RedisStore on one server", () => {
  async function open(prefix: string = crypto.randomUUID()): Promise<RedisStore> {
    const node = await startRedis(plain);
    const store = new RedisStore(node.url, { prefix });
    onTestFinished(async () => {
      await store.disconnect();
      await node.stop();
    });
    return store;
  }

  it("ranges have at least one slot each, so a store returns at most as many ranges as there are slots", async () => {
    const ranges = await (await open()).ranges(1_000_000);
    expect(ranges).toHaveLength(16_384);
    expect(ranges.at(-1)).toBe("16383");
  });

  it("one range contains all records if the prefix of the store is a hash tag", async () => {
    const store = await open(`{${crypto.randomUUID()}}`);
    const names = await filled(store, 10);
    const shares = await Promise.all(
      (await store.ranges(4)).map(async (range) => (await scanRange(store, range)).length),
    );
    expect(shares.filter((share) => share > 0)).toEqual([names.size]);
  });

  it("a scan refuses a range that does not consist of slots in Redis' notation", async () => {
    const store = await open();
    for (const range of ["0-16384", "5-4", "0-5,"]) {
      await expect(store.scan({ range })).rejects.toMatchObject({ code: "VALUE_INVALID" });
    }
  });
});

describeWithRedis(servers, "ranges of a RedisStore on a Cluster", () => {
  it("ranges contain each record exactly once while slots move, and can be re-encrypted in parallel", async () => {
    const cluster = await startCluster(servers);
    const store = new RedisStore({ nodes: cluster.startupNodes }, { timeoutMs: 8_000 });
    onTestFinished(async () => {
      await store.disconnect();
      await cluster.stop();
    });
    const names = await filled(store, 100);

    const moving = [...names].slice(0, 12).map((name) => {
      const [, key]: string[] = JSON.parse(name);
      return slotOf(Buffer.from(`keyward::${key}`));
    });
    const found = new Map<string, string>();
    for (const range of await store.ranges(4)) {
      const records = await scanRange(store, range, async () => {
        const slot = moving.shift();
        if (slot === undefined) return;
        const source = await cluster.primaryOf(slot);
        const target = (await cluster.primaries()).find((node) => node !== source);
        if (target !== undefined) await cluster.moveSlot(slot, target);
      });
      for (const name of namesOf(records)) {
        // A record may be found twice if its slot moves, but never in two ranges.
        expect(found.get(name) ?? range).toBe(range);
        found.set(name, range);
      }
    }
    expect(moving).toEqual([]);
    expect(new Set(found.keys())).toEqual(names);

    const before = Keyring.generate("old");
    const writer = createKeyv({ store, keys: before, namespace: "encrypted" }).encryptedStore;
    await store.namespaced("").clear();
    await store.namespaced("flows").clear();
    await store.namespaced("a:b").clear();
    await writer.setMany(Array.from({ length: 300 }, (_, index) => ({ key: `${index}`, value: "value" })));
    const encrypted = new EncryptedStore(store, { keys: before.add({ id: "new" }).promote("new") });
    const reports = await Promise.all(
      (await rangesOf(encrypted, 5)).map((range) => reencrypt(encrypted, range === undefined ? {} : { range })),
    );
    expect(reports.map(({ complete }) => complete)).toEqual([true, true, true, true, true]);
    expect(reports.reduce((sum, { reencrypted }) => sum + reencrypted, 0)).toBe(300);
    expect((await census(store)).keys).toEqual(new Map([["new", 300]]));
  });
});
