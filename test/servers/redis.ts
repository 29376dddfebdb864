import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { Redis, type RedisOptions } from "ioredis";
import { describe, it } from "vitest";

const run = promisify(execFile);
const host = "127.0.0.1";
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

/** Three primaries and three replicas, all slots served. */
export interface RedisCluster {
  readonly nodes: readonly RedisNode[];
  /** What `new Cluster(…)` of ioredis takes. */
  readonly startupNodes: readonly { readonly host: string; readonly port: number }[];
  /** The nodes that are primaries now, by what a running node says. */
  primaries(): Promise<RedisNode[]>;
  /** The primary that serves a slot now. */
  primaryOf(slot: number): Promise<RedisNode>;
  /** Moves a slot with its keys while clients go on, as `redis-cli --cluster reshard` does. */
  moveSlot(slot: number, target: RedisNode, options?: MoveOptions): Promise<void>;
  /** Resolves when every running node says that the cluster is well. */
  healthy(): Promise<void>;
  /** Ends all nodes and removes their data. */
  stop(): Promise<void>;
}

/** How {@link RedisCluster.moveSlot} goes about it. */
export interface MoveOptions {
  /** Keys a step; 10 unless given. */
  readonly batch?: number;
  /** Called between steps, while the slot is on its way. */
  readonly between?: () => Promise<void>;
}

/** How servers are started here, the one that is there already, or why there is none. */
export type RedisServers =
  | { readonly binary: string; readonly existing?: undefined; readonly missing?: undefined }
  | { readonly existing: string; readonly binary?: undefined; readonly missing?: undefined }
  | { readonly missing: string; readonly existing?: undefined; readonly binary?: undefined };

/** What {@link findRedisServers} is asked for. */
export interface RedisNeeds {
  /**
   * Whether any Redis does, shared with others and never stopped: then it is the one that `KEYWARD_TEST_REDIS_URL`
   * names, where it names one. A server that is not ours can be neither killed nor made a Cluster.
   */
  readonly anyWillDo?: boolean;
}

/**
 * Finds a Redis 7 or Valkey on the PATH; installs one where that needs no question (root on Debian); else uses Docker;
 * else says why there is none.
 */
export async function findRedisServers({ anyWillDo = false }: RedisNeeds = {}): Promise<RedisServers> {
  const existing = process.env["KEYWARD_TEST_REDIS_URL"];
  if (anyWillDo && existing !== undefined) return { existing };
  const found = await onPath();
  if (found !== undefined) return { binary: found };
  const failures = ["there is no redis-server 7 or valkey-server on the PATH"];
  try {
    await installWithApt();
    const installed = await onPath();
    if (installed !== undefined) return { binary: installed };
    failures.push("the one that apt-get installs is older than 7");
  } catch (error) {
    failures.push(`apt-get cannot install one (${firstLine(error)})`);
  }
  try {
    await run("docker", ["run", "--rm", dockerImage, "redis-server", "--version"], { timeout: 120_000 });
    return { binary: docker };
  } catch (error) {
    failures.push(`Docker cannot run one (${firstLine(error)})`);
  }
  return { missing: failures.join("; ") };
}

/**
 * `describe` for suites that need servers. Where there are none the suite is skipped with the reason in its name, and
 * with CI=true it fails.
 */
export function describeWithRedis(servers: RedisServers, name: string, suite: () => void): void {
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

/** A plain server. One of ours has each write on its disk before it acknowledges it. */
export async function startRedis(servers: RedisServers): Promise<RedisNode> {
  if (servers.existing !== undefined) return existingServer(servers.existing);
  return await startNode(servers, ["--appendonly", "yes", "--appendfsync", "always"], () => ({}));
}

/** A server that takes TLS and a password, and nothing else. Its certificate is made for it. */
export async function startTlsRedis(servers: RedisServers): Promise<RedisNode> {
  const directory = mkdtempSync(join(tmpdir(), "keyward-redis-tls-"));
  try {
    const [key, certificate] = [join(directory, "key.pem"), join(directory, "certificate.pem")];
    await run("openssl", [
      ...["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"],
      ...["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"],
      ...["-keyout", key, "-out", certificate],
    ]);
    const password = crypto.randomUUID();
    const ca = await readFile(certificate, "utf8");
    const node = await startNode(
      servers,
      ["--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients", "no", "--requirepass", password],
      () => ({ password, tls: { ca } }),
    );
    return {
      ...node,
      async stop() {
        await node.stop();
        rmSync(directory, { recursive: true, force: true });
      },
    };
  } catch (error) {
    rmSync(directory, { recursive: true, force: true });
    throw error;
  }
}

/** Six nodes: the first three are primaries, each with one replica. A primary that dies is replaced within seconds. */
export async function startCluster(servers: RedisServers): Promise<RedisCluster> {
  const settings = [
    ...["--cluster-enabled", "yes", "--cluster-node-timeout", "1500", "--cluster-replica-validity-factor", "0"],
    ...["--appendonly", "yes", "--appendfsync", "always", "--repl-diskless-sync-delay", "0"],
  ];
  const started = await Promise.allSettled(
    Array.from({ length: 6 }, async () =>
      startNode(servers, [...settings, "--cluster-port", String(await freePort())], () => ({})),
    ),
  );
  const nodes = started.flatMap((each) => (each.status === "fulfilled" ? [each.value] : []));
  const stop = async () => {
    await Promise.all(nodes.map((node) => node.stop()));
  };
  const cluster = new StartedCluster(nodes, stop);
  try {
    for (const each of started) if (each.status === "rejected") throw each.reason;
    await cluster.form();
  } catch (error) {
    await stop();
    throw error;
  }
  return cluster;
}

class StartedCluster implements RedisCluster {
  readonly nodes: readonly RedisNode[];
  readonly stop: () => Promise<void>;

  constructor(nodes: readonly RedisNode[], stop: () => Promise<void>) {
    this.nodes = nodes;
    this.stop = stop;
  }

  get startupNodes(): readonly { readonly host: string; readonly port: number }[] {
    return this.nodes.map(({ port }) => ({ host, port }));
  }

  async form(): Promise<void> {
    const primaries = this.nodes.slice(0, 3);
    const bounds = [0, 5461, 10_923, 16_384];
    for (const [index, node] of primaries.entries()) {
      const [first = 0, next = 0] = bounds.slice(index);
      await node.command("CLUSTER", "ADDSLOTSRANGE", first, next - 1);
      await node.command("CLUSTER", "SET-CONFIG-EPOCH", index + 1);
    }
    const [meeting] = this.nodes;
    for (const node of this.nodes.slice(1)) {
      // A node says its bus port itself, since it is not at the usual distance.
      const busPort = String(await node.command("CONFIG", "GET", "cluster-port")).split(",")[1] ?? "";
      await meeting?.command("CLUSTER", "MEET", host, node.port, busPort);
    }
    for (const [index, replica] of this.nodes.slice(3).entries()) {
      const primary = primaries[index];
      if (primary === undefined) throw new Error("There is a replica too many");
      const id = String(await primary.command("CLUSTER", "MYID"));
      await until(`node ${replica.port} knows its primary`, async () =>
        String(await replica.command("CLUSTER", "NODES")).includes(id),
      );
      await replica.command("CLUSTER", "REPLICATE", id);
    }
    await this.healthy();
  }

  async healthy(): Promise<void> {
    await until("the cluster is well", async () => {
      for (const node of this.nodes) {
        const info = String(await node.command("CLUSTER", "INFO"));
        if (!info.includes("cluster_state:ok") || !info.includes("cluster_known_nodes:6")) return false;
        const replication = String(await node.command("INFO", "replication"));
        if (replication.includes("role:slave")) {
          if (!replication.includes("master_link_status:up")) return false;
        } else if (!replication.includes("connected_slaves:1")) return false;
        if (/fail|handshake/.test(String(await node.command("CLUSTER", "NODES")))) return false;
      }
      return true;
    });
  }

  async primaries(): Promise<RedisNode[]> {
    return [...new Set((await this.#ranges()).map(({ node }) => node))];
  }

  async primaryOf(slot: number): Promise<RedisNode> {
    const range = (await this.#ranges()).find(({ first, last }) => first <= slot && slot <= last);
    if (range === undefined) throw new Error(`No node serves slot ${slot}`);
    return range.node;
  }

  async moveSlot(slot: number, target: RedisNode, { batch = 10, between }: MoveOptions = {}): Promise<void> {
    const source = await this.primaryOf(slot);
    const [sourceId, targetId] = [
      String(await source.command("CLUSTER", "MYID")),
      String(await target.command("CLUSTER", "MYID")),
    ];
    await target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", sourceId);
    await source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", targetId);
    for (;;) {
      await between?.();
      const keys: unknown = await source.command("CLUSTER", "GETKEYSINSLOT", slot, batch);
      if (!Array.isArray(keys) || keys.length === 0) break;
      await source.command("MIGRATE", host, target.port, "", 0, 5_000, "KEYS", ...keys.map(String));
    }
    await target.command("CLUSTER", "SETSLOT", slot, "NODE", targetId);
    await source.command("CLUSTER", "SETSLOT", slot, "NODE", targetId);
    for (const node of await this.primaries()) await node.command("CLUSTER", "SETSLOT", slot, "NODE", targetId);
  }

  async #ranges(): Promise<{ first: number; last: number; node: RedisNode }[]> {
    for (const asked of this.nodes) {
      try {
        const answer: unknown = await asked.command("CLUSTER", "SLOTS");
        if (!Array.isArray(answer)) continue;
        return answer.flatMap((range: unknown) => {
          if (!Array.isArray(range)) return [];
          const [first, last, [, port]] = range;
          const node = this.nodes.find((each) => each.port === port);
          return node === undefined ? [] : [{ first: Number(first), last: Number(last), node }];
        });
      } catch {
        // This one is down; the next may not be.
      }
    }
    throw new Error("No node of the cluster answers");
  }
}

const docker = "docker";
const dockerImage = "redis:7";
const installMs = 300_000;

async function onPath(): Promise<string | undefined> {
  for (const name of ["redis-server", "valkey-server"]) {
    for (const directory of (process.env["PATH"] ?? "").split(delimiter)) {
      const path = join(directory, name);
      if (!existsSync(path)) continue;
      const { stdout } = await run(path, ["--version"]);
      const major = Number(/v=(\d+)\./.exec(stdout)?.[1] ?? 0);
      if (major >= 7) return path;
    }
  }
  return undefined;
}

async function installWithApt(): Promise<void> {
  if (process.getuid?.() !== 0) throw new Error("only root may");
  const wait = ["-o", "DPkg::Lock::Timeout=240"];
  const options = { env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" }, timeout: installMs };
  await run("apt-get", [...wait, "update"], options);
  await run("apt-get", [...wait, "install", "-y", "--no-install-recommends", "redis-server"], options);
  // The package starts a service, which nobody asked for.
  await run("sh", ["-c", "systemctl disable --now redis-server || service redis-server stop || true"], options);
}

// Ends the server when its own input ends, which happens however the process at the other end dies. The data stays only
// where "keep" was said before.
const watchdog = `"$@" >/dev/null 2>&1 & pid=$!
echo "$pid"
said=$(cat)
kill -9 "$pid" 2>/dev/null
wait "$pid" 2>/dev/null
[ "$said" = keep ] || rm -rf "$KEYWARD_DATA"`;

interface Running {
  readonly guard: ChildProcess;
  readonly pid: number;
}

async function startNode(
  servers: RedisServers,
  settings: readonly string[],
  access: () => RedisOptions,
): Promise<RedisNode> {
  const { binary } = servers;
  if (binary === undefined) throw new Error(servers.missing ?? "A server that is not ours will not do");
  for (let attempt = 1; ; attempt++) {
    // Another process may take the port between the question and its use.
    const node = new StartedNode(binary, settings, await freePort(), access());
    try {
      await node.restart();
      return node;
    } catch (error) {
      await node.stop();
      if (attempt === 3) throw error;
    }
  }
}

class StartedNode implements RedisNode {
  readonly host = host;
  readonly port: number;
  readonly url: string;
  readonly options: RedisOptions;
  readonly #binary: string;
  readonly #settings: readonly string[];
  readonly #directory = mkdtempSync(join(tmpdir(), "keyward-redis-"));
  #running: Running | undefined;

  constructor(binary: string, settings: readonly string[], port: number, options: RedisOptions) {
    this.#binary = binary;
    this.#settings = settings;
    this.port = port;
    this.options = options;
    const { password, tls } = options;
    this.url = `redis${tls === undefined ? "" : "s"}://${password === undefined ? "" : `:${password}@`}${host}:${port}`;
    // Methods are spread into wrappers and handed on.
    this.kill = this.kill.bind(this);
    this.restart = this.restart.bind(this);
    this.pause = this.pause.bind(this);
    this.resume = this.resume.bind(this);
    this.stop = this.stop.bind(this);
    this.command = this.command.bind(this);
  }

  async restart(): Promise<void> {
    await this.#end("keep");
    const ports = this.options.tls === undefined ? ["--port", this.port] : ["--port", 0, "--tls-port", this.port];
    const command = [
      ...(this.#binary === docker ? this.#dockerCommand() : [this.#binary]),
      ...[...ports.map(String), "--bind", host, "--dir", this.#directory, "--save", "", "--protected-mode", "no"],
      ...["--enable-debug-command", "yes", ...this.#settings],
    ];
    const guard = spawn("sh", ["-c", watchdog, "sh", ...command], {
      stdio: ["pipe", "pipe", "ignore"],
      // Out of the reach of a Ctrl-C, so that it is there to clean up.
      detached: true,
      env: { ...process.env, KEYWARD_DATA: this.#directory },
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
    this.#signal("SIGSTOP");
  }

  resume(): void {
    this.#signal("SIGCONT");
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

  #signal(signal: NodeJS.Signals): void {
    if (this.#running === undefined) throw new Error(`The server on port ${this.port} does not run`);
    process.kill(this.#running.pid, signal);
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

  #dockerCommand(): string[] {
    const mount = `${this.#directory}:${this.#directory}`;
    return [docker, "run", "--rm", "--init", "--network", "host", "-v", mount, dockerImage, "redis-server"];
  }
}

function existingServer(url: string): RedisNode {
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

async function until(what: string, isSo: () => Promise<boolean>): Promise<void> {
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

function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split("\n").slice(0, 1).join("");
}
