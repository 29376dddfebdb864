import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { loadavg } from "node:os";
import { fileURLToPath } from "node:url";
import { callAnswers } from "./call-answers.ts";
import type { CallRequest, Slice, SliceFigures } from "./call-load.ts";
import { startRedisServer } from "./redis-server.ts";
import { quantile, shuffled } from "./rounds.ts";

export const callsName = "calls through the gateway";
export const manyServersName = "calls in a workspace with many servers";

/** Measurements of the calls of one contender. Each ratio is the median of the ratios in all rounds. */
export interface CallFigures {
  readonly answer: string;
  readonly contender: string;
  readonly cpuUs: number;
  readonly perSecond: number;
  readonly p50Ms: number;
  readonly toProxy: CallRatios;
  readonly toDirect: CallRatios;
  /** Ratios to the same gateway without redaction. `undefined` unless the contender is a gateway with redaction. */
  readonly toPlain: CallRatios | undefined;
}

/** Measurements of a contender, divided by the measurements of another contender. */
export interface CallRatios {
  readonly cpu: number;
  readonly perSecond: number;
  readonly p50: number;
}

/** The cost of calls in a workspace with many servers, divided by the cost with ten. */
export interface ManyServersFigures {
  readonly servers: number;
  /** The servers that are called. */
  readonly called: string;
  readonly cpuUs: number;
  readonly ratio: CallRatios;
}

/** The length of the measurement. */
export interface CallEffort {
  readonly rounds: number;
  /**
   * Time for which calls are sent to each process before the first round. Node.js compiles the code of a gateway after some
   * thousand calls.
   */
  readonly warmUpMs: number;
  readonly sliceMs: number;
}

/** One slice of a round. */
interface Sample {
  readonly cpuUs: number;
  readonly perSecond: number;
  readonly p50Ms: number;
}

/** A process that calls can be sent to. */
export interface Target {
  readonly process: ChildProcess | undefined;
  readonly url: string;
  readonly token: string;
}

/** The store of a gateway, and its servers that are called. */
interface GatewayServers {
  /** The URL of a Redis server. Default: the store is SQLite. */
  readonly redis?: string;
  /** The number of servers with tools. */
  readonly toolServers?: number;
}

export interface Contender {
  readonly name: string;
  readonly target: Target;
  readonly paths: readonly string[];
  readonly request: CallRequest | undefined;
  readonly samples: Sample[];
}

const atOnce = 64;

/**
 * Compares calls through gateways with calls through a bare proxy and with direct calls, 64 at once. The server, the proxy,
 * each gateway and the load are processes of their own. CPU time is that of the proxy or the gateway, its threads included.
 *
 * @param redis Program that starts a Redis server. Without it, there is no gateway over Redis.
 */
export async function measureCalls(redis: string | undefined, effort: CallEffort): Promise<readonly CallFigures[]> {
  await using processes = await CallProcesses.start();
  const proxy = await processes.target("call-proxy.ts", [processes.origin]);
  const gateways: [store: string, gateway: Target][] = [["SQLite", await processes.gateway(10)]];
  if (redis !== undefined)
    gateways.push(["Redis", await processes.gateway(10, { redis: await processes.redis(redis) })]);
  const figures: CallFigures[] = [];
  for (const { name, title, parts } of callAnswers) {
    const contenders = [
      contender("direct", { process: undefined, url: processes.origin, token: "" }, [`/${name}`]),
      contender("bare proxy", proxy, [`/${name}`]),
      ...gateways.flatMap(([store, gateway]) => [
        contender(`gateway, ${store}`, gateway, [`/s/${name}-redacted/mcp`]),
        contender(`gateway, ${store}, no redaction`, gateway, [`/s/${name}-plain/mcp`]),
      ]),
    ];
    const answerBytes = parts.reduce((sum, part) => sum + part.length, 0);
    // A slice of large answers has fewer of them.
    const sliceMs = answerBytes < 2 ** 20 ? effort.sliceMs : 2 * effort.sliceMs;
    await processes.measure(contenders, answerBytes, { ...effort, sliceMs });
    const ratiosTo = (one: Contender, other: string): CallRatios => ratios(one, named(contenders, other));
    for (const one of contenders) {
      const plain = `${one.name}, no redaction`;
      figures.push({
        ...{ answer: title, contender: one.name, ...medians(one) },
        toProxy: ratiosTo(one, "bare proxy"),
        toDirect: ratiosTo(one, "direct"),
        toPlain: contenders.some(({ name }) => name === plain) ? ratiosTo(one, plain) : undefined,
      });
    }
  }
  return figures;
}

/** Compares calls to a gateway whose workspace has ten servers with calls to one whose workspace has many servers. */
export async function measureManyServers(servers: number, effort: CallEffort): Promise<readonly ManyServersFigures[]> {
  await using processes = await CallProcesses.start();
  const few = await processes.gateway(10);
  const many = await processes.gateway(servers);
  const pathsOf = (count: number, step: number) =>
    Array.from({ length: count }, (_, index) => `/s/server-${(index * step) % servers}/mcp`);
  const baseline = contender("ten of 10", few, pathsOf(10, 1));
  // More servers than the gateway keeps connections to.
  const spread = Math.min(servers, 5_000);
  const contenders = [
    baseline,
    contender("ten", many, pathsOf(10, Math.floor(servers / 10))),
    contender(`${spread.toLocaleString("en")} in turn`, many, pathsOf(spread, Math.floor(servers / spread))),
  ];
  const answerBytes = callAnswers.find(({ name }) => name === "1-kib")?.parts[0]?.length ?? 0;
  await processes.measure(contenders, answerBytes, effort);
  return contenders.map((one) => ({
    servers: one === baseline ? 10 : servers,
    called: one === baseline ? "ten" : one.name,
    cpuUs: medians(one).cpuUs,
    ratio: ratios(one, baseline),
  }));
}

/** Returns the load average of the last minute, for the reader of a table. */
export function loadText(): string {
  return `load average ${loadavg()[0]?.toFixed(1)}`;
}

/** The processes of one comparison. */
export class CallProcesses implements AsyncDisposable {
  readonly origin: string;
  readonly #load: ChildProcess;
  readonly #children: ChildProcess[];
  /** The URLs and requests that are already warmed up. */
  readonly #warm = new Set<string>();
  readonly #stops: (() => Promise<void>)[] = [];

  private constructor(origin: string, load: ChildProcess, upstream: ChildProcess) {
    this.origin = origin;
    this.#load = load;
    this.#children = [load, upstream];
  }

  static async start(): Promise<CallProcesses> {
    const upstream = forked("call-upstream.ts", []);
    const { port } = await nextMessage(upstream);
    const load = forked("call-load.ts", []);
    await nextMessage(load);
    return new CallProcesses(`http://127.0.0.1:${port}`, load, upstream);
  }

  async target(file: string, parameters: readonly string[]): Promise<Target> {
    const child = forked(file, parameters);
    this.#children.push(child);
    const { url, token = "" } = await nextMessage(child);
    return { process: child, url, token };
  }

  gateway(servers: number, { redis, toolServers = 0 }: GatewayServers = {}): Promise<Target> {
    const numbers = [String(toolServers), String(servers)];
    return this.target("call-gateway.ts", [this.origin, ...numbers, ...(redis === undefined ? [] : [redis])]);
  }

  async redis(program: string): Promise<string> {
    const { url, stop } = await startRedisServer(program);
    this.#stops.push(stop);
    return url;
  }

  /** Sends calls to each contender once in each round, in random order. */
  async measure(contenders: readonly Contender[], answerBytes: number | undefined, effort: CallEffort): Promise<void> {
    for (const one of contenders) {
      // Another request runs other code.
      const key = `${one.target.url} ${one.request?.body ?? ""}`;
      const isWarm = this.#warm.has(key);
      this.#warm.add(key);
      await this.#sample(one, answerBytes, isWarm ? effort.sliceMs : effort.warmUpMs);
    }
    for (let round = 0; round < effort.rounds; round++) {
      for (const one of shuffled(contenders)) one.samples.push(await this.#sample(one, answerBytes, effort.sliceMs));
    }
  }

  async #sample({ target, paths, request }: Contender, answerBytes: number | undefined, ms: number): Promise<Sample> {
    const { url: origin, token } = target;
    const slice: Slice = { origin, paths, token, answerBytes, atOnce, ms, request };
    const usedUs = await cpuUs(target);
    this.#load.send(slice);
    const { calls, elapsedMs, p50Ms }: SliceFigures = await nextMessage(this.#load);
    return { cpuUs: ((await cpuUs(target)) - usedUs) / calls, perSecond: (1_000 * calls) / elapsedMs, p50Ms };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const child of this.#children) {
      if (child.exitCode !== null) continue;
      const ended = once(child, "exit");
      child.disconnect();
      await ended;
    }
    for (const stop of this.#stops) await stop();
  }
}

export function contender(
  name: string,
  target: Target,
  paths: readonly string[],
  request?: CallRequest | undefined,
): Contender {
  return { name, target, paths, request, samples: [] };
}

function named(contenders: readonly Contender[], name: string): Contender {
  const found = contenders.find((one) => one.name === name);
  if (found === undefined) throw new Error(`No contender is named ${name}`);
  return found;
}

export function medians({ samples }: Contender): Sample {
  const median = (value: (sample: Sample) => number) => quantile(samples.map(value), 0.5);
  return {
    cpuUs: median(({ cpuUs }) => cpuUs),
    perSecond: median(({ perSecond }) => perSecond),
    p50Ms: median(({ p50Ms }) => p50Ms),
  };
}

export function ratios(one: Contender, other: Contender): CallRatios {
  const median = (value: (sample: Sample) => number) =>
    quantile(
      one.samples.map((sample, round) => {
        const beside = other.samples[round];
        return beside === undefined ? Number.NaN : value(sample) / value(beside);
      }),
      0.5,
    );
  return {
    cpu: median(({ cpuUs }) => cpuUs),
    perSecond: median(({ perSecond }) => perSecond),
    p50: median(({ p50Ms }) => p50Ms),
  };
}

/** Returns the CPU time that a process has used, its threads included. 0 for no process. */
async function cpuUs({ process: child }: Target): Promise<number> {
  if (child === undefined) return 0;
  child.send("cpu");
  const { user, system } = await nextMessage(child);
  return user + system;
}

function forked(file: string, parameters: readonly string[]): ChildProcess {
  return fork(fileURLToPath(new URL(file, import.meta.url)), [...parameters], {
    execArgv: ["--disable-warning=ExperimentalWarning"],
  });
}

/** Returns the next message of a process. Rejects if the process ends. */
async function nextMessage(child: ChildProcess) {
  const stop = new AbortController();
  try {
    const ended = once(child, "exit", { signal: stop.signal }).then(([code]): never => {
      throw new Error(`${child.spawnfile} ${child.spawnargs.at(1)} ended with ${code}`);
    });
    const [message] = await Promise.race([once(child, "message", { signal: stop.signal }), ended]);
    return message;
  } finally {
    stop.abort();
  }
}
