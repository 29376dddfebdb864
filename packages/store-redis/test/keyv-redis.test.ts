import KeyvRedis6 from "@keyv/redis";
import { storeContract } from "@keyward/contract";
import { census, createKeyv, EncryptedStore, Keyring, plaintext, reencrypt, type ScannedRecord } from "@keyward/core";
import { type KeyvRedisAdapter, type KeyvRedisStore, type KeyvValkeyAdapter, keyvRedis } from "@keyward/store-redis";
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from "vitest";
import {
  describeWithRedis,
  findRedisServers,
  type RedisNode,
  startCluster,
  startRedis,
  startSentinelGroup,
} from "../../../test/servers/redis.ts";
import { KeyvRedis5, KeyvValkey } from "./keyv-5-adapters.ts";

const servers = await findRedisServers();

/** Returns all records that a scan of the store finds. */
async function scanned(store: KeyvRedisStore, limit: number): Promise<ScannedRecord[]> {
  const found: ScannedRecord[] = [];
  let cursor: string | undefined;
  do {
    const page = await store.scan({ limit, ...(cursor === undefined ? {} : { cursor }) });
    found.push(...page.entries);
    cursor = page.cursor;
  } while (cursor !== undefined);
  return found;
}

describeWithRedis(servers, "keyvRedis", () => {
  let node: RedisNode;
  beforeAll(async () => {
    node = await startRedis(servers);
  });
  afterAll(() => node.stop());
  beforeEach(async () => {
    await node.command("FLUSHALL");
  });

  const redisAdapters: Record<string, (url: string) => KeyvRedisAdapter> = {
    "@keyv/redis 5": (url) => KeyvRedis5(url),
    "@keyv/redis 6": (url) => new KeyvRedis6(url),
  };
  const adapters: Record<string, (url: string) => KeyvRedisAdapter | KeyvValkeyAdapter> = {
    ...redisAdapters,
    "@keyv/valkey 1": (url) => KeyvValkey(url, { useRedisSets: false }),
  };

  describe.each(Object.entries(adapters))("%s", (name, adapter) => {
    const isRedis = name in redisAdapters;
    storeContract(
      { describe, it },
      {
        name,
        expect: { atomic: true, scannable: true, ranged: true, bytes: false, reserved: false, namespaced: false },
        takesDurations: true,
        refusesNamespacesWith: isRedis ? "::" : ":",
        // @keyv/valkey puts its separator in front of a key without a namespace too.
        exceptions: isRedis ? ["namespaces-collide"] : [],
        async open() {
          const opened: KeyvRedisStore[] = [];
          const open = (over: KeyvRedisAdapter | KeyvValkeyAdapter, namespace: string) => {
            const store = keyvRedis(over);
            store.namespace = namespace;
            opened.push(store);
            return store;
          };
          // All stores share one adapter, and disconnecting one of them must not close it for the others.
          const shared = adapter(node.url);
          return {
            store: open(shared, ""),
            inNamespace: (namespace) => open(shared, namespace),
            again: async () => open(adapter(node.url), ""),
            async close() {
              await Promise.all(opened.map((each) => each.disconnect()));
            },
          };
        },
      },
    );
  });

  describe.each(Object.entries(adapters))("a store over an adapter of %s", (_, adapter) => {
    function open(namespace = ""): KeyvRedisStore {
      const store = keyvRedis(adapter(node.url));
      store.namespace = namespace;
      onTestFinished(() => store.disconnect());
      return store;
    }

    it("scans the records of every namespace", async () => {
      const expected: ScannedRecord[] = [];
      for (const namespace of ["", "a", "a*", "é"]) {
        const entries = Array.from({ length: 50 }, (_, index) => ({
          key: `key ${index}`,
          value: `${namespace}${index}`,
        }));
        await open(namespace).setMany(entries);
        expected.push(...entries.map((entry) => ({ namespace, ...entry })));
      }
      const found = await scanned(open("a"), 7);
      expect(new Set(found.map((record) => JSON.stringify(record)))).toEqual(
        new Set(expected.map(({ namespace, key, value }) => JSON.stringify({ namespace, key, value }))),
      );
    });

    it("reads records that the adapter wrote, and writes records that the adapter can read", async () => {
      const bare = adapter(node.url);
      bare.namespace = "flows";
      onTestFinished(async () => {
        await bare.disconnect();
      });
      if (!("get" in bare && typeof bare.get === "function" && "set" in bare && typeof bare.set === "function")) {
        throw new Error("The adapter has no get and set");
      }
      const store = open("flows");
      await bare.set("key", "by the adapter");
      expect(await store.get("key")).toBe("by the adapter");
      expect(await store.replace("key", "by the adapter", "by the store")).toBe(true);
      expect(await bare.get("key")).toBe("by the store");
    });

    it("lets createKeyv encrypt existing plaintext records, and lets reencrypt move records to a new key", async () => {
      await open("flows").set("old", JSON.stringify({ value: { step: 1 } }));
      const first = Keyring.generate("first");
      const flows = createKeyv({ store: open("flows"), namespace: "flows", keys: first, accept: [plaintext()] });
      await flows.set("new", { step: 2 }, 60_000);
      expect(await flows.get("old")).toEqual({ step: 1 });
      await flows.encryptedStore.settled();
      expect(await open("flows").get("old")).toMatch(/^kw1\.first\./);

      const both = first.add({ id: "second" }).promote("second");
      const store = new EncryptedStore(open("flows"), { keys: both });
      store.namespace = "flows";
      const report = await reencrypt(store);
      expect(report).toMatchObject({ complete: true, reencrypted: 2, unreadable: 0, conflicts: 0 });
      expect((await census(open())).keys).toEqual(new Map([["second", 2]]));
      expect(await createKeyv({ store: open("flows"), namespace: "flows", keys: both }).get("new")).toEqual({
        step: 2,
      });
    });

    it("rejects calls within the timeout during an outage of the server, and reconnects after the outage", async () => {
      const server = await startRedis(servers);
      const store = keyvRedis(adapter(server.url), { timeoutMs: 500 });
      onTestFinished(async () => {
        await store.disconnect();
        await server.stop();
      });
      await store.set("key", "value");
      await server.kill();
      for (const call of [
        () => store.get("key"),
        () => store.set("key", "lost"),
        () => store.scan(),
        () => store.clear(),
      ]) {
        const startedAtMs = performance.now();
        await expect(call()).rejects.toMatchObject({ code: "STORE_UNAVAILABLE" });
        expect(performance.now() - startedAtMs).toBeLessThan(4_500);
      }
      await server.restart();
      await expect.poll(() => store.get("key").catch(() => "still down"), { timeout: 10_000 }).toBe("value");
      // A write that has failed is not carried out later.
      expect(await store.get("key")).toBe("value");
    });

    it("makes get reject if the key of the record in Redis contains a list instead of a string", async () => {
      const store = open();
      await store.set("key", "value");
      const [at = ""] = [await node.command("KEYS", "*")].flat().map(String);
      await node.command("DEL", at);
      await node.command("LPUSH", at, "item");
      await expect(store.get("key")).rejects.toMatchObject({ code: "STORE_INVALID" });
    });
  });

  it("keyvRedis scans and replaces records on a Cluster over adapters of @keyv/redis", async () => {
    const cluster = await startCluster(servers);
    onTestFinished(() => cluster.stop());
    const rootNodes = cluster.nodes.slice(0, 3).map(({ url }) => ({ url }));
    for (const adapter of [new KeyvRedis6({ rootNodes }), KeyvRedis5({ rootNodes })]) {
      const store = keyvRedis(adapter);
      store.namespace = "flows";
      onTestFinished(() => store.disconnect());
      const keys = Array.from({ length: 300 }, (_, index) => `key ${index}`);
      await store.setMany(keys.map((key) => ({ key, value: "old" })));
      expect(new Set((await scanned(store, 50)).map(({ key }) => key))).toEqual(new Set(keys));
      const replaced = await store.replaceMany(keys.map((key) => ({ key, expected: "old", next: "new" })));
      expect(new Set(replaced)).toEqual(new Set([true]));
      expect(new Set(await store.getMany(keys))).toEqual(new Set(["new"]));
      await store.clear();
      expect(await scanned(store, 50)).toEqual([]);
    }
  });

  it("keyvRedis refuses an adapter of @keyv/valkey that was created without the option useRedisSets: false", async () => {
    const adapter = KeyvValkey(node.url);
    onTestFinished(() => adapter.disconnect());
    expect(() => keyvRedis(adapter)).toThrow(expect.objectContaining({ code: "VALUE_INVALID" }));
  });

  it("a store of keyvRedis refuses a write to a namespace that ends with a part of the adapter's separator", async () => {
    const store = keyvRedis(new KeyvRedis6(node.url));
    onTestFinished(() => store.disconnect());
    store.namespace = "a:";
    await expect(store.set("key", "value")).rejects.toMatchObject({ code: "VALUE_INVALID" });
    expect(await node.command("DBSIZE")).toBe(0);
  });

  it("keyvRedis refuses an adapter that is connected to a Sentinel group, and recommends RedisStore", async () => {
    const group = await startSentinelGroup(servers);
    onTestFinished(() => group.stop());
    const connection = {
      name: group.name,
      sentinelRootNodes: group.sentinels.map(({ host, port }) => ({ host, port })),
    };
    for (const adapter of [new KeyvRedis6(connection), KeyvRedis5(connection)]) {
      expect(() => keyvRedis(adapter)).toThrow(
        expect.objectContaining({
          code: "STORE_INVALID",
          message: "The adapter of @keyv/redis is connected to a Sentinel group, whose keys keyvRedis cannot scan",
          hint:
            "Use a RedisStore with the options `sentinels` and `name` of ioredis. Copy the records to the RedisStore, " +
            "because the RedisStore uses other keys in Redis than the adapter.",
        }),
      );
      await adapter.disconnect();
    }
  });

  it.each([
    ["@keyv/redis 5", () => KeyvRedis5(node.url)],
    ["@keyv/valkey 1", () => KeyvValkey(node.url, { useRedisSets: false })],
  ])(
    "an adapter of %s does not end the process if it reports an error after disconnect() of its store",
    async (_, open) => {
      const adapter = open();
      const store = keyvRedis(adapter);
      await store.set("key", "value");
      await store.disconnect();
      expect(() => Reflect.get(adapter, "emit").call(adapter, "error", new Error("late"))).not.toThrow();
    },
  );

  it("keyvRedis adds one listener per event to an adapter of @keyv/valkey and to its client, even for many stores", async () => {
    const adapter = KeyvValkey(node.url, { useRedisSets: false });
    onTestFinished(() => adapter.disconnect());
    const listeners = () =>
      [adapter.redis, adapter].flatMap((emitter) =>
        ["error", "node error", "ready"].map((name) => {
          const count: unknown = Reflect.apply(Reflect.get(Object(emitter), "listenerCount"), emitter, [name]);
          return Number(count);
        }),
      );
    const without = listeners();
    const [stays, ...others] = Array.from({ length: 20 }, () => keyvRedis(adapter));
    for (const [index, count] of listeners().entries()) expect(count - (without[index] ?? 0)).toBeLessThanOrEqual(1);
    for (const store of others) await store.disconnect();
    expect(await stays?.set("key", "value")).toBe(true);
    expect(listeners()).not.toEqual(without);
    await stays?.disconnect();
    // The client removes its own listeners when it disconnects, so there may be fewer than before. One listener stays,
    // which ignores late errors.
    for (const [index, count] of listeners().entries()) expect(count).toBeLessThanOrEqual((without[index] ?? 0) + 1);
  });

  it.each(Object.entries(adapters))(
    "a store of keyvRedis disconnects an adapter of %s within the timeout if the server hangs",
    async (_, adapter) => {
      const server = await startRedis(servers);
      onTestFinished(() => server.stop());
      const store = keyvRedis(adapter(server.url), { timeoutMs: 300 });
      await store.set("key", "value");
      server.pause();
      await expect(store.get("key")).rejects.toMatchObject({ code: "STORE_UNAVAILABLE" });
      const startedAtMs = performance.now();
      await store.disconnect();
      expect(performance.now() - startedAtMs).toBeLessThan(4_500);
    },
  );

  it.each(Object.entries(redisAdapters))(
    "keyvRedis switches on throwOnErrors of an adapter of %s",
    async (_, adapter) => {
      const bare = adapter(node.url);
      bare.throwOnErrors = false;
      const store = keyvRedis(bare);
      onTestFinished(() => store.disconnect());
      expect(bare.throwOnErrors).toBe(true);
      await node.command("LPUSH", "list", "item");
      if (!("get" in bare && typeof bare.get === "function")) throw new Error("The adapter has no get");
      await expect(bare.get("list")).rejects.toThrow("WRONGTYPE");
    },
  );
});
