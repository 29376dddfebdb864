import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { createServer, type IncomingMessage } from "node:http";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { expect, it, onTestFinished } from "vitest";
import { copyOfService, newFolder, startGateway } from "./gateway-process.ts";
import { startKeyward } from "./keyward-process.ts";

/** Starts a service with a server `github`, behind a proxy that calls `end` before the request for `SECOND_KEY`. */
async function start(end: (request: IncomingMessage) => Promise<void>) {
  const folder = await newFolder();
  const { admin } = await copyOfService(folder);
  const gateway = await startGateway(folder);
  const proxy = createServer(async (request, response) => {
    const body = await text(request);
    if (`${request.url} ${body}`.includes("SECOND_KEY")) await end(request);
    const { authorization = "", "content-type": type = "application/json" } = request.headers;
    const { method = "GET", url = "" } = request;
    const answer = await fetch(gateway.url + url, {
      method,
      headers: { authorization, "content-type": type },
      ...(body === "" ? {} : { body }),
    });
    response.writeHead(answer.status, { "content-type": answer.headers.get("content-type") ?? "" });
    response.end(await answer.text());
  }).listen(0, "127.0.0.1");
  onTestFinished(async () => {
    proxy.closeAllConnections();
    await new Promise((resolve) => proxy.close(resolve));
  });
  await once(proxy, "listening");
  const address = proxy.address();
  const env = {
    KEYWARD_URL: `http://127.0.0.1:${typeof address === "object" ? address?.port : ""}`,
    KEYWARD_TOKEN: admin,
  };
  const begin = (...commandLine: readonly string[]) => {
    const child = startKeyward(folder, env, ...commandLine);
    onTestFinished(() => void child.kill("SIGKILL"));
    const printed = { stdout: "", stderr: "" };
    child.stdout.on("data", (data) => {
      printed.stdout += String(data);
    });
    child.stderr.on("data", (data) => {
      printed.stderr += String(data);
    });
    const ended = once(child, "close").then(([exitCode]: readonly unknown[]) => ({ exitCode, ...printed }));
    return { child, printed, ended };
  };
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
