import { once } from "node:events";
import { createServer, type Server } from "node:http";
import { describe, expect, it, onTestFinished } from "vitest";
import { answerJson, bodyOf, startInstallation, startUpstream } from "../installation.ts";
import { connectMcpClient, type McpClientKind, mcpClientKinds } from "../peers/mcp-clients.ts";
import { startPeer, startWorkspace } from "./workspace.ts";

const tools = ["echo", "slow", "progress", "sampling"];

/** Answers a request of the legacy protocol, or something else. */
async function startStrange(answer: Parameters<typeof startUpstream>[0]) {
  const upstream = await startUpstream(answer);
  return { url: `${upstream.origin}/mcp`, port: upstream.port, requests: upstream.requests };
}

/** Servers that are of no use, each in its own way. */
const strange: Readonly<Record<string, Parameters<typeof startUpstream>[0]>> = {
  "answers nothing": () => {},
  "breaks the connection": (request) => void request.socket.destroy(),
  "answers with the status 500": (_, response) => void response.writeHead(500).end("broken"),
  "answers with the status 401": (_, response) => void response.writeHead(401, { "www-authenticate": "Bearer" }).end(),
  "answers with a page": (_, response) =>
    void response.writeHead(200, { "content-type": "text/html" }).end("<p>hello</p>"),
  "answers with broken JSON": (_, response) =>
    void response.writeHead(200, { "content-type": "application/json" }).end('{"jsonrpc":'),
  "answers with JSON that is no message": (_, response) => answerJson(response, [1, null, "x"]),
  "answers with the response to another request": (_, response) =>
    answerJson(response, { jsonrpc: "2.0", id: "other", result: {} }),
  "ends its stream before the response": (_, response) =>
    void response.writeHead(200, { "content-type": "text/event-stream" }).end(": nothing\n\n"),
  "never ends its stream": (_, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" }).write(": nothing\n\n");
  },
  "lists garbage": async (request, response) => {
    const { id, method }: { id?: number; method: string } = JSON.parse((await bodyOf(request)) || "{}");
    if (method === "initialize") {
      const result = {
        protocolVersion: "2025-11-25",
        capabilities: { tools: {} },
        serverInfo: { name: "x", version: "1" },
      };
      return answerJson(response, { jsonrpc: "2.0", id, result }, { "mcp-session-id": "s" });
    }
    if (id === undefined) return void response.writeHead(202).end();
    answerJson(response, { jsonrpc: "2.0", id, result: { tools: { echo: 1 }, nextCursor: 7 } });
  },
};

describe.each(Object.entries(strange))("a server that %s", (_, answer) => {
  it("does not remove the tools of other servers from the list", async () => {
    const [good, bad] = [await startPeer(["legacy"]), await startStrange(answer)];
    const { connect } = await startWorkspace({ good, bad });
    const client = await connect("v1");
    expect(await client.listTools()).toEqual(tools.map((name) => `good__${name}`));
    expect(await client.callTool("good__echo", { text: "hello" })).toEqual(["hello"]);
    expect(bad.requests.length).toBeGreaterThan(0);
  });
});

it.each(Object.entries(strange).filter(([name]) => !/nothing|never|garbage/.test(name)))(
  "a call gets an error that says that the server %s",
  async (_, answer) => {
    const { connect } = await startWorkspace({ bad: await startStrange(answer) });
    const client = await connect("v2 modern");
    await expect(client.callTool("bad__echo", { text: "hello" })).rejects.toThrow(/server|-32/i);
  },
);

it("a call to a server that hangs fails with a timeout error after silenceMs", async () => {
  const bad = await startStrange(() => {});
  const installation = await startInstallation([bad], { limits: { silenceMs: 300 } });
  await installation.addServer({ slug: "bad", url: bad.url, kind: "mcp" });
  const client = await connectMcpClient("v1", `${installation.gateway.url}/mcp`, {
    authorization: `Bearer ${installation.token}`,
  });
  onTestFinished(() => client.close());
  await expect(client.callTool("bad__echo")).rejects.toThrow(/did not answer in time/);
  await expect.poll(() => installation.gateway.openCalls).toBe(0);
});

it("the next list lacks the tools of a server that a call could not reach, even for a caller without a stream", async () => {
  const [good, lost] = [await startPeer(["legacy"]), await startPeer(["modern"])];
  const { send } = await startWorkspace({ good, lost });
  const begun = await send({
    id: 1,
    method: "initialize",
    params: { protocolVersion: "2025-11-25", capabilities: {}, clientInfo: { name: "test", version: "1" } },
  });
  await begun.text();
  const session = begun.headers.get("mcp-session-id") ?? "";
  const listed = async () => {
    const { result }: { result: { tools: { name: string }[] } } = JSON.parse(
      await (await send({ id: 2, method: "tools/list" }, session)).text(),
    );
    return result.tools.map(({ name }) => name);
  };
  await expect.poll(listed).toHaveLength(8);
  await lost.close();
  const call = { id: 3, method: "tools/call", params: { name: "lost__echo", arguments: { text: "x" } } };
  expect(await (await send(call, session)).text()).toContain("SERVER_UNAVAILABLE");
  await expect.poll(listed).toEqual(tools.map((name) => `good__${name}`));
});

// All clients wait for the same server, because each wait takes several seconds.
it("each kind of client gets a notification when a server was lost, and when the server came back", async () => {
  const [good, flapping] = [await startPeer(["legacy"]), await startPeer(["modern"])];
  // A server in front of the other one, which can end and begin again at the same port.
  let front: Server | undefined;
  const begin = async (port: number): Promise<number> => {
    front = createServer(async (request, response) => {
      const headers = Object.fromEntries(
        Object.entries(request.headers).flatMap(([name, value]) =>
          typeof value === "string" && !/^(?:host|connection|content-length)$/.test(name) ? [[name, value]] : [],
        ),
      );
      const answer = await fetch(flapping.url, { method: "POST", headers, body: await bodyOf(request) });
      const text = await answer.text();
      const type = answer.headers.get("content-type") ?? "application/json";
      response.writeHead(answer.status, { "content-type": type }).end(text);
    });
    front.listen(port, "127.0.0.1");
    await once(front, "listening");
    const address = front.address();
    return typeof address === "object" && address !== null ? address.port : 0;
  };
  const end = async () => {
    const ended = front;
    if (ended?.listening !== true) return;
    ended.close();
    ended.closeAllConnections();
    await once(ended, "close");
  };
  const port = await begin(0);
  onTestFinished(end);
  const { connect, admin, caller } = await startWorkspace({
    good,
    flapping: { url: `http://127.0.0.1:${port}/mcp`, port },
  });
  const seen = new Map<McpClientKind, number>();
  for (const kind of mcpClientKinds) {
    const client = await connect(kind);
    await client.listenToTools(() => {
      void client.listTools().then(({ length }) => seen.set(kind, length));
    });
    expect(await client.listTools()).toHaveLength(8);
  }
  const seenByEach = (tools: number) => mcpClientKinds.map((kind) => [kind, tools]);
  const seenNow = () => mcpClientKinds.map((kind) => [kind, seen.get(kind)]);
  await end();
  // After a change of the server, the gateway reads its lists again. Otherwise the test would wait for a minute.
  await admin.updateServer(caller, "flapping", { forwardHeaders: ["x-test"] });
  await expect.poll(seenNow, { timeout: 30_000, interval: 100 }).toEqual(seenByEach(4));
  await begin(port);
  await expect.poll(seenNow, { timeout: 30_000, interval: 100 }).toEqual(seenByEach(8));
}, 90_000);
