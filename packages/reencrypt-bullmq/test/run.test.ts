import { once } from "node:events";
import { census, createKeyv, EncryptedStore, exportKeyring, Keyring, type ReencryptReport } from "@keyward/core";
import {
  type ReencryptionRun,
  type ReencryptionWorkerOptions,
  reencryptionWorker,
  type StartReencryptionOptions,
  startReencryption,
} from "@keyward/reencrypt-bullmq";
import { MemoryStore } from "@keyward/store-memory";
import { RedisStore } from "@keyward/store-redis";
import { Queue } from "bullmq";
import { Redis } from "ioredis";
import { afterAll, beforeAll, expect, it, onTestFinished, vi } from "vitest";
import { describeWithRedis, findRedisServers, type RedisNode, startRedis } from "../../../test/servers/redis.ts";
import { expectRefusal } from "../../../test/store/refusals.ts";
import { expectNoSecrets, marker as secret } from "../../../test/store/secrets.ts";
import { startWorkerProcess } from "./start-worker-process.ts";
import type { Assignment } from "./worker-process.ts";

const servers = await findRedisServers();
const marker = "a value that must stay secret";
const pollMs = 50;

describeWithRedis(servers, "a re-encryption shared through BullMQ", () => {
  let records: RedisNode;
  let queues: RedisNode;
  beforeAll(async () => {
    [records, queues] = await Promise.all([startRedis(servers), startRedis(servers)]);
    // The server may have to be installed first.
  }, 600_000);
  afterAll(async () => {
    await Promise.all([records?.stop(), queues?.stop()]);
  });

  const before = Keyring.generate("old");
  const staged = before.add({ id: "new" });
  const promoted = staged.promote("new");
  const after = promoted.disable("old").remove("old");
  let tests = 0;

  /** Creates a store whose records are under the old key and whose primary is the new key, and a name for its queue. */
  async function rotated(count: number) {
    const name = `test-${process.pid}-${++tests}`;
    const inner = new RedisStore(records.url, { prefix: name });
    onTestFinished(() => inner.disconnect());
    const keys = Array.from({ length: count }, (_, index) => `secret key ${index}`);
    const entries = keys.map((key) => ({ key, value: `${marker} ${key}` }));
    await createKeyv({ store: inner, keys: before, namespace: "flows" }).encryptedStore.setMany(entries);
    const expectMoved = async () => {
      expect((await census(inner)).keys).toEqual(new Map([["new", count]]));
      const read = createKeyv({ store: inner, keys: after, namespace: "flows" }).encryptedStore;
      expect(await read.getMany(keys)).toEqual(entries.map(({ value }) => value));
    };
    return { name, inner, store: new EncryptedStore(inner, { keys: promoted }), expectMoved };
  }

  async function start(name: string, options: Omit<StartReencryptionOptions, "connection">): Promise<ReencryptionRun> {
    const run = await startReencryption({ connection: queues.url, queue: name, ...options });
    onTestFinished(() => run.close());
    return run;
  }

  function work(name: string, options: Omit<ReencryptionWorkerOptions, "connection">) {
    const errors: unknown[] = [];
    const worker = reencryptionWorker({
      connection: queues.url,
      queue: name,
      lockMs: 1_000,
      onError: (error) => errors.push(error),
      ...options,
    });
    onTestFinished(() => worker.close());
    return { worker, errors };
  }

  function rawQueue(name: string): Queue {
    const queue = new Queue(name, { connection: { url: queues.url } });
    onTestFinished(() => queue.close());
    return queue;
  }

  it("a run re-encrypts every record, and finishes when a census finds every record under the new key", async () => {
    const { name, store, expectMoved } = await rotated(500);
    const run = await start(name, { store, ranges: 5 });
    expect(await run.progress()).toMatchObject({ round: 1, jobs: 5, completed: 0, scanned: 0 });
    const reports: ReencryptReport[] = [];
    work(name, { store, onReport: (report) => reports.push(report) });
    const counts = await run.finished({ pollMs });
    expect(counts.keys).toEqual(new Map([["new", 500]]));
    expect(await run.progress()).toMatchObject({ round: 1, completed: 5, scanned: 500, reencrypted: 500, failed: 0 });
    expect(reports.length).toBe(5);
    await expectMoved();
  });

  it("reencryptionWorker and finished() refuse an option with an invalid number", async () => {
    const { name, store } = await rotated(1);
    for (const amount of [Number.NaN, Number.POSITIVE_INFINITY, 0, -1, 0.5]) {
      for (const option of ["lockMs", "batchSize", "concurrency", "maxPerSecond"]) {
        const connection = "redis://127.0.0.1:1";
        const make = () => reencryptionWorker({ connection, queue: name, store, [option]: amount });
        expect((await expectRefusal(make, "VALUE_INVALID")).message).toContain(option);
      }
    }
    const run = await start(name, { store, ranges: 1 });
    for (const wait of [Number.NaN, 2 ** 31]) await expectRefusal(run.finished({ pollMs: wait }), "VALUE_INVALID");
  });

  it("a run continues after the kill -9 of a worker process, and repeats at most one page of that worker", async () => {
    const { name, expectMoved, store } = await rotated(3_000);
    const batchSize = 40;
    const assignment: Assignment = {
      keyring: exportKeyring(promoted),
      store: records.url,
      storePrefix: name,
      queue: queues.url,
      queueName: name,
      queuePrefix: "bull",
      batchSize,
      maxPerSecond: 300,
      lockMs: 1_000,
    };
    const processes = await Promise.all([1, 2, 3].map(() => startWorkerProcess(assignment)));
    const run = await start(name, { store, ranges: 6 });
    // Every process is in the middle of a range.
    await vi.waitFor(async () => expect(await run.progress()).toMatchObject({ active: 3, completed: 0 }), 10_000);
    await vi.waitFor(async () => expect((await run.progress()).scanned).toBeGreaterThan(6 * batchSize), 10_000);
    const [victim] = processes;
    if (victim === undefined) throw new Error("No worker process was started");
    const died = once(victim, "exit");
    victim.kill("SIGKILL");
    expect(await died).toEqual([null, "SIGKILL"]);
    await run.finished({ pollMs });
    const { scanned, current, reencrypted, ...rest } = await run.progress();
    expect(rest).toMatchObject({ round: 1, completed: 6, failed: 0, unreadable: 0, conflicts: 0 });
    expect(scanned).toBe(3_000);
    // The records that the victim re-encrypted without a checkpoint were found to be current. A page of a Redis store
    // has only about as many records as batchSize.
    expect(current).toBeLessThanOrEqual(1.5 * batchSize);
    expect(reencrypted).toBe(3_000 - current);
    await expectMoved();
  });

  it("a run is joined by a second call of startReencryption, even if that call has another number of ranges", async () => {
    const { name, store, expectMoved } = await rotated(200);
    const [first, ...others] = await Promise.all([
      start(name, { store, ranges: 4 }),
      start(name, { store, ranges: 4 }),
      start(name, { store, ranges: 4 }),
    ]);
    others.push(await start(name, { store, ranges: 9 }));
    const queue = rawQueue(name);
    expect(await queue.getWaitingCount()).toBe(4);
    work(name, { store });
    await Promise.all([first, ...others].map((run) => run?.finished({ pollMs })));
    await (await start(name, { store, ranges: 2 })).finished({ pollMs });
    for (const run of others) expect(await run.progress()).toMatchObject({ round: 1, jobs: 4, completed: 4 });
    expect(await queue.getCompletedCount()).toBe(4);
    await expectMoved();
  });

  it("a run stores no value, no record's key and no key material in the queue, even if an attempt fails", async () => {
    const { name, inner, store } = await rotated(100);
    const run = await start(name, { store, ranges: 2 });
    const broken = vi.spyOn(inner, "scan").mockRejectedValueOnce(new Error(`${marker} secret key 1`));
    const { errors } = work(name, { store, batchSize: 10 });
    await run.finished({ pollMs });
    expect(broken).toHaveBeenCalled();
    expect(errors).toHaveLength(1);
    const kept: unknown[] = [];
    const keys = await queues.command("KEYS", `*${name}*`);
    for (const key of Array.isArray(keys) ? keys : []) {
      const type = String(await queues.command("TYPE", String(key)));
      // The key has expired since it was listed.
      if (type === "none") continue;
      const read: Record<string, readonly (string | number)[]> = {
        hash: ["HGETALL"],
        stream: ["XRANGE", "-", "+"],
        zset: ["ZRANGE", 0, -1],
        list: ["LRANGE", 0, -1],
        string: ["GET"],
        set: ["SMEMBERS"],
      };
      const [command = "", ...given] = read[type] ?? [];
      kept.push([key, await queues.command(String(command), String(key), ...given)]);
    }
    const text = JSON.stringify(kept);
    expect(text).toContain("checkpoint");
    expect(text).toContain("STORE_UNAVAILABLE");
    const { keys: material } = JSON.parse(exportKeyring(promoted));
    expect(material).toHaveLength(2);
    const secrets = [marker, "secret key", ...material.map((key: { material: string }) => key.material)];
    for (const secret of secrets) expect(text).not.toContain(secret);
  });

  it("a run stops after pause(), and continues after resume() where it stopped, even in another worker", async () => {
    const { name, store, expectMoved } = await rotated(1_000);
    const run = await start(name, { store, ranges: 2 });
    const { worker } = work(name, { store, batchSize: 20, maxPerSecond: 400 });
    await vi.waitFor(async () => expect((await run.progress()).scanned).toBeGreaterThan(40), 10_000);
    await run.pause();
    await vi.waitFor(async () => expect(await run.progress()).toMatchObject({ active: 0 }), 10_000);
    const at = await run.progress();
    expect(at.completed).toBe(0);
    await worker.close();
    expect(await run.progress()).toEqual(at);
    await run.resume();
    const second = work(name, { store, batchSize: 20, maxPerSecond: 400 });
    await vi.waitFor(async () => expect((await run.progress()).scanned).toBeGreaterThan(at.scanned + 40), 10_000);
    await second.worker.close();
    expect(await run.progress()).toMatchObject({ active: 0, completed: 0, failed: 0 });
    work(name, { store });
    await run.finished({ pollMs });
    expect(await run.progress()).toMatchObject({ scanned: 1_000, reencrypted: 1_000, current: 0 });
    await expectMoved();
  });

  it("a run ends in every process after abort(), and can be started again", async () => {
    const { name, store, expectMoved } = await rotated(1_000);
    const run = await start(name, { store, ranges: 4 });
    const other = await start(name, { store, ranges: 4 });
    // At this rate the run lasts 20 seconds, so it cannot be finished before abort(), even on a busy machine.
    const { errors } = work(name, { store, batchSize: 20, maxPerSecond: 50 });
    const waiting = expect(other.finished({ pollMs })).rejects.toMatchObject({ name: "AbortError" });
    await vi.waitFor(async () => expect((await run.progress()).scanned).toBeGreaterThan(40), 10_000);
    await run.abort();
    await waiting;
    await expect(run.finished({ pollMs })).rejects.toMatchObject({ name: "AbortError" });
    const left = (await census(store)).keys.get("old") ?? 0;
    expect(left).toBeGreaterThan(0);
    expect(left).toBeLessThan(1_000);
    work(name, { store });
    await (await start(name, { store, ranges: 3 })).finished({ pollMs });
    await expectMoved();
    expect(errors).toEqual([]);
  });

  it("a worker reports no error if the lock of a range is renewed just after the worker has given the range back", async () => {
    const { name, store } = await rotated(1_000);
    const queueServer = new Redis(queues.url);
    onTestFinished(() => queueServer.disconnect());
    const run = await start(name, { store, ranges: 1 });
    const reports: ReencryptReport[] = [];
    const { errors } = work(name, {
      store,
      lockMs: 4_000,
      batchSize: 20,
      maxPerSecond: 50,
      onReport(report) {
        reports.push(report);
        // The server answers again after the worker has both given the range back and, by its timer, renewed the lock.
        // The process stands still until the server has received the command.
        void queueServer.client("PAUSE", 2_500, "WRITE");
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100);
      },
    });
    await vi.waitFor(async () => expect((await run.progress()).scanned).toBeGreaterThan(40), 10_000);
    await run.abort();
    expect(reports).toMatchObject([{ complete: false }]);
    expect(errors).toEqual([]);
  });

  it("a run adds no pass after abort(), even if another process is taking a census when abort() is called", async () => {
    const { name, store } = await rotated(20);
    const run = await start(name, { store, ranges: 2 });
    work(name, { store });
    await vi.waitFor(async () => expect(await run.progress()).toMatchObject({ completed: 2 }), 10_000);
    const slow = new RedisStore(records.url, { prefix: name });
    onTestFinished(() => slow.disconnect());
    await createKeyv({ store: slow, keys: staged, namespace: "flows" }).encryptedStore.set("secret key late", marker);
    const aborted = Promise.withResolvers<void>();
    const scan = slow.scan.bind(slow);
    const scanned = vi.spyOn(slow, "scan").mockImplementationOnce(async (options) => {
      await aborted.promise;
      return await scan(options);
    });
    const other = await start(name, { store: new EncryptedStore(slow, { keys: promoted }) });
    const waiting = expect(other.finished({ pollMs })).rejects.toMatchObject({ name: "AbortError" });
    await vi.waitFor(() => expect(scanned).toHaveBeenCalled(), 20_000);
    await run.abort();
    aborted.resolve();
    await waiting;
    expect(await rawQueue(name).getJobCountByTypes()).toBe(0);
  });

  it("a run continues after finished() has rejected because the signal of finished() was aborted", async () => {
    const { name, store, expectMoved } = await rotated(50);
    const run = await start(name, { store });
    const stop = new AbortController();
    const waiting = run.finished({ signal: stop.signal });
    stop.abort();
    await expect(waiting).rejects.toMatchObject({ name: "AbortError" });
    work(name, { store });
    await run.finished({ pollMs });
    await expectMoved();
  });

  it("a run makes another pass if a process with an older keyring wrote a record before the census", async () => {
    const { name, inner, store } = await rotated(50);
    const writer = createKeyv({ store: inner, keys: staged, namespace: "flows" }).encryptedStore;
    const run = await start(name, { store, ranges: 1 });
    work(name, { store });
    await vi.waitFor(async () => expect(await run.progress()).toMatchObject({ completed: 1 }), 10_000);
    await writer.set("secret key late", marker);
    const counts = await run.finished({ pollMs });
    expect(counts.keys).toEqual(new Map([["new", 51]]));
    expect(await run.progress()).toMatchObject({ round: 2, completed: 1, current: 50, reencrypted: 1 });
    expect(await run.progress()).toMatchObject({ scanned: 51 });
  });

  it("a run makes finished() reject with the number of remaining records if records cannot be decrypted", async () => {
    const { name, inner, store } = await rotated(20);
    const flows = inner.namespaced("flows");
    const stored = await flows.get("secret key 1");
    await flows.set("secret key moved", stored);
    await flows.set("secret key plain", marker);
    const run = await start(name, { store, ranges: 3 });
    const reports: ReencryptReport[] = [];
    work(name, { store, onReport: (report) => reports.push(report) });
    const error: unknown = await run.finished({ pollMs, repeats: 1 }).catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: "KEY_IN_USE", keyId: "new", counts: { old: 1, unsealed: 1 } });
    expect(String(error)).not.toContain("secret");
    expect(await run.progress()).toMatchObject({ round: 2, completed: 3, unreadable: 2 });
    expect(reports.flatMap(({ unreadableRecords }) => unreadableRecords).map(({ key }) => key)).toEqual(
      expect.arrayContaining(["secret key moved", "secret key plain"]),
    );
  });

  it("a run lets no worker with an outdated keyring re-encrypt a record", async () => {
    const { name, inner, store, expectMoved } = await rotated(50);
    const run = await start(name, { store, ranges: 1 });
    const behind = work(name, { store: new EncryptedStore(inner, { keys: before.add({ id: "third" }) }) });
    await vi.waitFor(() => expect(behind.errors).toMatchObject([{ code: "KEYRING_CONFLICT", keyId: "new" }]), 10_000);
    expect(await run.progress()).toMatchObject({ completed: 0, scanned: 0 });
    await behind.worker.close();
    work(name, { store });
    await run.finished({ pollMs });
    await expectMoved();
  });

  it("a run retries its failed jobs when startReencryption is called again", async () => {
    const { name, inner, store, expectMoved } = await rotated(50);
    const failing = vi.spyOn(inner, "scan").mockRejectedValue(new Error("down"));
    work(name, { store });
    const run = await start(name, { store, ranges: 2, attempts: 1 });
    await vi.waitFor(async () => expect(await run.progress()).toMatchObject({ failed: 2 }), 10_000);
    failing.mockRestore();
    await (await start(name, { store })).finished({ pollMs });
    expect(await run.progress()).toMatchObject({ round: 1, completed: 2, failed: 0 });
    await expectMoved();
  });

  it("a run continues without another call after an outage of the server that stores the records", async () => {
    const node = await startRedis(servers);
    onTestFinished(() => node.stop());
    const inner = new RedisStore(node.url, { timeoutMs: 500 });
    onTestFinished(() => inner.disconnect());
    const name = `test-${process.pid}-${++tests}`;
    const keys = Array.from({ length: 600 }, (_, index) => `secret key ${index}`);
    await createKeyv({ store: inner, keys: before }).encryptedStore.setMany(
      keys.map((key) => ({ key, value: marker })),
    );
    const store = new EncryptedStore(inner, { keys: promoted });
    const run = await start(name, { store, ranges: 2 });
    const { errors } = work(name, { store, batchSize: 20, maxPerSecond: 300 });
    await vi.waitFor(async () => expect((await run.progress()).scanned).toBeGreaterThan(40), 10_000);
    await node.kill();
    await vi.waitFor(() => expect(errors).not.toEqual([]), 10_000);
    await node.restart();
    const counts = await run.finished({ pollMs });
    expect(counts.keys).toEqual(new Map([["new", 600]]));
    expect(await run.progress()).toMatchObject({ round: 1, completed: 2, failed: 0 });
    for (const error of errors) expect(error).toMatchObject({ code: "STORE_UNAVAILABLE" });
  });

  it("a run continues without another call after an outage of the server that stores the queue", async () => {
    const { name, store, expectMoved } = await rotated(600);
    const node = await startRedis(servers);
    onTestFinished(() => node.stop());
    const run = await startReencryption({ connection: node.url, queue: name, store, ranges: 2 });
    onTestFinished(() => run.close());
    const worker = reencryptionWorker({
      connection: { host: node.host, port: node.port },
      queue: name,
      store,
      batchSize: 20,
      maxPerSecond: 300,
      lockMs: 1_000,
    });
    onTestFinished(() => worker.close());
    await vi.waitFor(async () => expect((await run.progress()).scanned).toBeGreaterThan(40), 10_000);
    await node.kill();
    await node.restart();
    const counts = await run.finished({ pollMs });
    expect(counts.keys).toEqual(new Map([["new", 600]]));
    await expectMoved();
  });

  it("a run accepts a connected client of ioredis as the connection, and does not close the client", async () => {
    const { name, store, expectMoved } = await rotated(20);
    const connection = new Redis(queues.url, { maxRetriesPerRequest: null });
    onTestFinished(() => {
      connection.disconnect();
    });
    const run = await startReencryption({ connection, queue: name, store });
    const worker = reencryptionWorker({ connection, queue: name, store });
    await run.finished({ pollMs });
    await worker.close();
    await run.close();
    expect(await connection.ping()).toBe("PONG");
    await expectMoved();
  });

  it("a run has a single job if the store cannot be divided into ranges", async () => {
    const inner = new MemoryStore();
    const writer = new EncryptedStore(inner, { keys: before });
    await writer.setMany(Array.from({ length: 30 }, (_, index) => ({ key: `secret key ${index}`, value: marker })));
    const store = new EncryptedStore(inner, { keys: promoted });
    const name = `test-${process.pid}-${++tests}`;
    const run = await start(name, { store, ranges: 8 });
    work(name, { store });
    await run.finished({ pollMs });
    expect(await run.progress()).toMatchObject({ jobs: 1, completed: 1, reencrypted: 30 });
  });

  it.each([0, -1, 1.5, Number.NaN])(
    "startReencryption refuses %d as the number of ranges, and adds no job",
    async (ranges) => {
      const { name, store } = await rotated(1);
      await expect(start(name, { store, ranges })).rejects.toMatchObject({ code: "VALUE_INVALID" });
      expect(await rawQueue(name).getJobCountByTypes()).toBe(0);
    },
  );
});

describeWithRedis(servers, "an error of BullMQ or ioredis", () => {
  const password = `${secret}/#?@`;
  let node: RedisNode;
  beforeAll(async () => {
    node = await startRedis(servers);
    await node.command("ACL", "SETUSER", "someone", "on", ">another", "+@all", "~*");
    await node.command("ACL", "SETUSER", "reader", "on", `>${password}`, "+@read", "+@connection", "+info", "~*");
  });
  afterAll(() => node.stop());
  const store = new EncryptedStore(new MemoryStore(), { keys: Keyring.generate("key") });

  it("an error contains no password if the queue's Redis refused a login", async () => {
    const connection = { host: node.host, port: node.port, username: "someone", password };
    const connections = async () => {
      const stats = String(await node.command("INFO", "stats"));
      return Number(/^total_connections_received:(\d+)/m.exec(stats)?.[1]);
    };
    const before = await connections();
    const reported: { readonly error: unknown; readonly times: number }[] = [];
    const onError = (error: unknown, { times }: { readonly times: number }) => reported.push({ error, times });
    const worker = reencryptionWorker({ connection, store, onError });
    onTestFinished(async () => {
      // BullMQ can only close a worker that is connected.
      await node.command("ACL", "SETUSER", "someone", `>${password}`);
      await worker.close();
    });
    // Each of its three connections keeps retrying, and fails in the same way.
    await expect.poll(connections).toBeGreaterThan(before + 8);
    await expect.poll(() => reported.length).toBeGreaterThan(0);
    for (const { error } of reported) expectNoSecrets(error);
    expect(reported[0]).toMatchObject({ error: { message: expect.stringContaining("WRONGPASS") }, times: 1 });
    const first = reported.filter(({ times }) => times === 1).map(({ error }) => String(error));
    expect(new Set(first).size).toBe(first.length);
  });

  it("an error is a KeywardError without the arguments of the command if the queue's Redis user lacks a permission", async () => {
    const connection = `redis://reader:${encodeURIComponent(password)}@${node.host}:${node.port}`;
    const queue = `queue ${secret}`;
    await expectRefusal(startReencryption({ connection, store, queue }), "STORE_UNAVAILABLE");
  });

  it.each([
    `redis://:${password}@127.0.0.1:6379`,
    `redis://:12/${secret}@127.0.0.1:6379`,
    `redis://user:12#${secret}@127.0.0.1:6379`,
  ])("an error contains no part of a URL whose password is not percent-encoded: %s", async (url) => {
    for (const connection of [url, { url }]) {
      await expectRefusal(startReencryption({ connection, store }), "VALUE_INVALID");
      await expectRefusal(() => reencryptionWorker({ connection, store }), "VALUE_INVALID");
    }
  });
});
