import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { EncryptedStore, rotateKey } from "@keyward/core";
import { scopeOfServiceRecord, serviceNamespace } from "@keyward/secrets";
import { expect, it, onTestFinished } from "vitest";
import { describeWithRedis, findRedisServers, startRedis } from "../servers/redis.ts";
import { openStore } from "./open-store.ts";
import { eventsOf, type ServiceEvent } from "./secrets-events.ts";
import { problemsIn } from "./secrets-history.ts";
import { expectWholeAfterSweep, ScriptProcess, type SharedService, startSharedService } from "./secrets-place.ts";
import { seed, soak, testTimeoutMs } from "./settings.ts";

const servers = await findRedisServers();
const options = { timeout: testTimeoutMs };
const isReporting = process.env["KEYWARD_REPORT"] === "1";
const racedMs = Number(process.env["KEYWARD_RACE_MS"] ?? (soak ? 300_000 : 5_000));

interface Race {
  readonly events: readonly ServiceEvent[];
  readonly rotations: number;
}

/** A flaw in the store of the first admin process, and a flaw in the store of the first reader process. */
interface Flaws {
  readonly admin?: "dropped";
  readonly reader?: "old";
}

/** Runs two admin processes and two reader processes at the same time, while the keys are rotated repeatedly. */
async function race(service: SharedService, flaws: Flaws = {}, raceMs = racedMs): Promise<Race> {
  const { folder, address, keyringPath, admins, keys } = service;
  const files = admins.map((_, index) => join(folder, `admin-${index}.jsonl`));
  const readers = [0, 1].map((index) => join(folder, `reader-${index}.jsonl`));
  for (const file of [...files, ...readers]) await writeFile(file, "");
  const start = (role: "admin" | "reader", file: string, given: string, index: number) =>
    new ScriptProcess("./secrets-traffic-process.ts", [
      ...[role, address, keyringPath, file, given, String(seed + index), `${role}-${index}`],
      ...(index === 0 ? [flaws[role] ?? ""] : []),
    ]);
  const processes = [
    ...admins.map(({ token }, index) => start("admin", files[index] ?? "", token, index)),
    ...readers.map((file, index) => start("reader", file, files.join(","), index)),
  ];
  await Promise.all(processes.map((each) => each.message()));

  const store = openStore(address);
  const encrypted = new EncryptedStore(store.namespaced(serviceNamespace), { keys, scope: scopeOfServiceRecord });
  encrypted.namespace = serviceNamespace;
  onTestFinished(async () => {
    await encrypted.disconnect();
    await store.disconnect();
  });
  const until = performance.now() + raceMs;
  let rotations = 0;
  while (performance.now() < until || rotations < 2) {
    await rotateKey(keys, { stores: { service: encrypted }, graceMs: 100, newKey: { id: `key-${rotations}` } });
    rotations++;
    await sleep(50);
  }
  for (const each of processes) await each.end();
  const texts = await Promise.all([...files, ...readers].map((file) => readFile(file, "utf8")));
  return { events: texts.flatMap(eventsOf), rotations };
}

async function expectRaceWithoutProblem(server?: string): Promise<void> {
  const service = await startSharedService(server);
  const { events, rotations } = await race(service);
  const calls = events.filter(({ kind }) => kind === "call");
  const answered = calls.filter(({ code }) => code === undefined);
  if (isReporting) {
    const codes = Object.groupBy(calls, ({ code = "answered" }) => code);
    const counts = Object.entries(codes).map(([code, all = []]) => `${code} ${all.length}`);
    console.log(
      `${events.length - calls.length} changes, ${calls.length} calls (${counts.join(", ")}), ${rotations} rotations`,
    );
  }
  expect(problemsIn(events)).toEqual([]);
  expect(answered.length).toBeGreaterThan(10);
  expect(events.length - calls.length).toBeGreaterThan(20);
  expect(rotations).toBeGreaterThanOrEqual(2);
  await expectWholeAfterSweep(service);
}

it(
  `two admins, two readers and rotations at the same time lose no change, bring back nothing deleted and leave no stray records over SQLite (seed ${seed})`,
  options,
  async () => {
    await expectRaceWithoutProblem();
  },
);

it.each<{ readonly name: string; readonly flaws: Flaws }>([
  { name: "drops changes that it acknowledges", flaws: { admin: "dropped" } },
  { name: "returns records that were replaced", flaws: { reader: "old" } },
])("the check of the race reports problems over a store that $name", options, async ({ flaws }) => {
  const service = await startSharedService();
  const { events } = await race(service, flaws, 1_500);
  const problems = problemsIn(events).map((problem) => problem.slice(0, problem.indexOf(":")));
  if (isReporting) console.log([...new Set(problems)]);
  expect(problems.length).toBeGreaterThan(0);
});

describeWithRedis(servers, "a Redis server", () => {
  it(
    `two admins, two readers and rotations at the same time lose no change, bring back nothing deleted and leave no stray records over Redis (seed ${seed})`,
    options,
    async () => {
      const node = await startRedis(servers);
      onTestFinished(() => node.stop());
      await expectRaceWithoutProblem(node.url);
    },
  );
});
