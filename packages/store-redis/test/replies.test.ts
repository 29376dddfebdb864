import { RedisStore } from "@keyward/store-redis";
import { Redis } from "ioredis";
import { beforeEach, expect, it, onTestFinished, vi } from "vitest";
import { describeWithRedis, findRedisServers, type RedisNode, startRedis } from "../../../test/servers/redis.ts";

const servers = await findRedisServers();
const unavailable = { name: "KeywardError", code: "STORE_UNAVAILABLE" };

describeWithRedis(servers, "a RedisStore", () => {
  let node: RedisNode;
  beforeEach(async () => {
    node = await startRedis(servers);
    const started = node;
    return () => started.stop();
  });

  async function connected(): Promise<Redis> {
    const client = new Redis(node.url);
    client.on("error", () => undefined);
    onTestFinished(() => client.disconnect());
    await client.ping();
    return client;
  }

  it("a RedisStore stops retrying the commands of a batch after the server has permanently refused one command", async () => {
    await node.command("ACL", "SETUSER", "narrow", "on", ">password", "~keyward::a*", "+@all");
    const store = new RedisStore(`redis://narrow:password@${node.host}:${node.port}`);
    onTestFinished(() => store.disconnect());
    store.on("connection:error", () => undefined);
    await store.set("a", "first");
    // Like in a failover, writes of the first key are refused for a while. The other key is refused for good.
    await node.command("REPLICAOF", "127.0.0.1", "1");
    const older = [
      { key: "a", value: "older" },
      { key: "b", value: "refused" },
    ];
    await expect(store.setMany(older)).rejects.toMatchObject(unavailable);
    await node.command("REPLICAOF", "NO", "ONE");
    await node.command("SET", "keyward::a", "newer");
    // A retry would reach the server before these reads, or within the 20 ms between two attempts.
    for (let read = 0; read < 50; read++) {
      expect(await store.get("a")).toBe("newer");
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  });

  it("a RedisStore retries a write while the primary has fewer replicas than min-replicas-to-write requires", async () => {
    const store = new RedisStore(node.url, { timeoutMs: 600 });
    onTestFinished(() => store.disconnect());
    await store.set("key", "old");
    await node.command("CONFIG", "SET", "min-replicas-to-write", "1");
    for (const call of [() => store.set("key", "new"), () => store.replace("key", "old", "new")]) {
      // On a busy machine a call may time out before the server has replied.
      const refused = () => call().catch((error: unknown) => error);
      await expect
        .poll(refused, { timeout: 20_000 })
        .toMatchObject({ ...unavailable, cause: { message: expect.stringMatching(/^NOREPLICAS/) } });
    }
    const patient = new RedisStore(node.url);
    onTestFinished(() => patient.disconnect());
    await node.command("CONFIG", "RESETSTAT");
    const replaced = patient.replace("key", "old", "new");
    await expect.poll(async () => String(await node.command("INFO", "errorstats"))).toContain("NOREPLICAS");
    await node.command("CONFIG", "SET", "min-replicas-to-write", "0");
    expect(await replaced).toBe(true);
  });

  it("a RedisStore leaves no transaction open on a shared client, no matter when a scan times out", async () => {
    const client = await connected();
    const store = new RedisStore(client);
    await store.set("key", "first");
    const now = performance.now.bind(performance);
    for (let position = 0; position < 30; position++) {
      // The clock is read before each transaction, and jumps between two of these reads.
      let looks = 0;
      const clock = vi.spyOn(performance, "now").mockImplementation(() => now() + (looks++ < position ? 0 : 60_000));
      await store.scan().catch(() => undefined);
      clock.mockRestore();
      await store.set("key", String(position));
      expect(String(await node.command("GET", "keyward::key"))).toBe(String(position));
    }
  });

  it("a RedisStore rejects every call while its client has an open transaction", async () => {
    const client = await connected();
    const store = new RedisStore(client);
    await store.set("key", "value");
    const calls: Record<string, () => Promise<unknown>> = {
      get: () => store.get("key"),
      has: () => store.has("key"),
      set: () => store.set("key", "next"),
      setMany: () => store.setMany([{ key: "key", value: "next", expires: Date.now() + 60_000 }]),
      delete: () => store.delete("key"),
      replace: () => store.replace("key", "value", "next"),
      "replace a missing record": () => store.replace("none", undefined, "next"),
    };
    for (const call of Object.values(calls)) {
      await client.call("MULTI");
      await expect(call()).rejects.toMatchObject(unavailable);
      await client.call("DISCARD");
    }
    expect(await store.get("key")).toBe("value");
  });

  it.each(["OK", "PONG", "QUEUED", "", "ERR"])(
    "a RedisStore returns the stored value %j even if the value looks like a status reply of Redis",
    async (value) => {
      const store = new RedisStore(await connected());
      await store.set("key", value);
      expect(await store.get("key")).toBe(value);
      expect(await store.getMany(["key", "none"])).toEqual([value, undefined]);
    },
  );
});
