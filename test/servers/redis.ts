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
  return await firstFound<RedisServers>({
    "there is no redis-server 7 or valkey-server on the PATH": installed,
    "apt-get cannot install one": async () => {
      await installWithApt("redis-server");
      // The package starts a service, which nobody asked for.
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

async function installed(): Promise<RedisServers | undefined> {
  for (const binary of onPath("redis-server", "valkey-server")) {
    const { stdout } = await run(binary, ["--version"]);
    const major = Number(/v=(\d+)\./.exec(stdout)?.[1] ?? 0);
    if (major >= 7) return { binary };
  }
  return undefined;
}
