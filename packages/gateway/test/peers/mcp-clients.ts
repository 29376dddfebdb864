import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { Client as ClientV1 } from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport as TransportV1 } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import {
  CreateMessageRequestSchema,
  ResourceUpdatedNotificationSchema,
  ToolListChangedNotificationSchema,
} from "@modelcontextprotocol/sdk/types.js";
import { z } from "zod";

/** The official clients: version 2 with each protocol, or with the one that the server offers, and version 1. */
export const mcpClientKinds = ["v2 modern", "v2 legacy", "v2 auto", "v1"] as const;

export type McpClientKind = (typeof mcpClientKinds)[number];

/** One of the official clients, connected to a server. */
export interface McpClientPeer {
  /** The names of the server's tools. */
  listTools(): Promise<string[]>;
  /** Calls a tool. Returns the texts of its result. */
  callTool(name: string, given?: Record<string, unknown>, options?: CallOptions): Promise<string[]>;
  /** The resources about which notifications came. */
  readonly announced: readonly string[];
  /** Listens to notifications about resources. A client of the legacy protocol does so from the beginning. */
  listen(uris: readonly string[]): Promise<void>;
  /**
   * Calls a function when the server says that its tools have changed. A client of the legacy protocol listens from the
   * beginning.
   */
  listenToTools(changed: () => void): Promise<void>;
  /** The id of the session; `undefined` in the modern protocol. */
  readonly sessionId: string | undefined;
  /** Ends the session, and every connection. */
  close(): Promise<void>;
}

interface CallOptions {
  readonly onProgress?: (progress: number) => void;
  readonly signal?: AbortSignal;
}

/** What the model of each client answers. */
export const sampledAnswer = "The model answers";

const sampling = async () => ({
  role: "assistant" as const,
  content: { type: "text" as const, text: sampledAnswer },
  model: "test",
});
const info = { name: "keyward-test", version: "1.0.0" };
const capabilities = { sampling: {} };
/** Connects again at once, so that tests do not wait. */
const reconnectionOptions = {
  initialReconnectionDelay: 10,
  maxReconnectionDelay: 100,
  reconnectionDelayGrowFactor: 2,
  maxRetries: 20,
};

/** Connects a client to a server, with headers such as the token of a caller. The caller closes the client. */
export async function connectMcpClient(
  kind: McpClientKind,
  url: string,
  headers: Readonly<Record<string, string>> = {},
): Promise<McpClientPeer> {
  return kind === "v1" ? await connectV1(url, headers) : await connectV2(kind, url, headers);
}

async function connectV2(
  kind: Exclude<McpClientKind, "v1">,
  url: string,
  headers: Readonly<Record<string, string>>,
): Promise<McpClientPeer> {
  const modes = { "v2 modern": { pin: "2026-07-28" }, "v2 legacy": "legacy", "v2 auto": "auto" } as const;
  const client = new Client(info, { capabilities, versionNegotiation: { mode: modes[kind] } });
  client.setRequestHandler("sampling/createMessage", sampling);
  const announced: string[] = [];
  client.setNotificationHandler("notifications/resources/updated", ({ params }) => void announced.push(params.uri));
  let toolsChanged = () => {};
  client.setNotificationHandler("notifications/tools/list_changed", () => toolsChanged());
  const transport = new StreamableHTTPClientTransport(new URL(url), {
    requestInit: { headers: { ...headers } },
    reconnectionOptions,
  });
  await client.connect(transport);
  return {
    announced,
    listen: async (uris) => {
      if (transport.sessionId === undefined) await client.listen({ resourceSubscriptions: [...uris] });
    },
    listenToTools: async (changed) => {
      toolsChanged = changed;
      if (transport.sessionId === undefined) await client.listen({ toolsListChanged: true });
    },
    get sessionId() {
      return transport.sessionId;
    },
    listTools: async () => (await client.listTools()).tools.map(({ name }) => name),
    callTool: async (name, given = {}, options = {}) =>
      textsOf(await client.callTool({ name, arguments: given }, requestOptions(options))),
    close: async () => {
      try {
        await transport.terminateSession();
      } finally {
        await client.close();
      }
    },
  };
}

async function connectV1(url: string, headers: Readonly<Record<string, string>>): Promise<McpClientPeer> {
  const client = new ClientV1(info, { capabilities });
  client.setRequestHandler(CreateMessageRequestSchema, sampling);
  const announced: string[] = [];
  client.setNotificationHandler(ResourceUpdatedNotificationSchema, ({ params }) => void announced.push(params.uri));
  let toolsChanged = () => {};
  client.setNotificationHandler(ToolListChangedNotificationSchema, () => toolsChanged());
  const transport = new TransportV1(new URL(url), {
    requestInit: { headers: { ...headers } },
    reconnectionOptions,
  });
  await client.connect(transport);
  return {
    announced,
    listen: async () => {},
    listenToTools: async (changed) => {
      toolsChanged = changed;
    },
    get sessionId() {
      return transport.sessionId;
    },
    listTools: async () => (await client.listTools()).tools.map(({ name }) => name),
    callTool: async (name, given = {}, options = {}) =>
      textsOf(await client.callTool({ name, arguments: given }, undefined, requestOptions(options))),
    close: async () => {
      try {
        await transport.terminateSession();
      } finally {
        await client.close();
      }
    },
  };
}

function requestOptions({ onProgress, signal }: CallOptions) {
  return {
    ...(onProgress === undefined ? {} : { onprogress: ({ progress }: { progress: number }) => onProgress(progress) }),
    ...(signal === undefined ? {} : { signal }),
  };
}

const result = z.object({ content: z.array(z.object({ text: z.string() })) });

const textsOf = (given: unknown): string[] => result.parse(given).content.map(({ text }) => text);
