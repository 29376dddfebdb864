import { randomBytes } from "node:crypto";
import { inspect } from "node:util";
import { storeContract } from "@keyward/contract";
import { type RedisSource, RedisStore } from "@keyward/store-redis";
import { Cluster, Redis, type RedisOptions } from "ioredis";
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

/** Runs the whole contract, with a new prefix for each test. */
function contract(name: string, source: () => RedisSource): void {
  storeContract(
    { describe, it },
    {
      name,
      expect: { atomic: true, scannable: true, ranged: true, bytes: true, reserved: true, namespaced: true },
      takesDurations: true,
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

/** Checks for each batch call that all its commands are sent before the first reply, by pausing the servers. */
async function expectPipelined(
  client: Redis | Cluster,
  nodes: readonly RedisNode[],
  connections: () => readonly Redis[],
  commandsOf: { readonly replaceMany: number },
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
  // Connects to every primary, and finds out which commands the servers have.
  await store.setMany(keys.map((key) => ({ key, value: "old" })));
  await store.replaceMany(keys.map((key) => ({ key, expected: "old", next: "old" })));
  for (const [name, batch] of Object.entries(batches)) {
    for (const node of nodes) node.pause();
    const answers = batch();
    const waiting = () => connections().reduce((sum, { commandQueue }) => sum + commandQueue.length, 0);
    const commands = name === "replaceMany" ? commandsOf.replaceMany : keys.length;
    await expect.poll(waiting, { interval: 5 }).toBeGreaterThanOrEqual(commands);
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

describeWithRedis(servers, "a server that replies late", () => {
  it("a server that replies late receives all commands of a batch before it sends the first reply", async () => {
    const node = await startRedis(servers);
    const client = new Redis(node.url);
    onTestFinished(async () => {
      client.disconnect();
      await node.stop();
    });
    // A script has at most 64 records.
    await expectPipelined(client, [node], () => [client], { replaceMany: 2 });
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

describeWithRedis(servers, "a server that requires TLS and a password", () => {
  let node: RedisNode;
  beforeAll(async () => {
    node = await startTlsRedis(servers);
  });
  afterAll(() => node.stop());

  function open(options: RedisOptions): RedisStore {
    const store = new RedisStore({ host: node.host, port: node.port, ...options }, { timeoutMs: 1_500 });
    onTestFinished(() => store.disconnect());
    return store;
  }

  it("a RedisStore over TLS stores large values and large batches, replaces large values, and can be scanned", async () => {
    const store = open(node.options);
    const large = randomBytes(2 ** 20);
    await store.set("large", large);
    expect(await store.replace("large", large, "small")).toBe(true);
    const keys = Array.from({ length: 2_000 }, (_, index) => `key ${index}`);
    await store.setMany(keys.map((key) => ({ key, value: `value of ${key}` })));
    expect(await store.getMany(keys)).toEqual(keys.map((key) => `value of ${key}`));
    const found = new Set<string>();
    let cursor: string | undefined;
    do {
      const page = await store.scan(cursor === undefined ? {} : { cursor });
      for (const { key } of page.entries) found.add(key);
      cursor = page.cursor;
    } while (cursor !== undefined);
    expect(found).toEqual(new Set(["large", ...keys]));
  });

  it("a call rejects within the timeout if TLS, the certificate or the right password is missing", async () => {
    const { password = "", tls = {} } = node.options;
    const lacking: Record<string, [options: RedisOptions, reason: RegExp | undefined]> = {
      // The server closes the connection without an error.
      TLS: [{ password }, undefined],
      "the certificate": [{ password, tls: {} }, /self-signed/],
      "the password": [{ tls }, /NOAUTH/],
      "the right password": [{ tls, password: "another" }, /WRONGPASS/],
    };
    const startedAtMs = performance.now();
    await Promise.all(
      Object.entries(lacking).map(async ([what, [options, reason]]) => {
        const error: unknown = await open(options)
          .get("key")
          .catch((caught: unknown) => caught);
        expect(error, what).toMatchObject({
          code: "STORE_UNAVAILABLE",
          ...(reason === undefined ? {} : { cause: { message: expect.stringMatching(reason) } }),
        });
        if (what.endsWith("password")) expect(error, what).toMatchObject({ message: "Redis refuses the login" });
        expect(inspect(error, { depth: 10 }), what).not.toContain(password);
      }),
    );
    expect(performance.now() - startedAtMs).toBeLessThan(4_500);
  });

  it("a call rejects with a hint that names the keys to allow if the user's ACL does not allow the store's keys", async () => {
    const administrator = new Redis({ host: node.host, port: node.port, ...node.options, replyMapping: "legacy" });
    onTestFinished(() => administrator.disconnect());
    await administrator.call("ACL", "SETUSER", "elsewhere", "on", ">another", "+@all", "~elsewhere:*");
    const store = open({ ...node.options, username: "elsewhere", password: "another" });
    await expect(store.set("key", "value")).rejects.toMatchObject({
      code: "STORE_UNAVAILABLE",
      message: expect.stringContaining("does not allow"),
      hint: expect.stringContaining("~prefix:*"),
    });
  });
});

describeWithRedis(servers, "a Cluster", () => {
  let cluster: RedisCluster;
  beforeAll(async () => {
    cluster = await startCluster(servers);
  });
  afterAll(() => cluster.stop());
  contract("RedisStore on a Cluster", () => ({ nodes: cluster.startupNodes }));

  it("a Cluster receives all commands of a batch before a primary node sends the first reply", async () => {
    const client = new Cluster([...cluster.startupNodes], { redisOptions: { replyMapping: "legacy" } });
    onTestFinished(() => client.disconnect());
    await expectPipelined(client, cluster.nodes, () => client.nodes("master"), { replaceMany: 100 });
  });
});
