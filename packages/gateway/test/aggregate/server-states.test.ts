import type { ServerResponse } from "node:http";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { answerJson, bodyOf, startInstallation, startMortalUpstream, startUpstream } from "../installation.ts";
import { connectMcpClient } from "../peers/mcp-clients.ts";
import { startPeer, startWorkspace } from "./workspace.ts";

type Listener = Parameters<typeof startUpstream>[0];

async function startStrange(answer: Listener) {
  const upstream = await startUpstream(answer);
  return { url: `${upstream.origin}/mcp`, port: upstream.port };
}

function idOf(text: string): number | undefined {
  const { id }: { id?: number } = JSON.parse(text || "{}");
  return id;
}

/** Answers as a server that has tools and prompts, whose prompts are garbage. */
async function answerPartly(text: string, response: ServerResponse): Promise<void> {
  const id = idOf(text);
  if (id === undefined) return void response.writeHead(202).end();
  const answer = (result: object) => answerJson(response, { jsonrpc: "2.0", id, result });
  if (text.includes('"initialize"')) {
    const serverInfo = { name: "x", version: "1" };
    return answer({ protocolVersion: "2025-11-25", capabilities: { tools: {}, prompts: {} }, serverInfo });
  }
  if (text.includes('"tools/list"')) return answer({ tools: [{ name: "echo", inputSchema: { type: "object" } }] });
  if (text.includes('"tools/call"')) return answer({ content: [{ type: "text", text: "hello" }] });
  response.writeHead(200, { "content-type": "text/html" }).end("<p>hello</p>");
}

const partly: Listener = async (request, response) => await answerPartly(await bodyOf(request), response);

const garbage = "The server does not answer as MCP demands";

describe.each<readonly [string, Listener, string, string]>([
  ["answers 401", (_, response) => void response.writeHead(401).end(), "refused", "answered with the status 401"],
  ["answers 500", (_, response) => void response.writeHead(500).end("broken"), "failed", garbage],
  ["answers with a page", (_, response) => void response.writeHead(200).end("<p>hello</p>"), "failed", garbage],
  ["answers garbage for one list", partly, "failed", `${garbage} (prompts/list)`],
  ["breaks the connection", (request) => void request.socket.destroy(), "failed", "broke off its answer"],
])("a server that %s", (_, answer, status, reason) => {
  it(`is ${status} when the endpoint has read its lists, since the first time`, async () => {
    const workspace = await startWorkspace({ good: await startPeer(["legacy"]), bad: await startStrange(answer) });
    const client = await workspace.connect("v1");
    await client.listTools();
    const lastError = { reason: expect.stringContaining(reason) };
    await expect.poll(() => workspace.stateOf("good")).toMatchObject({ status: "ready", lastError: undefined });
    await expect.poll(() => workspace.stateOf("bad")).toMatchObject({ status, lastError });
    const first = await workspace.stateOf("bad");
    // Another client with other capabilities, so that the endpoint reads the lists again.
    const other = await workspace.connect("v2 modern");
    await other.listTools();
    await expect.poll(async () => (await workspace.stateOf("bad")).lastSeen).toBeGreaterThan(first.lastSeen ?? 0);
    expect(await workspace.stateOf("bad")).toMatchObject({ status, since: first.since, lastError });
  });
});

it("a server that hangs gets the state `failed`", async () => {
  const bad = await startStrange(() => {});
  const installation = await startInstallation([bad], { limits: { silenceMs: 300 } });
  await installation.addServer({ slug: "bad", url: bad.url, kind: "mcp" });
  const client = await connectMcpClient("v1", `${installation.gateway.url}/mcp`, {
    authorization: `Bearer ${installation.token}`,
  });
  onTestFinished(() => client.close());
  await client.listTools();
  const lastError = { reason: "The server did not answer in time" };
  await expect.poll(() => installation.stateOf("bad")).toMatchObject({ status: "failed", lastError });
});

it("the state of a server stays unknown if the token may not call the server with POST", async () => {
  const workspace = await startWorkspace({ good: await startPeer(["legacy"]) });
  const { admin, caller, gateway } = workspace;
  const { token } = await admin.createToken(caller, { owner: "reader", role: "member", methods: ["GET"] });
  const client = await connectMcpClient("v1", `${gateway.url}/mcp`, { authorization: `Bearer ${token}` });
  onTestFinished(() => client.close());
  expect(await client.listTools()).toEqual([]);
  expect(await workspace.stateOf("good")).toMatchObject({ status: "unknown", lastError: undefined });
});

it("the state of a server does not change if the gateway has no memory to read the server's answer", async () => {
  const names = Array.from({ length: 200 }, (_, index) => ({ name: `tool-${index}`, inputSchema: { type: "object" } }));
  const large: Listener = async (request, response) => {
    const text = await bodyOf(request);
    const result = text.includes('"tools/list"') ? { tools: names } : { prompts: [] };
    if (/"(?:tools|prompts)\/list"/.test(text)) return answerJson(response, { jsonrpc: "2.0", id: idOf(text), result });
    await answerPartly(text, response);
  };
  const upstream = await startUpstream(large);
  const limits = { maxMcpBodyBytes: 2_000, maxBodyMemoryBytes: 2_000 };
  const installation = await startInstallation([upstream], { limits });
  await installation.addServer({ slug: "large", url: `${upstream.origin}/mcp`, kind: "mcp" });
  const client = await connectMcpClient("v1", `${installation.gateway.url}/mcp`, {
    authorization: `Bearer ${installation.token}`,
  });
  onTestFinished(() => client.close());
  expect(await client.listTools()).toEqual([]);
  expect(await installation.stateOf("large")).toMatchObject({ status: "ready", lastError: undefined });
});

describe("a server with a list that cannot be read", () => {
  it("stays failed after a call of one of its tools, also a while later", async () => {
    const workspace = await startWorkspace({ bad: await startStrange(partly) });
    const client = await workspace.connect("v1");
    await client.listTools();
    await expect.poll(() => workspace.stateOf("bad")).toMatchObject({ status: "failed" });
    const first = await workspace.stateOf("bad");
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 180_000 });
    onTestFinished(() => void vi.useRealTimers());
    expect(await client.callTool("bad__echo")).toEqual(["hello"]);
    expect(await workspace.stateOf("bad")).toEqual(first);
    const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/list" });
    await workspace.call("/s/bad/mcp", { method: "POST", body, headers: { "content-type": "application/json" } });
    expect(await workspace.stateOf("bad")).toMatchObject({ status: "ready" });
  });
});

it("the state of a dead server is ready again after it has restarted and a call reaches it", async () => {
  const dying = await startMortalUpstream(partly);
  await dying.end();
  const workspace = await startWorkspace({ dying: { url: `${dying.origin}/mcp`, port: dying.port } });
  await (await workspace.connect("v1")).listTools();
  const lastError = { reason: "The connection to the server failed" };
  await expect.poll(() => workspace.stateOf("dying")).toMatchObject({ status: "failed", lastError });
  await dying.begin();
  const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method: "tools/list" });
  const answer = await workspace.call("/s/dying/mcp", {
    method: "POST",
    body,
    headers: { "content-type": "application/json" },
  });
  expect(answer.status).toBe(200);
  expect(await workspace.stateOf("dying")).toMatchObject({ status: "ready", lastError });
});
