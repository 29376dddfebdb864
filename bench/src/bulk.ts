import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { EncryptedStore, exportKeyring, Keyring } from "@keyward/core";
import { RedisStore } from "@keyward/store-redis";
import type { PassOrder, PassResult } from "./bulk-pass.ts";
import { startRedisServer } from "./redis-server.ts";
import { quantile } from "./rounds.ts";
import { sampleRecords } from "./sample-records.ts";

/** What was measured of bulk re-encryption over one number of records: medians of the rates, and the most memory. */
export interface BulkFigures {
  readonly records: number;
  readonly copiedPerSecond: number;
  readonly reencryptedPerSecond: number;
  readonly peakRssBytes: number;
  readonly peakHeapBytes: number;
}

export const bulkName = "bulk re-encryption, Redis";

const passProgram = fileURLToPath(new URL("bulk-pass.ts", import.meta.url));
const batchSize = 500;
const turnMs = 200;

/** Seals records of 1 KiB again under a new key, and copies as many without crypto. */
export async function measureBulk(program: string, records: number, rounds: number): Promise<BulkFigures> {
  const servers = [await startRedisServer(program), await startRedisServer(program)] as const;
  try {
    let ring = Keyring.generate();
    for (const { url } of servers) await fill(url, ring, records);
    const copies: FinishedPass[] = [];
    const reencryptions: FinishedPass[] = [];
    for (let round = 0; round < rounds; round++) {
      const id = `next-${round}`;
      ring = ring.add({ id }).promote(id);
      const keyring = exportKeyring(ring);
      const [copy, reencryption] = await Promise.all([
        Pass.start({ url: servers[0].url, kind: "copy", keyring }),
        Pass.start({ url: servers[1].url, kind: "re-encrypt", keyring }),
      ]);
      try {
        await takeTurns([copy, reencryption]);
      } finally {
        copy.end();
        reencryption.end();
      }
      copies.push(copy.finished());
      reencryptions.push(reencryption.finished());
    }
    for (const pass of [...copies, ...reencryptions]) {
      if (pass.records !== records) throw new Error(`A pass wrote ${pass.records} of ${records} records`);
    }
    return {
      records,
      copiedPerSecond: quantile(copies.map(perSecond), 0.5),
      reencryptedPerSecond: quantile(reencryptions.map(perSecond), 0.5),
      peakRssBytes: Math.max(...reencryptions.map(({ peakRssBytes }) => peakRssBytes)),
      peakHeapBytes: Math.max(...reencryptions.map(({ peakHeapBytes }) => peakHeapBytes)),
    };
  } finally {
    for (const server of servers) await server.stop();
  }
}

function perSecond({ records, workedMs }: FinishedPass): number {
  return (1000 * records) / workedMs;
}

async function fill(url: string, keys: Keyring, records: number): Promise<void> {
  const redis = new RedisStore(url);
  const store = new EncryptedStore(redis.namespaced("flows"), { keys });
  const texts = sampleRecords(1024, { count: batchSize }).map(({ text }) => text);
  for (let first = 0; first < records; first += batchSize) {
    const count = Math.min(batchSize, records - first);
    await store.setMany(texts.slice(0, count).map((value, index) => ({ key: `session:${first + index}`, value })));
  }
  await redis.disconnect();
}

interface FinishedPass extends PassResult {
  /** How long it had its turn. */
  readonly workedMs: number;
}

/** A pass in a process of its own, which is stopped while it is not its turn. */
class Pass {
  readonly #child: ChildProcess;
  readonly #endWithParent = () => this.#child.kill("SIGKILL");
  #workedMs = 0;
  #result: PassResult | undefined;

  private constructor(child: ChildProcess) {
    this.#child = child;
    process.once("exit", this.#endWithParent);
    child.once("message", (result: PassResult) => {
      this.#result = result;
    });
  }

  static async start(order: PassOrder): Promise<Pass> {
    const child = fork(passProgram, { execArgv: [] });
    await once(child, "message");
    child.kill("SIGSTOP");
    child.send(order);
    return new Pass(child);
  }

  get isFinished(): boolean {
    return this.#result !== undefined;
  }

  /** Works for a while, or to its end. */
  async turn(): Promise<void> {
    const startMs = performance.now();
    const ending = new AbortController();
    this.#child.kill("SIGCONT");
    const ended = once(this.#child, "exit", { signal: ending.signal });
    await Promise.race([ended, sleep(turnMs)]);
    ending.abort();
    this.#workedMs += performance.now() - startMs;
    if (this.#child.exitCode === null) this.#child.kill("SIGSTOP");
    else if (this.#result === undefined) throw new Error(`A pass ended with ${this.#child.exitCode} and no result`);
  }

  /** Ends the process, which would otherwise stay stopped when something goes wrong. */
  end(): void {
    this.#child.kill("SIGKILL");
    process.off("exit", this.#endWithParent);
  }

  finished(): FinishedPass {
    if (this.#result === undefined) throw new Error("A pass has no result");
    return { ...this.#result, workedMs: this.#workedMs };
  }
}

/** So that whatever slows the machine for a while slows them all. */
async function takeTurns(passes: readonly Pass[]): Promise<void> {
  while (passes.some(({ isFinished }) => !isFinished)) {
    for (const pass of passes) if (!pass.isFinished) await pass.turn();
  }
}
