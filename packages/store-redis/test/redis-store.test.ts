import { storeContract } from "@keyward/contract";
import { type RedisSource, RedisStore } from "@keyward/store-redis";
import { Cluster, Redis } from "ioredis";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import {
  describeWithRedis,
  findRedisServers,
  type RedisCluster,
  type RedisNode,
  startCluster,
  startRedis,
  startTlsRedis,
} from "../../../test/servers/redis.ts";
import { findValkeyServers } from "../../../test/servers/valkey.ts";

const servers = await findRedisServers();
const plain = await findRedisServers({ anyWillDo: true });
const valkey = await findValkeyServers();

/** The whole contract, each test under a prefix of its own. */
function contract(name: string, source: () => RedisSource): void {
  storeContract(
    { describe, it },
    {
      name,
      expect: { atomic: true, scannable: true, ranged: true, bytes: true, reserved: true, namespaced: true },
      async open() {
        const prefix = crypto.randomUUID();
        const opened = [new RedisStore(source(), { prefix })];
        const [store = new RedisStore(source())] = opened;
        return {
          store,
          inNamespace: (namespace) => store.namespaced(namespace),
          async again() {
            const other = new RedisStore(source(), { prefix });
            opened.push(other);
            return other;
          },
          close: async () => {
            await Promise.all(opened.map((each) => each.disconnect()));
          },
        };
      },
    },
  );
}

/** That the commands of a batch wait for their answers together, where no server gives any. */
async function expectPipelined(
  client: Redis | Cluster,
  nodes: readonly RedisNode[],
  connections: () => readonly Redis[],
): Promise<void> {
  const store = new RedisStore(client, { prefix: crypto.randomUUID() });
  const keys = Array.from({ length: 100 }, (_, index) => `key ${index}`);
  const batches: Record<string, () => Promise<readonly unknown[]>> = {
    setMany: () => store.setMany(keys.map((key) => ({ key, value: "old", expires: Date.now() + 60_000 }))),
    getMany: () => store.getMany(keys),
    replaceMany: () => store.replaceMany(keys.map((key) => ({ key, expected: "old", next: "new" }))),
    hasMany: () => store.hasMany(keys),
    deleteMany: () => store.deleteMany(keys),
  };
  // Connected to every primary, and told what the servers know.
  await store.setMany(keys.map((key) => ({ key, value: "old" })));
  await store.replaceMany(keys.map((key) => ({ key, expected: "old", next: "old" })));
  for (const [name, batch] of Object.entries(batches)) {
    for (const node of nodes) node.pause();
    const answers = batch();
    const waiting = () => connections().reduce((sum, { commandQueue }) => sum + commandQueue.length, 0);
    await expect.poll(waiting, { interval: 5 }).toBeGreaterThanOrEqual(keys.length);
    for (const node of nodes) node.resume();
    expect(await answers, name).toHaveLength(keys.length);
  }
}

describeWithRedis(plain, "one server", () => {
  let node: RedisNode;
  beforeAll(async () => {
    node = await startRedis(plain);
  });
  afterAll(() => node.stop());
  contract("RedisStore on one server", () => node.url);
});

describeWithRedis(servers, "a server that answers late", () => {
  it("gets a batch as one pipeline: all is sent before the first answer", async () => {
    const node = await startRedis(servers);
    const client = new Redis(node.url);
    onTestFinished(async () => {
      client.disconnect();
      await node.stop();
    });
    await expectPipelined(client, [node], () => [client]);
  });
});

describeWithRedis(valkey, "one Valkey", () => {
  let node: RedisNode;
  beforeAll(async () => {
    node = await startRedis(valkey);
  });
  afterAll(() => node.stop());
  contract("RedisStore on one Valkey", () => node.url);
});

describeWithRedis(servers, "TLS and a password", () => {
  let node: RedisNode;
  beforeAll(async () => {
    node = await startTlsRedis(servers);
  });
  afterAll(() => node.stop());
  contract("RedisStore over TLS", () => ({ ...node.options, host: node.host, port: node.port }));
});

describeWithRedis(servers, "a Cluster", () => {
  let cluster: RedisCluster;
  beforeAll(async () => {
    cluster = await startCluster(servers);
  });
  afterAll(() => cluster.stop());
  contract("RedisStore on a Cluster", () => ({ nodes: cluster.startupNodes }));

  it("gets a batch as one pipeline for each primary: all is sent before the first answer", async () => {
    const client = new Cluster([...cluster.startupNodes], { redisOptions: { replyMapping: "legacy" } });
    onTestFinished(() => client.disconnect());
    await expectPipelined(client, cluster.nodes, () => client.nodes("master"));
  });
});
