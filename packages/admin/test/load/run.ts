// Measures the memory of a real admin server under a long load of mixed requests. Not part of the test suite.
//
//   node packages/admin/test/load/run.ts 300
//
// The argument is the time in seconds. The server is a process of its own. After each tenth of the time, the load pauses and
// the server prints what it uses after a full garbage collection. It does so again after a pause.
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { startAdminServer } from "@keyward/admin";
import { Keyring } from "@keyward/core";
import { openAuditLog, SecretsAdmin } from "@keyward/secrets";
import { SqliteStore } from "@keyward/store-sqlite";
import { z } from "zod";

const mebibyte = 2 ** 20;
const workers = 8;
const samples = 10;
const pauseMs = 70_000;
const started = z.object({ url: z.string(), token: z.string() });
const memory = z.object({ heapUsed: z.number(), external: z.number(), rss: z.number() });
const ids = z.object({ info: z.object({ id: z.string() }) });

const [argument = "300"] = process.argv.slice(2);
if (argument === "server") await serve();
else await load(Number(argument));

/** Runs the server until the load disconnects. Answers each message with the memory that is in use. */
async function serve(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), "keyward-load-"));
  const store = new SqliteStore(join(folder, "service.db"));
  const keys = Keyring.generate();
  const audit = openAuditLog({ path: join(folder, "audit.db"), keys });
  const admin = new SecretsAdmin({ store, keys, audit });
  const { token } = (await admin.initialize()).admin;
  const server = await startAdminServer({
    admin,
    port: 0,
    limits: { requestsPerSecond: 100_000, burstRequests: 100_000 },
  });
  process.on("message", () => {
    globalThis.gc?.();
    process.send?.(process.memoryUsage());
  });
  process.send?.({ url: server.url, token });
  await once(process, "disconnect");
  await server.close();
  await admin.close();
  await audit.close();
  await store.disconnect();
  rmSync(folder, { recursive: true, force: true });
}

async function load(seconds: number): Promise<void> {
  const child = fork(fileURLToPath(import.meta.url), ["server"], { execArgv: ["--expose-gc"] });
  const [message] = await once(child, "message");
  const { url, token } = started.parse(message);
  const statuses = new Map<number, number>();
  const send = async (method: string, path: string, body?: object, sentToken = token): Promise<string> => {
    const response = await fetch(`${url}/api/v1/admin${path}`, {
      method,
      headers: { authorization: `Bearer ${sentToken}`, "content-type": "application/json" },
      body: body === undefined ? null : JSON.stringify(body),
    });
    statuses.set(response.status, (statuses.get(response.status) ?? 0) + 1);
    return await response.text();
  };
  await show(child, 0, statuses);
  for (let sample = 1; sample <= samples; sample++) {
    const until = performance.now() + (seconds * 1_000) / samples;
    await Promise.all(
      Array.from({ length: workers }, async (_, worker) => {
        for (let count = 0; performance.now() < until; count++) await round(send, `s-${sample}-${worker}-${count}`);
      }),
    );
    await show(child, (seconds * sample) / samples, statuses);
  }
  // The reader of the secrets keeps decrypted values for a minute.
  await sleep(pauseMs);
  await show(child, seconds + pauseMs / 1_000, statuses);
  child.disconnect();
  await once(child, "exit");
}

/** Sends about 20 requests: changes, reads and refused requests. Deletes everything again, except audit entries. */
async function round(
  send: (method: string, path: string, body?: object, token?: string) => Promise<string>,
  slug: string,
): Promise<void> {
  const secrets = `/mcp-servers/${slug}/secrets`;
  await send("POST", "/mcp-servers", { slug, url: "https://mcp.example.com/mcp" });
  await send("POST", secrets, { name: "A", value: `a-value-of-${slug}`, injection: { kind: "bearer" } });
  await send("POST", secrets, { name: "A", value: `another-value-of-${slug}` });
  await send("PATCH", `/mcp-servers/${slug}`, { disabled: true });
  for (const path of [
    "/whoami",
    "/mcp-servers",
    secrets,
    "/tokens",
    "/changes?limit=20",
    `/changes?server=${slug}`,
    "/calls",
  ]) {
    await send("GET", path);
  }
  const { id } = ids.parse(JSON.parse(await send("POST", "/tokens", { owner: slug, role: "member" }))).info;
  await send("DELETE", `/tokens/${id}`);
  await send("GET", "/whoami", undefined, `garbage-${slug}`);
  await send("GET", `/mcp-servers/not-${slug}`);
  await send("POST", secrets, { name: "B", value: "" });
  await send("POST", secrets, { name: "B", value: "b".repeat(70_000) });
  await send("GET", "/keys/census");
  await send("DELETE", `${secrets}/A`);
  await send("DELETE", `/mcp-servers/${slug}`);
}

async function show(child: ChildProcess, atSeconds: number, statuses: ReadonlyMap<number, number>): Promise<void> {
  child.send("memory");
  const [message] = await once(child, "message");
  const used = memory.parse(message);
  const [heap, external, rss] = [used.heapUsed, used.external, used.rss].map((bytes) => (bytes / mebibyte).toFixed(1));
  const requests = [...statuses.values()].reduce((sum, count) => sum + count, 0);
  const failed = [...statuses].filter(([status]) => status >= 500).reduce((sum, [, count]) => sum + count, 0);
  console.log(
    `${String(atSeconds).padStart(5)} s  ${String(requests).padStart(7)} requests, ${failed} with a status from 500  heap ${heap} MiB  external ${external} MiB  RSS ${rss} MiB`,
  );
}
