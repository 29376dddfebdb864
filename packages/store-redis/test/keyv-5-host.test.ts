import KeyvRedis6 from "@keyv/redis";
import { createKeyv, EncryptedStore, Keyring, type KeywardKeyv } from "@keyward/core";
import { keyvRedis, RedisStore } from "@keyward/store-redis";
import type { KeyvStorageAdapter } from "keyv";
import { Keyv as Keyv5 } from "keyv-5";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { describeWithRedis, findRedisServers, type RedisNode, startRedis } from "../../../test/servers/redis.ts";

const servers = await findRedisServers({ anyWillDo: true });
const minuteMs = 60_000;

// The tests of Keyv 5 over stores that need no server are in test/hosts.
describeWithRedis(servers, "Keyv 5", () => {
  let node: RedisNode;
  beforeAll(async () => {
    node = await startRedis(servers);
  });
  afterAll(() => node.stop());

  const stores: Readonly<Record<string, () => KeyvStorageAdapter>> = {
    RedisStore: () => new RedisStore(node.url, { prefix: crypto.randomUUID() }),
    keyvRedis: () => keyvRedis(new KeyvRedis6(node.url)),
  };
  const fronts: Readonly<Record<string, (store: KeyvStorageAdapter) => KeyvStorageAdapter | KeywardKeyv>> = {
    "the store itself": (store) => store,
    "an EncryptedStore": (store) => new EncryptedStore(store, { keys: Keyring.generate() }),
    createKeyv: (store) => createKeyv({ store, keys: Keyring.generate() }),
  };

  describe.each(Object.entries(stores))("a store made by %s", (_, open) => {
    it.each(Object.entries(fronts))("keeps each value for its ttl if Keyv 5 uses %s", async (__, front) => {
      // A new namespace for each test, because all tests share a server.
      const namespace = crypto.randomUUID();
      const host = new Keyv5({ store: front(open()), namespace, throwOnErrors: true });
      onTestFinished(() => host.disconnect());
      await host.set("long", "before");
      expect(await host.set("long", { a: 1 }, minuteMs)).toBe(true);
      const entries = [
        { key: "long too", value: 2, ttl: minuteMs },
        { key: "short too", value: 3, ttl: 50 },
        { key: "forever", value: 4 },
      ];
      expect(await host.setMany(entries)).toEqual([true, true, true]);
      expect(await host.set("short", 5, 50)).toBe(true);
      await expect.poll(() => host.hasMany(["short", "short too"])).toEqual([false, false]);
      expect(await host.get(["long", "long too", "forever"])).toEqual([{ a: 1 }, 2, 4]);
      await host.clear();
      expect(await host.get("forever")).toBeUndefined();
    });
  });
});
