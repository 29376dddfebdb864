import { describe, expect, it } from "vitest";
import { testValue } from "../installation.ts";
import { type McpClientKind, mcpClientKinds, sampledAnswer } from "../peers/mcp-clients.ts";
import { startPeer, startWorkspace } from "./workspace.ts";

async function start() {
  const [old, young] = await Promise.all([startPeer(["legacy"]), startPeer(["modern"])]);
  const workspace = await startWorkspace({ old, young });
  return { ...workspace, old, young };
}

describe.each(mcpClientKinds)("the client %s, at the endpoint of a workspace", (kind) => {
  it("lists the tools of servers of both protocols", async () => {
    const { connect } = await start();
    const client = await connect(kind);
    const names = ["echo", "slow", "progress", "sampling"];
    expect(await client.listTools()).toEqual(
      ["old", "young"].flatMap((slug) => names.map((name) => `${slug}__${name}`)),
    );
  });

  it.each(["old", "young"] as const)(
    "calls a tool of the server %s with the credential of this server",
    async (slug) => {
      const { connect, admin, caller, ...servers } = await start();
      const client = await connect(kind);
      expect(await client.callTool(`${slug}__echo`, { text: "Grüße", header: "x-api-key" })).toEqual([
        "Grüße",
        "x-api-key: REDACTED",
      ]);
      const server = servers[slug];
      for (const { headers } of server.requests) {
        expect(headers).toMatchObject({ "x-api-key": testValue });
        expect(headers["authorization"]).toBeUndefined();
      }
      const entries = async () =>
        (await admin.listCalls(caller)).items
          .filter(({ tool }) => tool !== undefined)
          .map(({ server, tool, redactions }) => ({ server, tool, redactions }));
      await expect.poll(entries).toEqual([{ server: slug, tool: "echo", redactions: 1 }]);
    },
  );

  it.each(["old", "young"] as const)("gets the progress of a call to the server %s", async (slug) => {
    const { connect } = await start();
    const client = await connect(kind);
    const steps: number[] = [];
    const texts = await client.callTool(`${slug}__progress`, { steps: 3 }, { onProgress: (step) => steps.push(step) });
    expect(texts).toEqual(["3 steps"]);
    expect(steps).toEqual([1, 2, 3]);
  });

  it.each(["old", "young"] as const)("answers a sampling request of the server %s", async (slug) => {
    const { connect } = await start();
    const client = await connect(kind);
    expect(await client.callTool(`${slug}__sampling`, { question: "Who?" })).toEqual([sampledAnswer]);
  });

  it.each(["old", "young"] as const)("cancels a call at the server %s", async (slug) => {
    const { connect, gateway, ...servers } = await start();
    const client = await connect(kind);
    const leaving = new AbortController();
    const cancelled = client.callTool(`${slug}__slow`, {}, { signal: leaving.signal });
    await expect.poll(() => servers[slug].slow.begun).toBe(1);
    leaving.abort("The test cancels");
    await expect(cancelled).rejects.toThrow(/The test cancels/);
    await expect.poll(() => servers[slug].slow.cancelled).toBe(1);
  });
});

const legacyKinds: readonly McpClientKind[] = ["v2 legacy", "v1"];

describe.each(legacyKinds)("the session of the client %s", (kind) => {
  it("ends the sessions at all servers when the client ends it", async () => {
    const { connect, old, gateway } = await start();
    const client = await connect(kind);
    await client.listTools();
    await expect.poll(() => old.sessions).toBe(0);
    await client.callTool("old__echo", { text: "hello" });
    expect(old.sessions).toBe(1);
    await client.close();
    await expect.poll(() => old.sessions).toBe(0);
    await expect.poll(() => gateway.openCalls).toBe(0);
  });
});
