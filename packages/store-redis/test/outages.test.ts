import { inspect } from "node:util";
import { RedisStore } from "@keyward/store-redis";
import { Redis } from "ioredis";
import { beforeEach, describe, expect, it, onTestFinished } from "vitest";
import { describeWithRedis, findRedisServers, type RedisNode, startRedis } from "../../../test/servers/redis.ts";
import { expectRefusal } from "../../../test/store/refusals.ts";

const servers = await findRedisServers();
const unavailable = { name: "KeywardError", code: "STORE_UNAVAILABLE" };
const timeoutMs = 600;
/** Maximum duration of a call in the test: its timeout, and a reserve for a busy machine. The default timeout is longer. */
const boundMs = timeoutMs + 4_000;

async function expectUnavailableInTime(call: () => Promise<unknown>): Promise<void> {
  const startedAtMs = performance.now();
  await expect(call()).rejects.toMatchObject(unavailable);
  expect(performance.now() - startedAtMs).toBeLessThan(boundMs);
}

/** Waits until calls of the store succeed again. */
async function untilAvailable(store: RedisStore): Promise<void> {
  await expect.poll(() => store.has("any").catch(() => "not yet"), { timeout: 10_000 }).toBeTypeOf("boolean");
}

describeWithRedis(servers, "a store during an outage of its server", () => {
  let node: RedisNode;
  let store: RedisStore;
  beforeEach(async () => {
    node = await startRedis(servers);
    store = new RedisStore(node.url, { timeoutMs });
    const [startedNode, startedStore] = [node, store];
    return async () => {
      await startedStore.disconnect();
      await startedNode.stop();
    };
  });

  const calls: Record<string, (store: RedisStore) => Promise<unknown>> = {
    get: (each) => each.get("key"),
    getMany: (each) => each.getMany(["key", "other"]),
    has: (each) => each.has("key"),
    hasMany: (each) => each.hasMany(["key"]),
    set: (each) => each.set("key", "lost"),
    setMany: (each) => each.setMany([{ key: "key", value: "lost" }]),
    delete: (each) => each.delete("key"),
    deleteMany: (each) => each.deleteMany(["key"]),
    clear: (each) => each.clear(),
    replace: (each) => each.replace("key", "value", "lost"),
    replaceMany: (each) => each.replaceMany([{ key: "key", expected: "value", next: "lost" }]),
    replaceUntil: (each) => each.replace("key", "value", "lost", 1),
    replaceManyUntil: (each) =>
      each.replaceMany(["key", "other"].map((key) => ({ key, expected: "value", next: "lost", expires: 1 }))),
    scan: (each) => each.scan(),
    iterator: (each) => each.iterator().next(),
  };

  it("a RedisStore rejects every call within the timeout, reconnects by itself, and does not carry out failed writes later", async () => {
    await store.set("key", "value");
    await node.kill();
    await Promise.all(Object.values(calls).map((call) => expectUnavailableInTime(() => call(store))));
    await node.restart();
    await untilAvailable(store);
    expect(await store.get("key")).toBe("value");
  });

  it("a RedisStore rejects every call within the timeout while the server hangs, and completes calls when the server continues", async () => {
    await store.set("key", "value");
    node.pause();
    const writes = /^(?:set|delete|clear|replace)/;
    const reads = Object.entries(calls).filter(([name]) => !writes.test(name));
    await Promise.all(reads.map(([, call]) => expectUnavailableInTime(() => call(store))));
    await expectUnavailableInTime(() => store.set("other", "perhaps"));
    node.resume();
    await untilAvailable(store);
    expect(await store.get("key")).toBe("value");
    expect([undefined, "perhaps"]).toContain(await store.get("other"));
  });

  it("a RedisStore rejects calls with the latest connection error as the cause, and emits connection errors", async () => {
    await node.kill();
    const background: unknown[] = [];
    store.on("connection:error", (error) => background.push(error));
    const error: unknown = await store.get("key").catch((caught: unknown) => caught);
    expect(error).toMatchObject({ ...unavailable, cause: { code: "ECONNREFUSED" } });
    expect(background).not.toEqual([]);
  });

  it("a RedisStore emits a recurring connection error once, and once more if it recurs after the store has reconnected", async () => {
    const emitted: { readonly code: unknown; readonly times: number }[] = [];
    store.on("connection:error", (error, { times }) => emitted.push({ code: Reflect.get(error, "code"), times }));
    const refused = () => emitted.filter(({ code }) => code === "ECONNREFUSED");
    await store.set("key", "value");
    for (const round of [1, 2]) {
      await node.kill();
      // The client tries to connect many times within one call.
      await expectUnavailableInTime(() => store.get("key"));
      expect(refused()).toEqual(Array.from({ length: round }, () => ({ code: "ECONNREFUSED", times: 1 })));
      await node.restart();
      await untilAvailable(store);
    }
  });

  it("a RedisStore loses no acknowledged write when the server is killed, and settles each write within the timeout", async () => {
    const [acknowledged, tried] = [new Map<string, number>(), new Map<string, number>()];
    let stopped = false;
    const writers = Array.from({ length: 8 }, async (_, writer) => {
      const key = `counter-${writer}`;
      for (let step = 1; !stopped; step++) {
        const startedAtMs = performance.now();
        tried.set(key, step);
        try {
          await store.set(key, String(step));
          acknowledged.set(key, step);
        } catch (error) {
          expect(error).toMatchObject(unavailable);
        }
        expect(performance.now() - startedAtMs).toBeLessThan(boundMs);
      }
    });
    for (let round = 1; round <= 3; round++) {
      const before = new Map(acknowledged);
      await expect
        .poll(() => [...tried.keys()].every((key) => (acknowledged.get(key) ?? 0) > (before.get(key) ?? 0) + 5))
        .toBe(true);
      await node.restart();
    }
    stopped = true;
    await Promise.all(writers);
    await untilAvailable(store);
    for (const [key, step] of acknowledged) {
      const found = Number(await store.get(key));
      expect(found).toBeGreaterThanOrEqual(step);
      expect(found).toBeLessThanOrEqual(tried.get(key) ?? 0);
    }
  });

  it("a RedisStore completes every read although connections are cut again and again, and sends no write twice", async () => {
    await store.set("key", "value");
    let stopped = false;
    const readers = Array.from({ length: 4 }, async () => {
      while (!stopped) expect(await store.get("key")).toBe("value");
    });
    // Each step is written at most once: acknowledged steps are counted, and failed steps may exist.
    let [counted, failed] = [0, 0];
    const counter = new Redis(node.url);
    onTestFinished(() => counter.disconnect());
    const writer = (async () => {
      for (let step = 0; !stopped; step++) {
        try {
          if (await store.replace(`step-${step}`, undefined, "taken")) counted++;
          else throw new Error("A new key exists already: the command was carried out twice");
        } catch (error) {
          expect(error).toMatchObject(unavailable);
          failed++;
        }
      }
    })();
    for (let cut = 0; cut < 20; cut++) {
      const before = counted;
      await expect.poll(() => counted > before, { interval: 5 }).toBe(true);
      await counter.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
    }
    stopped = true;
    await Promise.all([...readers, writer]);
    const found = (await counter.keys("keyward::step-*")).length;
    expect(found).toBeGreaterThanOrEqual(counted);
    expect(found).toBeLessThanOrEqual(counted + failed);
  });

  it("a RedisStore rejects a call within the timeout if the server has never been running", async () => {
    await node.stop();
    await expectUnavailableInTime(() => new RedisStore(node.url, { timeoutMs }).get("key"));
  });

  it("a RedisStore rejects every call after disconnect, including calls of its views and its reserved space", async () => {
    await store.set("key", "value");
    await store.disconnect();
    await expect(store.get("key")).rejects.toMatchObject(unavailable);
    await expect(store.namespaced("a").get("key")).rejects.toMatchObject(unavailable);
    await expect(store.reserved().get("key")).rejects.toMatchObject(unavailable);
  });

  describe("a RedisStore over an existing client with the defaults of ioredis", () => {
    let client: Redis;
    beforeEach(() => {
      client = new Redis(node.url);
      client.on("error", () => undefined);
      store = new RedisStore(client, { timeoutMs });
      const made = client;
      return () => made.disconnect();
    });

    it("leaves the client open when the store disconnects", async () => {
      await store.set("key", "value");
      await store.disconnect();
      expect(await client.get("keyward::key")).toBe("value");
      await expect(store.get("key")).rejects.toMatchObject(unavailable);
    });

    it("prevents the client from repeating a write after a reconnection if the write has already timed out", async () => {
      await store.set("key", "value");
      node.pause();
      const [asked, scanned] = [store.set("key", "given up"), store.scan()];
      await Promise.all([asked, scanned].map((call) => expectUnavailableInTime(() => call)));
      // The server never read the command. By default, the client would send it again to the next server.
      await node.kill();
      await node.restart();
      await untilAvailable(store);
      expect(await client.get("keyward::key")).toBe("value");
    });

    it("prevents the client from repeating a write after a reconnection if the write has not timed out yet", async () => {
      store = new RedisStore(client, { timeoutMs: 10_000 });
      await store.set("key", "value");
      node.pause();
      const refused = expectRefusal(store.set("key", "sent once"), "STORE_UNAVAILABLE");
      await expect.poll(() => client.commandQueue.length).toBeGreaterThan(0);
      await node.kill();
      await node.restart();
      await refused;
      expect(await store.get("key")).toBe("value");
    });

    it("connects a client that was created with lazyConnect", async () => {
      const lazy = new Redis(node.url, { lazyConnect: true });
      onTestFinished(() => lazy.disconnect());
      expect(await new RedisStore(lazy).set("key", "value")).toBe(true);
    });
  });
});

describeWithRedis(servers, "an error of a store", () => {
  const secretKey = "session:secret-key-7c1d";
  const secretValue = "secret-value-91ab".repeat(20);
  const allowed = ["+ping", "+hello", "+client", "+info", "+get", "~*"];

  async function open(): Promise<{ node: RedisNode; store: RedisStore }> {
    const node = await startRedis(servers);
    const store = new RedisStore(node.url, { timeoutMs });
    onTestFinished(async () => {
      await store.disconnect();
      await node.stop();
    });
    return { node, store };
  }

  const failures: Record<string, (opened: { node: RedisNode; store: RedisStore }) => Promise<void>> = {
    "a value of another type": async ({ node }) => {
      await node.command("LPUSH", `keyward::${secretKey}`, "item");
    },
    "a server without free memory": async ({ node }) => {
      await node.command("CONFIG", "SET", "maxmemory", "1");
    },
    "a user without permissions": async ({ node, store }) => {
      await store.has("any");
      await node.command("ACL", "SETUSER", "default", "reset", "on", "nopass", ...allowed);
    },
    "a server that hangs": async ({ node, store }) => {
      await store.has("any");
      node.pause();
    },
    "a dead server": async ({ node }) => {
      await node.kill();
    },
    "a command that the server refuses": async ({ node, store }) => {
      await store.has("any");
      await node.command("ACL", "SETUSER", "default", "-set", "-evalsha", "-eval");
    },
  };

  it.each(Object.entries(failures))(
    "an error of a RedisStore contains neither the key nor the value of the record if the reason is %s",
    async (_, fail) => {
      const opened = await open();
      await fail(opened);
      const { store } = opened;
      const outcomes = await Promise.allSettled([
        store.replace(secretKey, secretValue, `${secretValue} next`),
        store.getMany([secretKey]),
        store.setMany([{ key: secretKey, value: Buffer.from(secretValue) }]),
        store.set(secretKey, secretValue),
      ]);
      const errors = outcomes.flatMap((outcome) => (outcome.status === "rejected" ? [outcome.reason] : []));
      expect(errors).not.toEqual([]);
      for (const error of errors) {
        expect(error).toMatchObject({ name: "KeywardError" });
        const shown = inspect(error, { depth: 20, showHidden: true, maxArrayLength: null, maxStringLength: null });
        expect(shown).not.toContain("secret-");
        expect(JSON.stringify(error)).not.toContain("secret-");
      }
    },
  );

  it("an error of ioredis itself contains the key and the value of the record, unlike an error of a RedisStore", async () => {
    const { node } = await open();
    const client = new Redis(node.url);
    onTestFinished(() => client.disconnect());
    await client.lpush(secretKey, "item");
    const error: unknown = await client.getset(secretKey, secretValue).catch((caught: unknown) => caught);
    expect(inspect(error)).toContain("secret-");
  });
});
