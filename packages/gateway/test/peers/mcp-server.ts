import { randomBytes, randomUUID } from "node:crypto";
import { once } from "node:events";
import { createServer } from "node:http";
import { toNodeHandler } from "@modelcontextprotocol/node";
import {
  createMcpHandler,
  createRequestStateCodec,
  type EventStore,
  inputRequired,
  isLegacyRequest,
  type JSONRPCMessage,
  McpServer,
  WebStandardStreamableHTTPServerTransport,
} from "@modelcontextprotocol/server";
import { z } from "zod";

/** The protocol that a server speaks: with sessions and `initialize`, without them from 2026-07-28 on, or either. */
export type McpEra = "legacy" | "modern";

/** A request that a server got. */
export interface McpRequest {
  readonly method: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/** An MCP server on loopback, with the tools `echo`, `slow`, `progress` and `sampling`. */
export interface McpPeer {
  /** The URL of its endpoint. */
  readonly url: string;
  readonly port: number;
  /** The requests that came, in their order. */
  readonly requests: readonly McpRequest[];
  /** The number of legacy sessions that are open. */
  readonly sessions: number;
  /** The calls of `slow` that have begun, and those whose caller has left. */
  readonly slow: { readonly begun: number; readonly cancelled: number };
  /** Answers the calls of `slow` that wait. */
  release(): void;
  /** Sends a notification about the resource `uri` in every session, and to every modern client that listens to `uri`. */
  announce(uri: string): Promise<void>;
  /** Breaks every connection. The sessions remain. */
  breakConnections(): void;
  /** Forgets the legacy sessions, as a server does that starts again. */
  forgetSessions(): Promise<void>;
  /** Ends every connection and session. */
  close(): Promise<void>;
}

/** What a server has besides the tools of {@link McpPeer}. */
export type AddToServer = (server: McpServer, era: McpEra) => void;

/** The states that a modern server gives its clients, and gets back with their answers. */
export const requestStates = createRequestStateCodec<string>({ key: randomBytes(32) });

/** Starts a server that speaks the given protocols. The caller closes the server. */
export async function startMcpServer({
  eras = ["legacy", "modern"],
  addToServer = () => {},
}: {
  readonly eras?: readonly McpEra[];
  readonly addToServer?: AddToServer;
} = {}): Promise<McpPeer> {
  const requests: McpRequest[] = [];
  const slow = new SlowCalls();
  const makeServer = (era: McpEra) => {
    const made = serverWithTools(era, slow);
    addToServer(made, era);
    return made;
  };
  const modern = createMcpHandler(({ era }) => makeServer(era), { legacy: "reject" });
  const legacy = new LegacySessions(() => makeServer("legacy"));
  const handle = toNodeHandler({
    fetch: async (request, options) => {
      const body = await request.clone().text();
      requests.push({ method: request.method, headers: Object.fromEntries(request.headers), body });
      const isLegacy =
        eras.includes("legacy") && (!eras.includes("modern") || (await isLegacyRequest(request.clone())));
      return isLegacy ? await legacy.fetch(request) : await modern.fetch(request, options);
    },
  });
  const server = createServer((request, response) => {
    // The type of the handler takes no request whose method could be missing.
    const complete = Object.assign(request, { method: request.method ?? "GET", url: request.url ?? "/" });
    handle(complete, response).catch(() => response.destroy());
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") throw new TypeError("The server has no port");
  return {
    url: `http://127.0.0.1:${address.port}/mcp`,
    port: address.port,
    requests,
    get sessions() {
      return legacy.size;
    },
    slow,
    release: () => slow.release(),
    announce: async (uri) => {
      modern.notify.resourceUpdated(uri);
      await legacy.announce(uri);
    },
    breakConnections: () => server.closeAllConnections(),
    forgetSessions: () => legacy.close(),
    close: async () => {
      slow.release();
      await Promise.all([modern.close(), legacy.close()]);
      const closed = once(server, "close");
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}

/** The calls of the tool `slow`. */
class SlowCalls {
  begun = 0;
  cancelled = 0;
  #waiting = Promise.withResolvers<"released">();

  release(): void {
    this.#waiting.resolve("released");
    this.#waiting = Promise.withResolvers();
  }

  async wait(signal: AbortSignal): Promise<string> {
    this.begun++;
    const left = once(signal, "abort").then(() => "cancelled" as const);
    const end = await Promise.race([this.#waiting.promise, left]);
    if (end === "cancelled") this.cancelled++;
    return end;
  }
}

/** Serves the legacy protocol, with one server for each session. */
class LegacySessions {
  readonly #makeServer: () => McpServer;
  readonly #transports = new Map<string, WebStandardStreamableHTTPServerTransport>();

  constructor(makeServer: () => McpServer) {
    this.#makeServer = makeServer;
  }

  get size(): number {
    return this.#transports.size;
  }

  async fetch(request: Request): Promise<Response> {
    const id = request.headers.get("mcp-session-id");
    const known = id === null ? await this.#begin() : this.#transports.get(id);
    return known === undefined
      ? Response.json({ error: "unknown session" }, { status: 404 })
      : known.handleRequest(request);
  }

  async announce(uri: string): Promise<void> {
    const notification = { jsonrpc: "2.0", method: "notifications/resources/updated", params: { uri } } as const;
    await Promise.all([...this.#transports.values()].map((transport) => transport.send(notification)));
  }

  async close(): Promise<void> {
    const transports = [...this.#transports.values()];
    this.#transports.clear();
    await Promise.all(transports.map((transport) => transport.close()));
  }

  async #begin(): Promise<WebStandardStreamableHTTPServerTransport> {
    const transport = new WebStandardStreamableHTTPServerTransport({
      sessionIdGenerator: randomUUID,
      eventStore: new KeptEvents(),
      retryInterval: 50,
      onsessioninitialized: (id) => {
        this.#transports.set(id, transport);
      },
      onsessionclosed: (id) => {
        this.#transports.delete(id);
      },
    });
    await this.#makeServer().connect(transport);
    return transport;
  }
}

/** The events of one session, so that a client whose stream broke gets what it has missed. */
class KeptEvents implements EventStore {
  readonly #events: { readonly streamId: string; readonly message: JSONRPCMessage }[] = [];

  async storeEvent(streamId: string, message: JSONRPCMessage): Promise<string> {
    return String(this.#events.push({ streamId, message }) - 1);
  }

  async replayEventsAfter(
    id: string,
    { send }: { readonly send: (id: string, message: JSONRPCMessage) => Promise<void> },
  ): Promise<string> {
    const streamId = this.#events[Number(id)]?.streamId ?? "";
    for (const [index, event] of this.#events.entries()) {
      if (index > Number(id) && event.streamId === streamId) await send(String(index), event.message);
    }
    return streamId;
  }
}

function serverWithTools(era: McpEra, slow: SlowCalls): McpServer {
  const server = new McpServer(
    { name: "keyward-peer", version: "1.0.0" },
    { capabilities: { resources: { subscribe: true } }, requestState: { verify: requestStates.verify } },
  );
  server.registerTool(
    "echo",
    {
      description: "Returns the text, and the value of a header of the request",
      inputSchema: z.object({ text: z.string(), header: z.string().optional() }),
    },
    ({ text, header }, { http }) =>
      textResult(text, ...(header === undefined ? [] : [`${header}: ${http?.req?.headers.get(header)}`])),
  );
  server.registerTool(
    "slow",
    { description: "Answers when the test says so", inputSchema: z.object({}) },
    async (_, { mcpReq }) => textResult(await slow.wait(mcpReq.signal)),
  );
  server.registerTool(
    "progress",
    { description: "Reports each step, and then answers", inputSchema: z.object({ steps: z.number() }) },
    async ({ steps }, { mcpReq }) => {
      const progressToken = mcpReq._meta?.progressToken;
      for (let progress = 1; progress <= steps && progressToken !== undefined; progress++) {
        await mcpReq.notify({ method: "notifications/progress", params: { progressToken, progress, total: steps } });
      }
      return textResult(`${steps} steps`);
    },
  );
  server.registerTool(
    "sampling",
    { description: "Asks the model of the client", inputSchema: z.object({ question: z.string() }) },
    async ({ question }, { mcpReq }) => {
      const request = {
        messages: [{ role: "user" as const, content: { type: "text" as const, text: question } }],
        maxTokens: 10,
      };
      // A modern server asks with its answer, and is called again.
      if (era === "modern" && mcpReq.inputResponses === undefined) {
        return inputRequired({ inputRequests: { answer: inputRequired.createMessage(request) } });
      }
      // Without the id, the question goes to the stream of GET, which the client may not have opened yet.
      const given: unknown =
        era === "modern"
          ? mcpReq.inputResponses?.["answer"]
          : await mcpReq.requestSampling(request, { relatedRequestId: mcpReq.id });
      return textResult(sampledText.parse(given).content.text);
    },
  );
  return server;
}

const sampledText = z.object({ content: z.object({ text: z.string() }) });

const textResult = (...texts: readonly string[]) => ({
  content: texts.map((text) => ({ type: "text" as const, text })),
});
