import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { expect, onTestFinished } from "vitest";
import { commandEnvironment } from "../command-environment.ts";
import type { ReplicaMessage } from "./replica-process.ts";

const script = fileURLToPath(new URL("./replica-process.ts", import.meta.url));

/** Environment variables of a process. */
type Variables = Readonly<Record<string, string>>;

/** The number of processes of an application, and where they find their records and keys. */
export interface FleetPlan {
  readonly address: string;
  /** Source of the keys, for `keysFrom`; or the source of each process. */
  readonly source: string | readonly string[];
  /** Environment variables that the key service needs in addition to the source. */
  readonly env: Variables;
  readonly size: number;
  /** Pause between two calls of a process, in milliseconds. */
  readonly pauseMs: number;
  readonly seed: number;
}

/** The processes of an application, which read and write until {@link Fleet.expectNoFailure}. */
export class Fleet {
  readonly #plan: FleetPlan;
  readonly #replicas: Replica[];
  readonly #envs: Variables[];
  readonly #ends: End[] = [];

  private constructor(plan: FleetPlan) {
    this.#plan = plan;
    this.#envs = namesOf(plan).map(() => plan.env);
    this.#replicas = this.#envs.map((env, index) => startReplica(plan, index, env));
  }

  /** Starts the processes and resolves when all of them are running. They end with the test at the latest. */
  static async start(plan: FleetPlan): Promise<Fleet> {
    const fleet = new Fleet(plan);
    for (const replica of fleet.#replicas) await replica.working;
    return fleet;
  }

  /**
   * Restarts, one after another, each process whose environment variables differ from the result of `wanted`. If the result
   * changes meanwhile, the remaining restarts use the new result, as in a rollout of Kubernetes.
   */
  async rollOut(wanted: () => Variables, pauseMs: number): Promise<void> {
    for (;;) {
      const index = this.#envs.findIndex((env) => env !== wanted());
      const replica = this.#replicas[index];
      if (replica === undefined) return;
      await sleep(pauseMs);
      this.#ends.push(await replica.end());
      const env = wanted();
      const next = startReplica(this.#plan, index, env);
      this.#replicas[index] = next;
      this.#envs[index] = env;
      await next.working;
    }
  }

  /** Stops the first process with SIGSTOP, between two calls. */
  async haltOne(): Promise<void> {
    await this.#replicas[0]?.halt();
  }

  /** Continues the stopped process with SIGCONT. */
  resumeOne(): void {
    this.#replicas[0]?.child.kill("SIGCONT");
  }

  /** Ends all processes. Expects that each process made calls, and that no call failed. Returns the number of calls. */
  async expectNoFailure(): Promise<number> {
    const last = await Promise.all(this.#replicas.map((replica) => replica.end()));
    const ends = [...this.#ends, ...last];
    expect(ends.flatMap(({ failures }) => failures)).toEqual([]);
    for (const { calls } of ends) expect(calls).toBeGreaterThan(0);
    return ends.reduce((sum, { calls }) => sum + calls, 0);
  }
}

function namesOf({ size }: FleetPlan): readonly string[] {
  return Array.from({ length: size }, (_, index) => `replica-${index}`);
}

function startReplica(plan: FleetPlan, index: number, env: Variables): Replica {
  const { address, source, pauseMs, seed } = plan;
  const names = namesOf(plan);
  const own = typeof source === "string" ? source : (source[index] ?? "");
  return new Replica([address, own, names[index] ?? "", names.join(","), String(pauseMs), String(seed + index)], env);
}

type End = Extract<ReplicaMessage, { kind: "end" }>;

class Replica {
  readonly child: ChildProcess;
  readonly working: Promise<void>;
  readonly #ended: Promise<End>;

  constructor(parameters: readonly string[], env: Variables) {
    const child = startProcess(script, parameters, env);
    const working = Promise.withResolvers<void>();
    const ended = Promise.withResolvers<End>();
    child.on("message", (message: ReplicaMessage) => {
      switch (message.kind) {
        case "working":
          working.resolve();
          break;
        case "idle":
          child.kill("SIGSTOP");
          break;
        case "end":
          ended.resolve(message);
          break;
      }
    });
    child.once("exit", (code, signal) => {
      const error = new Error(`A replica ended by itself, with ${code ?? signal}`);
      working.reject(error);
      ended.reject(error);
    });
    this.child = child;
    this.working = working.promise;
    this.#ended = ended.promise;
    // The message is sent on request.
    ended.promise.catch(() => undefined);
  }

  async halt(): Promise<void> {
    const idle = once(this.child, "message");
    this.child.send("idle");
    await idle;
  }

  async end(): Promise<End> {
    this.child.send("end");
    return await this.#ended;
  }
}

/** Starts a program of this folder. It ends with the test at the latest. */
export function startProcess(program: string, parameters: readonly string[], env: Variables): ChildProcess {
  const child = fork(program, parameters, {
    execArgv: [],
    stdio: ["ignore", "ignore", "inherit", "ipc"],
    env: commandEnvironment(env),
  });
  const ended = once(child, "exit");
  onTestFinished(async () => {
    // SIGKILL also ends a stopped process.
    if (child.exitCode === null && child.signalCode === null) child.kill("SIGKILL");
    await ended;
  });
  return child;
}
