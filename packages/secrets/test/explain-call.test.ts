import { inspect } from "node:util";
import { describe, expect, it } from "vitest";
import { startService } from "./service.ts";

const value = "test-0123456789abcdef";

async function startWithServer() {
  const service = await startService();
  const { admin, as } = service;
  await admin.createServer(as.admin, { slug: "github", url: "https://mcp.example.com:8443/mcp" });
  await admin.setSecret(as.admin, "github", { name: "TOKEN", value, rule: { kind: "bearer" } });
  await admin.setSecret(as.admin, "github", { name: "X-Team", value, redacted: false });
  const explain = (tokenId: string, tool?: string) => admin.explainCall(as.admin, { server: "github", tokenId, tool });
  return { ...service, explain };
}

describe("explainCall", () => {
  it("returns the URL of the call and its secrets with their headers and revisions, but no value", async () => {
    const { as, explain } = await startWithServer();
    const explanation = await explain(as.member.tokenId, "create_issue");
    expect(explanation).toEqual({
      token: { id: as.member.tokenId, owner: "member", role: "member" },
      server: {
        slug: "github",
        kind: "mcp",
        url: "https://mcp.example.com:8443/mcp",
        origin: "https://mcp.example.com:8443",
        host: "mcp.example.com:8443",
        revision: expect.any(Number),
      },
      secrets: [
        {
          name: "TOKEN",
          revision: expect.any(Number),
          rule: { kind: "bearer" },
          header: "Authorization",
          redacted: true,
          unusable: undefined,
        },
        {
          name: "X-Team",
          revision: explanation.server.revision,
          rule: { kind: "header", header: "X-Team" },
          header: "X-Team",
          redacted: false,
          unusable: undefined,
        },
      ],
      refusals: [],
    });
    expect(inspect(explanation, { depth: 9, showHidden: true })).not.toContain(value);
  });

  it("returns why the token would be refused", async () => {
    const { admin, as, explain } = await startWithServer();
    await admin.createServer(as.admin, { slug: "linear", url: "https://linear.example.com" });
    const scoped = { owner: "ci", role: "member", servers: ["linear"], tools: ["search"] } as const;
    const { info } = await admin.createToken(as.admin, scoped);
    expect((await explain(info.id, "search")).refusals).toEqual(["SERVER_OUT_OF_SCOPE"]);
    expect((await explain(info.id, "delete")).refusals).toEqual(["SERVER_OUT_OF_SCOPE", "TOOL_OUT_OF_SCOPE"]);
    // A server that is not an MCP server has no tools, so the tool in the question makes no difference.
    await admin.createServer(as.admin, { slug: "api", url: "https://api.example.com", kind: "http" });
    const ofApi = await admin.explainCall(as.admin, { server: "api", tokenId: info.id, tool: "delete" });
    expect(ofApi.refusals).toEqual(["SERVER_OUT_OF_SCOPE", "TOOL_OUT_OF_SCOPE"]);
    await admin.revokeToken(as.admin, info.id);
    expect((await explain(info.id)).refusals).toEqual(["TOKEN_REVOKED", "SERVER_OUT_OF_SCOPE"]);
    expect((await explain(as.auditor.tokenId)).refusals).toEqual(["ROLE_NOT_ALLOWED"]);
    const soon = Date.now() + 60;
    const ending = await admin.createToken(as.admin, { owner: "ci", role: "member", expires: soon });
    await expect.poll(async () => (await explain(ending.info.id)).refusals).toEqual(["TOKEN_EXPIRED"]);
  });

  it("returns METHOD_OUT_OF_SCOPE for a tool of an MCP server if the token does not allow POST", async () => {
    const { admin, as, explain } = await startWithServer();
    const { info } = await admin.createToken(as.admin, { owner: "ci", role: "member", methods: ["GET", "HEAD"] });
    expect((await explain(info.id, "whoami")).refusals).toEqual(["METHOD_OUT_OF_SCOPE"]);
    expect((await explain(info.id)).refusals).toEqual(["METHOD_OUT_OF_SCOPE"]);
    // Every message to an MCP server is a POST.
    const call = { server: "github", tokenId: info.id, method: "GET" };
    expect((await admin.explainCall(as.admin, call)).refusals).toEqual(["METHOD_OUT_OF_SCOPE"]);
  });

  it("returns whether the token allows the method for a server that is not an MCP server", async () => {
    const { admin, as } = await startWithServer();
    await admin.createServer(as.admin, { slug: "api", url: "https://api.example.com", kind: "http" });
    const { info } = await admin.createToken(as.admin, { owner: "ci", role: "member", methods: ["GET"] });
    const refusals = async (method?: string) =>
      (await admin.explainCall(as.admin, { server: "api", tokenId: info.id, method })).refusals;
    expect(await refusals("GET")).toEqual([]);
    expect(await refusals("POST")).toEqual(["METHOD_OUT_OF_SCOPE"]);
    expect(await refusals()).toEqual([]);
    await expect(refusals("BREW")).rejects.toMatchObject({ code: "FIELD_INVALID" });
  });

  it("says that a token with tools calls a server that is not an MCP server only if it has methods, too", async () => {
    const { admin, as } = await startWithServer();
    await admin.createServer(as.admin, { slug: "api", url: "https://api.example.com", kind: "http" });
    const refusals = async (scopes: object) => {
      const { info } = await admin.createToken(as.admin, { owner: "ci", role: "member", ...scopes });
      return (await admin.explainCall(as.admin, { server: "api", tokenId: info.id, method: "POST" })).refusals;
    };
    expect(await refusals({ tools: ["search"] })).toEqual(["TOOL_OUT_OF_SCOPE"]);
    expect(await refusals({ tools: ["search"], methods: ["POST"] })).toEqual([]);
    expect(await refusals({ tools: ["search"], methods: ["GET"] })).toEqual(["METHOD_OUT_OF_SCOPE"]);
  });

  it("returns why a call would be refused because of its server or a secret", async () => {
    const { admin, as, explain } = await startWithServer();
    await admin.updateServer(as.admin, "github", { disabled: true });
    expect((await explain(as.member.tokenId)).refusals).toEqual(["SERVER_DISABLED"]);
    await admin.updateServer(as.admin, "github", { disabled: false, url: "https://other.example.com/mcp" });
    const moved = await explain(as.member.tokenId);
    expect(moved.refusals).toEqual(["SECRET_ORIGIN_CHANGED"]);
    expect(moved.secrets.map(({ unusable }) => unusable)).toEqual(["origin-changed", "origin-changed"]);
    for (const name of ["TOKEN", "X-Team"]) await admin.deleteSecret(as.admin, "github", name);
    await admin.setSecret(as.admin, "github", { name: "SOON", value, expires: Date.now() + 60 });
    await expect.poll(async () => (await explain(as.member.tokenId)).refusals).toEqual(["SECRET_EXPIRED"]);
  });

  it("rejects if the token or server does not exist or belongs to another workspace", async () => {
    const { admin, as, explain } = await startWithServer();
    const other = await admin.createWorkspace(as.operator, { name: "other", adminOwner: "ana" });
    const ana = await admin.authenticate(other.admin.token);
    await expect(explain("aaaaaaaaaaaa")).rejects.toMatchObject({ code: "TOKEN_NOT_FOUND" });
    const call = { server: "github", tokenId: as.member.tokenId };
    await expect(admin.explainCall(ana, call)).rejects.toMatchObject({ code: "TOKEN_NOT_FOUND" });
    await expect(admin.explainCall(as.admin, { ...call, server: "linear" })).rejects.toMatchObject({
      code: "SERVER_NOT_FOUND",
    });
    await expect(admin.explainCall(as.admin, { ...call, tool: "no tool" })).rejects.toMatchObject({
      code: "FIELD_INVALID",
    });
  });
});

describe("findCall and listCalls", () => {
  it("return the calls of the caller's workspace only", async () => {
    const { admin, as, audit } = await startWithServer();
    const other = await admin.createWorkspace(as.operator, { name: "other", adminOwner: "ana" });
    const ana = await admin.authenticate(other.admin.token);
    const { tokenId, owner, role, workspace = "", address } = as.member;
    await audit.recordCall({
      callId: "call00000001",
      at: Date.now(),
      workspace,
      caller: { tokenId, owner, role, address },
      server: "github",
      method: "GET",
      path: "/",
      status: 200,
      durationMs: 1,
      requestBytes: 0,
      answerBytes: 0,
      secrets: [],
      redactions: 0,
    });
    for (const caller of [as.auditor, as.admin]) {
      expect((await admin.listCalls(caller)).items).toHaveLength(1);
      expect((await admin.findCall(caller, "call00000001")).server).toBe("github");
    }
    expect((await admin.listCalls(ana)).items).toEqual([]);
    await expect(admin.findCall(ana, "call00000001")).rejects.toMatchObject({
      code: "CALL_NOT_FOUND",
      hint: expect.stringContaining("whose token or path was refused"),
    });
  });
});
