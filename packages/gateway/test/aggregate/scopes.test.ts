import { describe, expect, it } from "vitest";
import { mcpClientKinds } from "../peers/mcp-clients.ts";
import { startPeer, startWorkspace } from "./workspace.ts";

async function start() {
  const [old, young] = await Promise.all([startPeer(["legacy"]), startPeer(["modern"])]);
  const workspace = await startWorkspace({ old, young });
  const tokenWith = async (scopes: { readonly servers?: readonly string[]; readonly tools?: readonly string[] }) => {
    const { token, info } = await workspace.admin.createToken(workspace.caller, {
      owner: "narrow",
      role: "member",
      ...scopes,
    });
    return { token, id: info.id };
  };
  return { ...workspace, old, young, tokenWith };
}

const initialize = {
  id: 1,
  method: "initialize",
  params: { protocolVersion: "2025-11-25", capabilities: {}, clientInfo: { name: "test", version: "1" } },
};

describe.each(mcpClientKinds)("the client %s with a narrow token", (kind) => {
  it("sees only the servers of the token", async () => {
    const { connect, tokenWith, young } = await start();
    const client = await connect(kind, (await tokenWith({ servers: ["old"] })).token);
    expect(new Set((await client.listTools()).map((name) => name.split("__")[0]))).toEqual(new Set(["old"]));
    await expect(client.callTool("young__echo", { text: "no" })).rejects.toThrow("The token can use no such tool");
    expect(young.requests).toEqual([]);
  });

  it("sees and calls only the tools of the token", async () => {
    const { connect, tokenWith, old } = await start();
    const client = await connect(kind, (await tokenWith({ tools: ["echo"] })).token);
    expect(await client.listTools()).toEqual(["old__echo", "young__echo"]);
    expect(await client.callTool("old__echo", { text: "yes" })).toEqual(["yes"]);
    await expect(client.callTool("old__slow")).rejects.toThrow("The token can use no such tool");
    expect(old.slow.begun).toBe(0);
  });

  it("gets the same error for a server out of scope, an unknown server, and a name without a server", async () => {
    const { connect, tokenWith } = await start();
    const client = await connect(kind, (await tokenWith({ servers: ["old"], tools: ["echo"] })).token);
    const names = ["young__echo", "unknown__echo", "echo", "old__slow", "old__unknown", ""];
    const errors = await Promise.all(
      names.map((name) => client.callTool(name).catch((error: unknown) => String(error))),
    );
    expect(new Set(errors).size).toBe(1);
  });
});

it("the next list shows added and removed servers and changed scopes", async () => {
  const { connect, admin, caller, tokenWith } = await start();
  const { token } = await tokenWith({});
  const client = await connect("v1", token);
  expect(await client.listTools()).toHaveLength(8);
  await admin.updateServer(caller, "old", { disabled: true });
  expect(await client.listTools()).toHaveLength(4);
  await admin.updateServer(caller, "old", { disabled: false });
  expect(await client.listTools()).toHaveLength(8);
});

it("the audit records the server and the tool of each call, even of a refused call", async () => {
  const { connect, admin, caller, tokenWith } = await start();
  const client = await connect("v1", (await tokenWith({ servers: ["old"] })).token);
  await client.callTool("old__echo", { text: "hello" });
  await client.callTool("young__echo").catch(() => {});
  const entries = async () =>
    (await admin.listCalls(caller)).items.map(({ server, tool, status, caller: { owner } }) => ({
      server,
      tool,
      status,
      owner,
    }));
  await expect.poll(entries).toEqual(
    expect.arrayContaining([
      { server: "old", tool: "echo", status: 200, owner: "narrow" },
      { server: "young", tool: undefined, status: 404, owner: "narrow" },
    ]),
  );
});

describe("a session of a caller", () => {
  it("is unknown to another token", async () => {
    const { send, tokenWith } = await start();
    const begun = await send(initialize);
    await begun.text();
    const session = begun.headers.get("mcp-session-id") ?? "";
    const other = await tokenWith({});
    const answer = await send({ id: 2, method: "tools/list" }, session, other.token);
    expect([answer.status, await answer.json()]).toMatchObject([404, { code: "SESSION_NOT_FOUND" }]);
    expect((await send({ id: 2, method: "tools/list" }, session)).status).toBe(200);
  });

  it("ends with its token, together with its open streams and calls", async () => {
    const { send, url, tokenWith, admin, caller, gateway, old } = await start();
    const { token, id } = await tokenWith({});
    const begun = await send(initialize, undefined, token);
    await begun.text();
    const session = begun.headers.get("mcp-session-id") ?? "";
    const stream = await fetch(url, {
      headers: { authorization: `Bearer ${token}`, accept: "text/event-stream", "mcp-session-id": session },
    });
    const call = { id: 3, method: "tools/call", params: { name: "old__slow", arguments: {} } };
    const slow = send(call, session, token);
    await expect.poll(() => old.slow.begun).toBe(1);
    await admin.revokeToken(caller, id);
    await stream.text();
    expect(await (await slow).json()).toMatchObject({ id: 3, error: {} });
    await expect.poll(() => gateway.openCalls).toBe(0);
    expect((await send({ id: 4, method: "tools/list" }, session, token)).status).toBe(401);
  });
});

it.each([
  ["no token", "", 401],
  ["a token of another form", "kwt_abc", 401],
])("the endpoint refuses a request with %s", async (_, token, status) => {
  const { send } = await start();
  const answer = await send(initialize, undefined, token);
  expect(answer.status).toBe(status);
  expect(answer.headers.get("www-authenticate")).toBe('Bearer realm="keyward"');
});

it("close() of the gateway ends the streams of callers and its sessions at servers", async () => {
  const { send, url, token, gateway, old } = await start();
  const begun = await send(initialize);
  await begun.text();
  const session = begun.headers.get("mcp-session-id") ?? "";
  await (
    await send({ id: 2, method: "tools/call", params: { name: "old__echo", arguments: { text: "x" } } }, session)
  ).text();
  const stream = await fetch(url, {
    headers: { authorization: `Bearer ${token}`, accept: "text/event-stream", "mcp-session-id": session },
  });
  await expect.poll(() => old.requests.some(({ method }) => method === "GET")).toBe(true);
  await Promise.all([gateway.close(), stream.text()]);
  expect(gateway.openCalls).toBe(0);
  await expect.poll(() => old.sessions).toBe(0);
});
