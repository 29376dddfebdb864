import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { SqliteStore } from "@keyward/store-sqlite";
import { describe, expect, it, onTestFinished } from "vitest";
import { type Installation, startInstallation, testValue } from "../installation.ts";
import { startSecondGateway } from "./gateway-process.ts";
import { type McpCallers, mcpCallers } from "./mcp-callers.ts";
import { type connectMcpClient, type McpClientKind, sampledAnswer } from "./mcp-clients.ts";
import { type McpEra, type McpPeer, startMcpServer } from "./mcp-server.ts";

interface Through extends Installation, McpCallers {
  readonly server: McpPeer;
}

async function start(eras: readonly McpEra[], store?: SqliteStore): Promise<Through> {
  const server = await startMcpServer({ eras });
  onTestFinished(() => server.close());
  const installation = await startInstallation([server], store === undefined ? {} : { store });
  await installation.addServer({
    slug: "peer",
    url: server.url,
    kind: "mcp",
    rule: { kind: "header", header: "x-api-key" },
  });
  return {
    ...installation,
    ...mcpCallers(`${installation.gateway.url}/s/peer/mcp`, installation.token),
    server,
  };
}

const initialize = {
  id: 1,
  method: "initialize",
  params: { protocolVersion: "2025-11-25", capabilities: {}, clientInfo: { name: "test", version: "1" } },
};

async function tokenId({ admin, caller }: Installation, owner: string): Promise<string> {
  const { items } = await admin.listTokens(caller);
  return items.find((token) => token.owner === owner)?.id ?? "";
}

/** Waits until a client listens to the notifications of its server. */
async function listen(client: Awaited<ReturnType<typeof connectMcpClient>>, server: McpPeer): Promise<void> {
  await client.listen(["test:first", "test:missed", "test:last"]);
  const isListening = () => server.requests.some(({ method, body }) => method === "GET" || body.includes("/listen"));
  await expect.poll(isListening).toBe(true);
}

/** Which of the protocols each pair uses. */
const pairs: readonly (readonly [kind: McpClientKind, eras: readonly McpEra[], used: McpEra])[] = [
  ["v2 modern", ["modern"], "modern"],
  ["v2 modern", ["legacy", "modern"], "modern"],
  ["v2 legacy", ["legacy"], "legacy"],
  ["v2 legacy", ["legacy", "modern"], "legacy"],
  ["v2 auto", ["modern"], "modern"],
  ["v2 auto", ["legacy"], "legacy"],
  ["v2 auto", ["legacy", "modern"], "modern"],
  ["v1", ["legacy"], "legacy"],
  ["v1", ["legacy", "modern"], "legacy"],
];

describe.each(pairs)("the client %s, through the gateway, at a server that speaks %j", (kind, eras, used) => {
  it("lists tools, calls them, gets progress, and lets the server ask its model", async () => {
    const { connect, server, admin, caller } = await start(eras);
    const client = await connect(kind);
    expect(await client.listTools()).toEqual(["echo", "slow", "progress", "sampling"]);
    expect(await client.callTool("echo", { text: "Grüße", header: "x-api-key" })).toEqual([
      "Grüße",
      "x-api-key: REDACTED",
    ]);
    const steps: number[] = [];
    expect(await client.callTool("progress", { steps: 3 }, { onProgress: (step) => steps.push(step) })).toEqual([
      "3 steps",
    ]);
    expect(steps).toEqual([1, 2, 3]);
    expect(await client.callTool("sampling", { question: "Who?" })).toEqual([sampledAnswer]);
    expect(client.sessionId === undefined).toBe(used === "modern");
    for (const { headers } of server.requests) {
      expect(headers).toMatchObject({ "x-api-key": testValue });
      expect(headers["authorization"]).toBeUndefined();
    }
    // A stream is recorded at its end, which comes after its last event.
    const calls = async () => (await admin.listCalls(caller)).items;
    const tools = async () => (await calls()).map(({ tool }) => tool);
    await expect.poll(tools).toEqual(expect.arrayContaining(["echo", "progress", "sampling"]));
    const items = await calls();
    expect(items.filter(({ redactions }) => redactions > 0)).toMatchObject([{ tool: "echo", redactions: 1 }]);
  });

  it("waits for a slow call, and cancels one at the server", async () => {
    const { connect, server, gateway } = await start(eras);
    const client = await connect(kind);
    const slow = client.callTool("slow");
    await expect.poll(() => server.slow.begun).toBe(1);
    server.release();
    expect(await slow).toEqual(["released"]);
    const leaving = new AbortController();
    const cancelled = client.callTool("slow", {}, { signal: leaving.signal });
    await expect.poll(() => server.slow.begun).toBe(2);
    leaving.abort("The test cancels");
    await expect(cancelled).rejects.toThrow(/The test cancels/);
    await expect.poll(() => server.slow.cancelled).toBe(1);
    await client.close();
    await expect.poll(() => gateway.openCalls).toBe(0);
  });

  it("sends the new value of a secret with its next call, in the same session", async () => {
    const { connect, server, admin, caller } = await start(eras);
    const client = await connect(kind);
    await client.callTool("echo", { text: "before" });
    const session = server.requests.at(-1)?.headers["mcp-session-id"];
    await admin.setSecret(caller, "peer", { name: "API_TOKEN", value: "another-test-value-0123456789" });
    expect(await client.callTool("echo", { text: "after", header: "x-api-key" })).toEqual([
      "after",
      "x-api-key: REDACTED",
    ]);
    expect(server.requests.at(-1)?.headers).toMatchObject({ "x-api-key": "another-test-value-0123456789" });
    expect(server.requests.at(-1)?.headers["mcp-session-id"]).toBe(session);
  });

  it("gets the notifications to which it listens", async () => {
    const { connect, server } = await start(eras);
    const client = await connect(kind);
    await listen(client, server);
    await server.announce("test:first");
    await expect.poll(() => client.announced).toEqual(["test:first"]);
  });

  it("calls only the tools of its token", async () => {
    const { connect, server, admin, caller } = await start(eras);
    const { token } = await admin.createToken(caller, { owner: "narrow", role: "member", tools: ["echo"] });
    const client = await connect(kind, token);
    expect(await client.callTool("echo", { text: "allowed" })).toEqual(["allowed"]);
    await expect(client.callTool("slow")).rejects.toThrow(/may not use this tool/);
    expect(server.slow.begun).toBe(0);
    expect(await client.callTool("echo", { text: "still allowed" })).toEqual(["still allowed"]);
  });

  it("cannot call after its token was revoked, and its open streams end within two seconds", async () => {
    const through = await start(eras);
    const { connect, server, gateway, admin, caller } = through;
    const client = await connect(kind);
    await listen(client, server);
    const failed = client.callTool("slow").catch(() => "failed");
    await expect.poll(() => server.slow.begun).toBe(1);
    await expect.poll(() => gateway.openCalls).toBe(2);
    await admin.revokeToken(caller, await tokenId(through, "ci"));
    const revokedMs = performance.now();
    await expect.poll(() => gateway.openCalls, { interval: 10 }).toBe(0);
    expect(performance.now() - revokedMs).toBeLessThan(2_000);
    await expect(client.callTool("echo", { text: "refused" })).rejects.toThrow(/no token that is valid now/);
    expect(server.requests.some(({ body }) => body.includes("refused"))).toBe(false);
    await client.close().catch(() => {});
    expect(await failed).toBe("failed");
  });
});

describe.each(pairs.filter(([, , used]) => used === "legacy"))(
  "the client %s, through the gateway, in a session with a server that speaks %j",
  (kind, eras) => {
    it("begins, uses and ends a session whose id the gateway has sealed", async () => {
      const { connect, server } = await start(eras);
      const client = await connect(kind);
      await client.callTool("echo", { text: "hello" });
      const id = server.requests.at(-1)?.headers["mcp-session-id"] ?? "";
      expect(client.sessionId).toMatch(new RegExp(`^[A-Za-z0-9_-]{43}\\.${id}$`));
      expect(server.sessions).toBe(1);
      await client.close();
      expect(server.sessions).toBe(0);
    });

    it("gets the notifications that it missed while its connection was broken", async () => {
      const { connect, server } = await start(eras);
      const client = await connect(kind);
      await listen(client, server);
      await server.announce("test:first");
      await expect.poll(() => client.announced).toEqual(["test:first"]);
      server.breakConnections();
      await server.announce("test:missed");
      await expect.poll(() => client.announced).toEqual(["test:first", "test:missed"]);
      const resumed = server.requests.filter(({ headers }) => headers["last-event-id"] !== undefined);
      expect(resumed.map(({ method }) => method)).toContain("GET");
      await server.announce("test:last");
      await expect.poll(() => client.announced).toEqual(["test:first", "test:missed", "test:last"]);
    });
  },
);

it.each([
  ["v2 modern", "legacy", /did not offer pinned protocol version 2026-07-28/],
  ["v2 legacy", "modern", /Unsupported protocol version: 2025-11-25/],
  ["v1", "modern", /Unsupported protocol version: 2025-11-25/],
] as const)(
  "the client %s gets through the gateway the error of a server that speaks only the %s protocol",
  async (kind, era, error) => {
    const { connect } = await start([era]);
    await expect(connect(kind)).rejects.toThrow(error);
  },
);

describe("a session", () => {
  async function begun(store?: SqliteStore) {
    const through = await start(["legacy"], store);
    const begin = await through.send(initialize);
    expect(begin.status).toBe(200);
    await begin.text();
    const session = begin.headers.get("mcp-session-id") ?? "";
    await through.send({ method: "notifications/initialized" }, session);
    return { ...through, session };
  }

  it("is unknown to another owner, and known to another token of the same owner", async () => {
    const { admin, caller, send, session, server } = await begun();
    const others = await Promise.all(
      ["other", "ci"].map((owner) => admin.createToken(caller, { owner, role: "member" })),
    );
    const [other, same] = await Promise.all(
      others.map(({ token }) => send({ id: 2, method: "tools/list" }, session, token)),
    );
    expect(other?.status).toBe(404);
    expect(await other?.json()).toMatchObject({ code: "SESSION_NOT_FOUND" });
    expect(same?.status).toBe(200);
    expect(await same?.text()).toContain("echo");
    expect(server.requests.filter(({ body }) => body.includes("tools/list"))).toHaveLength(1);
  });

  it.each([
    ["the id of the server", (sealed: string) => sealed.slice(44)],
    ["another id behind the same MAC", (sealed: string) => `${sealed.slice(0, 44)}another`],
    ["an unknown id", () => "unknown"],
  ])("is unknown by %s", async (_, change) => {
    const { send, session } = await begun();
    const answer = await send({ id: 2, method: "tools/list" }, change(session));
    expect(answer.status).toBe(404);
  });

  it("is served by a second process over the same store", async () => {
    const folder = await mkdtemp(join(tmpdir(), "keyward-processes-"));
    const storePath = join(folder, "service.db");
    const store = new SqliteStore(storePath);
    onTestFinished(async () => {
      await store.disconnect();
      await rm(folder, { recursive: true });
    });
    const through = await start(["legacy"], store);
    const { connect, server, admin, caller } = through;
    const client = await connect("v1");
    const second = await startSecondGateway(through, { storePath, port: server.port });
    const call = (id: number) =>
      fetch(`${second}/s/peer/mcp`, {
        method: "POST",
        headers: {
          authorization: `Bearer ${through.token}`,
          accept: "application/json, text/event-stream",
          "content-type": "application/json",
          "mcp-session-id": client.sessionId ?? "",
          "mcp-protocol-version": "2025-11-25",
        },
        body: JSON.stringify({
          jsonrpc: "2.0",
          id,
          method: "tools/call",
          params: { name: "echo", arguments: { text: `call ${id}`, header: "x-api-key" } },
        }),
      });
    const answer = await call(100);
    expect([answer.status, await answer.text()]).toEqual([200, expect.stringContaining("call 100")]);
    expect(server.sessions).toBe(1);
    // What the first process changes holds for the next call of the second one.
    await admin.setSecret(caller, "peer", { name: "API_TOKEN", value: "another-test-value-0123456789" });
    expect(await (await call(101)).text()).toContain("x-api-key: REDACTED");
    expect(server.requests.at(-1)?.headers).toMatchObject({ "x-api-key": "another-test-value-0123456789" });
    await admin.revokeToken(caller, await tokenId(through, "ci"));
    expect((await call(102)).status).toBe(401);
  });
});

it("answers headers that differ from the body with the error of the modern protocol, so that its clients understand it", async () => {
  const { url, token, server, admin, caller } = await start(["modern"]);
  const answer = await fetch(url, {
    method: "POST",
    headers: {
      authorization: `Bearer ${token}`,
      accept: "application/json, text/event-stream",
      "content-type": "application/json",
      "mcp-protocol-version": "2026-07-28",
      "mcp-method": "tools/call",
      "mcp-name": "echo",
    },
    body: JSON.stringify({ jsonrpc: "2.0", id: "a-7", method: "tools/call", params: { name: "slow" } }),
  });
  expect(answer.status).toBe(400);
  expect(answer.headers.get("content-type")).toBe("application/json");
  expect(await answer.json()).toEqual({
    jsonrpc: "2.0",
    id: "a-7",
    error: {
      code: -32_020,
      message: "The header mcp-name and the body do not name the same",
      data: expect.objectContaining({ code: "HEADER_MISMATCH", status: 400, instance: expect.any(String) }),
    },
  });
  expect(server.requests).toEqual([]);
  expect((await admin.listCalls(caller)).items).toMatchObject([{ status: 400, reason: "HEADER_MISMATCH" }]);
});
