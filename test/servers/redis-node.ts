import { randomUUID } from "node:crypto";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Redis, type RedisOptions } from "ioredis";
import type { OneOf } from "./find-server.ts";
import {
  type Belongings,
  dockerCommand,
  GuardedProcess,
  host,
  notOurs,
  startOnFreePort,
  until,
} from "./guarded-process.ts";

/**
 * A Redis or Valkey on a loopback port. {@link RedisNode.stop} removes the server and its data. So does the end of the
 * process that started it, `kill -9` included.
 */
export interface RedisNode {
  readonly host: string;
  readonly port: number;
  /** URL for `RedisStore` and ioredis, with the password if there is one. */
  readonly url: string;
  /** Further options that a client needs for TLS. */
  readonly options: RedisOptions;
  /** Kills the server with `kill -9`. Acknowledged writes are on disk. */
  kill(): Promise<void>;
  /** Kills the server if it is running, and starts it again on its port and data. Resolves when the server answers. */
  restart(): Promise<void>;
  /** Pauses the server with SIGSTOP. Connections stay open, and requests get no answer. */
  pause(): void;
  /** Resumes the server with SIGCONT. It then executes the commands that it received during the pause. */
  resume(): void;
  /** Stops the server and removes its data. */
  stop(): Promise<void>;
  /** Sends a command to the node itself, such as `CONFIG SET`, over a separate connection. */
  command(name: string, ...given: readonly (string | number)[]): Promise<unknown>;
}

/** A way to start Redis, a running server, or the reason why there is none. */
export type RedisServers = OneOf<{ binary: string; image: string; existing: string; missing: string }>;

/** Settings of one node, in addition to those of all nodes. */
export interface NodeSettings {
  /** Arguments of the command line. */
  readonly arguments: readonly string[];
  /** Options that clients need in addition to host and port. */
  readonly options?: RedisOptions;
}

/** Arguments with which each write is on disk before it is acknowledged. */
export const durable = ["--appendonly", "yes", "--appendfsync", "always"] as const;

/** @param settle Returns the node's settings, and writes its files into the directory that it receives. */
export async function startNode(
  { binary, image, missing }: RedisServers,
  settle: (directory: string) => Promise<NodeSettings>,
): Promise<RedisNode> {
  if (binary === undefined && image === undefined)
    throw new Error(missing ?? "The test needs a server that it can stop, and found a shared one");
  return await startOnFreePort(
    (port) => {
      const directory = mkdtempSync(join(tmpdir(), "keyward-redis-"));
      if (binary !== undefined) return new StartedNode([binary], { data: directory }, directory, port);
      const belongings = { data: directory, container: `keyward-redis-${randomUUID()}` };
      return new StartedNode([...dockerCommand(image, belongings), "redis-server"], belongings, directory, port);
    },
    (node) => node.begin(settle),
  );
}

class StartedNode extends GuardedProcess implements RedisNode {
  readonly host = host;
  readonly port: number;
  readonly #program: readonly string[];
  readonly #directory: string;
  #settings: NodeSettings = { arguments: [] };

  constructor(program: readonly string[], belongings: Belongings, directory: string, port: number) {
    super(belongings);
    this.#program = program;
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

  async begin(settle: (directory: string) => Promise<NodeSettings>): Promise<void> {
    this.#settings = await settle(this.#directory);
    await this.restart();
  }

  async restart(): Promise<void> {
    const ports = this.options.tls === undefined ? ["--port", this.port] : ["--port", 0, "--tls-port", this.port];
    await this.run([
      ...this.#program,
      // A configuration file must be the first argument.
      ...[...this.#settings.arguments, ...ports.map(String), "--bind", host, "--dir", this.#directory],
      ...["--save", "", "--protected-mode", "no", "--enable-debug-command", "yes"],
    ]);
    await until(`the server on port ${this.port} answers`, async () => {
      return String(await this.command("PING")) === "PONG";
    });
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
    return await callOnce(client, name, given);
  }
}

/** A shared server that was started elsewhere. */
export function existingServer(url: string): RedisNode {
  const { hostname, port } = new URL(url);
  return {
    host: hostname,
    port: Number(port === "" ? 6379 : port),
    url,
    options: {},
    ...notOurs("KEYWARD_TEST_REDIS_URL"),
    async command(name, ...given) {
      const client = new Redis(url, { lazyConnect: true, retryStrategy: null });
      return await callOnce(client, name, given);
    },
  };
}

/** Sends a command over a connection that is closed afterwards. */
async function callOnce(client: Redis, name: string, given: readonly (string | number)[]): Promise<unknown> {
  client.on("error", () => undefined);
  try {
    await client.connect();
    return await client.call(name, ...given);
  } finally {
    client.disconnect();
  }
}
