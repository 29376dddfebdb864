import { once } from "node:events";
import { writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { join } from "node:path";
import { AdminClient } from "@keyward/admin/client";
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { toNodeHandler } from "@modelcontextprotocol/node";
import { createMcpHandler, McpServer } from "@modelcontextprotocol/server";
import { describe, expect, it, onTestFinished } from "vitest";
import { z } from "zod";
import { exportClients } from "../src/service/client-configuration/exported.ts";
import { startBrokenService } from "./broken-service.ts";
import { copyOfService, newFolder, startGateway } from "./gateway-process.ts";
import { keyward } from "./keyward-process.ts";

const variable = { ECHO_TOKEN: "the-token-of-the-environment" };
const inFile = "the-key-that-is-in-the-file";

/** Starts an MCP server with the tool `echo`. Returns its URL, and the headers of the requests that it got. */
async function startUpstream() {
  const requests: { readonly authorization?: string | undefined; readonly key?: unknown }[] = [];
  const handler = createMcpHandler(() => {
    const server = new McpServer({ name: "upstream", version: "1.0.0" });
    server.registerTool("echo", { inputSchema: z.object({ text: z.string() }) }, ({ text }) => ({
      content: [{ type: "text", text }],
    }));
    return server;
  });
  const handle = toNodeHandler(handler);
  const server = createServer((request, response) => {
    requests.push({ authorization: request.headers.authorization, key: request.headers["x-api-key"] });
    const complete = Object.assign(request, { method: request.method ?? "GET", url: request.url ?? "/" });
    handle(complete, response).catch(() => response.destroy());
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(async () => {
    await handler.close();
    const closed = once(server, "close");
    server.close();
    server.closeAllConnections();
    await closed;
  });
  const address = server.address();
  const host = `127.0.0.1:${typeof address === "object" && address !== null ? address.port : 0}`;
  return { url: `http://${host}/mcp`, host, requests };
}

/** Starts a service, and returns a function that runs a command as its admin. No command may print one of the values. */
async function startService(values: readonly string[], ...flags: readonly string[]) {
  const folder = await newFolder();
  const { admin } = await copyOfService(folder);
  const gateway = await startGateway(folder, {}, ...flags);
  const login = { KEYWARD_URL: gateway.url, KEYWARD_TOKEN: admin };
  const run = async (env: Readonly<Record<string, string>>, ...commandLine: readonly string[]) => {
    const ended = await keyward(folder, { ...login, ...env }, ...commandLine);
    expect(values.filter((value) => `${ended.stdout}${ended.stderr}`.includes(value))).toEqual([]);
    return ended;
  };
  const client = new AdminClient({ url: gateway.url, token: admin });
  const write = async (name: string, file: unknown) => await writeFile(join(folder, name), JSON.stringify(file));
  return { gateway, client, run, write };
}

const headersSchema = z.object({ Authorization: z.string() });
const entrySchema = z.object({ url: z.string(), headers: headersSchema });
const configurationSchema = z.union([
  z.object({ mcpServers: z.record(z.string(), entrySchema) }).transform(({ mcpServers }) => mcpServers),
  z.object({ servers: z.record(z.string(), entrySchema) }).transform(({ servers }) => servers),
  z
    .object({ mcpServers: z.record(z.string(), z.object({ serverUrl: z.string(), headers: headersSchema })) })
    .transform(({ mcpServers }) =>
      Object.fromEntries(
        Object.entries(mcpServers).map(([name, { serverUrl, headers }]) => [name, { url: serverUrl, headers }]),
      ),
    ),
]);

/** Connects an MCP client as a configuration says, with a token in the place of the placeholder, and calls `echo`. */
async function callAsConfigured(printed: string, token: string, name: string, tool: string): Promise<unknown> {
  const entry = configurationSchema.parse(JSON.parse(printed))[name];
  if (entry === undefined) throw new Error(`The configuration has no entry ${name}`);
  const Authorization = entry.headers.Authorization.replace(/\$\{[^}]+\}/, token);
  const client = new Client({ name: "test", version: "1.0.0" });
  await client.connect(
    new StreamableHTTPClientTransport(new URL(entry.url), { requestInit: { headers: { Authorization } } }),
  );
  try {
    return (await client.callTool({ name: tool, arguments: { text: "heard" } })).content;
  } finally {
    await client.close();
  }
}

describe("keyward import and keyward export", { timeout: 120_000 }, () => {
  it("move a client behind the gateway, which sends the credentials of the file to the server", async () => {
    const upstream = await startUpstream();
    const { run, write, client } = await startService(
      [...Object.values(variable), inFile],
      "--allow-address",
      upstream.host,
    );
    const headers = { Authorization: `Bearer \${ECHO_TOKEN}`, "X-Api-Key": inFile, Accept: "application/json" };
    await write(".mcp.json", { mcpServers: { "Echo Server": { type: "http", url: upstream.url, headers } } });

    expect(await run(variable, "import", ".mcp.json", "--dry-run")).toMatchObject({ exitCode: 0 });
    expect((await client.listServers()).items).toEqual([]);

    const first = await run(variable, "import", ".mcp.json");
    expect(first).toMatchObject({ exitCode: 0, stderr: expect.stringContaining(`--allow-address ${upstream.host}`) });
    expect(first.stdout).toMatch(/Echo Server +added as echo-server\n +Authorization +set: .*, from ECHO_TOKEN\n/);
    expect(first.stdout).toMatch(/ +Accept +skipped: /);
    const secrets = await client.listSecrets("echo-server");
    expect(secrets.secrets).toMatchObject([
      { name: "Authorization", injection: { kind: "bearer" } },
      { name: "X-Api-Key", injection: { kind: "header", header: "X-Api-Key" } },
    ]);

    // A second run changes nothing, also without the variable.
    const second = await run({}, "import", ".mcp.json");
    expect(second).toMatchObject({ exitCode: 0, stdout: expect.stringContaining("exists as echo-server") });
    expect(await client.listSecrets("echo-server")).toEqual(secrets);

    const { token } = await client.createToken({ owner: "ada", role: "member" });
    const called = [{ type: "text", text: "heard" }];
    for (const name of exportClients) {
      const all = await run({}, "export", "--client", name);
      expect(all).toMatchObject({ exitCode: 0, stdout: expect.not.stringContaining("kwt_") });
      expect(await callAsConfigured(all.stdout, token, "team", "echo-server__echo")).toEqual(called);
      const each = await run({}, "export", "--client", name, "--each-server");
      expect(await callAsConfigured(each.stdout, token, "echo-server", "echo")).toEqual(called);
    }
    expect(upstream.requests.length).toBeGreaterThan(8);
    for (const request of upstream.requests) {
      expect(request).toEqual({ authorization: `Bearer ${variable.ECHO_TOKEN}`, key: inFile });
    }

    // The configuration that points at the gateway has nothing to import.
    const { stdout } = await run({}, "export", "--each-server");
    await write("next.json", JSON.parse(stdout));
    const again = await run({}, "import", "next.json");
    expect(again).toMatchObject({ exitCode: 0, stdout: expect.stringContaining("points at the gateway already") });
    expect((await client.listServers()).items.map(({ slug }) => slug)).toEqual(["echo-server"]);
  });

  it("let a member print the entry for all servers, but not an entry for each server", async () => {
    const { run, client, gateway } = await startService([]);
    const { token } = await client.createToken({ owner: "ada", role: "member" });
    const all = await run({ KEYWARD_TOKEN: token }, "export", "--json");
    const { configuration }: { configuration: string } = JSON.parse(all.stdout);
    expect(JSON.parse(configuration)).toMatchObject({
      mcpServers: { team: { type: "http", url: `${gateway.callUrl}/mcp` } },
    });
    const each = await run({ KEYWARD_TOKEN: token }, "export", "--each-server");
    expect(each).toMatchObject({ exitCode: 1, stdout: "" });
  });
});

describe("keyward import", { timeout: 120_000 }, () => {
  const url = "https://mcp.example.com/mcp";

  it("imports the other servers if it cannot import one, prints why, and exits with code 1", async () => {
    const secret = "secret-0123456789";
    const { run, write, client } = await startService([secret]);
    await client.createServer({ slug: "taken", url: "https://other.example.com/mcp" });
    const headers = { Authorization: `Bearer ${secret}` };
    await write("mcp.json", {
      inputs: [{ id: "key", default: secret }],
      servers: {
        taken: { url, headers },
        local: { command: "npx", args: [secret], env: { KEY: secret } },
        old: { type: "sse", url, headers },
        query: { url: `${url}?key=${secret}` },
        password: { url: `https://ada:${secret}@mcp.example.com/mcp` },
        swapped: { url, headers: { [secret]: "Authorization" } },
        whole: { url: `${url}/${secret}`, headers },
        short: { url, headers: { ...headers, "X-Read-Only": "true", Cookie: `a=${secret}` } },
        later: { url, headers: { Authorization: `Bearer \${input:key}`, "X-Other": `\${OTHER_KEY}` } },
      },
    });
    for (const env of [{}, { OTHER_KEY: secret }]) {
      const text = await run(env, "import", "mcp.json");
      expect(text.exitCode).toBe(1);
      expect(text.stdout).toMatch(/taken +NOT IMPORTED: The workspace has another server with the slug taken\. /);
      expect(text.stdout).toMatch(/later +(?:added|exists) as later\n +Authorization +NOT SET: The client asks/);
      expect(text.stdout).toContain("`keyward secrets set later Authorization --bearer`");
      expect(text.stdout).toContain("1 of 9 servers are in the workspace with all of their secrets.");
    }
    const { exitCode, stdout } = await run({}, "import", "mcp.json", "--json");
    expect(exitCode).toBe(1);
    const { servers }: { servers: { name: string; outcome: string; headers: { outcome: string }[] }[] } =
      JSON.parse(stdout);
    expect(servers.map(({ name, outcome, headers: of }) => [name, outcome, ...of.map((one) => one.outcome)])).toEqual([
      ["taken", "not-imported"],
      ["local", "not-imported"],
      ["old", "not-imported"],
      ["query", "not-imported"],
      ["password", "not-imported"],
      ["swapped", "present", "not-set"],
      ["whole", "present", "kept"],
      ["short", "present", "kept", "not-set", "not-set"],
      ["later", "present", "not-set", "kept"],
    ]);
    expect(await client.getServer("taken")).toMatchObject({ url: "https://other.example.com/mcp", secretCount: 0 });
    expect((await client.listSecrets("later")).secrets).toMatchObject([{ name: "X-Other" }]);
    // The hint for a header without a credential leads to an import without problems.
    await client.updateServer("short", { forwardHeaders: ["x-read-only"] });
    const after = await run({}, "import", "mcp.json");
    expect(after.stdout).toMatch(/X-Read-Only +skipped: The server gets the header of the caller/);
  });

  it("does not change the value of an existing secret unless --replace is passed", async () => {
    const { run, write, client } = await startService([inFile]);
    await client.createServer({ slug: "github", url });
    await client.setSecret("github", { name: "MINE", value: "a-value-set-before", injection: { kind: "bearer" } });
    const before = await client.listSecrets("github");
    await write("mcp.json", { mcpServers: { github: { url, headers: { authorization: `Bearer ${inFile}` } } } });
    const kept = await run({}, "import", "mcp.json");
    expect(kept).toMatchObject({ exitCode: 0, stdout: expect.stringMatching(/authorization +left as it is/) });
    expect(await client.listSecrets("github")).toEqual(before);
    const replaced = await run({}, "import", "mcp.json", "--replace");
    expect(replaced).toMatchObject({ exitCode: 0, stdout: expect.stringMatching(/authorization +has a new value/) });
    const [secret, ...others] = (await client.listSecrets("github")).secrets;
    expect(others).toEqual([]);
    expect(secret?.revision).toBeGreaterThan(before.secrets[0]?.revision ?? 0);
    expect(secret?.name).toBe("MINE");
  });

  it("reports that calls cannot use the value of an existing secret", async () => {
    const { run, write, client } = await startService([inFile]);
    await client.createServer({ slug: "github", url: "https://former.example.com" });
    await client.setSecret("github", { name: "MINE", value: "a-value-set-before", injection: { kind: "bearer" } });
    await client.updateServer("github", { url });
    await write("mcp.json", { mcpServers: { github: { url, headers: { Authorization: `Bearer ${inFile}` } } } });
    const left = await run({}, "import", "mcp.json");
    expect(left).toMatchObject({ exitCode: 1, stdout: expect.stringMatching(/NOT SET: .*was set for another origin/) });
    expect(await run({}, "import", "mcp.json", "--replace")).toMatchObject({ exitCode: 0 });
    expect(await run({}, "import", "mcp.json")).toMatchObject({ exitCode: 0 });
  });

  it("prints which servers were imported when the service stops answering", async () => {
    const { folder, begin } = await startBrokenService("/second/secrets", async (request) => {
      request.socket.destroy();
      await new Promise(() => {});
    });
    const headers = { Authorization: "Bearer a-value-that-is-not-printed", "X-Key": "another-value-not-printed" };
    const mcpServers = { first: { url, headers }, second: { url, headers }, third: { url, headers } };
    await writeFile(join(folder, "mcp.json"), JSON.stringify({ mcpServers }));
    // A run that changes nothing reads the secrets of a server that exists only.
    const dry = await begin("import", "mcp.json", "--dry-run").ended;
    expect(dry).toMatchObject({ exitCode: 0, stdout: expect.stringContaining("Nothing was changed.") });
    const ended = await begin("import", "mcp.json").ended;
    expect(ended).toMatchObject({ exitCode: 1, stderr: expect.stringContaining("(SERVICE_UNREACHABLE)") });
    expect(ended.stdout).toMatch(
      /^first +added as first\n.*\n.*\nsecond +added as second\n +Authorization +MAY BE SET: .*\n +X-Key +NOT SET: .*\nthird +NOT IMPORTED: /,
    );
    expect(ended.stdout + ended.stderr).not.toContain("not-printed");
    // The second server exists now.
    const again = await begin("import", "mcp.json", "--dry-run").ended;
    expect(again).toMatchObject({ exitCode: 1, stdout: expect.stringMatching(/second +NOT IMPORTED: /) });
    expect(again.stdout).not.toContain("MAY BE");
  });

  it("prints which servers were imported when the operator stops the command", async () => {
    let stop = async () => {};
    const { folder, begin } = await startBrokenService("second", () => stop());
    const mcpServers = { first: { url }, second: { url }, third: { url } };
    await writeFile(join(folder, "mcp.json"), JSON.stringify({ mcpServers }));
    const { child, printed, ended } = begin("import", "mcp.json");
    stop = async () => {
      child.kill("SIGINT");
      await expect.poll(() => printed.stderr, { timeout: 10_000 }).toContain("stopping");
    };
    const { exitCode, stdout } = await ended;
    expect(exitCode).toBe(130);
    expect(stdout).toMatch(
      /^first +added as first\nsecond +added as second\nthird +NOT IMPORTED: The command was stopped\. /,
    );
  });
});
