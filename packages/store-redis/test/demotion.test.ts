import KeyvRedis6 from "@keyv/redis";
import { createKeyv, Keyring } from "@keyward/core";
import { type KeyvRedisStore, keyvRedis, RedisStore } from "@keyward/store-redis";
import { Redis } from "ioredis";
import { beforeEach, describe, expect, it, onTestFinished } from "vitest";
import { type Proxy as Endpoint, startProxy } from "../../../test/faults/proxy.ts";
import {
  describeWithRedis,
  findRedisServers,
  type RedisNode,
  startRedis,
  startSentinelGroup,
} from "../../../test/servers/redis.ts";
import { KeyvRedis5, KeyvValkey } from "./keyv-5-adapters.ts";

const servers = await findRedisServers();
/** A timeout that is long enough for a reconnection on a busy machine. */
const patientMs = 5_000;
const impatientMs = 600;

function overClient(url: string, timeoutMs: number): RedisStore {
  const client = new Redis(url);
  client.on("error", () => undefined);
  onTestFinished(() => client.disconnect());
  return new RedisStore(client, { timeoutMs });
}

const stores: Record<string, (url: string, timeoutMs: number) => RedisStore | KeyvRedisStore> = {
  RedisStore: (url, timeoutMs) => new RedisStore(url, { timeoutMs }),
  "RedisStore over a client of ioredis": overClient,
  "keyvRedis over @keyv/redis 5": (url, timeoutMs) => keyvRedis(KeyvRedis5(url), { timeoutMs }),
  "keyvRedis over @keyv/redis 6": (url, timeoutMs) => keyvRedis(new KeyvRedis6(url), { timeoutMs }),
  "keyvRedis over @keyv/valkey 1": (url, timeoutMs) =>
    keyvRedis(KeyvValkey(url, { useRedisSets: false }), { timeoutMs }),
};

/** Returns the node's INFO about its replication. */
async function replicationOf(node: RedisNode): Promise<string> {
  return String(await node.command("INFO", "replication"));
}

async function follow(replica: RedisNode, primary: RedisNode): Promise<void> {
  await replica.command("REPLICAOF", primary.host, primary.port);
  await expect.poll(() => replicationOf(replica), { timeout: 20_000 }).toMatch(/master_link_status:up/);
}

describeWithRedis(servers, "a node that is no longer the primary", () => {
  let first: RedisNode;
  let second: RedisNode;
  let endpoint: Endpoint;
  let opened: (RedisStore | KeyvRedisStore)[];
  let url: string;
  beforeEach(async () => {
    const started = await Promise.all([startRedis(servers), startRedis(servers)]);
    [first, second] = started;
    await Promise.all(started.map((node) => node.command("CONFIG", "SET", "repl-diskless-sync-delay", 0)));
    // Like the endpoint of a hosted service: new connections lead to the primary, and open connections stay where they
    // are.
    const proxy = await startProxy(first.port);
    endpoint = proxy;
    url = `redis://127.0.0.1:${endpoint.port}`;
    const disconnected: typeof opened = [];
    opened = disconnected;
    return async () => {
      await Promise.all(disconnected.map((store) => store.disconnect()));
      await proxy.close();
      await Promise.all(started.map((node) => node.stop()));
    };
  });

  describe.each(Object.entries(stores))("a store, made as %s,", (_, open) => {
    async function connected(): Promise<RedisStore | KeyvRedisStore> {
      const store = open(url, patientMs);
      opened.push(store);
      await store.set("key", "before");
      return store;
    }

    it("reconnects to the new primary for all concurrent calls after the former primary was demoted", async () => {
      await follow(second, first);
      const store = await connected();
      await expect.poll(async () => String(await second.command("DBSIZE"))).toBe("1");
      await second.command("REPLICAOF", "NO", "ONE");
      await follow(first, second);
      endpoint.leadTo(second.port);
      const keys = Array.from({ length: 50 }, (_, index) => `key ${index}`);
      const written = await Promise.all([
        store.setMany(keys.map((key) => ({ key, value: "after" }))),
        ...keys.map((key) => store.set(`${key} alone`, "after")),
      ]);
      expect(new Set(written.flat())).toEqual(new Set([true]));
      expect(await store.delete("key 0")).toBe(true);
      expect(await store.replace("key 1", "after", "replaced")).toBe(true);
      expect(await store.get("key 1")).toBe("replaced");
      expect(String(await second.command("DBSIZE"))).toBe("100");
    });

    it("reconnects to the new primary if the node is a Redis replica that has lost its primary", async () => {
      const store = await connected();
      await second.command("CONFIG", "SET", "replica-serve-stale-data", "no");
      await first.command("CONFIG", "SET", "replica-serve-stale-data", "no");
      // Nothing listens at this address.
      await first.command("REPLICAOF", "127.0.0.1", 1);
      endpoint.leadTo(second.port);
      expect(await store.get("key")).toBeUndefined();
      expect(await store.set("key", "after")).toBe(true);
    });

    it("reconnects to the new primary if the node refuses writes because it has no Redis replicas", async () => {
      const store = await connected();
      await first.command("CONFIG", "SET", "min-replicas-to-write", 1);
      endpoint.leadTo(second.port);
      expect(await store.set("key", "after")).toBe(true);
      expect(await store.get("key")).toBe("after");
    });

    it("makes calls reject with the reason that the node is a Redis replica if no other node can be reached", async () => {
      await follow(first, second);
      const store = open(url, impatientMs);
      opened.push(store);
      const refused = () => store.set("key", "value").catch((error: unknown) => error);
      // On a busy machine a call may time out before the server has replied.
      await expect.poll(refused, { timeout: 20_000 }).toMatchObject({
        code: "STORE_UNAVAILABLE",
        message: "Redis is a replica, which accepts no writes",
        hint: expect.stringContaining("Connect to the primary"),
      });
    });
  });
});

describeWithRedis(servers, "a Sentinel group that demotes its primary", () => {
  it("RedisStore, and keyvRedis over @keyv/valkey, reconnect to the new primary after a Sentinel group has demoted its primary", async () => {
    const group = await startSentinelGroup(servers, { onDemand: true });
    onTestFinished(() => group.stop());
    const sentinels = group.sentinels.map(({ host, port }) => ({ host, port }));
    const source = { sentinels, name: group.name };
    const opened = [
      new RedisStore(source, { timeoutMs: 8_000 }),
      keyvRedis(KeyvValkey(source, { useRedisSets: false }), { timeoutMs: 8_000 }),
    ];
    for (const store of opened) onTestFinished(() => store.disconnect());
    const keyring = Keyring.generate("key");
    const keyvs = opened.map((store, index) => createKeyv({ store, keys: keyring, namespace: `n${index}` }));
    for (const keyv of keyvs) await keyv.set("key", "before");
    await group.replicated();
    const [former, latter] = group.nodes;
    const [sentinel] = group.sentinels;
    // Both nodes keep running. On a busy machine, a sentinel abandons a failover that takes too long at any of its
    // steps.
    await expect
      .poll(
        async () => {
          await sentinel?.command("SENTINEL", "FAILOVER", group.name).catch(() => undefined);
          return await expect
            .poll(() => replicationOf(former), { timeout: 10_000 })
            .toMatch(/^role:slave/m)
            .then(
              () => "demoted",
              () => "not yet",
            );
        },
        { timeout: 120_000 },
      )
      .toBe("demoted");
    await expect.poll(() => group.primary(), { timeout: 20_000 }).toBe(latter);
    for (const keyv of keyvs) {
      expect(await keyv.set("key", "after")).toBe(true);
      expect(await keyv.get("key")).toBe("after");
    }
  }, 180_000);
});
