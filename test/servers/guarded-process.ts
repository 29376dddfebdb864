import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { rmSync } from "node:fs";
import { createServer } from "node:net";
import { userInfo } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";

/** Address on which every server listens. */
export const host = "127.0.0.1";
const startMs = 30_000;

// A shell script that starts the server, and stops the server when the standard input of the script ends. The input ends when
// the process that writes to it ends, in whatever way. A container is not a child of the docker command, so the script removes
// the container by its name. The script removes the data too, unless its input was "keep".
const watchdog = `"$@" >/dev/null 2>&1 & pid=$!
echo "$pid"
said=$(cat)
kill -9 "$pid" 2>/dev/null
wait "$pid" 2>/dev/null
[ -z "$KEYWARD_CONTAINER" ] || docker rm --force "$KEYWARD_CONTAINER" >/dev/null 2>&1
[ "$said" = keep ] || [ -z "$KEYWARD_DATA" ] || rm -rf "$KEYWARD_DATA"`;

/** Data and container of a server, which must be removed. */
export interface Belongings {
  /** Directory of the server's data. */
  readonly data?: string | undefined;
  /** Name of the server's container, if Docker runs it. */
  readonly container?: string | undefined;
}

interface Running {
  readonly guard: ChildProcess;
  readonly pid: number;
}

/**
 * Base of all test servers: a process that can be killed, paused and restarted. The process and its data are removed when the
 * server is stopped, and when the process that started it ends in any way, `kill -9` included.
 */
export class GuardedProcess {
  readonly #belongings: Belongings;
  #running: Running | undefined;

  constructor(belongings: Belongings = {}) {
    this.#belongings = belongings;
  }

  /** Starts the server on its existing data. If it is running, kills it first. */
  protected async run(command: readonly string[]): Promise<void> {
    await this.kill();
    const { data, container } = this.#belongings;
    const guard = spawn("sh", ["-c", watchdog, "sh", ...command], {
      stdio: ["pipe", "pipe", "ignore"],
      // A process group of its own, so that Ctrl-C does not end it before it has cleaned up.
      detached: true,
      env: { ...process.env, KEYWARD_DATA: data ?? "", KEYWARD_CONTAINER: container ?? "" },
    });
    guard.stdin.on("error", () => undefined);
    const [line] = await once(guard.stdout, "data");
    this.#running = { guard, pid: Number(String(line)) };
  }

  /** Pauses the server. Connections stay open, and requests get no answer. */
  pause(): void {
    this.#signal("SIGSTOP", "pause");
  }

  /** Resumes the server, which then answers the requests that it received during the pause. */
  resume(): void {
    this.#signal("SIGCONT", "unpause");
  }

  /** Kills the server with `kill -9`, if it is running. Resolves when it has ended. */
  async kill(): Promise<void> {
    await this.#end("keep");
  }

  /** Stops the server and removes its data. */
  async stop(): Promise<void> {
    await this.#end("remove");
    const { data } = this.#belongings;
    if (data !== undefined) rmSync(data, { recursive: true, force: true });
  }

  async #end(data: "keep" | "remove"): Promise<void> {
    const running = this.#running;
    if (running === undefined) return;
    this.#running = undefined;
    const { guard } = running;
    const ended = guard.exitCode === null && guard.signalCode === null ? once(guard, "exit") : undefined;
    guard.stdin?.end(data);
    await ended;
  }

  #signal(signal: NodeJS.Signals, verb: string): void {
    if (this.#running === undefined) throw new Error("The server does not run");
    const { container } = this.#belongings;
    if (container === undefined) process.kill(this.#running.pid, signal);
    else execFileSync("docker", [verb, container], { stdio: "ignore" });
  }
}

/** Returns the command that runs an image as this container, on the network of this machine. */
export function dockerCommand(
  image: string,
  { data, container = "" }: Belongings,
  options: readonly string[] = [],
): string[] {
  const { uid, gid } = userInfo();
  // The container runs as the user who created the directory. The user of the image may not write there.
  const mount = data === undefined ? [] : ["--user", `${uid}:${gid}`, "--volume", `${data}:${data}`];
  return ["docker", "run", "--name", container, "--init", "--network", "host", ...mount, ...options, image];
}

/** Starts a server on a free port. */
export async function startOnFreePort<Server extends { stop(): Promise<void> }>(
  make: (port: number) => Server,
  start: (server: Server) => Promise<void>,
): Promise<Server> {
  for (let attempt = 1; ; attempt++) {
    // Another process may use the port before the server does.
    const server = make(await freePort());
    try {
      await start(server);
      return server;
    } catch (error) {
      await server.stop();
      if (attempt === 3) throw error;
    }
  }
}

/** Methods of a shared server that was started elsewhere. `stop` does nothing, and all others throw. */
export function notOurs(variable: string) {
  const refuse = (): never => {
    throw new Error(`The server in ${variable} is shared, and the tests must not stop it`);
  };
  return {
    kill: async () => refuse(),
    restart: async () => refuse(),
    pause: refuse,
    resume: refuse,
    stop: async () => undefined,
  };
}

/** Returns a port that is free at the moment. */
export async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, host);
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  if (address === null || typeof address === "string") throw new Error("The listener has no port");
  return address.port;
}

/** Resolves when `isSo` resolves to true. A call that rejects is repeated, for 30 seconds at most. */
export async function until(what: string, isSo: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + startMs;
  let last: unknown;
  while (Date.now() < deadline) {
    try {
      if (await isSo()) return;
    } catch (error) {
      last = error;
    }
    await sleep(20);
  }
  throw new Error(`Timed out after ${startMs} ms: ${what}`, { cause: last });
}
