import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { EncryptedStore, exportKeyring, Keyring } from "@keyward/core";
import { RedisStore } from "@keyward/store-redis";
import { startVault, type VaultServer, type VaultServers } from "../../test/servers/openbao.ts";
import type { PassOrder, PassResult, TransitKey } from "./bulk-pass.ts";
import { startRedisServer } from "./redis-server.ts";
import { quantile } from "./rounds.ts";
import { sampleRecords } from "./sample-records.ts";

/** Measurements of bulk re-encryption for one number of records: medians over the rounds, and the peak memory. */
export interface BulkFigures {
  readonly records: number;
  readonly copiedPerSecond: number;
  readonly reencryptedPerSecond: number;
  /** Rate of re-encryption divided by the rate of copying: the median of the ratios within each round. */
  readonly toCopy: number;
  /** CPU time of the re-encrypting process. */
  readonly cpuUsPerRecord: number;
  /** Measurements of a pass in which Vault's Transit rewraps the records. Absent without a Vault. */
  readonly rewrap?: { readonly perSecond: number; readonly cpuUsPerRecord: number; readonly timesAsFast: number };
  readonly peakRssBytes: number;
  readonly peakHeapBytes: number;
}

export const bulkName = "bulk re-encryption, Redis";

const passProgram = fileURLToPath(new URL("bulk-pass.ts", import.meta.url));
const batchSize = 500;
/** The largest batch that OpenBao accepts. */
const transitBatchSize = 250;
const turnMs = 200;

const transitName = "bench";

/**
 * Measures the re-encryption of records of 1 KiB under a new key. Compares it with a copy of as many records without
 * cryptography and, if there is a Vault, with a rewrap of as many records by Transit.
 */
export async function measureBulk(
  program: string,
  vaults: VaultServers,
  records: number,
  rounds: number,
): Promise<BulkFigures> {
  const servers = [await startRedisServer(program), await startRedisServer(program), await startRedisServer(program)];
  const [copied, reencrypted, rewrapped] = servers.map(({ url }) => url);
  const vault = vaults.missing === undefined ? await startVault(vaults) : undefined;
  try {
    if (copied === undefined || reencrypted === undefined || rewrapped === undefined) throw new Error("No server");
    let keyring = Keyring.generate();
    for (const url of [copied, reencrypted]) await fill(url, keyring, records);
    const transit = vault === undefined ? undefined : await fillForTransit(rewrapped, vault, records);
    const finished: { copy: FinishedPass; reencryption: FinishedPass; rewrapping: FinishedPass | undefined }[] = [];
    for (let round = 0; round < rounds; round++) {
      const id = `next-${round}`;
      keyring = keyring.add({ id }).promote(id);
      await vault?.request("POST", `transit/keys/${transitName}/rotate`, {});
      const document = exportKeyring(keyring);
      const [copy, reencryption, ...rewrapping] = await Promise.all([
        Pass.start({ url: copied, kind: "copy", keyring: document }),
        Pass.start({ url: reencrypted, kind: "re-encrypt", keyring: document }),
        ...(transit === undefined ? [] : [Pass.start({ url: rewrapped, kind: "rewrap", keyring: document, transit })]),
      ]);
      const passes = [copy, reencryption, ...rewrapping];
      try {
        await takeTurns(passes);
      } finally {
        for (const pass of passes) pass.end();
      }
      for (const pass of passes) {
        const { records: done } = pass.finished();
        if (done !== records) throw new Error(`A pass wrote ${done} of ${records} records`);
      }
      finished.push({
        copy: copy.finished(),
        reencryption: reencryption.finished(),
        rewrapping: rewrapping[0]?.finished(),
      });
    }
    const median = (value: (round: (typeof finished)[number]) => number) => quantile(finished.map(value), 0.5);
    const reencryptions = finished.map(({ reencryption }) => reencryption);
    return {
      records,
      copiedPerSecond: median(({ copy }) => perSecond(copy)),
      reencryptedPerSecond: median(({ reencryption }) => perSecond(reencryption)),
      toCopy: median(({ copy, reencryption }) => perSecond(reencryption) / perSecond(copy)),
      cpuUsPerRecord: median(({ reencryption }) => reencryption.cpuUs / records),
      ...(transit === undefined
        ? {}
        : {
            rewrap: {
              perSecond: median(({ rewrapping }) => perSecond(required(rewrapping))),
              cpuUsPerRecord: median(({ rewrapping }) => required(rewrapping).cpuUs / records),
              timesAsFast: median(
                ({ reencryption, rewrapping }) => perSecond(reencryption) / perSecond(required(rewrapping)),
              ),
            },
          }),
      peakRssBytes: Math.max(...reencryptions.map(({ peakRssBytes }) => peakRssBytes)),
      peakHeapBytes: Math.max(...reencryptions.map(({ peakHeapBytes }) => peakHeapBytes)),
    };
  } finally {
    for (const server of [...servers, ...(vault === undefined ? [] : [vault])]) await server.stop();
  }
}

function required(pass: FinishedPass | undefined): FinishedPass {
  if (pass === undefined) throw new Error("A pass is missing");
  return pass;
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

async function fillForTransit(url: string, vault: VaultServer, records: number): Promise<TransitKey> {
  await vault.request("POST", "sys/mounts/transit", { type: "transit" });
  await vault.request("POST", `transit/keys/${transitName}`, { type: "aes256-gcm96" });
  const redis = new RedisStore(url);
  const texts = sampleRecords(1024, { count: transitBatchSize }).map(({ text }) => text);
  const batch_input = texts.map((text) => ({ plaintext: Buffer.from(text).toString("base64") }));
  const { data } = await vault.request("POST", `transit/encrypt/${transitName}`, { batch_input });
  const encrypted: unknown = data?.["batch_results"];
  const values = Array.isArray(encrypted) ? encrypted.map((each: { ciphertext: string }) => each.ciphertext) : [];
  for (let first = 0; first < records; first += transitBatchSize) {
    const count = Math.min(transitBatchSize, records - first);
    await redis
      .namespaced("flows")
      .setMany(values.slice(0, count).map((value, index) => ({ key: `session:${first + index}`, value })));
  }
  await redis.disconnect();
  return { address: vault.address, token: vault.rootToken, name: transitName };
}

interface FinishedPass extends PassResult {
  /** Total length of the turns of this pass, in milliseconds. */
  readonly workedMs: number;
}

/** A pass in a separate process. The process is stopped (SIGSTOP) while other passes have their turn. */
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

  /** Lets the pass work for one turn, or until it finishes. */
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

  /** Ends the process. A stopped process would otherwise remain after a failure. */
  end(): void {
    this.#child.kill("SIGKILL");
    process.off("exit", this.#endWithParent);
  }

  finished(): FinishedPass {
    if (this.#result === undefined) throw new Error("A pass has no result");
    return { ...this.#result, workedMs: this.#workedMs };
  }
}

/** Gives the passes their turns, so that anything that slows the machine for a while slows all of them. */
async function takeTurns(passes: readonly Pass[]): Promise<void> {
  while (passes.some(({ isFinished }) => !isFinished)) {
    for (const pass of passes) if (!pass.isFinished) await pass.turn();
  }
}
