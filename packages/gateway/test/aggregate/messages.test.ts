import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { Client as ClientV1 } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport as TransportV1 } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import {
  CreateMessageRequestSchema,
  ElicitRequestSchema,
  ListRootsRequestSchema,
  LoggingMessageNotificationSchema,
  ResourceUpdatedNotificationSchema,
} from "@modelcontextprotocol/sdk/types.js";
import { inputRequired, inputResponse, type McpServer } from "@modelcontextprotocol/server";
import { describe, expect, it, onTestFinished } from "vitest";
import { z } from "zod";
import { connectMcpClient } from "../peers/mcp-clients.ts";
import type { AddToServer } from "../peers/mcp-server.ts";
import { startPeer, startWorkspace } from "./workspace.ts";

const kinds = ["v2 modern", "v2 legacy", "v1"] as const;
const slugs = ["old", "young"] as const;
const info = { name: "keyward-test", version: "1.0.0" };

interface TalkingClient {
  call(name: string): Promise<unknown>;
  setLevel(level: "debug" | "warning"): Promise<void>;
  subscribe(uri: string): Promise<unknown>;
  readonly logs: readonly { readonly level: string; readonly logger: string | undefined; readonly data: unknown }[];
  readonly updated: readonly string[];
}

const form = { action: "accept" as const, content: { name: "Mia" } };
const roots = { roots: [{ uri: "file:///home/mia", name: "home" }] };
const sampled = { role: "assistant" as const, content: { type: "text" as const, text: "an answer" }, model: "test" };

/** Connects one of the official clients, with all that a server may ask for. */
async function connect(
  kind: (typeof kinds)[number],
  url: string,
  token: string,
  capabilities: object = { elicitation: { form: {} }, roots: {}, sampling: {} },
): Promise<TalkingClient> {
  const init = { requestInit: { headers: { authorization: `Bearer ${token}` } } };
  const logs: { level: string; logger: string | undefined; data: unknown }[] = [];
  const updated: string[] = [];
  if (kind === "v1") {
    const client = new ClientV1(info, { capabilities });
    if ("elicitation" in capabilities) client.setRequestHandler(ElicitRequestSchema, () => form);
    if ("roots" in capabilities) client.setRequestHandler(ListRootsRequestSchema, () => roots);
    if ("sampling" in capabilities) client.setRequestHandler(CreateMessageRequestSchema, () => sampled);
    client.setNotificationHandler(LoggingMessageNotificationSchema, ({ params: { level, logger, data } }) => {
      logs.push({ level, logger, data });
    });
    client.setNotificationHandler(ResourceUpdatedNotificationSchema, ({ params }) => void updated.push(params.uri));
    const transport = new TransportV1(new URL(url), init);
    await client.connect(transport);
    onTestFinished(async () => {
      await transport.terminateSession();
      await client.close();
    });
    return {
      logs,
      updated,
      call: (name) => client.callTool({ name, arguments: {} }),
      setLevel: async (level) => void (await client.setLoggingLevel(level)),
      subscribe: (uri) => client.subscribeResource({ uri }),
    };
  }
  const mode = kind === "v2 modern" ? ({ pin: "2026-07-28" } as const) : "legacy";
  const client = new Client(info, { versionNegotiation: { mode }, capabilities });
  if ("elicitation" in capabilities) client.setRequestHandler("elicitation/create", () => form);
  if ("roots" in capabilities) client.setRequestHandler("roots/list", () => roots);
  if ("sampling" in capabilities) client.setRequestHandler("sampling/createMessage", () => sampled);
  client.setNotificationHandler("notifications/message", ({ params: { level, logger, data } }) => {
    logs.push({ level, logger, data });
  });
  client.setNotificationHandler("notifications/resources/updated", ({ params }) => void updated.push(params.uri));
  const transport = new StreamableHTTPClientTransport(new URL(url), init);
  await client.connect(transport);
  onTestFinished(async () => {
    await transport.terminateSession();
    await client.close();
  });
  let level: string | undefined;
  return {
    logs,
    updated,
    call: (name) =>
      client.callTool({
        name,
        arguments: {},
        ...(level === undefined ? {} : { _meta: { "io.modelcontextprotocol/logLevel": level } }),
      }),
    setLevel: async (wanted) => {
      if (kind === "v2 modern") level = wanted;
      else await client.setLoggingLevel(wanted);
    },
    subscribe: (uri) => client.subscribeResource({ uri }),
  };
}

function addTo(server: McpServer): void {
  server.registerTool("ask", { inputSchema: z.object({}) }, (_, { mcpReq }) => {
    const who = inputResponse(mcpReq.inputResponses, "who");
    const where = inputResponse(mcpReq.inputResponses, "where");
    if (who.kind === "missing" || where.kind === "missing") {
      const requestedSchema = { type: "object" as const, properties: { name: { type: "string" as const } } };
      return inputRequired({
        inputRequests: {
          who: inputRequired.elicit({ message: "Who are you?", requestedSchema }),
          where: inputRequired.listRoots(),
        },
      });
    }
    return { content: [{ type: "text", text: JSON.stringify({ who, where }) }] };
  });
  server.registerTool("log", { inputSchema: z.object({}) }, async (_, { mcpReq }) => {
    await mcpReq.log("debug", "a detail", "parser");
    await mcpReq.log("error", "an error");
    return { content: [{ type: "text", text: "logged" }] };
  });
  server.registerTool("outside", { inputSchema: z.object({}) }, async () => {
    // Without the id of the call, the messages go to the stream of GET.
    const { content } = await server.server.createMessage({ messages: [], maxTokens: 1 });
    await server.server.sendLoggingMessage({ level: "info", data: "outside of a call" });
    return { content: [{ type: "text", text: JSON.stringify(content) }] };
  });
}

async function start() {
  const withLogs: AddToServer = (server, era) => {
    server.server.registerCapabilities({ logging: {} });
    if (era === "legacy") server.server.setRequestHandler("resources/subscribe", () => ({}));
    addTo(server);
  };
  const [old, young] = await Promise.all([startPeer(["legacy"], withLogs), startPeer(["modern"], withLogs)]);
  return { ...(await startWorkspace({ old, young })), old, young };
}

describe.each(kinds)("the client %s, at the endpoint of a workspace", (kind) => {
  it.each(slugs)("answers two questions of the server %s in one call", async (slug) => {
    const { url, token } = await start();
    const client = await connect(kind, url, token);
    const text = JSON.stringify({
      who: { kind: "elicit", ...form },
      where: { kind: "roots", ...roots },
    });
    const result = await client.call(`${slug}__ask`);
    expect(result).toMatchObject({ content: [{ text: expect.any(String) }] });
    expect(JSON.stringify(result)).toContain(JSON.stringify(text).slice(1, -1));
  });

  it.each(slugs)("gets an error if it lacks the capability to answer a question of the server %s", async (slug) => {
    const { url, token } = await start();
    const client = await connect(kind, url, token, {});
    const outcome = await client.call(`${slug}__ask`).then(JSON.stringify, String);
    expect(outcome).toMatch(/capabilit|does not support|not declare/i);
  });

  it.each(slugs)("gets the log messages of the server %s at the level that it has set, and above", async (slug) => {
    const { url, token } = await start();
    const client = await connect(kind, url, token);
    await client.setLevel("debug");
    await client.call(`${slug}__log`);
    await expect
      .poll(() => client.logs)
      .toEqual([
        { level: "debug", logger: `${slug}: parser`, data: "a detail" },
        { level: "error", logger: `${slug}: log`, data: "an error" },
      ]);
    await client.setLevel("warning");
    await client.call(`${slug}__log`);
    await expect
      .poll(() => client.logs.slice(2))
      .toEqual([{ level: "error", logger: `${slug}: log`, data: "an error" }]);
  });
});

describe.each(["v2 legacy", "v1"] as const)("the client %s, in a session", (kind) => {
  it("answers questions and gets log messages that a server sends outside of calls", async () => {
    const { url, token } = await start();
    const client = await connect(kind, url, token);
    await client.setLevel("debug");
    expect(JSON.stringify(await client.call("old__outside"))).toContain("an answer");
    await expect.poll(() => client.logs).toMatchObject([{ logger: "old: log", data: "outside of a call" }]);
  });

  it("gets a notification when a subscribed resource changes", async () => {
    const { url, token, old } = await start();
    const client = await connect(kind, url, token);
    await client.subscribe("keyward+old+test:a");
    await expect.poll(() => old.requests.some(({ method }) => method === "GET")).toBe(true);
    await old.announce("test:a");
    await expect.poll(() => client.updated).toEqual(["keyward+old+test:a"]);
    await expect(client.subscribe("keyward+young+test:a")).rejects.toThrow(/has no sessions/);
  });

  it("can still call a server that has ended the gateway's session", async () => {
    const { url, token, old } = await start();
    const client = await connectMcpClient(kind, url, { authorization: `Bearer ${token}` });
    onTestFinished(() => client.close());
    expect(await client.callTool("old__echo", { text: "before" })).toEqual(["before"]);
    await old.forgetSessions();
    expect(await client.callTool("old__echo", { text: "after" })).toEqual(["after"]);
    // The session in which the lists are read ends soon.
    await expect.poll(() => old.sessions).toBe(1);
  });
});

it("the gateway opens a new session for callers of the modern protocol if a server has ended its session", async () => {
  const { url, token, old } = await start();
  const client = await connect("v2 modern", url, token);
  await client.call("old__log");
  await old.forgetSessions();
  expect(await client.call("old__log")).toMatchObject({ content: [{ text: "logged" }] });
});
