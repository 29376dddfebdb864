import { execFile } from "node:child_process";
import { randomUUID } from "node:crypto";
import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { promisify } from "node:util";
import { describe, it } from "vitest";
import { durable, existingServer, type RedisNode, type RedisServers, startNode } from "./redis-node.ts";

export { type MoveOptions, type RedisCluster, startCluster } from "./redis-cluster.ts";
export type { RedisNode, RedisServers } from "./redis-node.ts";
export { type RedisSentinelGroup, startSentinelGroup } from "./redis-sentinel.ts";

const run = promisify(execFile);
const installMs = 300_000;
const image = "redis:7";

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
    await run("docker", ["run", "--rm", image, "redis-server", "--version"], { timeout: 120_000 });
    return { image };
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
  return await startNode(servers, async () => ({ arguments: durable }));
}

/** A server that takes TLS and a password, and nothing else. Its certificate is made for it. */
export async function startTlsRedis(servers: RedisServers): Promise<RedisNode> {
  return await startNode(servers, async (directory) => {
    const [key, certificate] = [join(directory, "key.pem"), join(directory, "certificate.pem")];
    await run("openssl", [
      ...["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"],
      ...["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"],
      ...["-keyout", key, "-out", certificate],
    ]);
    const password = randomUUID();
    const ca = await readFile(certificate, "utf8");
    const files = ["--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients", "no"];
    return { arguments: [...files, "--requirepass", password], options: { password, tls: { ca } } };
  });
}

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

function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split("\n").slice(0, 1).join("");
}
