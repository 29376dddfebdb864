import { fork } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { EncryptedStore, exportKeyring, Keyring, type StoredValue } from "@keyward/core";
import { expect, it, onTestFinished } from "vitest";
import { describeWithRedis, findRedisServers, startRedis } from "../servers/redis.ts";
import { guardMaterial } from "../store/secrets.ts";
import { keyIdIn, textOf } from "../store/store/inner-stores.ts";
import { openStore } from "./open-store.ts";
import { below, randomFrom } from "./random.ts";
import type { JobMessage } from "./reencrypt-process.ts";
import { seed, soak, testTimeoutMs } from "./settings.ts";
import { temporaryFolder } from "./sqlite.ts";

const servers = await findRedisServers();
const options = { timeout: testTimeoutMs };
const script = fileURLToPath(new URL("./reencrypt-process.ts", import.meta.url));
const kills = soak ? 50 : 8;
const recordCount = 300;
const batchSize = 10;
const mostPagesBeforeKill = 6;

/**
 * Runs a bulk job in another process. Kills the process `killed.waitMs` after the job has done `killed.afterPages` pages,
 * unless the job finishes before. Returns the last message of the process.
 */
async function runJob(
  parameters: readonly string[],
  ring: Keyring,
  killed: { readonly afterPages: number; readonly waitMs: number } | undefined,
): Promise<JobMessage> {
  const child = fork(script, parameters, { execArgv: [], stdio: ["ignore", "ignore", "inherit", "ipc"] });
  const ended = once(child, "exit");
  onTestFinished(async () => {
    if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL");
    await ended;
  });
  let last: JobMessage = { kind: "ready", repeated: 0, largestPage: 0 };
  let pages = 0;
  const due = Promise.withResolvers<void>();
  const isDue = () => {
    if (killed !== undefined && pages === killed.afterPages) due.resolve();
  };
  child.on("message", (message: JobMessage) => {
    last = message;
    switch (message.kind) {
      case "ready":
        child.send(exportKeyring(ring));
        isDue();
        break;
      case "page":
        pages++;
        isDue();
        break;
      case "complete":
        break;
    }
  });
  await Promise.race([due.promise, ended]);
  if (killed !== undefined && child.exitCode === null) {
    await sleep(killed.waitMs);
    child.kill("SIGKILL");
  }
  const [exitCode] = await ended;
  if (last.kind !== "complete" && killed === undefined) throw new Error(`The job ended with ${String(exitCode)}`);
  return last;
}

async function rawRecords(address: string): Promise<ReadonlyMap<string, StoredValue>> {
  const store = openStore(address);
  try {
    const records = new Map<string, StoredValue>();
    let cursor: string | undefined;
    do {
      const page = await store.scan({ limit: 1_000, ...(cursor === undefined ? {} : { cursor }) });
      for (const { key, value } of page.entries) records.set(key, value);
      cursor = page.cursor;
    } while (cursor !== undefined);
    return records;
  } finally {
    await store.disconnect();
  }
}

async function expectKillsCostNothing(address: string, folder: string): Promise<void> {
  const random = randomFrom(seed + 20);
  const checkpoint = join(folder, "checkpoint.json");
  const values = new Map(Array.from({ length: recordCount }, (_, index) => [`key-${index}`, `value ${index}`]));
  let ring = guardMaterial(Keyring.generate("key-0"));
  const first = new EncryptedStore(openStore(address), { keys: ring });
  await first.setMany([...values].map(([key, value]) => ({ key, value })));
  await first.disconnect();

  let killed = 0;
  let largestPage = batchSize;
  for (let rotation = 1; killed < kills; rotation++) {
    ring = guardMaterial(ring.add({ id: `key-${rotation}` })).promote(`key-${rotation}`);
    const concurrency = rotation % 2 === 1 ? 1 : 3;
    const parameters = [address, checkpoint, String(batchSize), String(concurrency)];
    let before = await rawRecords(address);
    for (let complete = false; !complete; ) {
      const wanted = killed < kills;
      const report = await runJob(
        parameters,
        ring,
        wanted ? { afterPages: below(random, mostPagesBeforeKill), waitMs: random() * 6 } : undefined,
      );
      const after = await rawRecords(address);
      const sealedTwice = [...after].filter(([key, value]) => {
        const earlier = before.get(key);
        if (earlier === undefined || keyIdIn(earlier) !== ring.primary) return false;
        return textOf(value) !== textOf(earlier);
      });
      expect(sealedTwice.map(([key]) => key)).toEqual([]);
      before = after;

      const reader = new EncryptedStore(openStore(address), { keys: ring, reencrypt: "off" });
      expect(await reader.getMany([...values.keys()])).toEqual([...values.values()]);
      await reader.disconnect();

      // If a run finds records that are already under the primary, they were in progress at the kill before this run. Such
      // records are in pages after the last saved checkpoint.
      largestPage = Math.max(largestPage, report.largestPage);
      expect(report.repeated).toBeLessThanOrEqual(concurrency * largestPage);
      // A job can also be killed when all work is done, before it sends its last message.
      const done = [...after.values()].every((value) => keyIdIn(value) === ring.primary) && !existsSync(checkpoint);
      complete = report.kind === "complete" || done;
      if (report.kind !== "complete") killed++;
    }
    expect([...before.values()].map(keyIdIn)).toEqual(Array(recordCount).fill(ring.primary));
  }
}

it(
  `a bulk re-encryption over SQLite that is killed and resumed ${kills} times repeats only the pages that a kill interrupted (seed ${seed})`,
  options,
  async () => {
    const folder = await temporaryFolder();
    await expectKillsCostNothing(join(folder, "records.db"), folder);
  },
);

describeWithRedis(servers, "a Redis server", () => {
  it(
    `a bulk re-encryption over Redis that is killed and resumed ${kills} times repeats only the pages that a kill interrupted (seed ${seed})`,
    options,
    async () => {
      const folder = await temporaryFolder();
      const node = await startRedis(servers);
      onTestFinished(() => node.stop());
      await expectKillsCostNothing(node.url, folder);
    },
  );
});
