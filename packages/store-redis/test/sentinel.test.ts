import { census, createKeyv, EncryptedStore, Keyring, reencrypt, type ScannedRecord } from "@keyward/core";
import { RedisStore } from "@keyward/store-redis";
import { beforeEach, expect, it, onTestFinished } from "vitest";
import {
  describeWithRedis,
  findRedisServers,
  type RedisNode,
  type RedisSentinelGroup,
  startSentinelGroup,
} from "../../../test/servers/redis.ts";

const servers = await findRedisServers();
/** A timeout that is longer than a failover. */
const patientMs = 8_000;
const impatientMs = 1_000;
/** Reserve for a busy machine, in addition to the timeout of a call. Less than until the default timeout of 5 seconds. */
const slackMs = 3_500;
const unavailable = { name: "KeywardError", code: "STORE_UNAVAILABLE" };

describeWithRedis(servers, "RedisStore on a Sentinel group", () => {
  let group: RedisSentinelGroup;
  let primary: RedisNode;
  let replica: RedisNode;
  beforeEach(async () => {
    group = await startSentinelGroup(servers);
    [primary, replica] = group.nodes;
    const started = group;
    return () => started.stop();
  });

  function open(timeoutMs = patientMs): RedisStore {
    const sentinels = group.sentinels.map(({ host, port }) => ({ host, port }));
    const store = new RedisStore({ sentinels, name: group.name }, { timeoutMs });
    onTestFinished(() => store.disconnect());
    return store;
  }

  async function scanOn(store: RedisStore, from?: string): Promise<ScannedRecord[]> {
    const found: ScannedRecord[] = [];
    let cursor = from;
    do {
      const page = await store.scan({ limit: 50, ...(cursor === undefined ? {} : { cursor }) });
      found.push(...page.entries);
      cursor = page.cursor;
    } while (cursor !== undefined);
    return found;
  }

  function numbered(count: number): string[] {
    return Array.from({ length: count }, (_, index) => `key ${index}`);
  }

  it("a RedisStore on a Sentinel group writes, replaces and scans records before and after a failover, and loses no replicated record", async () => {
    const store = open();
    const keys = numbered(300);
    const expires = Date.now() + 3_600_000;
    await store.setMany(keys.map((key) => ({ key, value: "old", expires })));
    expect(await store.replace("key 0", "old", "new")).toBe(true);
    expect(await store.replace("key 0", "old", "newer")).toBe(false);
    await group.replicated();
    expect(await replica.command("PEXPIRETIME", "keyward::key 0")).toBe(expires - 1);
    const first = await store.scan({ limit: 50 });
    expect(first.cursor).toBeDefined();
    // Redis replicates asynchronously, so only records that have reached the replica survive the failover.
    await group.replicated();
    await primary.kill();

    // These calls begin while there is no primary, and succeed without further action.
    const startedAtMs = performance.now();
    const calls = [store.get("key 0"), store.replace("key 1", "old", "new"), store.set("key 2", "new")];
    expect(await Promise.all(calls)).toEqual(["new", true, true]);
    expect(performance.now() - startedAtMs).toBeLessThan(patientMs + slackMs);
    // The sentinels that did not lead the failover learn about it a moment later.
    await expect.poll(() => group.primary(), { timeout: 15_000 }).toBe(replica);

    const changed = new Set(["key 0", "key 1", "key 2"]);
    expect(await store.getMany(keys)).toEqual(keys.map((key) => (changed.has(key) ? "new" : "old")));
    expect(await replica.command("PEXPIRETIME", "keyward::key 1")).toBe(expires - 1);
    // A new store continues the scan with the cursor of the dead primary.
    const rest = await scanOn(open(), first.cursor);
    expect(new Set([...first.entries, ...rest].map(({ key }) => key))).toEqual(new Set(keys));

    await primary.restart();
    await group.replicated();
    expect(await primary.command("GET", "keyward::key 2")).toBe("new");
  });

  it("a RedisStore on a Sentinel group settles each write within the timeout during a failover, and keeps writes that the new primary acknowledged", async () => {
    const store = open();
    await store.set("any", "value");
    const last = new Map<string, { step: number; acknowledged: boolean }>();
    const failures: unknown[] = [];
    let stopped = false;
    const writers = numbered(8).map(async (key) => {
      for (let step = 1; !stopped; step++) {
        const startedAtMs = performance.now();
        const acknowledged = await store.set(key, String(step)).catch((error: unknown) => {
          failures.push(error);
          return false;
        });
        last.set(key, { step, acknowledged });
        expect(performance.now() - startedAtMs).toBeLessThan(patientMs + slackMs);
      }
    });
    await expect.poll(() => last.size).toBe(8);
    await primary.kill();
    await expect.poll(() => group.primary(), { timeout: 15_000 }).toBe(replica);
    const before = new Map(last);
    await expect
      .poll(() => [...last].every(([key, { step }]) => step > (before.get(key)?.step ?? 0) + 10), { timeout: 15_000 })
      .toBe(true);
    stopped = true;
    await Promise.all(writers);
    // Only writes that were in progress on the dead primary may fail.
    for (const error of failures) expect(error).toMatchObject(unavailable);
    expect(failures.length).toBeLessThanOrEqual(8);
    for (const [key, { step, acknowledged }] of last) {
      expect(acknowledged).toBe(true);
      expect(await store.get(key)).toBe(String(step));
    }
  });

  it("a RedisStore on a Sentinel group reconnects to the new primary if the primary hangs, and loses no write when the former primary continues", async () => {
    const store = open(impatientMs);
    await store.set("key", "value");
    await group.replicated();
    primary.pause();
    const startedAtMs = performance.now();
    await expect(store.set("key", "to the hanging primary")).rejects.toMatchObject(unavailable);
    expect(performance.now() - startedAtMs).toBeLessThan(impatientMs + slackMs);
    await expect.poll(() => store.get("key").catch(() => "not yet"), { timeout: 15_000 }).toBe("value");
    await expect.poll(() => group.primary(), { timeout: 15_000 }).toBe(replica);
    await store.set("key", "newer");
    primary.resume();
    await group.replicated();
    expect([await store.get("key"), await primary.command("GET", "keyward::key")]).toEqual(["newer", "newer"]);
  });

  it("a RedisStore on a Sentinel group finds the primary if the first sentinel hangs and the second sentinel is down", async () => {
    const [first, second] = group.sentinels;
    first?.pause();
    await second?.kill();
    expect(await open(impatientMs).set("key", "value")).toBe(true);
  });

  it("a RedisStore on a Sentinel group rejects a call within the timeout while no sentinel is running, and reconnects when a sentinel starts", async () => {
    for (const sentinel of group.sentinels) await sentinel.kill();
    const store = open(impatientMs);
    const startedAtMs = performance.now();
    await expect(store.get("key")).rejects.toMatchObject(unavailable);
    expect(performance.now() - startedAtMs).toBeLessThan(impatientMs + slackMs);
    await group.sentinels[1]?.restart();
    await expect.poll(() => store.has("key").catch(() => "not yet"), { timeout: 10_000 }).toBe(false);
  });

  it("a RedisStore on a Sentinel group completes a bulk re-encryption despite a failover", async () => {
    const store = open();
    const first = Keyring.generate("first");
    const keys = numbered(600);
    const flows = createKeyv({ store, namespace: "flows", keys: first });
    await flows.setMany(keys.map((key, step) => ({ key, value: { step }, ttl: 3_600_000 })));
    await group.replicated();
    const both = first.add({ id: "second" }).promote("second");
    const encrypted = new EncryptedStore(store, { keys: both });
    let pages = 0;
    let killed: Promise<void> | undefined;
    const bulk = () =>
      reencrypt(encrypted, {
        batchSize: 40,
        onProgress: () => {
          if (++pages === 4) killed = primary.kill();
        },
      });
    const report = await bulk().catch(async (error: unknown) => {
      // A write that was in progress on the dead primary may fail the job, which is then started again.
      expect(error).toMatchObject(unavailable);
      return bulk();
    });
    await killed;
    await expect.poll(() => group.primary(), { timeout: 15_000 }).toBe(replica);
    expect(report).toMatchObject({ complete: true, unreadable: 0 });
    expect((await census(store)).keys).toEqual(new Map([["second", keys.length]]));
    const read = createKeyv({ store, namespace: "flows", keys: both });
    expect(await read.getMany(keys)).toEqual(keys.map((_, step) => ({ step })));
  });
});
