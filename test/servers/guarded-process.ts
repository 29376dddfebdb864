import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { rmSync } from "node:fs";
import { createServer } from "node:net";
import { userInfo } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";

/** Where every server listens. */
export const host = "127.0.0.1";
const startMs = 30_000;

// Ends the server when its own input ends, which happens however the process at the other end dies. What Docker runs is
// not a child of its command. The data stays only where "keep" was said before.
const watchdog = `"$@" >/dev/null 2>&1 & pid=$!
echo "$pid"
said=$(cat)
kill -9 "$pid" 2>/dev/null
wait "$pid" 2>/dev/null
[ -z "$KEYWARD_CONTAINER" ] || docker rm --force "$KEYWARD_CONTAINER" >/dev/null 2>&1
[ "$said" = keep ] || [ -z "$KEYWARD_DATA" ] || rm -rf "$KEYWARD_DATA"`;

/** What a server leaves behind unless it is removed. */
export interface Belongings {
  /** The directory of its data. */
  readonly data?: string | undefined;
  /** The name of its container, where Docker runs it. */
  readonly container?: string | undefined;
}

interface Running {
  readonly guard: ChildProcess;
  readonly pid: number;
}

/**
 * What all servers here are: a process that ends, with its data, when it is told to, and when the process that started it ends in any way,
 * `kill -9` included.
 */
export class GuardedProcess {
  readonly #belongings: Belongings;
  #running: Running | undefined;

  constructor(belongings: Belongings = {}) {
    this.#belongings = belongings;
  }

  /** Runs it, on the data that it has by now. Where it runs already, it is killed first. */
  protected async run(command: readonly string[]): Promise<void> {
    await this.kill();
    const { data, container } = this.#belongings;
    const guard = spawn("sh", ["-c", watchdog, "sh", ...command], {
      stdio: ["pipe", "pipe", "ignore"],
      // Out of the reach of a Ctrl-C, so that it is there to clean up.
      detached: true,
      env: { ...process.env, KEYWARD_DATA: data ?? "", KEYWARD_CONTAINER: container ?? "" },
    });
    guard.stdin.on("error", () => undefined);
    const [line] = await once(guard.stdout, "data");
    this.#running = { guard, pid: Number(String(line)) };
  }

  /** Connections stay, nothing answers. */
  pause(): void {
    this.#signal("SIGSTOP", "pause");
  }

  /** What was asked meanwhile is answered. */
  resume(): void {
    this.#signal("SIGCONT", "unpause");
  }

  /** `kill -9`, where it runs. Resolves when it has ended. */
  async kill(): Promise<void> {
    await this.#end("keep");
  }

  /** Ends it and removes its data. */
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

/** The command that runs an image as this container, on the network of this machine. */
export function dockerCommand(
  image: string,
  { data, container = "" }: Belongings,
  options: readonly string[] = [],
): string[] {
  const { uid, gid } = userInfo();
  // As the user who made the directory, since that of the image may not write there.
  const mount = data === undefined ? [] : ["--user", `${uid}:${gid}`, "--volume", `${data}:${data}`];
  return ["docker", "run", "--name", container, "--init", "--network", "host", ...mount, ...options, image];
}

/** A server that was started on a port of its own. */
export async function startOnFreePort<Server extends { stop(): Promise<void> }>(
  make: (port: number) => Server,
  start: (server: Server) => Promise<void>,
): Promise<Server> {
  for (let attempt = 1; ; attempt++) {
    // Another process may take the port between the question and its use.
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

/** What may be done to a server that others have started, and use too: nothing. */
export function notOurs(variable: string) {
  const refuse = (): never => {
    throw new Error(`The server of ${variable} is not ours to stop`);
  };
  return {
    kill: async () => refuse(),
    restart: async () => refuse(),
    pause: refuse,
    resume: refuse,
    stop: async () => undefined,
  };
}

/** A port that nobody listens on just now. */
export async function freePort(): Promise<number> {
  const server = createServer();
  server.listen(0, host);
  await once(server, "listening");
  const address = server.address();
  server.close();
  await once(server, "close");
  if (address === null || typeof address === "string") throw new Error("No port was given");
  return address.port;
}

/** Resolves when it is so; a question that fails is asked again. */
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
  throw new Error(`Not within ${startMs} ms: ${what}`, { cause: last });
}
