// MCP servers in a process of their own: healthy ones of both protocols, and ones that hang, flap, change their tools and answer
// garbage. Parameter: the number of healthy servers. Sends the URL of each server by its slug. Answers each message with the
// number of sessions that are open at the healthy servers.
import { once } from "node:events";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import { type McpEra, startMcpServer } from "../peers/mcp-server.ts";

const [healthy = "12"] = process.argv.slice(2);
const flapsEveryMs = 15_000;
const changesEveryMs = 5_000;
const eras: readonly (readonly McpEra[])[] = [["legacy"], ["modern"], ["legacy", "modern"]];

const peers = await Promise.all(
  Array.from({ length: Number(healthy) }, (_, index) =>
    startMcpServer({ eras: eras[index % eras.length] ?? ["legacy"] }),
  ),
);

/** What a server answers that is of no use. */
const garbage: readonly ((response: ServerResponse) => void)[] = [
  (response) => void response.destroy(),
  (response) => void response.writeHead(500).end("broken"),
  (response) => void response.writeHead(200, { "content-type": "application/json" }).end('{"jsonrpc":'),
  (response) => void response.writeHead(200, { "content-type": "text/html" }).end("<p>hello</p>"),
  (response) => void response.writeHead(200, { "content-type": "text/event-stream" }).end(": nothing\n\n"),
];
const turn = (everyMs: number) => Math.floor(Date.now() / everyMs);
let answered = 0;

const unreliable: Readonly<Record<string, (request: IncomingMessage, response: ServerResponse) => void>> = {
  hanging: () => {},
  flapping: (request, response) => {
    if (turn(flapsEveryMs) % 2 === 0) void response.destroy();
    else void answerWithTools(request, response, ["flapping"]);
  },
  changing: (request, response) => {
    void answerWithTools(request, response, ["same", `tool-${turn(changesEveryMs)}`]);
  },
  garbage: (_, response) => garbage[answered++ % garbage.length]?.(response),
};

const servers = await Promise.all(
  Object.entries(unreliable).map(async ([slug, listener]) => {
    const server = createServer(listener).listen(0, "127.0.0.1");
    await once(server, "listening");
    return { slug, server, url: urlOf(server.address()) };
  }),
);
// The port of a server that has ended.
const dead = createServer().listen(0, "127.0.0.1");
await once(dead, "listening");
const deadUrl = urlOf(dead.address());
dead.close();

process.on("message", () => process.send?.({ sessions: peers.reduce((sum, { sessions }) => sum + sessions, 0) }));
process.once("disconnect", async () => {
  for (const { server } of servers) {
    server.close();
    server.closeAllConnections();
  }
  await Promise.all(peers.map((peer) => peer.close()));
});
process.send?.({
  healthy: Object.fromEntries(peers.map(({ url }, index) => [`healthy-${index}`, url])),
  unreliable: { ...Object.fromEntries(servers.map(({ slug, url }) => [slug, url])), dead: deadUrl },
});

function urlOf(address: ReturnType<ReturnType<typeof createServer>["address"]>): string {
  return `http://127.0.0.1:${typeof address === "object" ? address?.port : ""}/mcp`;
}

/** Answers a message of the protocol with sessions, without a session. */
async function answerWithTools(
  request: IncomingMessage,
  response: ServerResponse,
  tools: readonly string[],
): Promise<void> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk);
  const { id, method }: { id?: number; method: string } = JSON.parse(Buffer.concat(chunks).toString() || "{}");
  if (id === undefined) return void response.writeHead(202).end();
  const results: Readonly<Record<string, object>> = {
    initialize: {
      protocolVersion: "2025-11-25",
      capabilities: { tools: {} },
      serverInfo: { name: "unreliable", version: "1" },
    },
    "tools/list": { tools: tools.map((name) => ({ name, inputSchema: { type: "object" } })) },
    "tools/call": { content: [{ type: "text", text: "done" }] },
  };
  const result = results[method];
  const answer = result === undefined ? { error: { code: -32_601, message: "no such method" } } : { result };
  response
    .writeHead(200, { "content-type": "application/json" })
    .end(JSON.stringify({ jsonrpc: "2.0", id, ...answer }));
}
