import { performance } from "node:perf_hooks";
import { expect, it, onTestFinished } from "vitest";
import { answerJson, bodyOf, startUpstream } from "../installation.ts";
import { startWorkspace } from "./workspace.ts";

const initialize = {
  id: 1,
  method: "initialize",
  params: { protocolVersion: "2025-11-25", capabilities: {}, clientInfo: { name: "test", version: "1" } },
};

/** Starts a server with sessions whose stream for messages outside of calls ends at once. */
async function startBrief() {
  const beganMs: number[] = [];
  const upstream = await startUpstream(async (request, response) => {
    if (request.method === "GET") {
      beganMs.push(performance.now());
      return void response.writeHead(200, { "content-type": "text/event-stream" }).end(": nothing\n\n");
    }
    const { id, method }: { id?: number; method?: string } = JSON.parse((await bodyOf(request)) || "{}");
    if (id === undefined) return void response.writeHead(202).end();
    const results: Readonly<Record<string, object>> = {
      initialize: {
        protocolVersion: "2025-11-25",
        capabilities: { tools: {} },
        serverInfo: { name: "brief", version: "1" },
      },
      "tools/list": { tools: [{ name: "x", inputSchema: { type: "object" } }] },
      "tools/call": { content: [] },
    };
    answerJson(response, { jsonrpc: "2.0", id, result: results[method ?? ""] }, { "mcp-session-id": "s" });
  });
  return { url: `${upstream.origin}/mcp`, port: upstream.port, beganMs };
}

async function startTwo() {
  const [one, other] = [await startBrief(), await startBrief()];
  const workspace = await startWorkspace({ one, other });
  const begun = await workspace.send(initialize);
  await begun.text();
  const session = begun.headers.get("mcp-session-id") ?? "";
  onTestFinished(async () => {
    await workspace.gateway.close();
  });
  return {
    ...workspace,
    one,
    other,
    call: async (slug: string) =>
      await (await workspace.send({ id: 2, method: "tools/call", params: { name: `${slug}__x` } }, session)).text(),
  };
}

it("the gateway doubles the wait before it opens a server's stream again, after each stream that ended soon", async () => {
  const { call, one } = await startTwo();
  await call("one");
  await expect.poll(() => one.beganMs.length, { interval: 20 }).toBeGreaterThanOrEqual(3);
  const [first = 0, second = 0, third = 0] = one.beganMs;
  // A timer may fire a little early.
  expect(second - first).toBeGreaterThan(950);
  expect(third - second).toBeGreaterThan(1_950);
});

it("the gateway opens no stream to a server that was disabled", async () => {
  const { call, other, admin, caller } = await startTwo();
  await call("one");
  await call("other");
  await admin.updateServer(caller, "one", { disabled: true });
  const refused = async () => {
    const { items } = await admin.listCalls(caller, { server: "one", outcome: "refused" });
    return items.filter(({ method }) => method === "GET").length;
  };
  await expect.poll(refused, { timeout: 30_000 }).toBe(1);
  // The other server tells when the next stream would be opened.
  const seen = other.beganMs.length;
  await expect.poll(() => other.beganMs.length, { timeout: 30_000 }).toBeGreaterThanOrEqual(seen + 2);
  expect(await refused()).toBe(1);
}, 90_000);
