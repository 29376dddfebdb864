import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir, userInfo } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Redis, type RedisOptions } from "ioredis";

/** Where every server listens. */
export const host = "127.0.0.1";
const startMs = 15_000;

/**
 * One server process on a loopback port. It and its data end with {@link RedisNode.stop}, and also when the process that
 * started it ends in any way, `kill -9` included.
 */
export interface RedisNode {
  readonly host: string;
  readonly port: number;
  /** As `RedisStore` and ioredis take it; holds the password where there is one. */
  readonly url: string;
  /** For TLS: what a client must be told besides. */
  readonly options: RedisOptions;
  /** `kill -9`. What was acknowledged before is on the disk. */
  kill(): Promise<void>;
  /** Starts it again on its port and data, killing it first where it runs. Resolves when it answers. */
  restart(): Promise<void>;
  /** SIGSTOP: connections stay, nothing answers. */
  pause(): void;
  /** SIGCONT: what was sent meanwhile is executed. */
  resume(): void;
  /** Ends it and removes its data. */
  stop(): Promise<void>;
  /** What is done to the node itself, such as `CONFIG SET`, over a connection of its own. */
  command(name: string, ...given: readonly (string | number)[]): Promise<unknown>;
}

/** How servers are started here, the one that is there already, or why there is none. */
export type RedisServers =
  | { readonly binary: string; readonly image?: undefined; readonly existing?: undefined; readonly missing?: undefined }
  | { readonly image: string; readonly binary?: undefined; readonly existing?: undefined; readonly missing?: undefined }
  | { readonly existing: string; readonly binary?: undefined; readonly image?: undefined; readonly missing?: undefined }
  | {
      readonly missing: string;
      readonly binary?: undefined;
      readonly image?: undefined;
      readonly existing?: undefined;
    };

/** What a node is started with, beyond what all are. */
export interface NodeSettings {
  /** On its command line. */
  readonly arguments: readonly string[];
  /** What clients must be told besides host and port. */
  readonly options?: RedisOptions;
}

/** Each write is on the disk before it is acknowledged. */
export const durable = ["--appendonly", "yes", "--appendfsync", "always"] as const;

// Ends the server when its own input ends, which happens however the process at the other end dies. What Docker runs is
// not a child of its command. The data stays only where "keep" was said before.
const watchdog = `"$@" >/dev/null 2>&1 & pid=$!
echo "$pid"
said=$(cat)
kill -9 "$pid" 2>/dev/null
wait "$pid" 2>/dev/null
[ -z "$KEYWARD_CONTAINER" ] || docker rm --force "$KEYWARD_CONTAINER" >/dev/null 2>&1
[ "$said" = keep ] || rm -rf "$KEYWARD_DATA"`;

/** @param settle makes the node's settings, and its files in the directory that it is given. */
export async function startNode(
  servers: RedisServers,
  settle: (directory: string) => Promise<NodeSettings>,
): Promise<RedisNode> {
  for (let attempt = 1; ; attempt++) {
    const directory = mkdtempSync(join(tmpdir(), "keyward-redis-"));
    // Another process may take the port between the question and its use.
    const node = new StartedNode(runnerOf(servers), directory, await freePort());
    try {
      await node.start(await settle(directory));
      return node;
    } catch (error) {
      await node.stop();
      if (attempt === 3) throw error;
    }
  }
}

/** What stands in front of a server's arguments on its command line. */
interface Runner {
  readonly container?: string;
  command(directory: string): readonly string[];
}

function runnerOf({ binary, image, missing }: RedisServers): Runner {
  if (binary !== undefined) return { command: () => [binary] };
  if (image === undefined) throw new Error(missing ?? "A server that is not ours will not do");
  const container = `keyward-redis-${randomUUID()}`;
  const { uid, gid } = userInfo();
  return {
    container,
    // As the user who made the directory, since that of the image may not write there.
    command: (directory) => [
      ...["docker", "run", "--name", container, "--init", "--network", "host", "--user", `${uid}:${gid}`],
      ...["--volume", `${directory}:${directory}`, image, "redis-server"],
    ],
  };
}

interface Running {
  readonly guard: ChildProcess;
  readonly pid: number;
}

class StartedNode implements RedisNode {
  readonly host = host;
  readonly port: number;
  readonly #runner: Runner;
  readonly #directory: string;
  #settings: NodeSettings = { arguments: [] };
  #running: Running | undefined;

  constructor(runner: Runner, directory: string, port: number) {
    this.#runner = runner;
    this.#directory = directory;
    this.port = port;
  }

  get options(): RedisOptions {
    return this.#settings.options ?? {};
  }

  get url(): string {
    const { password, tls } = this.options;
    return `redis${tls === undefined ? "" : "s"}://${password === undefined ? "" : `:${password}@`}${host}:${this.port}`;
  }

  async start(settings: NodeSettings): Promise<void> {
    this.#settings = settings;
    await this.restart();
  }

  async restart(): Promise<void> {
    await this.#end("keep");
    const ports = this.options.tls === undefined ? ["--port", this.port] : ["--port", 0, "--tls-port", this.port];
    const command = [
      ...this.#runner.command(this.#directory),
      // A configuration file has to be the first of all.
      ...[...this.#settings.arguments, ...ports.map(String), "--bind", host, "--dir", this.#directory],
      ...["--save", "", "--protected-mode", "no", "--enable-debug-command", "yes"],
    ];
    const guard = spawn("sh", ["-c", watchdog, "sh", ...command], {
      stdio: ["pipe", "pipe", "ignore"],
      // Out of the reach of a Ctrl-C, so that it is there to clean up.
      detached: true,
      env: { ...process.env, KEYWARD_DATA: this.#directory, KEYWARD_CONTAINER: this.#runner.container ?? "" },
    });
    guard.stdin.on("error", () => undefined);
    const [line] = await once(guard.stdout, "data");
    this.#running = { guard, pid: Number(String(line)) };
    await until(`the server on port ${this.port} answers`, async () => {
      return String(await this.command("PING")) === "PONG";
    });
  }

  async kill(): Promise<void> {
    await this.#end("keep");
  }

  pause(): void {
    this.#signal("SIGSTOP", "pause");
  }

  resume(): void {
    this.#signal("SIGCONT", "unpause");
  }

  async stop(): Promise<void> {
    await this.#end("remove");
    rmSync(this.#directory, { recursive: true, force: true });
  }

  async command(name: string, ...given: readonly (string | number)[]): Promise<unknown> {
    const client = new Redis(this.port, host, {
      ...this.options,
      replyMapping: "legacy",
      lazyConnect: true,
      retryStrategy: null,
      connectTimeout: 2_000,
      commandTimeout: 10_000,
    });
    client.on("error", () => undefined);
    try {
      await client.connect();
      return await client.call(name, ...given);
    } finally {
      client.disconnect();
    }
  }

  #signal(signal: NodeJS.Signals, verb: string): void {
    if (this.#running === undefined) throw new Error(`The server on port ${this.port} does not run`);
    const { container } = this.#runner;
    if (container === undefined) process.kill(this.#running.pid, signal);
    else execFileSync("docker", [verb, container], { stdio: "ignore" });
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
}

/** A server that others have started, and use too. */
export function existingServer(url: string): RedisNode {
  const refuse = (): never => {
    throw new Error("The server of KEYWARD_TEST_REDIS_URL is not ours to stop");
  };
  const { hostname, port } = new URL(url);
  return {
    host: hostname,
    port: Number(port === "" ? 6379 : port),
    url,
    options: {},
    kill: async () => refuse(),
    restart: async () => refuse(),
    pause: refuse,
    resume: refuse,
    stop: async () => undefined,
    async command(name, ...given) {
      const client = new Redis(url, { lazyConnect: true, retryStrategy: null });
      client.on("error", () => undefined);
      try {
        await client.connect();
        return await client.call(name, ...given);
      } finally {
        client.disconnect();
      }
    },
  };
}

/** A port that nobody had a moment ago. */
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

/** Asks again and again, and fails with `what` when it stays false; an error counts as false. */
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
