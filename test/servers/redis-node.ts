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

/** Where a Redis comes from. */
export type RedisServers = OneOf<{ binary: string; image: string; existing: string; missing: string }>;

/** What a node is started with, beyond what all are. */
export interface NodeSettings {
  /** On its command line. */
  readonly arguments: readonly string[];
  /** What clients must be told besides host and port. */
  readonly options?: RedisOptions;
}

/** Each write is on the disk before it is acknowledged. */
export const durable = ["--appendonly", "yes", "--appendfsync", "always"] as const;

/** @param settle makes the node's settings, and its files in the directory that it is given. */
export async function startNode(
  { binary, image, missing }: RedisServers,
  settle: (directory: string) => Promise<NodeSettings>,
): Promise<RedisNode> {
  if (binary === undefined && image === undefined) throw new Error(missing ?? "A server that is not ours will not do");
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
      // A configuration file has to be the first of all.
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

/** A server that others have started, and use too. */
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

/** Over a connection that is not kept. */
async function callOnce(client: Redis, name: string, given: readonly (string | number)[]): Promise<unknown> {
  client.on("error", () => undefined);
  try {
    await client.connect();
    return await client.call(name, ...given);
  } finally {
    client.disconnect();
  }
}
