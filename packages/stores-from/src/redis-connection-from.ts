import { requireUrl, SourceParameters } from "@keyward/core";
import type { RedisSource } from "@keyward/store-redis";
import { correct, invalidSource, subject } from "./store-source.ts";

/** The Redis servers that a source of records names, and the settings of the store. */
export interface RedisConnection {
  readonly origin: RedisSource;
  readonly prefix?: string;
  readonly timeoutMs?: number;
}

const form = "rediss://user:password@host:6379/0";
const defaultPort = 6_379;
const defaultSentinelPort = 26_379;

/**
 * Reads a `redis:` or `rediss:` source: a URL, with parameters for the store, a Sentinel group or a Cluster.
 *
 * @throws KeywardError `VALUE_INVALID` for a URL that cannot be parsed, and for parameters that are unknown or
 * contradict each other. The error contains no part of the URL.
 */
export function redisConnectionFrom(
  source: string,
  env: Readonly<Record<string, string | undefined>>,
): RedisConnection {
  const url = requireUrl(subject, source, { protocols: ["redis:", "rediss:"], form });
  if (url.hostname === "") throw invalidSource("has no host", `Write the source as ${form}.`);
  const parameters = new SourceParameters(url.search.slice(1), { subject, hint: correct });
  const group = parameters.text("sentinel");
  const mode = parameters.text("mode");
  const nodes = parameters.text("nodes");
  const settings = { ...parameters.texts("prefix"), ...parameters.numbers("timeoutMs") };
  parameters.requireNothingLeft(url.protocol.slice(0, -1));
  if (mode !== undefined && mode !== "cluster") {
    throw invalidSource(
      'has a parameter "mode" other than "cluster"',
      "Write `mode=cluster`, or remove the parameter.",
    );
  }
  if (group !== undefined) {
    if (mode !== undefined)
      throw invalidSource("names both a Sentinel group and a Cluster", "Remove the parameter `sentinel` or `mode`.");
    return { origin: sentinelOrigin(url, group, nodes, env), ...settings };
  }
  if (mode === "cluster") return { origin: clusterOrigin(url, nodes), ...settings };
  if (nodes !== undefined) {
    const hint = "For a Cluster, add `mode=cluster`. For a Sentinel group, add `sentinel=` and the name of the group.";
    throw invalidSource('has the parameter "nodes" without a Cluster or a Sentinel group', hint);
  }
  // ioredis would read each parameter of the URL as an option of its own.
  url.search = "";
  return { origin: url.href, ...settings };
}

function sentinelOrigin(
  url: URL,
  group: string,
  nodes: string | undefined,
  env: Readonly<Record<string, string | undefined>>,
): RedisSource {
  const [username, password] = [env["REDIS_SENTINEL_USERNAME"], env["REDIS_SENTINEL_PASSWORD"]];
  return {
    sentinels: nodesOf(url, nodes, defaultSentinelPort),
    name: group,
    db: databaseOf(url),
    ...credentialsOf(url),
    ...(username === undefined ? {} : { sentinelUsername: username }),
    ...(password === undefined ? {} : { sentinelPassword: password }),
    ...(isEncrypted(url) ? { tls: {}, sentinelTLS: {}, enableTLSForSentinelMode: true } : {}),
  };
}

function clusterOrigin(url: URL, nodes: string | undefined): RedisSource {
  if (databaseOf(url) !== 0) {
    throw invalidSource(
      "has the number of a database, but a Cluster has only database 0",
      "Remove the number from the path.",
    );
  }
  const redisOptions = { ...credentialsOf(url), ...(isEncrypted(url) ? { tls: {} } : {}) };
  return { nodes: nodesOf(url, nodes, defaultPort), options: { redisOptions } };
}

function nodesOf(url: URL, nodes: string | undefined, port: number): { host: string; port: number }[] {
  const first = { host: hostOf(url), port: url.port === "" ? port : Number(url.port) };
  const others = nodes === undefined ? [] : nodes.split(",").map((node) => nodeOf(node.trim(), port));
  return [first, ...others];
}

function nodeOf(text: string, port: number): { host: string; port: number } {
  const url = URL.canParse(`redis://${text}`) ? new URL(`redis://${text}`) : undefined;
  if (
    url === undefined ||
    url.hostname === "" ||
    url.username !== "" ||
    !["", "/"].includes(url.pathname + url.search)
  ) {
    const hint = "Write the nodes as host:port, separated by commas: `nodes=redis-2:6379,redis-3:6379`.";
    throw invalidSource('has a parameter "nodes" that is not a list of hosts', hint);
  }
  return { host: hostOf(url), port: url.port === "" ? port : Number(url.port) };
}

/** Returns the host of a URL as `node:net` expects it: an IPv6 address without its brackets. */
function hostOf({ hostname }: URL): string {
  return hostname.replace(/^\[(.*)\]$/, "$1");
}

function databaseOf({ pathname }: URL): number {
  const database = /^\/?(\d*)$/.exec(pathname)?.[1];
  if (database === undefined) {
    throw invalidSource("has a path that is not the number of a database", `Write the source as ${form}.`);
  }
  return Number(database);
}

function credentialsOf({ username, password }: URL): { username?: string; password?: string } {
  return {
    ...(username === "" ? {} : { username: decodeURIComponent(username) }),
    ...(password === "" ? {} : { password: decodeURIComponent(password) }),
  };
}

function isEncrypted({ protocol }: URL): boolean {
  return protocol === "rediss:";
}
