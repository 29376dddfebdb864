import type { ServerResponse } from "node:http";
import { expect, it } from "vitest";
import { answerJson, bodyOf, startUpstream } from "../installation.ts";
import { startWorkspace } from "./workspace.ts";

const healthy = 90;
const all = 100;

/** What the servers do that are of no use. The first ones hang. */
const strange: readonly ((response: ServerResponse) => void)[] = [
  () => {},
  (response) => void response.writeHead(200, { "content-type": "text/event-stream" }).write(":\n\n"),
  (response) => void response.destroy(),
  (response) => void response.writeHead(500).end(),
  (response) => void response.writeHead(200, { "content-type": "application/json" }).end("{"),
];

it("the endpoint lists and calls the tools of 90 servers while ten others are dead, hang or answer garbage", async () => {
  const upstream = await startUpstream(async (request, response) => {
    const index = Number(/^\/s(\d+)\/mcp$/.exec(request.url ?? "")?.[1]);
    const { id, method, params }: { id?: number; method: string; params?: { name?: string } } = JSON.parse(
      (await bodyOf(request)) || "{}",
    );
    if (index >= healthy) return strange[index % strange.length]?.(response);
    if (id === undefined) return void response.writeHead(202).end();
    const answer = (result: object) => answerJson(response, { jsonrpc: "2.0", id, result });
    if (method === "initialize") {
      return answer({
        protocolVersion: "2025-11-25",
        capabilities: { tools: {} },
        serverInfo: { name: "x", version: "1" },
      });
    }
    if (method === "tools/list") return answer({ tools: [{ name: `tool${index}`, inputSchema: { type: "object" } }] });
    if (method === "tools/call") return answer({ content: [{ type: "text", text: `${index} ${params?.name}` }] });
    answerJson(response, { jsonrpc: "2.0", id, error: { code: -32_601, message: "no" } });
  });
  const servers = Object.fromEntries(
    Array.from({ length: all }, (_, index) => [
      `s${index}`,
      { url: `${upstream.origin}/s${index}/mcp`, port: upstream.port },
    ]),
  );
  const { connect, gateway } = await startWorkspace(servers);
  const client = await connect("v1");
  // A list may be asked for before all servers were read.
  await expect.poll(async () => (await client.listTools()).length, { timeout: 30_000 }).toBe(healthy);
  const texts = await Promise.all(
    Array.from({ length: healthy }, (_, index) => client.callTool(`s${index}__tool${index}`)),
  );
  expect(texts).toEqual(Array.from({ length: healthy }, (_, index) => [`${index} tool${index}`]));
  await client.close();
  // A request to a server that hangs fails after ten seconds.
  await expect.poll(() => gateway.openCalls, { timeout: 30_000 }).toBe(0);
}, 90_000);
