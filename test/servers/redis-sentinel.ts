import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { host, until } from "./guarded-process.ts";
import { durable, type RedisNode, type RedisServers, startNode } from "./redis-node.ts";

/** A primary, its replica and three sentinels. Two sentinels must agree before a replica replaces a primary. */
export interface RedisSentinelGroup {
  /** Name of the primary in the configuration of the sentinels. */
  readonly name: string;
  /** The nodes that were primary and replica at the start. */
  readonly nodes: readonly [RedisNode, RedisNode];
  /** The sentinels. */
  readonly sentinels: readonly RedisNode[];
  /** Returns the node that all running sentinels consider the primary, or `undefined` while they disagree. */
  primary(): Promise<RedisNode | undefined>;
  /** Resolves when the replica has all data of its primary. While clients write, it may never resolve. */
  replicated(): Promise<void>;
  /** Stops all processes and removes their data. */
  stop(): Promise<void>;
}

/** Time after which sentinels treat a node as dead, and maximum age of what they know about a Redis replica. */
interface Patience {
  readonly infoPeriodMs: number;
  readonly downAfterMs: number;
}

// With the usual timeouts of a sentinel, a test would take as long.
const impatient: Patience = { infoPeriodMs: 200, downAfterMs: 600 };
// A sentinel promotes only a replica whose state it has read within three periods. A busy machine may delay a reply by
// seconds.
const patient: Patience = { infoPeriodMs: 2_000, downAfterMs: 30_000 };

/**
 * Starts a group in which the replica replaces a dead primary within about two seconds.
 *
 * @param options.onDemand True if the replica replaces a primary only at the command `SENTINEL FAILOVER`. The command
 * then succeeds on a busy machine too.
 */
export async function startSentinelGroup(
  servers: RedisServers,
  { onDemand = false }: { readonly onDemand?: boolean } = {},
): Promise<RedisSentinelGroup> {
  const started: RedisNode[] = [];
  const stop = async () => {
    await Promise.all(started.map((node) => node.stop()));
  };
  const start = async (count: number, settle: Parameters<typeof startNode>[1]) => {
    const nodes = await Promise.allSettled(Array.from({ length: count }, () => startNode(servers, settle)));
    started.push(...nodes.flatMap((node) => (node.status === "fulfilled" ? [node.value] : [])));
    for (const node of nodes) if (node.status === "rejected") throw node.reason;
  };
  try {
    await start(2, async () => ({ arguments: [...durable, "--repl-diskless-sync-delay", "0"] }));
    await start(3, async (directory) => {
      // A sentinel stores its state in its configuration file.
      const configuration = join(directory, "sentinel.conf");
      await writeFile(configuration, "");
      return { arguments: [configuration, "--sentinel"] };
    });
    const [primary, replica, ...sentinels] = started;
    if (primary === undefined || replica === undefined) throw new Error("There are nodes missing");
    const group = new StartedGroup([primary, replica], sentinels, stop);
    await group.form(onDemand ? patient : impatient);
    return group;
  } catch (error) {
    await stop();
    throw error;
  }
}

class StartedGroup implements RedisSentinelGroup {
  readonly name = "keyward";
  readonly nodes: readonly [RedisNode, RedisNode];
  readonly sentinels: readonly RedisNode[];
  readonly stop: () => Promise<void>;

  constructor(nodes: readonly [RedisNode, RedisNode], sentinels: readonly RedisNode[], stop: () => Promise<void>) {
    this.nodes = nodes;
    this.sentinels = sentinels;
    this.stop = stop;
  }

  async form({ infoPeriodMs, downAfterMs }: Patience): Promise<void> {
    const [primary, replica] = this.nodes;
    await replica.command("REPLICAOF", host, primary.port);
    await this.replicated();
    for (const [index, sentinel] of this.sentinels.entries()) {
      const periods = ["INFO-PERIOD", infoPeriodMs, "PUBLISH-PERIOD", 100, "ASK-PERIOD", 100];
      await sentinel.command("SENTINEL", "DEBUG", ...periods);
      await sentinel.command("SENTINEL", "MONITOR", this.name, host, primary.port, 1);
      // The sentinels start one after the other. If several stand for election at once, none wins, and the next election is
      // seconds away.
      const settings = ["down-after-milliseconds", downAfterMs * (index + 1), "failover-timeout", 4_000];
      await sentinel.command("SENTINEL", "SET", this.name, ...settings);
    }
    await until("the sentinels know each other and the replica", async () => {
      for (const sentinel of this.sentinels) {
        const known = String(await sentinel.command("INFO", "sentinel"));
        if (!known.includes(`status=ok,address=${host}:${primary.port},slaves=1,sentinels=3`)) return false;
      }
      return true;
    });
  }

  async primary(): Promise<RedisNode | undefined> {
    const ports = new Set<number>();
    for (const sentinel of this.sentinels) {
      const address: unknown = await sentinel
        .command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", this.name)
        .catch(() => undefined);
      if (Array.isArray(address)) ports.add(Number(address[1]));
    }
    const [port] = ports;
    return ports.size === 1 ? this.nodes.find((node) => node.port === port) : undefined;
  }

  async replicated(): Promise<void> {
    await until("the replica has the data of the primary", async () => {
      const offsets = new Set<string | undefined>();
      const roles: string[] = [];
      for (const node of this.nodes) {
        const replication = String(await node.command("INFO", "replication"));
        roles.push(/^role:(\w+)/m.exec(replication)?.[1] ?? "");
        if (replication.includes("master_link_status:down")) return false;
        // For a replica, this is the offset that it has applied.
        offsets.add(/^master_repl_offset:(\d+)/m.exec(replication)?.[1]);
      }
      return roles.toSorted().join() === "master,slave" && offsets.size === 1;
    });
  }
}
