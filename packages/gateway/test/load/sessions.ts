// Keeps sessions at `/mcp` of a real gateway for a time, in front of healthy and unreliable servers. Not part of the test suite.
//
//   node packages/gateway/test/load/sessions.ts 200 600
//
// The parameters are the number of clients at once and the seconds. The clients are the official ones, in turn. Each calls tools
// of healthy servers, now and then one of an unreliable server, lists the tools, and connects again about once a minute. Prints
// once a minute the memory of the gateway after a full garbage collection, and the sessions at the servers. Exits with 1 if
// a call to a healthy server failed, a list lacked a tool of a healthy server, or a session at a server was left at the end.
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { loadavg } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { z } from "zod";
import { connectMcpClient, type McpClientKind, mcpClientKinds } from "../peers/mcp-clients.ts";

const [wanted = "200", seconds = "600"] = process.argv.slice(2);
const healthyServers = 12;
const clientsOfToken = 20;
const toolsOfServer = ["echo", "slow", "progress", "sampling"];
const printedEveryMs = 60_000;
const longestPauseMs = 4_000;
const longestLifeMs = 90_000;

const serverUrls = z.object({
  healthy: z.record(z.string(), z.string()),
  unreliable: z.record(z.string(), z.string()),
});
const started = z.object({ url: z.string(), tokens: z.array(z.string()) });
const memory = z.object({ heapUsed: z.number(), rss: z.number(), openCalls: z.number() });
const open = z.object({ sessions: z.number() });

const figures = { connections: 0, calls: 0, lists: 0, failedCalls: 0, incompleteLists: 0, unreliable: 0, refused: 0 };
const failures = new Map<string, number>();

const servers = forked("unreliable-servers.ts", [String(healthyServers)], []);
const urls = serverUrls.parse(await message(servers));
const members = Math.ceil(Number(wanted) / clientsOfToken);
const pairs = Object.entries({ ...urls.healthy, ...urls.unreliable }).map(([slug, url]) => `${slug}=${url}`);
const gateway = forked("gateway.ts", [String(members), ...pairs], ["--expose-gc"]);
const { url, tokens } = started.parse(await message(gateway));
const healthyTools = Object.keys(urls.healthy).flatMap((slug) => toolsOfServer.map((tool) => `${slug}__${tool}`));
const unreliableTools = ["hanging__x", "flapping__flapping", "changing__same", "garbage__x", "dead__x"];

console.log(`${wanted} clients for ${seconds} s, load average ${loadavg()[0]?.toFixed(1)}`);
const endMs = performance.now() + Number(seconds) * 1_000;
const clients = Array.from({ length: Number(wanted) }, (_, index) => keepConnected(index));
while (performance.now() < endMs) {
  await sleep(Math.min(printedEveryMs, Math.max(0, endMs - performance.now())));
  await print();
}
await Promise.all(clients);
await print();
gateway.disconnect();
await once(gateway, "exit");
const { sessions } = await askedForSessions();
servers.disconnect();
await once(servers, "exit");
console.log(
  `${sessions} sessions at the servers after the gateway has ended, load average ${loadavg()[0]?.toFixed(1)}`,
);
for (const [why, times] of failures) console.log(`${times} times: ${why}`);
process.exitCode = figures.failedCalls + figures.incompleteLists + sessions === 0 ? 0 : 1;

/** Connects a client again and again, and lets it work. */
async function keepConnected(index: number): Promise<void> {
  await sleep(Math.random() * longestPauseMs);
  while (performance.now() < endMs) await connectedOnce(mcpClientKinds[index % mcpClientKinds.length] ?? "v1", index);
}

async function connectedOnce(kind: McpClientKind, index: number): Promise<void> {
  const authorization = `Bearer ${tokens[Math.floor(index / clientsOfToken)]}`;
  const untilMs = Math.min(endMs, performance.now() + longestLifeMs * (0.3 + 0.7 * Math.random()));
  const client = await connectMcpClient(kind, `${url}/mcp`, { authorization });
  figures.connections++;
  while (performance.now() < untilMs) {
    await sleep(Math.random() * longestPauseMs);
    const chance = Math.random();
    if (chance < 0.05) await list(client, kind);
    else if (chance < 0.1) await callUnreliable(client);
    else await call(client, kind);
  }
  await client.close().catch((error: unknown) => note(`close of ${kind}`, error));
}

type Client = Awaited<ReturnType<typeof connectMcpClient>>;

async function call(client: Client, kind: McpClientKind): Promise<void> {
  const text = `text ${figures.calls++}`;
  try {
    const texts = await client.callTool(`healthy-${Math.floor(Math.random() * healthyServers)}__echo`, { text });
    if (texts[0] !== text) throw new Error("The answer is that of another call");
  } catch (error) {
    figures.failedCalls++;
    note(`call of ${kind}`, error);
  }
}

async function callUnreliable(client: Client): Promise<void> {
  figures.unreliable++;
  const tool = unreliableTools[Math.floor(Math.random() * unreliableTools.length)] ?? "";
  // Each of these may fail.
  await client.callTool(tool).catch(() => figures.refused++);
}

async function list(client: Client, kind: McpClientKind): Promise<void> {
  figures.lists++;
  try {
    const names = new Set(await client.listTools());
    const missing = healthyTools.filter((name) => !names.has(name));
    if (missing.length > 0)
      throw new Error(`${missing.length} tools of healthy servers are missing, such as ${missing[0]}`);
  } catch (error) {
    figures.incompleteLists++;
    note(`list of ${kind}`, error);
  }
}

function note(action: string, error: unknown): void {
  const why = `${action}: ${error instanceof Error ? error.message : "unknown"}`;
  failures.set(why, (failures.get(why) ?? 0) + 1);
}

async function print(): Promise<void> {
  gateway.send("memory");
  const { heapUsed, rss, openCalls } = memory.parse(await message(gateway));
  const [heap, resident] = [heapUsed, rss].map((bytes) => (bytes / 2 ** 20).toFixed(1));
  const { sessions: atServers } = await askedForSessions();
  const left = Math.max(0, (endMs - performance.now()) / 1_000).toFixed(0);
  console.log(
    `${left} s left  heap ${heap} MiB  RSS ${resident} MiB  ${openCalls} open calls  ${atServers} sessions at servers  ${JSON.stringify(figures)}`,
  );
}

async function askedForSessions(): Promise<z.infer<typeof open>> {
  servers.send("sessions");
  return open.parse(await message(servers));
}

function forked(file: string, parameters: readonly string[], execArgv: readonly string[]): ChildProcess {
  return fork(fileURLToPath(new URL(file, import.meta.url)), [...parameters], { execArgv: [...execArgv] });
}

async function message(child: ChildProcess): Promise<unknown> {
  const [first] = await once(child, "message");
  return first;
}
