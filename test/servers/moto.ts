import { execFile } from "node:child_process";
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { firstFound, type OneOf, onPath } from "./find-server.ts";
import {
  type Belongings,
  dockerCommand,
  GuardedProcess,
  host,
  notOurs,
  startOnFreePort,
  until,
} from "./guarded-process.ts";
import { pythonEnvironment } from "./python-environment.ts";

export { describeWithServer as describeWithMoto } from "./find-server.ts";

const run = promisify(execFile);
const startMs = 30_000;
const requirements = fileURLToPath(new URL("moto-requirements.txt", import.meta.url));
const image = "motoserver/moto:5.2.5";

/**
 * What stands in for AWS: moto, with Secrets Manager and KMS among others, on a loopback port. It keeps everything in
 * memory, and takes any credentials. It ends with {@link MotoServer.stop}, and also when the process that started it ends
 * in any way, `kill -9` included.
 */
export interface MotoServer {
  /** The `endpoint` of a client. */
  readonly endpoint: string;
  /** `kill -9`. What it kept is gone. */
  kill(): Promise<void>;
  /** Starts it again on its port, empty, killing it first where it runs. Resolves when it answers. */
  restart(): Promise<void>;
  /** SIGSTOP: connections stay, nothing answers, nothing is lost. */
  pause(): void;
  /** SIGCONT: what was asked meanwhile is answered. */
  resume(): void;
  /** Ends it. */
  stop(): Promise<void>;
}

/** Where a moto comes from. */
export type MotoServers = OneOf<{ command: readonly string[]; image: string; existing: string; missing: string }>;

/** What {@link findMoto} is asked for. */
export interface MotoNeeds {
  /**
   * Whether any server does that speaks as AWS does, shared with others and never stopped: then it is the one that
   * `KEYWARD_TEST_AWS_ENDPOINT` names, where it names one.
   */
  readonly anyWillDo?: boolean;
}

/**
 * Finds moto on the PATH; else installs it into a folder of its own in the user's cache, once for all; else uses Docker;
 * else says why there is none.
 */
export async function findMoto({ anyWillDo = false }: MotoNeeds = {}): Promise<MotoServers> {
  const existing = process.env["KEYWARD_TEST_AWS_ENDPOINT"];
  if (anyWillDo && existing !== undefined) return { existing };
  return await firstFound<MotoServers>({
    "there is no moto_server on the PATH": installed,
    "python3 cannot install one": async () => {
      return { command: [join(await pythonEnvironment(requirements), "python"), "-m", "moto.server"] };
    },
    "Docker cannot run one": async () => {
      await run("docker", ["run", "--rm", image, "--help"], { timeout: 120_000 });
      return { image };
    },
  });
}

/** A server; one of ours is empty. */
export async function startMoto({ command, image, existing, missing }: MotoServers): Promise<MotoServer> {
  if (existing !== undefined) return { endpoint: existing, ...notOurs("KEYWARD_TEST_AWS_ENDPOINT") };
  if (missing !== undefined) throw new Error(missing);
  return await startOnFreePort(
    (port) => {
      if (command !== undefined) return new StartedMoto(command, {}, port);
      const belongings = { container: `keyward-moto-${randomUUID()}` };
      return new StartedMoto(dockerCommand(image, belongings), belongings, port);
    },
    (server) => server.restart(),
  );
}

async function installed(): Promise<MotoServers | undefined> {
  for (const program of onPath("moto_server")) {
    // What lies there may belong to a Python that has no moto.
    const works = await run(program, ["--help"], { timeout: startMs }).then(
      () => true,
      () => false,
    );
    if (works) return { command: [program] };
  }
  return undefined;
}

class StartedMoto extends GuardedProcess implements MotoServer {
  readonly endpoint: string;
  readonly #program: readonly string[];
  readonly #port: number;

  constructor(program: readonly string[], belongings: Belongings, port: number) {
    super(belongings);
    this.#program = program;
    this.#port = port;
    this.endpoint = `http://${host}:${port}`;
  }

  async restart(): Promise<void> {
    await this.run([...this.#program, "--host", host, "--port", String(this.#port)]);
    await until(`the server on port ${this.#port} answers`, async () => {
      const signal = AbortSignal.timeout(2_000);
      return (await fetch(`${this.endpoint}/moto-api/data.json`, { signal })).ok;
    });
  }
}
