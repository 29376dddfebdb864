import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { exportKeyring } from "@keyward/core";
import { SecretsReader } from "@keyward/secrets/reader";
import type { RedisStore } from "@keyward/store-redis";
import type { SqliteStore } from "@keyward/store-sqlite";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { describeWithRedis, findRedisServers, startRedis } from "../servers/redis.ts";
import { openStore } from "./open-store.ts";
import { randomFrom } from "./random.ts";
import { eventsOf, type ServiceEvent } from "./secrets-events.ts";
import { copyRecords } from "./secrets-fault-store.ts";
import { problemsIn } from "./secrets-history.ts";
import type { KillOrder } from "./secrets-kill-process.ts";
import { contradictionsIn } from "./secrets-leftovers.ts";
import { type Operation, operations } from "./secrets-operations.ts";
import { expectWholeAfterSweep, ScriptProcess, startSharedService } from "./secrets-place.ts";
import { PreparedService } from "./secrets-prepared.ts";
import { codeOf, recordsOf } from "./secrets-view.ts";
import { seed, soak, testTimeoutMs } from "./settings.ts";
import { temporaryFolder } from "./sqlite.ts";

const servers = await findRedisServers();
/** Each test copies the records of this service into a separate store. */
const service = await PreparedService.make();
const options = { timeout: testTimeoutMs };
const isReporting = process.env["KEYWARD_REPORT"] === "1";
const randomKills = Number(process.env["KEYWARD_KILLS"] ?? (soak ? 200 : 10));
// `secrets-steps.test.ts` halts every operation at every write. A short run kills processes in those with the most writes.
const killed = soak ? operations.map(({ name }) => name) : ["set a secret again", "create a workspace", "sweep"];

/** Kills a process at each write of an operation, and checks the store after each kill. Returns the number of kills. */
async function killAtEachWrite(
  operation: Operation,
  place: () => Promise<{ readonly address: string; readonly store: RedisStore | SqliteStore }>,
): Promise<number> {
  const allowed = await service.allowedFor(operation);
  const order: KillOrder = { keyring: exportKeyring(service.keys), world: service.world };
  // The state before a write is the state after the previous write, so a short run kills only before each write.
  const sides = soak ? ["before", "after"] : ["before"];
  for (let at = 1, kills = 0; ; at++) {
    for (const side of sides) {
      vi.useRealTimers();
      const { address, store } = await place();
      const child = new ScriptProcess("./secrets-kill-process.ts", [address, operation.name, String(at), side]);
      child.child.send(order);
      const isDone = (await child.message()) === "done";
      await child.kill();
      if (!isDone) kills++;
      await service.expectEnded(operation, store, allowed, isDone);
      await store.disconnect();
      if (isDone) return kills;
    }
  }
}

async function fill(store: RedisStore | SqliteStore): Promise<void> {
  await copyRecords(service.records, (namespace, key, value) => store.namespaced(namespace).set(key, value));
  const reserved = store.reserved();
  await copyRecords(service.records.reserved(), async (namespace, key, value) => {
    reserved.namespace = namespace;
    await reserved.set(key, value);
  });
}

async function expectKillsCostNothing(name: string, server: string | undefined, clear: () => Promise<void>) {
  onTestFinished(() => void vi.useRealTimers());
  const operation = operations.find((each) => each.name === name);
  if (operation === undefined) throw new Error(`There is no operation ${name}`);
  const folder = await temporaryFolder();
  let count = 0;
  const kills = await killAtEachWrite(operation, async () => {
    const address = server ?? join(folder, `${++count}.db`);
    await clear();
    const store = openStore(address);
    await fill(store);
    return { address, store };
  });
  if (isReporting) console.log(`${name}: ${kills} kills`);
  expect(kills).toBeGreaterThanOrEqual(2);
}

/** Repeatedly starts two admin processes, and kills each of them at a random moment. */
async function expectRandomKillsCostNothing(server?: string): Promise<void> {
  const random = randomFrom(seed + 40);
  const service = await startSharedService(server);
  const { folder, address, keyringPath, keys, admins } = service;
  const ring = await keys.load();
  const files: string[] = [];
  const calls: ServiceEvent[] = [];
  const store = openStore(address);
  onTestFinished(() => store.disconnect());
  for (let kills = 0; kills < randomKills; kills += 2) {
    const processes = await Promise.all(
      admins.map(async ({ token }, index) => {
        const file = join(folder, `${kills + index}.jsonl`);
        files.push(file);
        await writeFile(file, "");
        const given = [address, keyringPath, file, token, String(seed + kills + index), `admin-${kills + index}`];
        const child = new ScriptProcess("./secrets-traffic-process.ts", ["admin", ...given]);
        await child.message();
        return child;
      }),
    );
    await Promise.all(
      processes.map(async (each) => {
        await sleep(random() * 200);
        await each.kill();
      }),
    );
    const texts = await Promise.all(files.slice(-2).map((file) => readFile(file, "utf8")));
    const tokens = texts
      .flatMap(eventsOf)
      .flatMap((event) => (event.kind === "create token" && event.token !== "" ? event.token : []));
    const reader = new SecretsReader({ store, keys: ring });
    for (const token of tokens) for (const slug of ["github", "jira"]) calls.push(await callOf(reader, token, slug));
    await reader.close();
    expect(contradictionsIn(await recordsOf({ store, keys: ring }))).toEqual([]);
    if (kills % 10 === 8) await expectWholeAfterSweep(service);
  }
  const events = (await Promise.all(files.map((file) => readFile(file, "utf8")))).flatMap(eventsOf);
  const interrupted = events.filter(({ ended }) => ended === undefined);
  if (isReporting) {
    console.log(
      `${randomKills} kills, ${events.length} operations, ${interrupted.length} interrupted, ${calls.length} calls`,
    );
  }
  expect(problemsIn([...events, ...calls])).toEqual([]);
  expect(events.length).toBeGreaterThan(randomKills);
  await expectWholeAfterSweep(service);
}

async function callOf(reader: SecretsReader, token: string, slug: string): Promise<ServiceEvent> {
  const now = () => Number(process.hrtime.bigint());
  const event = { kind: "call", token, slug, began: now() } as const;
  try {
    const { server, secrets } = await reader.forCall(token, slug);
    const values = Object.fromEntries(secrets.map(({ name, value }) => [name, value.reveal()]));
    return { ...event, ended: now(), url: server.url, values };
  } catch (error) {
    return { ...event, ended: now(), code: codeOf(error) };
  }
}

const randomly = `${randomKills} kills of admin processes at random moments lose no change, bring back nothing deleted and leave no stray records (seed ${seed})`;
const stepwise =
  "a process that is killed at any write of an operation loses no change, brings back nothing deleted and leaves no stray records: %s";

describe("over SQLite", () => {
  it.each(killed)(stepwise, options, (name) => expectKillsCostNothing(name, undefined, async () => undefined));
  it(randomly, options, () => expectRandomKillsCostNothing());
});

describeWithRedis(servers, "over Redis", () => {
  it.each(killed)(stepwise, options, async (name) => {
    const node = await startRedis(servers);
    onTestFinished(() => node.stop());
    await expectKillsCostNothing(name, node.url, async () => void (await node.command("FLUSHALL")));
  });

  it(randomly, options, async () => {
    const node = await startRedis(servers);
    onTestFinished(() => node.stop());
    await expectRandomKillsCostNothing(node.url);
  });
});
