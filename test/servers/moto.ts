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
 * A test double of AWS: moto, with Secrets Manager, KMS and others, on a loopback port. It stores everything in memory and
 * accepts any credentials. It ends with {@link MotoServer.stop}, and also when the process that started it ends in any way,
 * `kill -9` included.
 */
export interface MotoServer {
  /** The `endpoint` option of a client. */
  readonly endpoint: string;
  /** Kills the server with `kill -9`. Its data is lost. */
  kill(): Promise<void>;
  /** Kills the server if it is running, and starts it again on its port, without data. Resolves when the server answers. */
  restart(): Promise<void>;
  /** Pauses the server with SIGSTOP. Connections stay open, requests get no answer, and no data is lost. */
  pause(): void;
  /** Resumes the server with SIGCONT. It then answers the requests that it received during the pause. */
  resume(): void;
  /** Stops the server. */
  stop(): Promise<void>;
}

/** A way to start moto, a running server, or the reason why there is none. */
export type MotoServers = OneOf<{ command: readonly string[]; image: string; existing: string; missing: string }>;

/** Options of {@link findMoto}. */
export interface MotoNeeds {
  /**
   * True if the test can use a server with the API of AWS that other tests also use, and that the test never stops. Then
   * the server in `KEYWARD_TEST_AWS_ENDPOINT` is used, if the environment variable is set.
   */
  readonly anyWillDo?: boolean;
}

/**
 * Finds moto, in this order:
 * 1. on the PATH
 * 2. installed once into a folder of the user's cache
 * 3. in Docker
 *
 * If all of these fail, returns the reasons.
 */
export async function findMoto({ anyWillDo = false }: MotoNeeds = {}): Promise<MotoServers> {
  const existing = process.env["KEYWARD_TEST_AWS_ENDPOINT"];
  if (anyWillDo && existing !== undefined) return { existing };
  return await firstFound<MotoServers>({
    "moto_server is not on the PATH": installed,
    "python3 cannot install it": async () => {
      return { command: [join(await pythonEnvironment(requirements), "python"), "-m", "moto.server"] };
    },
    "Docker cannot run one": async () => {
      await run("docker", ["run", "--rm", image, "--help"], { timeout: 120_000 });
      return { image };
    },
  });
}

/** Starts a server without data, or returns the shared one. */
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
    // The program on the PATH may belong to a Python without moto.
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
