import { describe, expect, it, onTestFinished } from "vitest";
import { readMcpBody } from "../../src/mcp/index.ts";
import { connectMcpClient, mcpClientKinds, sampledAnswer } from "./mcp-clients.ts";
import { type McpEra, startMcpServer } from "./mcp-server.ts";

async function start(eras?: readonly McpEra[]) {
  const server = await startMcpServer(eras === undefined ? {} : { eras });
  onTestFinished(() => server.close());
  return server;
}

async function connect(...given: Parameters<typeof connectMcpClient>) {
  const client = await connectMcpClient(...given);
  onTestFinished(() => client.close());
  return client;
}

describe.each(mcpClientKinds)("the client %s, directly at the server", (kind) => {
  const isModern = kind === "v2 modern" || kind === "v2 auto";

  it("lists the tools", async () => {
    const client = await connect(kind, (await start()).url);
    expect(await client.listTools()).toEqual(["echo", "slow", "progress", "sampling"]);
  });

  it("sends its headers with each request, and the headers of its protocol", async () => {
    const server = await start();
    const client = await connect(kind, server.url, { "x-test": "value" });
    expect(await client.callTool("echo", { text: "hello", header: "x-test" })).toEqual(["hello", "x-test: value"]);
    expect(server.requests.map(({ headers }) => headers["x-test"])).not.toContain(undefined);
    const [name] = await client.callTool("echo", { text: "Grüße" });
    expect(name).toBe("Grüße");
    const headers = server.requests.at(-1)?.headers;
    expect(headers?.["mcp-method"]).toBe(isModern ? "tools/call" : undefined);
    expect(headers?.["mcp-name"]).toBe(isModern ? "echo" : undefined);
    expect(headers?.["mcp-session-id"] === undefined).toBe(isModern);
  });

  it("sends bodies that the gateway reads, with headers that agree", async () => {
    const server = await start();
    const client = await connect(kind, server.url);
    await client.listTools();
    await client.callTool("sampling", { question: "Who?" });
    const posted = server.requests.filter(({ method }) => method === "POST");
    const messages = posted.map(({ body, headers }) =>
      readMcpBody(Buffer.from(body), { method: headers["mcp-method"], name: headers["mcp-name"] }),
    );
    expect(messages.map(({ method }) => method)).toContain("tools/list");
    expect(messages).toContainEqual({
      method: "tools/call",
      tool: "sampling",
      id: expect.anything(),
      isNotification: false,
    });
    // A legacy client sends the answer of its model as a message of its own.
    expect(messages.some(({ method }) => method === undefined)).toBe(!isModern);
    expect(messages.some(({ isNotification }) => isNotification)).toBe(!isModern);
  });

  it("gets the progress of a call", async () => {
    const client = await connect(kind, (await start()).url);
    const steps: number[] = [];
    const given = await client.callTool("progress", { steps: 3 }, { onProgress: (step) => steps.push(step) });
    expect(given).toEqual(["3 steps"]);
    expect(steps).toEqual([1, 2, 3]);
  });

  it("lets the server ask its model", async () => {
    const client = await connect(kind, (await start()).url);
    expect(await client.callTool("sampling", { question: "Who?" })).toEqual([sampledAnswer]);
  });

  it("waits for a slow call, and cancels one", async () => {
    const server = await start();
    const client = await connect(kind, server.url);
    const slow = client.callTool("slow");
    await expect.poll(() => server.slow.begun).toBe(1);
    server.release();
    expect(await slow).toEqual(["released"]);

    const abort = new AbortController();
    const cancelled = client.callTool("slow", {}, { signal: abort.signal });
    await expect.poll(() => server.slow.begun).toBe(2);
    abort.abort("The test cancels");
    await expect(cancelled).rejects.toThrow(/The test cancels/);
    await expect.poll(() => server.slow.cancelled).toBe(1);
  });

  it("ends its session", async () => {
    const server = await start();
    const client = await connectMcpClient(kind, server.url);
    expect(server.sessions).toBe(isModern ? 0 : 1);
    await client.close();
    expect(server.sessions).toBe(0);
  });
});

it.each([
  ["v2 auto", "legacy"],
  ["v2 auto", "modern"],
  ["v2 legacy", "legacy"],
  ["v1", "legacy"],
  ["v2 modern", "modern"],
] as const)("connects the client %s to a server that speaks only the %s protocol", async (kind, era) => {
  const client = await connect(kind, (await start([era])).url);
  expect(await client.callTool("echo", { text: era })).toEqual([era]);
});

it.each([
  ["v2 modern", "legacy", /did not offer pinned protocol version 2026-07-28/],
  ["v2 legacy", "modern", /Unsupported protocol version: 2025-11-25/],
  ["v1", "modern", /Unsupported protocol version: 2025-11-25/],
] as const)("does not connect the client %s to a server that speaks only the %s protocol", async (kind, era, error) => {
  const server = await start([era]);
  await expect(connectMcpClient(kind, server.url)).rejects.toThrow(error);
});
