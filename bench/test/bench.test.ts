import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, expect, it } from "vitest";
import type { CallFigures } from "../src/calls.ts";
import { httpNames } from "../src/http-tasks.ts";
import { findRedisServer } from "../src/redis-server.ts";

const main = fileURLToPath(new URL("../src/main.ts", import.meta.url));
const folder = mkdtempSync(join(tmpdir(), "keyward-bench-test-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const redis = findRedisServer() !== undefined;
const run = (...options: string[]) => promisify(execFile)(process.execPath, [main, "--quick", ...options]);

it("the bench compares all variants of every task, and writes the figures", async () => {
  const file = join(folder, "figures.json");
  const { stdout } = await run("--json", file);
  const { tasks, bulk, lazy, scopes, starts, calls, callsOfMany, workspaceCalls, bytesAtRest } = JSON.parse(
    readFileSync(file, "utf8"),
  );
  expect(new Set(tasks.map((task: { name: string }) => task.name))).toEqual(
    new Set([
      ...["text", "bytes", "multilingual text"].flatMap((what) => [`encrypt ${what}`, `decrypt ${what}`]),
      "decrypt text of 400 writers",
      ...(redis ? ["16 sets at once, Redis", "16 gets at once, Redis"] : []),
      ...["memory", "SQLite", ...(redis ? ["Redis"] : [])].flatMap((store) =>
        ["set", "get", "setMany of 100", "getMany of 100", "swap"].map((operation) => `${operation}, ${store}`),
      ),
      ...httpNames,
      ...["memory", "SQLite", ...(redis ? ["Redis"] : [])].map((store) => `reads of a call, ${store}`),
      ...["SQLite", ...(redis ? ["Redis"] : [])].flatMap((store) =>
        ["secret set", "page of 50 servers", "page of 50 tokens", "token created"].map((what) => `${what}, ${store}`),
      ),
    ]),
  );
  for (const { name, variants } of tasks) {
    expect(stdout).toContain(`\n${name}\n`);
    expect(variants[0].ratio).toBe(1);
    for (const { medianNs, ratio, ratioQuartiles } of variants) {
      expect(medianNs).toBeGreaterThan(0);
      expect(ratioQuartiles[0]).toBeGreaterThan(0);
      expect(ratio).toBeGreaterThanOrEqual(ratioQuartiles[0]);
      expect(ratio).toBeLessThanOrEqual(ratioQuartiles[1]);
    }
  }
  if (redis) {
    const [{ records, copiedPerSecond, reencryptedPerSecond, peakRssBytes, peakHeapBytes }] = bulk;
    expect(records).toBe(500);
    for (const figure of [copiedPerSecond, reencryptedPerSecond, peakHeapBytes]) expect(figure).toBeGreaterThan(0);
    expect(peakRssBytes).toBeGreaterThan(peakHeapBytes);
    expect(lazy).toHaveLength(1);
    for (const { offNs, onNs } of lazy) {
      for (const { p50, p99 } of [offNs, onNs]) expect(p99).toBeGreaterThanOrEqual(p50);
    }
  } else {
    expect(stdout).toContain("The tasks over Redis are skipped");
    expect([...bulk, ...lazy]).toEqual([]);
  }
  expect(starts.map(({ commandLine }: { commandLine: string }) => commandLine)).toEqual([
    "node -e 0",
    "keyward --help",
    "keyward keygen",
  ]);
  for (const { medianMs } of starts) expect(medianMs).toBeGreaterThan(0);
  expect(scopes).toMatchObject([
    { scopes: 100, records: 500 },
    { scopes: 100, records: 200 },
  ]);
  for (const { ratio } of scopes) for (const part of [ratio.elapsed, ratio.cpu]) expect(part).toBeGreaterThan(0);
  const gateways = (redis ? ["SQLite", "Redis"] : ["SQLite"]).flatMap((store) => [
    `gateway, ${store}`,
    `gateway, ${store}, no redaction`,
  ]);
  expect(calls.map(({ answer, contender }: CallFigures) => [answer, contender])).toEqual(
    ["1 KiB", "20 events", "64 KiB", "64 KiB, JSON in JSON", "1 MiB"].flatMap((answer) =>
      ["direct", "bare proxy", ...gateways].map((contender) => [answer, contender]),
    ),
  );
  for (const { contender, cpuUs, toProxy, toDirect, toPlain } of calls) {
    if (contender === "direct") expect(toDirect.perSecond).toBe(1);
    else for (const figure of [cpuUs, toProxy.cpu, toDirect.p50]) expect(figure).toBeGreaterThan(0);
    if (gateways.includes(contender) && !contender.endsWith("no redaction")) expect(toPlain.cpu).toBeGreaterThan(0);
    else expect(toPlain).toBeUndefined();
  }
  expect(callsOfMany).toMatchObject([
    { servers: 10, called: "ten", ratio: { cpu: 1 } },
    { servers: 100, called: "ten" },
    { servers: 100, called: "100 in turn" },
  ]);
  expect(workspaceCalls).toMatchObject([
    { request: "tools/call, 2026-07-28", endpoint: "/s/<server>/mcp", ratio: { cpu: 1, p50: 1 } },
    { request: "tools/call, 2026-07-28", endpoint: "/mcp" },
    { request: "tools/call, 2025-11-25", endpoint: "/s/<server>/mcp", ratio: { cpu: 1, p50: 1 } },
    { request: "tools/call, 2025-11-25", endpoint: "/mcp" },
    { request: "tools/list of 100 servers", endpoint: "/mcp" },
  ]);
  for (const { cpuUs } of workspaceCalls) expect(cpuUs).toBeGreaterThan(0);
  expect(bytesAtRest.map(({ plain }: { plain: number }) => plain)).toEqual([64, 256, 1024, 16_384, 1_048_576]);
}, 400_000);

it("the bench measures only the tasks that --only selects", async () => {
  const { stdout } = await run("--only", "encrypt bytes");
  expect(stdout).toContain("\nencrypt bytes\n");
  expect(stdout).not.toContain("decrypt");
});

it("the bench skips the tasks over Redis and prints a notice if no Redis is installed", async () => {
  const { stdout } = await promisify(execFile)(process.execPath, [main, "--quick", "--only", "encrypt bytes"], {
    env: { ...process.env, PATH: folder },
  });
  expect(stdout).toContain("The tasks over Redis are skipped");
  expect(stdout).toContain("\nencrypt bytes\n");
});

it("the bench rejects a pattern of --only that matches no task", async () => {
  await expect(run("--only", "nothing like this")).rejects.toThrow("No task");
});
