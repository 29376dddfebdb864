import { writeFile } from "node:fs/promises";
import type { IncomingMessage } from "node:http";
import { join } from "node:path";
import { expect, it } from "vitest";
import { startBrokenService } from "./broken-service.ts";

/** Starts a service with a server `github`, behind a proxy that calls `end` before the request for `SECOND_KEY`. */
async function start(end: (request: IncomingMessage) => Promise<void>) {
  const { folder, begin } = await startBrokenService("SECOND_KEY", end);
  await begin("servers", "add", "github", "https://mcp.example.com/mcp").ended;
  const names = ["FIRST_KEY", "SECOND_KEY", "THIRD_KEY"];
  await writeFile(join(folder, ".env"), names.map((name) => `${name}=the-value-of-${name}\n`).join(""));
  return { begin };
}

it("keyward secrets import prints which secrets were set when the service stops answering", async () => {
  const { begin } = await start(async (request) => {
    request.socket.destroy();
    await new Promise(() => {});
  });
  const ended = await begin("secrets", "import", "github", ".env").ended;
  expect(ended).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("(SERVICE_UNREACHABLE)") });
  expect(ended.stdout).toMatch(
    /^FIRST_KEY +set\nSECOND_KEY +MAY BE SET: .*\nTHIRD_KEY +NOT SET: the command ended before\n/,
  );
  const json = await begin("secrets", "import", "github", ".env", "--json").ended;
  expect(json).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("(SERVICE_UNREACHABLE)") });
  expect(JSON.parse(json.stdout).secrets).toMatchObject([
    { name: "FIRST_KEY", created: false, error: null },
    { name: "SECOND_KEY", error: { code: "SERVICE_UNREACHABLE" } },
    { name: "THIRD_KEY", error: { code: "SERVICE_UNREACHABLE" } },
  ]);
});

it("keyward secrets import prints which secrets were set when the operator stops the command", async () => {
  let stop = async () => {};
  const { begin } = await start(() => stop());
  const stopped = async (...flags: readonly string[]) => {
    const { child, printed, ended } = begin("secrets", "import", "github", ".env", ...flags);
    stop = async () => {
      child.kill("SIGINT");
      await expect.poll(() => printed.stderr, { timeout: 10_000 }).toContain("stopping");
    };
    return await ended;
  };
  const ended = await stopped();
  expect(ended).toMatchObject({ exitCode: 130, stderr: expect.stringContaining("keyward: stopped") });
  expect(ended.stdout).toMatch(/^FIRST_KEY +set\nSECOND_KEY +set\nTHIRD_KEY +NOT SET: the command ended before\n/);
  const json = await stopped("--json");
  expect(json.exitCode).toBe(130);
  expect(JSON.parse(json.stdout).secrets).toMatchObject([
    { name: "FIRST_KEY", error: null },
    { name: "SECOND_KEY", error: null },
    { name: "THIRD_KEY", error: { code: "INTERRUPTED" } },
  ]);
});
