import { once } from "node:events";
import { census, createKeyv, EncryptedStore, exportKeyring, Keyring } from "@keyward/core";
import { reencryptionWorker, startReencryption } from "@keyward/reencrypt-bullmq";
import { RedisStore } from "@keyward/store-redis";
import { Cluster } from "ioredis";
import { afterAll, beforeAll, expect, it, onTestFinished, vi } from "vitest";
import { describeWithRedis, findRedisServers, type RedisCluster, startCluster } from "../../../test/servers/redis.ts";
import { startWorkerProcess } from "./start-worker-process.ts";
import type { Assignment } from "./worker-process.ts";

const servers = await findRedisServers();
const before = Keyring.generate("old");
const promoted = before.add({ id: "new" }).promote("new");
const pollMs = 50;

describeWithRedis(servers, "a re-encryption whose queue and records are in one Cluster", () => {
  let cluster: RedisCluster;
  beforeAll(async () => {
    cluster = await startCluster(servers);
  });
  afterAll(() => cluster?.stop());

  function connect(): Cluster {
    const connection = new Cluster([...cluster.startupNodes], { redisOptions: { maxRetriesPerRequest: null } });
    onTestFinished(() => connection.disconnect());
    return connection;
  }

  function open(): RedisStore {
    const store = new RedisStore({ nodes: cluster.startupNodes });
    onTestFinished(() => store.disconnect());
    return store;
  }

  it("a run on a Cluster continues after the kill -9 of a worker process, and finishes only when a census finds no record under the old key", async () => {
    const inner = open();
    const former = createKeyv({ store: inner, keys: before, namespace: "flows" }).encryptedStore;
    const keys = Array.from({ length: 900 }, (_, index) => `key ${index}`);
    await former.setMany(keys.map((key) => ({ key, value: `value of ${key}` })));
    const batchSize = 20;
    const assignment: Assignment = {
      keyring: exportKeyring(promoted),
      store: cluster.startupNodes,
      storePrefix: "keyward",
      queue: cluster.startupNodes,
      queueName: "records",
      queuePrefix: "{queue}",
      batchSize,
      maxPerSecond: 400,
      lockMs: 1_000,
    };
    const [victim] = await Promise.all([1, 2, 3].map(() => startWorkerProcess(assignment)));
    if (victim === undefined) throw new Error("No worker process was started");
    const run = await startReencryption({
      connection: connect(),
      queue: "records",
      prefix: "{queue}",
      store: new EncryptedStore(inner, { keys: promoted }),
      ranges: 6,
    });
    onTestFinished(() => run.close());
    await vi.waitFor(async () => expect(await run.progress()).toMatchObject({ active: 3, completed: 0 }), 10_000);
    await vi.waitFor(async () => expect((await run.progress()).scanned).toBeGreaterThan(3 * batchSize), 10_000);
    const died = once(victim, "exit");
    victim.kill("SIGKILL");
    expect(await died).toEqual([null, "SIGKILL"]);

    // A process with the old keyring writes after every job of the first pass is done, and before the census.
    let late: Promise<unknown> | undefined;
    const writeLate = () => former.set("late", "encrypted under the old key");
    const finding = vi.spyOn(inner, "scan");
    finding.mockImplementationOnce(async (options) => {
      late ??= writeLate();
      await late;
      finding.mockRestore();
      return inner.scan(options);
    });
    const counts = await run.finished({ pollMs });
    expect(late).toBeDefined();
    expect(counts.keys).toEqual(new Map([["new", keys.length + 1]]));
    expect((await census(open())).keys).toEqual(counts.keys);
    expect(await run.progress()).toMatchObject({ round: 2, jobs: 6, completed: 6, failed: 0, unreadable: 0 });
    const after = promoted.disable("old").remove("old");
    const read = createKeyv({ store: open(), keys: after, namespace: "flows" }).encryptedStore;
    expect(await read.getMany([...keys, "late"])).toEqual([
      ...keys.map((key) => `value of ${key}`),
      "encrypted under the old key",
    ]);
  });

  it("startReencryption and reencryptionWorker refuse a queue prefix without a hash tag on a Cluster, where the queue's keys would be in several slots", async () => {
    const store = new EncryptedStore(open(), { keys: promoted });
    const refused = expect.objectContaining({ code: "VALUE_INVALID" });
    await expect(startReencryption({ connection: connect(), queue: "spread", store })).rejects.toEqual(refused);
    expect(() => reencryptionWorker({ connection: connect(), queue: "spread", prefix: "{}", store })).toThrow(refused);
  });
});
