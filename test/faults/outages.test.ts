import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { RedisStore } from "@keyward/store-redis";
import { expect, it, onTestFinished } from "vitest";
import {
  describeWithRedis,
  findRedisServers,
  type RedisCluster,
  type RedisNode,
  startCluster,
  startRedis,
} from "../servers/redis.ts";
import { type HistoryPlan, runHistory, type Traffic } from "./history.ts";
import { startHttpServer } from "./http-server.ts";
import { startProxy } from "./proxy.ts";
import { below, pick, type Random, randomFrom } from "./random.ts";
import { operations, seed, soak, testTimeoutMs } from "./settings.ts";
import { openSqlite, temporaryFolder } from "./sqlite.ts";

const servers = await findRedisServers();
const options = { timeout: testTimeoutMs };
const timeoutMs = 400;
const rounds = soak ? 40 : 6;
const calls = soak ? operations : operations / 2;

type Fault = (traffic: Traffic) => Promise<void>;

async function expectNothingLost(
  random: Random,
  open: HistoryPlan["open"],
  faults: Readonly<Record<string, Fault>>,
  atLeastUnavailable: number,
): Promise<void> {
  const happened = new Set<string>();
  const names = Object.keys(faults);
  const { problems, unavailable, promoted } = await runHistory({
    random,
    operations: calls,
    rotations: soak ? 20 : 3,
    // A write that its caller no longer waits for may arrive even after a census, so no key can be retired.
    retire: false,
    open,
    async disturb(traffic) {
      for (let round = 0; round < Math.max(rounds, names.length); round++) {
        await traffic.progress.reached(traffic.progress.count + Math.floor(calls / rounds / 2));
        // Every kind of disturbance happens once. After that, disturbances are chosen at random.
        const name = names[round] ?? pick(random, names);
        await faults[name]?.(traffic);
        happened.add(name);
      }
    },
  });
  expect(problems).toEqual([]);
  expect([...happened]).toEqual(names);
  expect(unavailable).toBeGreaterThanOrEqual(atLeastUnavailable);
  expect(promoted).toBeGreaterThan(0);
}

/** Waits until `answered` more calls have been answered. */
async function during(traffic: Traffic, answered: number): Promise<void> {
  await traffic.progress.reached(traffic.progress.count + answered);
}

it(`no record is lost over HTTP when connections are cut and answers are late (seed ${seed})`, options, async () => {
  const random = randomFrom(seed + 10);
  const server = await startHttpServer(openSqlite(join(await temporaryFolder(), "records.db")));
  const proxy = await startProxy(server.port);
  onTestFinished(() => proxy.close());
  const url = `http://127.0.0.1:${proxy.port}`;
  const client = server.client({ url, timeoutMs, retries: 1 });
  await expectNothingLost(
    random,
    () => client.namespaced("flows"),
    {
      async cut(traffic) {
        for (let cut = 0; cut < 10; cut++) {
          proxy.cut();
          await during(traffic, below(random, 20));
        }
      },
      async "late, and too late"(traffic) {
        proxy.delayReplies(below(random, timeoutMs / 4));
        await during(traffic, 50);
        proxy.delayReplies(timeoutMs + 100);
        await sleep(below(random, 3 * timeoutMs));
        proxy.delayReplies(0);
      },
      async "late, and cut"(traffic) {
        proxy.delayReplies(50);
        for (let cut = 0; cut < 5; cut++) {
          await during(traffic, 10);
          proxy.cut();
        }
        proxy.delayReplies(0);
      },
    },
    0,
  );
});

describeWithRedis(servers, "a history over Redis", () => {
  it(
    `no record is lost when the Redis server is killed, hangs, is cut off or answers late (seed ${seed})`,
    options,
    async () => {
      const random = randomFrom(seed + 11);
      const node = await startRedis(servers);
      const proxy = await startProxy(node.port);
      const stores = [0, 1, 2].map(() => new RedisStore(`redis://127.0.0.1:${proxy.port}`, { timeoutMs }));
      onTestFinished(async () => {
        for (const store of stores) await store.disconnect();
        await proxy.close();
        await node.stop();
      });
      let turn = 0;
      await expectNothingLost(
        random,
        () => pick(() => (turn++ % 3) / 3, stores).namespaced("flows"),
        {
          killed: () => node.restart(),
          async "killed, and away for a while"() {
            await node.kill();
            await sleep(below(random, 3 * timeoutMs));
            await node.restart();
          },
          async hanging() {
            node.pause();
            await sleep(below(random, 3 * timeoutMs));
            node.resume();
          },
          async cut(traffic) {
            for (let cut = 0; cut < 10; cut++) {
              proxy.cut();
              await during(traffic, below(random, 20));
            }
          },
          async "late, and too late"(traffic) {
            proxy.delayReplies(below(random, timeoutMs / 4));
            await during(traffic, 50);
            proxy.delayReplies(timeoutMs + 100);
            await sleep(below(random, 3 * timeoutMs));
            proxy.delayReplies(0);
          },
          async "late, and killed"(traffic) {
            proxy.delayReplies(50);
            await during(traffic, 50);
            await node.restart();
            proxy.delayReplies(0);
          },
        },
        1,
      );
    },
  );

  it(
    `no record is lost in a Redis Cluster when its primaries are killed and its slots move (seed ${seed})`,
    options,
    async () => {
      const random = randomFrom(seed + 12);
      const cluster = await startCluster(servers, { failover: true });
      const stores = [0, 1, 2].map(() => new RedisStore({ nodes: cluster.startupNodes }, { timeoutMs: 1_500 }));
      onTestFinished(async () => {
        for (const store of stores) await store.disconnect();
        await cluster.stop();
      });
      let turn = 0;
      await expectNothingLost(
        random,
        () => pick(() => (turn++ % 3) / 3, stores).namespaced("flows"),
        {
          async "a primary killed"({ gate }) {
            // A Cluster may lose writes that it acknowledged just before a primary died. So no write is in progress at that
            // moment, and the Redis replicas have every acknowledged write. The failover window is not tested.
            const victim = pick(random, await cluster.primaries());
            await gate.hold(async () => {
              await replicasHaveAll(cluster);
              await victim.kill();
            });
            await expect
              .poll(async () => (await cluster.primaries()).includes(victim), { timeout: 20_000 })
              .toBe(false);
            await victim.restart();
            await cluster.healthy();
          },
          async "connections killed"(traffic) {
            for (let cut = 0; cut < 10; cut++) {
              const node = pick(random, cluster.nodes);
              await node.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes");
              await during(traffic, below(random, 20));
            }
          },
          async "slots moved"() {
            for (let move = 0; move < 3; move++) {
              const slot = await slotInUse(cluster, random);
              const owner = await cluster.primaryOf(slot);
              const others = (await cluster.primaries()).filter((primary) => primary !== owner);
              await cluster.moveSlot(slot, pick(random, others), { batch: 1 });
            }
          },
          async "a primary hangs"() {
            // The pause is too short for a failover.
            const node = pick(random, await cluster.primaries());
            node.pause();
            await sleep(below(random, 700));
            node.resume();
          },
        },
        1,
      );
    },
  );
});

/** Resolves when each Redis replica has the data that its primary had at the time of the call. */
async function replicasHaveAll(cluster: RedisCluster): Promise<void> {
  const primaries = await cluster.primaries();
  const offsets = new Map<number, number>();
  for (const primary of primaries) {
    offsets.set(primary.port, numberIn(await primary.command("INFO", "replication"), "master_repl_offset"));
  }
  for (const replica of cluster.nodes) {
    if (primaries.includes(replica)) continue;
    await expect
      .poll(
        async () => {
          const told = await replica.command("INFO", "replication");
          return numberIn(told, "slave_repl_offset") >= (offsets.get(numberIn(told, "master_port")) ?? Infinity);
        },
        { interval: 5, timeout: 10_000 },
      )
      .toBe(true);
  }
}

async function slotInUse(cluster: RedisCluster, random: Random): Promise<number> {
  const primaries: RedisNode[] = await cluster.primaries();
  for (;;) {
    const node = pick(random, primaries);
    const key: unknown = await node.command("RANDOMKEY");
    if (typeof key === "string") return Number(await node.command("CLUSTER", "KEYSLOT", key));
  }
}

function numberIn(told: unknown, name: string): number {
  return Number(new RegExp(`${name}:(\\d+)`).exec(String(told))?.[1] ?? Number.NaN);
}
