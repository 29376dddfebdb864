import { execFile } from "node:child_process";
import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { installWithApt } from "./apt.ts";
import { firstFound, onPath } from "./find-server.ts";
import { durable, existingServer, type RedisNode, type RedisServers, startNode } from "./redis-node.ts";

export { describeWithServer as describeWithRedis } from "./find-server.ts";
export { type MoveOptions, type RedisCluster, startCluster } from "./redis-cluster.ts";
export type { RedisNode, RedisServers } from "./redis-node.ts";
export { type RedisSentinelGroup, startSentinelGroup } from "./redis-sentinel.ts";

const run = promisify(execFile);
const image = "redis:7";

/** Options of {@link findRedisServers}. */
export interface RedisNeeds {
  /**
   * True if the test can use a Redis that other tests also use, and that the test never stops. Then the server in
   * `KEYWARD_TEST_REDIS_URL` is used, if the environment variable is set. A shared server cannot be killed or be part of a
   * Cluster.
   */
  readonly anyWillDo?: boolean;
}

/**
 * Finds Redis 7 or Valkey, in this order:
 * 1. on the PATH
 * 2. installed with apt-get, if that needs no password or confirmation (root on Debian)
 * 3. in Docker
 *
 * If all of these fail, returns the reasons.
 */
export async function findRedisServers({ anyWillDo = false }: RedisNeeds = {}): Promise<RedisServers> {
  const existing = process.env["KEYWARD_TEST_REDIS_URL"];
  if (anyWillDo && existing !== undefined) return { existing };
  return await firstFound<RedisServers>({
    "neither redis-server 7 nor valkey-server is on the PATH": installed,
    "apt-get cannot install it": async () => {
      await installWithApt("redis-server");
      // The package starts a service, which the tests do not need.
      await run("sh", ["-c", "systemctl disable --now redis-server || service redis-server stop || true"]);
      const servers = await installed();
      if (servers === undefined) throw new Error("its own is older than 7");
      return servers;
    },
    "Docker cannot run one": async () => {
      await run("docker", ["run", "--rm", image, "redis-server", "--version"], { timeout: 120_000 });
      return { image };
    },
  });
}

/** Starts a server that writes to disk before it acknowledges a write, or returns the shared one. */
export async function startRedis(servers: RedisServers): Promise<RedisNode> {
  if (servers.existing !== undefined) return existingServer(servers.existing);
  return await startNode(servers, async () => ({ arguments: durable }));
}

/** Starts a server that requires TLS and a password. Its certificate is created for it. */
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

async function installed(): Promise<RedisServers | undefined> {
  for (const binary of onPath("redis-server", "valkey-server")) {
    const { stdout } = await run(binary, ["--version"]);
    const major = Number(/v=(\d+)\./.exec(stdout)?.[1] ?? 0);
    if (major >= 7) return { binary };
  }
  return undefined;
}
