import { type ChildProcess, execFile, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { createServer } from "node:net";
import { delimiter, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { describe, it } from "vitest";
import { pythonEnvironment } from "./python-environment.ts";

const run = promisify(execFile);
const host = "127.0.0.1";
const startMs = 30_000;
const requirements = fileURLToPath(new URL("moto-requirements.txt", import.meta.url));
const dockerImage = "motoserver/moto:5.2.5";

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

/** How servers are started here, the one that is there already, or why there is none. */
export type MotoServers =
  | { readonly command: readonly string[]; readonly existing?: undefined; readonly missing?: undefined }
  | { readonly existing: string; readonly command?: undefined; readonly missing?: undefined }
  | { readonly missing: string; readonly command?: undefined; readonly existing?: undefined };

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
  const found = await onPath();
  if (found !== undefined) return { command: [found] };
  const failures = ["there is no moto_server on the PATH"];
  try {
    return { command: [join(await pythonEnvironment(requirements), "python"), "-m", "moto.server"] };
  } catch (error) {
    failures.push(`python3 cannot install one (${firstLine(error)})`);
  }
  try {
    await run("docker", ["run", "--rm", dockerImage, "--help"], { timeout: 120_000 });
    return { command: ["docker", "run", "--rm", "--init", "--network", "host", dockerImage] };
  } catch (error) {
    failures.push(`Docker cannot run one (${firstLine(error)})`);
  }
  return { missing: failures.join("; ") };
}

/**
 * `describe` for suites that need a server. Where there is none the suite is skipped with the reason in its name, and
 * with CI=true it fails.
 */
export function describeWithMoto(servers: MotoServers, name: string, suite: () => void): void {
  if (servers.missing === undefined) {
    describe(name, suite);
  } else if (process.env["CI"] === "true") {
    describe(name, () => {
      it("has a server", () => {
        throw new Error(servers.missing);
      });
    });
  } else {
    describe.skip(`${name} (skipped: ${servers.missing})`, suite);
  }
}

/** A server; one of ours is empty. */
export async function startMoto(servers: MotoServers): Promise<MotoServer> {
  const { command, existing, missing } = servers;
  if (existing !== undefined) return existingServer(existing);
  if (command === undefined) throw new Error(missing);
  for (let attempt = 1; ; attempt++) {
    // Another process may take the port between the question and its use.
    const server = new StartedMoto(command, await freePort());
    try {
      await server.restart();
      return server;
    } catch (error) {
      await server.stop();
      if (attempt === 3) throw error;
    }
  }
}

async function onPath(): Promise<string | undefined> {
  for (const directory of (process.env["PATH"] ?? "").split(delimiter)) {
    const path = join(directory, "moto_server");
    if (!existsSync(path)) continue;
    // What lies there may belong to a Python that has no moto.
    const works = await run(path, ["--help"], { timeout: startMs }).then(
      () => true,
      () => false,
    );
    if (works) return path;
  }
  return undefined;
}

// Ends the server when its own input ends, which happens however the process at the other end dies. What Docker runs is
// not a child of its command.
const watchdog = `"$@" >/dev/null 2>&1 & pid=$!
echo "$pid"
cat >/dev/null
kill -9 "$pid" 2>/dev/null
[ -z "$KEYWARD_CONTAINER" ] || docker rm --force "$KEYWARD_CONTAINER" >/dev/null 2>&1
wait "$pid" 2>/dev/null`;

class StartedMoto implements MotoServer {
  readonly endpoint: string;
  readonly #command: readonly string[];
  readonly #port: number;
  #running: { readonly guard: ChildProcess; readonly pid: number } | undefined;

  constructor(command: readonly string[], port: number) {
    this.#command = command;
    this.#port = port;
    this.endpoint = `http://${host}:${port}`;
  }

  async restart(): Promise<void> {
    await this.kill();
    const [program = "", ...rest] = this.#command;
    const container = program === "docker" ? `keyward-moto-${randomUUID()}` : "";
    const named =
      container === "" ? rest : rest.flatMap((word) => (word === "--rm" ? [word, "--name", container] : word));
    const guard = spawn(
      "sh",
      ["-c", watchdog, "sh", program, ...named, ...["--host", host, "--port", String(this.#port)]],
      {
        stdio: ["pipe", "pipe", "ignore"],
        // Out of the reach of a Ctrl-C, so that it is there to clean up.
        detached: true,
        env: { ...process.env, KEYWARD_CONTAINER: container },
      },
    );
    guard.stdin.on("error", () => undefined);
    const [line] = await once(guard.stdout, "data");
    this.#running = { guard, pid: Number(String(line)) };
    await this.#answering();
  }

  async kill(): Promise<void> {
    const running = this.#running;
    if (running === undefined) return;
    this.#running = undefined;
    const { guard } = running;
    const ended = guard.exitCode === null && guard.signalCode === null ? once(guard, "exit") : undefined;
    guard.stdin?.end();
    await ended;
  }

  pause(): void {
    this.#signal("SIGSTOP");
  }

  resume(): void {
    this.#signal("SIGCONT");
  }

  async stop(): Promise<void> {
    await this.kill();
  }

  #signal(signal: NodeJS.Signals): void {
    if (this.#running === undefined) throw new Error(`The server on port ${this.#port} does not run`);
    process.kill(this.#running.pid, signal);
  }

  async #answering(): Promise<void> {
    const deadline = Date.now() + startMs;
    let last: unknown;
    while (Date.now() < deadline) {
      try {
        const { ok } = await fetch(`${this.endpoint}/moto-api/data.json`, { signal: AbortSignal.timeout(2_000) });
        if (ok) return;
      } catch (error) {
        last = error;
      }
      await sleep(20);
    }
    throw new Error(`The server on port ${this.#port} does not answer within ${startMs} ms`, { cause: last });
  }
}

function existingServer(endpoint: string): MotoServer {
  const refuse = (): never => {
    throw new Error("The server of KEYWARD_TEST_AWS_ENDPOINT is not ours to stop");
  };
  return {
    endpoint,
    kill: async () => refuse(),
    restart: async () => refuse(),
    pause: refuse,
    resume: refuse,
    stop: async () => undefined,
  };
}

async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, host);
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  if (address === null || typeof address === "string") throw new Error("No port was given");
  return address.port;
}

function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split("\n").slice(0, 1).join("");
}
