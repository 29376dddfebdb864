import { inspect } from "node:util";
import { RedisStore } from "@keyward/store-redis";
import { Redis } from "ioredis";
import { beforeEach, describe, expect, it, onTestFinished } from "vitest";
import { describeWithRedis, findRedisServers, type RedisNode, startRedis } from "../../../test/servers/redis.ts";

const servers = await findRedisServers();
const unavailable = { name: "KeywardError", code: "STORE_UNAVAILABLE" };
const timeoutMs = 600;
/** A call may take its timeout, and what the machine needs besides. */
const boundMs = timeoutMs + 2_000;

async function expectUnavailableInTime(call: () => Promise<unknown>): Promise<void> {
  const startedAtMs = performance.now();
  await expect(call()).rejects.toMatchObject(unavailable);
  expect(performance.now() - startedAtMs).toBeLessThan(boundMs);
}

/** Asks until the store answers again, without being told that the server is back. */
async function answers(store: RedisStore): Promise<void> {
  await expect.poll(() => store.has("any").catch(() => "not yet"), { timeout: 10_000 }).toBeTypeOf("boolean");
}

describeWithRedis(servers, "a server that goes away", () => {
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
    scan: (each) => each.scan(),
    iterator: (each) => each.iterator().next(),
  };

  it("rejects every call in time, works by itself afterwards, and writes nothing late", async () => {
    await store.set("key", "value");
    await node.kill();
    await Promise.all(Object.values(calls).map((call) => expectUnavailableInTime(() => call(store))));
    await node.restart();
    await answers(store);
    expect(await store.get("key")).toBe("value");
  });

  it("rejects every call in time while the server hangs, and works when it goes on", async () => {
    await store.set("key", "value");
    node.pause();
    const writes = new Set(["set", "setMany", "delete", "deleteMany", "clear", "replace", "replaceMany"]);
    const reads = Object.entries(calls).filter(([name]) => !writes.has(name));
    await Promise.all(reads.map(([, call]) => expectUnavailableInTime(() => call(store))));
    await expectUnavailableInTime(() => store.set("other", "perhaps"));
    node.resume();
    await answers(store);
    expect(await store.get("key")).toBe("value");
    expect([undefined, "perhaps"]).toContain(await store.get("other"));
  });

  it("tells what went wrong last, and where nothing listens", async () => {
    await node.kill();
    const background: unknown[] = [];
    store.on("connection:error", (error) => background.push(error));
    const error: unknown = await store.get("key").catch((caught: unknown) => caught);
    expect(error).toMatchObject({ ...unavailable, cause: { code: "ECONNREFUSED" } });
    expect(background).not.toEqual([]);
  });

  it("tells once of what goes wrong again and again, and at once again after it was connected", async () => {
    const told: { readonly code: unknown; readonly times: number }[] = [];
    store.on("connection:error", (error, { times }) => told.push({ code: Reflect.get(error, "code"), times }));
    const refused = () => told.filter(({ code }) => code === "ECONNREFUSED");
    await store.set("key", "value");
    for (const round of [1, 2]) {
      await node.kill();
      // The client tries many times within one call.
      await expectUnavailableInTime(() => store.get("key"));
      expect(refused()).toEqual(Array.from({ length: round }, () => ({ code: "ECONNREFUSED", times: 1 })));
      await node.restart();
      await answers(store);
    }
  });

  it("loses no acknowledged write to kill -9, and answers each in time", async () => {
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
    await answers(store);
    for (const [key, step] of acknowledged) {
      const found = Number(await store.get(key));
      expect(found).toBeGreaterThanOrEqual(step);
      expect(found).toBeLessThanOrEqual(tried.get(key) ?? 0);
    }
  });

  it("reads on where connections are cut, and does not send a write twice", async () => {
    await store.set("key", "value");
    let stopped = false;
    const readers = Array.from({ length: 4 }, async () => {
      while (!stopped) expect(await store.get("key")).toBe("value");
    });
    // Each step is taken once at most: what was acknowledged is in the sum, what failed may be.
    let [counted, failed] = [0, 0];
    const counter = new Redis(node.url);
    onTestFinished(() => counter.disconnect());
    const writer = (async () => {
      for (let step = 0; !stopped; step++) {
        try {
          if (await store.replace(`step-${step}`, undefined, "taken")) counted++;
          else throw new Error("A new key was found to be there: the command was carried out twice");
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

  it("rejects in time where no server ever was", async () => {
    await node.stop();
    await expectUnavailableInTime(() => new RedisStore(node.url, { timeoutMs }).get("key"));
  });

  it("keeps a process alive no longer than its calls", async () => {
    await store.set("key", "value");
    await store.disconnect();
    await expect(store.get("key")).rejects.toMatchObject(unavailable);
    await expect(store.namespaced("a").get("key")).rejects.toMatchObject(unavailable);
    await expect(store.reserved().get("key")).rejects.toMatchObject(unavailable);
  });

  describe("over a client that exists, with ioredis' own defaults", () => {
    let client: Redis;
    beforeEach(() => {
      client = new Redis(node.url);
      client.on("error", () => undefined);
      store = new RedisStore(client, { timeoutMs });
      const made = client;
      return () => made.disconnect();
    });

    it("leaves it open", async () => {
      await store.set("key", "value");
      await store.disconnect();
      expect(await client.get("keyward::key")).toBe("value");
      await expect(store.get("key")).rejects.toMatchObject(unavailable);
    });

    it("does not let it send again, after the loss, what was given up", async () => {
      await store.set("key", "value");
      node.pause();
      const [asked, scanned] = [store.set("key", "given up"), store.scan()];
      await Promise.all([asked, scanned].map((call) => expectUnavailableInTime(() => call)));
      // The server never read it. The client sends it again to the next one, as it does by default.
      await node.kill();
      await node.restart();
      await answers(store);
      expect(await client.get("keyward::key")).toBe("value");
    });

    it("does not let it send a write twice within the time of the call", async () => {
      store = new RedisStore(client, { timeoutMs: 10_000 });
      await store.set("key", "value");
      node.pause();
      const asked = store.set("key", "sent once");
      await expect.poll(() => client.commandQueue.length).toBeGreaterThan(0);
      await node.kill();
      await node.restart();
      await expect(asked).rejects.toMatchObject(unavailable);
      expect(await store.get("key")).toBe("value");
    });

    it("connects it where it has not begun to", async () => {
      const lazy = new Redis(node.url, { lazyConnect: true });
      onTestFinished(() => lazy.disconnect());
      expect(await new RedisStore(lazy).set("key", "value")).toBe(true);
    });
  });
});

describeWithRedis(servers, "an error", () => {
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
    "of another type under the key": async ({ node }) => {
      await node.command("LPUSH", `keyward::${secretKey}`, "item");
    },
    "of a server without memory": async ({ node }) => {
      await node.command("CONFIG", "SET", "maxmemory", "1");
    },
    "of a user who may not": async ({ node, store }) => {
      await store.has("any");
      await node.command("ACL", "SETUSER", "default", "reset", "on", "nopass", ...allowed);
    },
    "of a server that hangs": async ({ node, store }) => {
      await store.has("any");
      node.pause();
    },
    "of a server that is gone": async ({ node }) => {
      await node.kill();
    },
    "of a command the server does not know": async ({ node, store }) => {
      await store.has("any");
      await node.command("ACL", "SETUSER", "default", "-set", "-evalsha", "-eval");
    },
  };

  it.each(Object.entries(failures))("%s holds neither key nor value", async (_, fail) => {
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
  });

  it("of ioredis does hold them, or this would test nothing", async () => {
    const { node } = await open();
    const client = new Redis(node.url);
    onTestFinished(() => client.disconnect());
    await client.lpush(secretKey, "item");
    const error: unknown = await client.getset(secretKey, secretValue).catch((caught: unknown) => caught);
    expect(inspect(error)).toContain("secret-");
  });
});
