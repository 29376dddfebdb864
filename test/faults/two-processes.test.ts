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

/** A process that reads and writes with the keyring that it received last. */
class TrafficProcess {
  readonly #child;
  readonly #exited;
  /** Resolves when the process receives messages. */
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

  /** Resolves when the process uses the keyring. */
  async useKeyring(ring: Keyring): Promise<void> {
    await this.#ask(`ring ${exportKeyring(ring)}`);
  }

  /** Resolves after `count` more calls, with the re-encryptions that reads have caused since the process began. */
  async makeCalls(count: number): Promise<readonly string[]> {
    const message = await this.#ask(`calls ${count}`);
    if (message.kind !== "done") throw new Error(`The process sent ${message.kind} instead of "done"`);
    return message.reencrypted;
  }

  async end(): Promise<End> {
    const message = await this.#ask("end");
    await this.#exited;
    if (message.kind !== "end") throw new Error(`The process sent ${message.kind} instead of "end"`);
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
  /** Changes the keyring of one process after the other, with calls in between. */
  const spread = async (ring: Keyring) => {
    for (const each of processes) {
      await each.useKeyring(ring);
      await traffic();
    }
  };

  let ring = guardMaterial(Keyring.generate("key-0"));
  // The processes begin to work when they receive their first keyring.
  for (const each of processes) await each.useKeyring(ring);
  for (let rotation = 1; rotation <= rotations; rotation++) {
    const [former, next] = [`key-${rotation - 1}`, `key-${rotation}`];
    ring = guardMaterial(ring.add({ id: next }));
    await spread(ring);
    ring = ring.promote(next);
    await processes[0]?.useKeyring(ring);
    // Until its promotion, the last process re-encrypts records under the former key.
    await expect
      .poll(traffic)
      .toEqual([expect.arrayContaining([`${former}>${next}`]), expect.arrayContaining([`${next}>${former}`])]);
    await processes[1]?.useKeyring(ring);
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
  `no read of two processes whose keyrings change at different times fails in ${rotations} rotations over SQLite (seed ${seed})`,
  options,
  async () => {
    await expectNoFailedRead(join(await temporaryFolder(), "records.db"));
  },
);

describeWithRedis(servers, "a Redis server", () => {
  it(
    `no read of two processes whose keyrings change at different times fails in ${rotations} rotations over Redis (seed ${seed})`,
    options,
    async () => {
      const node = await startRedis(servers);
      onTestFinished(() => node.stop());
      await expectNoFailedRead(node.url);
    },
  );

  it(
    `reads fail in a process whose keyring lacks a key that another process has promoted (seed ${seed})`,
    options,
    async () => {
      const node = await startRedis(servers);
      onTestFinished(() => node.stop());
      const [hasty, left] = names.map((name, index) => new TrafficProcess(node.url, name, seed + 40 + index));
      if (hasty === undefined || left === undefined) throw new Error("There are fewer than two processes");
      await Promise.all([hasty.started, left.started]);
      const ring = guardMaterial(Keyring.generate("key-0"));
      for (const each of [hasty, left]) await each.useKeyring(ring);
      await hasty.useKeyring(guardMaterial(ring.add({ id: "key-1" })).promote("key-1"));
      await hasty.makeCalls(callsPerStage);
      await left.makeCalls(5);
      const [, { failures }] = await Promise.all([hasty.end(), left.end()]);
      expect(failures).not.toEqual([]);
      for (const failure of failures) expect(failure).toMatch(/KeywardError/);
    },
  );
});
