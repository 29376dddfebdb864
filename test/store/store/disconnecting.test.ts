import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import KeyvRedis from "@keyv/redis";
import { createKeyv, EncryptedStore, type Keyring, type NamespacedStore, shareConnection } from "@keyward/core";
import { MemoryStore } from "@keyward/store-memory";
import { type KeyvRedisAdapter, keyvRedis, RedisStore } from "@keyward/store-redis";
import { SqliteStore } from "@keyward/store-sqlite";
import type { KeyvStorageAdapter } from "keyv";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { describeWithRedis, findRedisServers, type RedisNode, startRedis } from "../../servers/redis.ts";
import { expectRefusal } from "../refusals.ts";
import { newRing } from "../rings.ts";
import { marker } from "../secrets.ts";

const value = `${marker}value`;
const servers = await findRedisServers({ anyWillDo: true });

type Base = KeyvStorageAdapter & NamespacedStore;

/** The ways to make a Keyv or a store over the same base. */
const users: Readonly<Record<string, (base: Base, keys: Keyring) => Pick<KeyvStorageAdapter, "get" | "disconnect">>> = {
  "createKeyv over the store": (store, keys) => createKeyv({ store, keys, namespace: "a" }),
  "createKeyv over the store, in the same namespace": (store, keys) => createKeyv({ store, keys, namespace: "a" }),
  "createKeyv over a view": (base, keys) => createKeyv({ store: base.namespaced("a"), keys }),
  "an EncryptedStore over a view": (base, keys) => new EncryptedStore(base.namespaced("a"), { keys }),
  "an EncryptedStore over the store": (base, keys) => {
    const store = new EncryptedStore(base, { keys });
    store.namespace = "a";
    return store;
  },
};

/** Each user in turn is the first to disconnect, and all others must keep working. */
function describeUsers(open: () => Promise<Base>): void {
  it.each(Object.keys(users))(
    "a wrapped store stays connected while other Keyvs and stores use it, if the first to disconnect is %s",
    async (first) => {
      const base = await open();
      const keys = newRing();
      const writer = createKeyv({ store: base, keys, namespace: "a" });
      await writer.encryptedStore.set("key", JSON.stringify({ value }));
      const opened = Object.entries(users).map(([name, make]) => ({ name, user: make(base, keys) }));
      const firstUser = opened.find(({ name }) => name === first);
      await firstUser?.user.disconnect?.();
      await firstUser?.user.disconnect?.();
      for (const { name, user } of opened) if (name !== first) expect(await user.get("key"), name).toBeDefined();
      expect(await writer.get("key")).toBe(value);
    },
  );

  it("a wrapped store stays connected after a store over a view disconnects, and is disconnected when its last user disconnects", async () => {
    const base = await open();
    const keys = newRing();
    const overView = new EncryptedStore(base.namespaced("a"), { keys });
    await overView.set("key", value);
    await overView.disconnect();
    expect(await base.namespaced("a").get("key")).toBeDefined();
    const opened = Object.values(users).map((make) => make(base, keys));
    for (const user of opened) await user.disconnect?.();
    if (!(base instanceof MemoryStore)) await expectRefusal(base.get("key"), "STORE_UNAVAILABLE");
  });
}

describe("MemoryStore", () => describeUsers(async () => new MemoryStore()));

describe("SqliteStore", () =>
  describeUsers(async () => {
    const folder = await mkdtemp(join(tmpdir(), "keyward-disconnecting-"));
    const store = new SqliteStore(join(folder, "records.db"), { synchronous: "normal" });
    onTestFinished(async () => {
      await store.disconnect();
      await rm(folder, { recursive: true, force: true });
    });
    return store;
  }));

describeWithRedis(servers, "Redis", () => {
  let node: RedisNode;
  beforeAll(async () => {
    node = await startRedis(servers);
  });
  afterAll(() => node.stop());

  describe("RedisStore", () =>
    describeUsers(async () => {
      const store = new RedisStore(node.url, { prefix: crypto.randomUUID() });
      onTestFinished(() => store.disconnect());
      return store;
    }));

  it("keyvRedis disconnects an adapter when the last store over the adapter disconnects", async () => {
    const adapter: KeyvRedisAdapter = new KeyvRedis(node.url);
    const keys = newRing();
    const [one, other] = [keyvRedis(adapter), keyvRedis(adapter)];
    const a = createKeyv({ store: one, keys, namespace: crypto.randomUUID() });
    const b = createKeyv({ store: other, keys, namespace: crypto.randomUUID() });
    await a.set("key", value);
    await b.set("key", value);
    await a.disconnect();
    await expectRefusal(a.get("key"), "STORE_UNAVAILABLE");
    expect(await b.get("key")).toBe(value);
    await b.clear();
    await b.disconnect();
    await expectRefusal(b.get("key"), "STORE_UNAVAILABLE");
  });
});

describe("a shared connection", () => {
  it("is closed when its last user leaves it, and again if a user leaves it a second time", async () => {
    let closed = 0;
    const shared = {};
    const close = async () => {
      closed++;
    };
    const [one, other] = [shareConnection(shared, close), shareConnection(shared, close)];
    await one();
    await one();
    expect(closed).toBe(0);
    await other();
    expect(closed).toBe(1);
    await one();
    expect(closed).toBe(2);
  });

  it("is closed when its next user leaves it, after an earlier attempt to close it failed", async () => {
    const shared = {};
    let failing = true;
    const close = async () => {
      if (failing) throw new Error("the server hangs");
    };
    const leave = shareConnection(shared, close);
    await expect(leave()).rejects.toThrow("the server hangs");
    failing = false;
    await shareConnection(shared, close)();
    await leave();
  });
});
