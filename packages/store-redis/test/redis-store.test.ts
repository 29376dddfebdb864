import { storeContract } from "@keyward/contract";
import { type RedisSource, RedisStore } from "@keyward/store-redis";
import { afterAll, beforeAll, describe, it } from "vitest";
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

describeWithRedis(plain, "one server", () => {
  let node: RedisNode;
  beforeAll(async () => {
    node = await startRedis(plain);
  });
  afterAll(() => node.stop());
  contract("RedisStore on one server", () => node.url);
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
});
