import { census, createKeyv, EncryptedStore, Keyring, reencrypt, type ScannedRecord } from "@keyward/core";
import { RedisStore } from "@keyward/store-redis";
import fc from "fast-check";
import { Cluster } from "ioredis";
import { afterEach, beforeEach, expect, it, onTestFinished } from "vitest";
import {
  describeWithRedis,
  findRedisServers,
  type RedisCluster,
  type RedisNode,
  startCluster,
} from "../../../test/servers/redis.ts";
import { slotOf } from "../src/slots.ts";

const servers = await findRedisServers();
// Longer than a failover with two elections.
const timeoutMs = 20_000;

function numbered(count: number): string[] {
  return Array.from({ length: count }, (_, index) => `key ${index}`);
}

describeWithRedis(servers, "RedisStore on a Cluster", () => {
  let cluster: RedisCluster;
  let store: RedisStore;

  // The tests move slots and kill nodes, so each test has a new Cluster.
  beforeEach(async () => {
    cluster = await startCluster(servers, { failover: true });
    store = new RedisStore({ nodes: cluster.startupNodes }, { timeoutMs });
  });
  afterEach(async () => {
    await store.disconnect();
    await cluster.stop();
  });

  /** Returns the slot in which the store keeps a record. */
  const slotIn = (key: string) => slotOf(Buffer.from(`keyward::${key}`));

  /** Returns the key of a record that this primary serves. */
  async function keyOn(node: RedisNode): Promise<string> {
    for (const key of numbered(100)) if ((await cluster.primaryOf(slotIn(key))) === node) return key;
    throw new Error("The primary serves none of a hundred keys");
  }

  /** Waits until another node has replaced a killed primary. */
  async function untilReplaced({ port }: RedisNode): Promise<void> {
    // If the first election has no winner, the next one is after four times the Cluster's node timeout.
    await expect
      .poll(async () => (await cluster.primaries()).some((primary) => primary.port === port), { timeout: 30_000 })
      .toBe(false);
  }

  /** Returns the records of the rest of a scan. Calls `between` after each page. */
  async function scanOn(
    from: RedisStore,
    options: { cursor?: string | undefined; limit?: number; between?: (page: number) => Promise<void> } = {},
  ): Promise<ScannedRecord[]> {
    const { limit = 30, between } = options;
    const found: ScannedRecord[] = [];
    let { cursor } = options;
    let page = 0;
    do {
      const scanned = await from.scan({ limit, ...(cursor === undefined ? {} : { cursor }) });
      found.push(...scanned.entries);
      cursor = scanned.cursor;
      await between?.(page++);
    } while (cursor !== undefined);
    return found;
  }

  it("a RedisStore on a Cluster computes the slot of a key as the servers compute it", async () => {
    const [node] = cluster.nodes;
    const keys = ["", "{}", "{}a}", "{a}b", "a{b}c{d}", "{a", "a}b{", "é😀", "{é}"];
    const key = fc.oneof(
      fc.constantFrom(...keys),
      fc.string({ unit: fc.constantFrom("{", "}", "a", "é"), maxLength: 8 }),
    );
    await fc.assert(
      fc.asyncProperty(key, async (each) => {
        expect(slotOf(Buffer.from(each))).toBe(await node?.command("CLUSTER", "KEYSLOT", each));
      }),
      { numRuns: 60 },
    );
  });

  it("a RedisStore on a Cluster stores and finds a record whose key has an empty hash tag", async () => {
    const keys = ["{}", "{}a}", "a{}b}{c}", "{user}1", "{user}2"];
    await store.setMany(keys.map((key) => ({ key, value: key })));
    expect(await store.getMany(keys)).toEqual(keys);
    expect(new Set((await scanOn(store)).map(({ key }) => key))).toEqual(new Set(keys));
  });

  it("a RedisStore on a Cluster finds every record exactly once in a scan if no slot moves", async () => {
    const keys = numbered(3_000);
    await store.setMany(keys.map((key) => ({ key, value: key })));
    const found = (await scanOn(store, { limit: 200 })).map(({ key }) => key);
    expect(found.length).toBe(new Set(found).size);
    expect(new Set(found)).toEqual(new Set(keys));
  });

  it("a RedisStore on a Cluster finds every record in a scan even if slots move between servers after each page", async () => {
    // Many records in few slots, so that each move matters.
    const tags = Array.from({ length: 12 }, (_, index) => `{tag ${index}}`);
    const keys = tags.flatMap((tag) => Array.from({ length: 100 }, (_, index) => `${tag}${index}`));
    await store.setMany(keys.map((key) => ({ key, value: key })));
    const slots = [...new Set(tags.map(slotIn))];
    const move = async (slot: number, between?: () => Promise<void>) => {
      const from = await cluster.primaryOf(slot);
      const target = (await cluster.primaries()).find(({ port }) => port !== from.port);
      if (target === undefined) throw new Error("There is no other primary");
      await cluster.moveSlot(slot, target, { batch: 25, ...(between === undefined ? {} : { between }) });
    };
    for (const limit of [15, 60]) {
      const found = await scanOn(store, {
        limit,
        async between(page) {
          const slot = slots[page % slots.length];
          if (slot !== undefined && page < 2 * slots.length) await move(slot);
        },
      });
      expect(new Set(found.map(({ key }) => key))).toEqual(new Set(keys));
    }
  });

  it("a RedisStore on a Cluster finds every record in a scan while only some keys of a slot have moved to another server", async () => {
    const keys = Array.from({ length: 200 }, (_, index) => `{moving}${index}`);
    await store.setMany([...keys, ...numbered(300)].map((key) => ({ key, value: key })));
    const slot = slotIn("{moving}");
    const source = await cluster.primaryOf(slot);
    const target = (await cluster.primaries()).find(({ port }) => port !== source.port);
    if (target === undefined) throw new Error("There is no other primary");
    let scans = 0;
    await cluster.moveSlot(slot, target, {
      batch: 50,
      async between() {
        // The move waits for the scan, like a move that was abandoned.
        const found = new Set((await scanOn(store, { limit: 100 })).map(({ key }) => key));
        expect(found).toEqual(new Set([...keys, ...numbered(300)]));
        expect(await store.getMany(keys)).toEqual(keys);
        scans++;
      },
    });
    expect(scans).toBeGreaterThan(3);
  });

  it("a RedisStore on a Cluster finds every record in a scan if the keys of a slot move to another server, some of them after each page", async () => {
    const keys = Array.from({ length: 400 }, (_, index) => `{moving}${index}`);
    await store.setMany([...keys, ...numbered(300)].map((key) => ({ key, value: key })));
    const slot = slotIn("{moving}");
    const source = await cluster.primaryOf(slot);
    const others = (await cluster.primaries()).filter(({ port }) => port !== source.port);
    let cursor: string | undefined;
    const found = new Set<string>();
    await cluster.moveSlot(slot, others[0] ?? source, {
      batch: 40,
      async between() {
        const page = await store.scan({ limit: 40, ...(cursor === undefined ? {} : { cursor }) });
        for (const { key } of page.entries) found.add(key);
        cursor = page.cursor;
        expect(cursor).toBeDefined();
      },
    });
    for (const { key } of await scanOn(store, { cursor })) found.add(key);
    expect(found).toEqual(new Set([...keys, ...numbered(300)]));
  });

  it("a RedisStore on a Cluster continues a scan from the cursor of another store after one primary has failed over and another has restarted", async () => {
    const keys = numbered(1_000);
    await store.setMany(keys.map((key) => ({ key, value: key })));
    const first = await store.scan({ limit: 100 });
    const [replaced, restarted] = await cluster.primaries();
    if (replaced === undefined || restarted === undefined) throw new Error("There are no primaries");
    await restarted.restart();
    await replaced.kill();
    await untilReplaced(replaced);
    const other = new RedisStore({ nodes: cluster.startupNodes }, { timeoutMs });
    onTestFinished(() => other.disconnect());
    const rest = await scanOn(other, { cursor: first.cursor });
    const found = new Set([...first.entries, ...rest].map(({ key }) => key));
    for (const key of keys) expect(found).toContain(key);
  });

  it("a RedisStore on a Cluster completes every call while slots move", async () => {
    const keys = numbered(200);
    await store.setMany(keys.map((key) => ({ key, value: "0" })));
    let stopped = false;
    let steps = 0;
    const traffic = Array.from({ length: 4 }, async (_, worker) => {
      const own = keys.filter((__, index) => index % 4 === worker);
      for (let step = 1; !stopped; step++) {
        await store.setMany(own.map((key) => ({ key, value: `${step}` })));
        expect(await store.getMany(own)).toEqual(own.map(() => `${step}`));
        const changes = own.map((key) => ({ key, expected: `${step}`, next: `${step}, again` }));
        const expires = Date.now() + 3_600_000;
        const replaced = await store.replaceMany(
          changes.map((change, index) => (index % 2 === 0 ? change : { ...change, expires })),
        );
        expect(new Set(replaced)).toEqual(new Set([true]));
        steps++;
      }
    });
    for (const slot of new Set(keys.slice(0, 30).map(slotIn))) {
      const from = await cluster.primaryOf(slot);
      const target = (await cluster.primaries()).find(({ port }) => port !== from.port);
      if (target !== undefined) await cluster.moveSlot(slot, target, { batch: 1 });
    }
    stopped = true;
    await Promise.all(traffic);
    expect(steps).toBeGreaterThan(10);
  });

  it("a RedisStore on a Cluster makes calls wait during a failover, and completes the waiting calls afterwards", async () => {
    const keys = numbered(60);
    await store.setMany(keys.map((key) => ({ key, value: "before" })));
    const [victim] = await cluster.primaries();
    // Waits until all records have reached their replicas: only those survive a failover.
    await cluster.replicated();
    let stopped = false;
    const outcomes = new Map<string, number>();
    const traffic = Array.from({ length: 4 }, async (_, worker) => {
      for (let step = 0; !stopped; step++) {
        const key = keys[(step * 4 + worker) % keys.length] ?? "";
        const startedAtMs = performance.now();
        const outcome = await store.set(key, "after").then(
          () => "written",
          (error: unknown) => (error instanceof Error && "code" in error ? String(error.code) : String(error)),
        );
        outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
        expect(performance.now() - startedAtMs).toBeLessThan(2 * timeoutMs);
      }
    });
    await victim?.kill();
    const reads = await store.getMany(keys);
    for (const value of reads) expect(["before", "after"]).toContain(value);
    stopped = true;
    await Promise.all(traffic);
    expect([...outcomes.keys()].sort()).toEqual(
      outcomes.has("STORE_UNAVAILABLE") ? ["STORE_UNAVAILABLE", "written"] : ["written"],
    );
    // Only writes that were in progress on the dead primary may fail: the others have waited.
    expect(outcomes.get("STORE_UNAVAILABLE") ?? 0).toBeLessThanOrEqual(4);
    await store.setMany(keys.map((key) => ({ key, value: "again" })));
    expect(new Set(await store.getMany(keys))).toEqual(new Set(["again"]));
  });

  it("a RedisStore on a Cluster never sends a write that timed out before the client had connected to the node", async () => {
    const client = new Cluster([...cluster.startupNodes]);
    onTestFinished(() => client.disconnect());
    await expect.poll(() => client.status).toBe("ready");
    // The client has asked only one node for the state of the Cluster, so it is not connected to the others yet.
    const unconnected = client.nodes("master").find(({ status }) => status === "wait");
    const node = (await cluster.primaries()).find(({ port }) => port === unconnected?.options.port);
    if (node === undefined) throw new Error("The client is connected to every primary");
    const key = await keyOn(node);
    await store.set(key, "value");
    // Shorter than the time after which the other nodes would replace the primary.
    const impatient = new RedisStore(client, { timeoutMs: 400 });
    node.pause();
    await expect(impatient.set(key, "late")).rejects.toMatchObject({ code: "STORE_UNAVAILABLE" });
    node.resume();
    const patient = new RedisStore(client, { timeoutMs });
    expect(await patient.get(key)).toBe("value");
  });

  it("a RedisStore does not close an existing client of a Cluster, and prevents that client from repeating an unanswered write", async () => {
    const client = new Cluster([...cluster.startupNodes]);
    onTestFinished(() => client.disconnect());
    const existing = new RedisStore(client, { timeoutMs });
    await existing.set("key", "value");
    const node = await cluster.primaryOf(slotIn("key"));
    node.pause();
    const lost = expect(existing.set("key", "lost")).rejects.toMatchObject({ code: "STORE_UNAVAILABLE" });
    const connection = client.nodes("master").find(({ options }) => options.port === node.port);
    await expect.poll(() => connection?.commandQueue.length).toBeGreaterThan(0);
    await node.kill();
    await lost;
    await existing.disconnect();
    const other = new RedisStore(client, { timeoutMs });
    expect(await other.get("key")).toBe("value");
  });

  it("a RedisStore on a Cluster re-encrypts some records after reads, and all others in bulk while slots move and a primary fails over", async () => {
    const first = Keyring.generate("first");
    const flows = createKeyv({ store, namespace: "flows", keys: first });
    const keys = numbered(1_200);
    await flows.setMany(keys.map((key, step) => ({ key, value: { step }, ttl: 3_600_000 })));
    await cluster.replicated();
    const both = first.add({ id: "second" }).promote("second");
    const rotated = createKeyv({ store, namespace: "flows", keys: both });
    await rotated.getMany(keys.slice(0, 50));
    await rotated.encryptedStore.settled();
    expect((await census(store)).keys.get("second")).toBe(50);

    const encrypted = new EncryptedStore(store.namespaced("flows"), { keys: both });
    encrypted.namespace = "flows";
    const [victim] = await cluster.primaries();
    if (victim === undefined) throw new Error("There is no primary");
    const slots = [...new Set(keys.slice(0, 12).map((key) => slotOf(Buffer.from(`keyward:flows:${key}`))))];
    const disturb = async () => {
      for (const slot of slots) {
        const source = await cluster.primaryOf(slot);
        // No slot moves to or from the victim: a key that it has just received may not be on its replica yet.
        if (source.port === victim.port) continue;
        const target = (await cluster.primaries()).find(({ port }) => port !== source.port && port !== victim.port);
        if (target !== undefined) await cluster.moveSlot(slot, target, { batch: 1 });
      }
      await cluster.replicated();
      await victim.kill();
      return pages;
    };
    let pages = 0;
    let disturbed: Promise<number> | undefined;
    // Half of the job runs during the disturbance. The other half waits until the primary is dead.
    const checkpoint = {
      read: async () => undefined,
      write: async () => {
        if (pages >= 30) await disturbed;
      },
    };
    const bulk = async () =>
      reencrypt(encrypted, {
        batchSize: 20,
        maxPerSecond: 400,
        checkpoint,
        onProgress: () => {
          if (++pages === 2) disturbed = disturb();
        },
      });
    const report = await bulk().catch(async (error: unknown) => {
      // A write that was in progress on the dead primary may fail the job, which is then started again.
      expect(error).toMatchObject({ code: "STORE_UNAVAILABLE" });
      await disturbed;
      await untilReplaced(victim);
      return bulk();
    });
    // The slots had moved and the primary was dead before the job was done.
    expect(await disturbed).toBeLessThan(pages);
    expect(report).toMatchObject({ complete: true, unreadable: 0 });
    // Redis may lose writes that it acknowledged during the failover. A second run re-encrypts those records.
    expect(await bulk()).toMatchObject({ complete: true, unreadable: 0 });
    expect((await census(store)).keys).toEqual(new Map([["second", keys.length]]));
    expect(await rotated.getMany(keys)).toEqual(keys.map((_, step) => ({ step })));
  });
});
