import { join } from "node:path";
import type { ScannableStore } from "@keyward/core";
import { RedisStore } from "@keyward/store-redis";
import type { KeyvStorageAdapter } from "keyv";
import { expect, it, onTestFinished } from "vitest";
import { describeWithRedis, findRedisServers, startCluster, startRedis } from "../servers/redis.ts";
import { runHistory } from "./history.ts";
import { startHttpServer } from "./http-server.ts";
import { randomFrom } from "./random.ts";
import { operations, seed, soak, testTimeoutMs } from "./settings.ts";
import { openSqlite, temporaryFolder } from "./sqlite.ts";
import { UnhurriedStore } from "./unhurried-store.ts";

const servers = await findRedisServers();
const options = { timeout: testTimeoutMs };

async function expectNothingLost(random: () => number, open: () => KeyvStorageAdapter & ScannableStore): Promise<void> {
  const rotations = soak ? 40 : 4;
  const { problems, jobs, unavailable, promoted, retired } = await runHistory({
    random,
    operations,
    rotations,
    retire: true,
    open,
  });
  expect(problems).toEqual([]);
  expect({ unavailable, promoted, retired }).toEqual({ unavailable: 0, promoted: rotations, retired: rotations });
  const total = (count: (job: (typeof jobs)[number]) => number) => jobs.reduce((sum, job) => sum + count(job), 0);
  expect(total(({ reencrypted }) => reencrypted)).toBeGreaterThan(0);
  expect(total(({ unreadable }) => unreadable)).toBe(0);
}

/** Returns a function that returns one item after the other, and starts again after the last. */
function inTurn<Item>(items: readonly Item[]): () => Item {
  let turn = 0;
  return () => {
    const item = items[turn++ % items.length];
    if (item === undefined) throw new Error("There are no items to take turns");
    return item;
  };
}

it(
  `concurrent calls and rotations lose no write, bring back no deleted record and read no outdated value over a memory store (seed ${seed})`,
  options,
  async () => {
    const random = randomFrom(seed);
    const records = new UnhurriedStore(random);
    await expectNothingLost(random, () => records.namespaced("flows"));
  },
);

it(
  `concurrent calls and rotations lose no write, bring back no deleted record and read no outdated value over two connections to SQLite (seed ${seed})`,
  options,
  async () => {
    const path = join(await temporaryFolder(), "records.db");
    const connections = [0, 1].map(() => openSqlite(path));
    const connection = inTurn(connections);
    await expectNothingLost(randomFrom(seed + 1), () => connection().namespaced("flows"));
  },
);

it(
  `concurrent calls and rotations lose no write, bring back no deleted record and read no outdated value over HTTP (seed ${seed})`,
  options,
  async () => {
    const server = await startHttpServer(openSqlite(join(await temporaryFolder(), "records.db")));
    const client = inTurn([0, 1, 2].map(() => server.client()));
    await expectNothingLost(randomFrom(seed + 2), () => client().namespaced("flows"));
  },
);

describeWithRedis(servers, "a history over Redis", () => {
  it(
    `concurrent calls and rotations lose no write, bring back no deleted record and read no outdated value over three Redis connections (seed ${seed})`,
    options,
    async () => {
      const node = await startRedis(servers);
      const connections = [0, 1, 2].map(() => new RedisStore(node.url));
      onTestFinished(async () => {
        for (const connection of connections) await connection.disconnect();
        await node.stop();
      });
      const connection = inTurn(connections);
      await expectNothingLost(randomFrom(seed + 3), () => connection().namespaced("flows"));
    },
  );

  it(
    `concurrent calls and rotations lose no write, bring back no deleted record and read no outdated value over a Redis Cluster (seed ${seed})`,
    options,
    async () => {
      const cluster = await startCluster(servers);
      const connections = [0, 1, 2].map(() => new RedisStore({ nodes: cluster.startupNodes }));
      onTestFinished(async () => {
        for (const connection of connections) await connection.disconnect();
        await cluster.stop();
      });
      const connection = inTurn(connections);
      await expectNothingLost(randomFrom(seed + 4), () => connection().namespaced("flows"));
    },
  );
});
