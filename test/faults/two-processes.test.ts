import { fork } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { EncryptedStore, exportKeyring, Keyring, reencrypt, retireKey } from "@keyward/core";
import { expect, it, onTestFinished } from "vitest";
import { describeWithRedis, findRedisServers, startRedis } from "../servers/redis.ts";
import { guardMaterial } from "../store/secrets.ts";
import { openStore } from "./open-store.ts";
import { seed, soak, testTimeoutMs } from "./settings.ts";
import { temporaryFolder } from "./sqlite.ts";
import type { TrafficMessage } from "./traffic-process.ts";

const servers = await findRedisServers();
const options = { timeout: testTimeoutMs };
const script = fileURLToPath(new URL("./traffic-process.ts", import.meta.url));
const rotations = soak ? 30 : 3;
const callsPerStage = soak ? 300 : 100;
const names = ["one", "other"] as const;

type End = Extract<TrafficMessage, { kind: "end" }>;

/** A process that reads and writes under the ring it was given last. */
class TrafficProcess {
  readonly #child;
  readonly #exited;
  /** Resolves when it listens. */
  readonly started: Promise<TrafficMessage>;

  constructor(address: string, name: string, ownSeed: number) {
    const parameters = [address, name, names.join(","), String(ownSeed)];
    this.#child = fork(script, parameters, { execArgv: [], stdio: ["ignore", "ignore", "inherit", "ipc"] });
    this.#exited = once(this.#child, "exit");
    onTestFinished(async () => {
      if (this.#child.exitCode === null && this.#child.signalCode === null) this.#child.kill("SIGKILL");
      await this.#exited;
    });
    this.started = this.#next();
  }

  /** Resolves when the process uses the ring. */
  async take(ring: Keyring): Promise<void> {
    await this.#ask(`ring ${exportKeyring(ring)}`);
  }

  /** Resolves when so many calls more were made, with what reads have sealed again since it began. */
  async makeCalls(count: number): Promise<readonly string[]> {
    const message = await this.#ask(`calls ${count}`);
    if (message.kind !== "done") throw new Error(`The process said ${message.kind} instead of being done`);
    return message.sealedAgain;
  }

  async end(): Promise<End> {
    const message = await this.#ask("end");
    await this.#exited;
    if (message.kind !== "end") throw new Error(`The process said ${message.kind} instead of its end`);
    return message;
  }

  async #ask(message: string): Promise<TrafficMessage> {
    const answer = this.#next();
    this.#child.send(message);
    return await answer;
  }

  async #next(): Promise<TrafficMessage> {
    return await new Promise<TrafficMessage>((resolve, reject) => {
      this.#child.once("message", resolve);
      this.#exited.then(() => reject(new Error("The process ended")), reject);
    });
  }
}

async function expectNoFailedRead(address: string): Promise<void> {
  const processes = names.map((name, index) => new TrafficProcess(address, name, seed + 30 + index));
  for (const each of processes) await each.started;
  const traffic = async () => Promise.all(processes.map((each) => each.makeCalls(callsPerStage)));
  /** One process after the other, with traffic in between. */
  const spread = async (ring: Keyring) => {
    for (const each of processes) {
      await each.take(ring);
      await traffic();
    }
  };

  let ring = guardMaterial(Keyring.generate("key-0"));
  // They begin to work with their first ring.
  for (const each of processes) await each.take(ring);
  for (let rotation = 1; rotation <= rotations; rotation++) {
    const [former, next] = [`key-${rotation - 1}`, `key-${rotation}`];
    ring = guardMaterial(ring.add({ id: next }));
    await spread(ring);
    ring = ring.promote(next);
    await processes[0]?.take(ring);
    // In between, the process that is promoted last takes records back under the former key.
    await expect
      .poll(traffic)
      .toEqual([expect.arrayContaining([`${former}>${next}`]), expect.arrayContaining([`${next}>${former}`])]);
    await processes[1]?.take(ring);
    await traffic();
    const store = new EncryptedStore(openStore(address), { keys: ring });
    expect(await reencrypt(store)).toMatchObject({ complete: true, unreadable: 0 });
    const { keyring: disabled } = await retireKey(ring, { flows: store }, former);
    await spread(disabled);
    ({ keyring: ring } = await retireKey(disabled, { flows: store }, former, { to: "removed" }));
    await spread(ring);
    await store.disconnect();
  }

  const ends: End[] = [];
  for (const each of processes) ends.push(await each.end());
  expect(ends.flatMap(({ failures }) => failures)).toEqual([]);
}

it(
  `over SQLite, two processes with different rings fail no read through ${rotations} rotations (seed ${seed})`,
  options,
  async () => {
    await expectNoFailedRead(join(await temporaryFolder(), "records.db"));
  },
);

describeWithRedis(servers, "on a server", () => {
  it(`over Redis, the same (seed ${seed})`, options, async () => {
    const node = await startRedis(servers);
    onTestFinished(() => node.stop());
    await expectNoFailedRead(node.url);
  });

  it(`over Redis, reads do fail where a key seals before every process has it (seed ${seed})`, options, async () => {
    const node = await startRedis(servers);
    onTestFinished(() => node.stop());
    const [hasty, left] = names.map((name, index) => new TrafficProcess(node.url, name, seed + 40 + index));
    if (hasty === undefined || left === undefined) throw new Error("There are no two processes");
    await Promise.all([hasty.started, left.started]);
    const ring = guardMaterial(Keyring.generate("key-0"));
    for (const each of [hasty, left]) await each.take(ring);
    await hasty.take(guardMaterial(ring.add({ id: "key-1" })).promote("key-1"));
    await hasty.makeCalls(callsPerStage);
    await left.makeCalls(5);
    const [, { failures }] = await Promise.all([hasty.end(), left.end()]);
    expect(failures).not.toEqual([]);
    for (const failure of failures) expect(failure).toMatch(/KeywardError/);
  });
});
