import { freePort, host, until } from "./guarded-process.ts";
import { durable, type RedisNode, type RedisServers, startNode } from "./redis-node.ts";

/** A Redis Cluster of three primaries and three replicas, which serve all slots. */
export interface RedisCluster {
  readonly nodes: readonly RedisNode[];
  /** The nodes to pass to `new Cluster(…)` of ioredis. */
  readonly startupNodes: readonly { readonly host: string; readonly port: number }[];
  /** The nodes that are primaries now, according to a running node. */
  primaries(): Promise<RedisNode[]>;
  /** The primary that serves a slot now. */
  primaryOf(slot: number): Promise<RedisNode>;
  /** Moves a slot with its keys while clients continue, as `redis-cli --cluster reshard` does. */
  moveSlot(slot: number, target: RedisNode, options?: MoveOptions): Promise<void>;
  /** Resolves when every running node reports that the cluster is healthy. */
  healthy(): Promise<void>;
  /** Resolves when the replicas of each primary have the data that the primary had at the time of the call. */
  replicated(): Promise<void>;
  /** Stops all nodes and removes their data. */
  stop(): Promise<void>;
}

/** Options of {@link RedisCluster.moveSlot}. */
export interface MoveOptions {
  /** Number of keys per step. Default: 10. */
  readonly batch?: number;
  /** Called between steps, while the slot is being moved. */
  readonly between?: () => Promise<void>;
}

/**
 * Starts six nodes: the first three are primaries, each with one replica.
 *
 * @param options `failover`: if true, a primary that dies is replaced within seconds, and so is a primary that a busy machine
 * delays. Default: false, no primary is replaced for a minute.
 */
export async function startCluster(
  servers: RedisServers,
  { failover = false }: { readonly failover?: boolean } = {},
): Promise<RedisCluster> {
  const settings = [
    ...["--cluster-enabled", "yes", "--cluster-node-timeout", "1500", "--cluster-replica-validity-factor", "0"],
    ...["--repl-diskless-sync-delay", "0", ...durable],
  ];
  const started = await Promise.allSettled(
    Array.from({ length: 6 }, async () =>
      startNode(servers, async () => ({
        arguments: [...settings, "--cluster-port", String(await freePort())],
      })),
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
    // The nodes form the cluster sooner with a short timeout.
    if (!failover) for (const node of nodes) await node.command("CONFIG", "SET", "cluster-node-timeout", 60_000);
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
      // The bus port of each node is passed too, because it is not the port plus 10,000, which is the default.
      const busPort = String(await node.command("CONFIG", "GET", "cluster-port")).split(",")[1] ?? "";
      await meeting?.command("CLUSTER", "MEET", host, node.port, busPort);
    }
    for (const [index, replica] of this.nodes.slice(3).entries()) {
      const primary = primaries[index];
      if (primary === undefined) throw new Error("There are more replicas than primaries");
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

  async replicated(): Promise<void> {
    for (const primary of await this.primaries()) {
      const read = async (pattern: RegExp) => {
        const replication = String(await primary.command("INFO", "replication"));
        return [...replication.matchAll(pattern)].map(([, offset]) => Number(offset));
      };
      const [written = 0] = await read(/^master_repl_offset:(\d+)/gm);
      await until(`the replica of ${primary.port} has the data that was written`, async () => {
        const received = await read(/^slave\d+:.*state=online,offset=(\d+)/gm);
        return received.length > 0 && received.every((offset) => offset >= written);
      });
    }
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
        // This node is down. The next one may answer.
      }
    }
    throw new Error("No node of the cluster answers");
  }
}
