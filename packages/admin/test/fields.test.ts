import { expect, it } from "vitest";
import { type Installation, install, toolCall } from "./installation.ts";

type Case = readonly [route: string, field: string, good: unknown, bad: unknown];

const long = (length: number) => "a".repeat(length);
const many = (length: number, item: string) => Array.from({ length }, () => item);
const newServer = { slug: "another", url: "https://another.example.com" };
const newSecret = { name: "ANOTHER", value: "a-value-of-a-test" };
const newToken = { owner: "somebody", role: "member" };
const secrets = "POST /mcp-servers/github/secrets";
const injection = "PUT /mcp-servers/github/secrets/A/injection";
const rotate = "POST /tokens/{id}/rotate";

const valid: Readonly<Record<string, object>> = {
  "POST /workspaces": { name: "another", adminOwner: "somebody" },
  "POST /mcp-servers": newServer,
  "PATCH /mcp-servers/github": {},
  [secrets]: newSecret,
  [injection]: { kind: "header", header: "X-Key" },
  "POST /tokens": newToken,
  [rotate]: { overlapMs: 0 },
};

// For each field: a value at its limit, and a value just beyond the limit.
const cases: readonly Case[] = [
  ["POST /workspaces", "name", long(32), long(33)],
  ["POST /workspaces", "name", "a-b", "a--b"],
  ["POST /workspaces", "adminOwner", long(100), long(101)],
  ["POST /workspaces", "adminOwner", "Ada E", " Ada"],
  ["POST /mcp-servers", "slug", long(32), long(33)],
  ["POST /mcp-servers", "slug", "a", ""],
  ["POST /mcp-servers", "slug", "a1", "A1"],
  ["POST /mcp-servers", "url", `https://a.example.com/${long(2_026)}`, `https://a.example.com/${long(2_027)}`],
  ["POST /mcp-servers", "url", "https://a.example.com", "https://user:password@a.example.com"],
  ["POST /mcp-servers", "url", "https://a.example.com/x", "https://a.example.com/x?y=z"],
  ["POST /mcp-servers", "url", "http://a.example.com", "ftp://a.example.com"],
  ["POST /mcp-servers", "kind", "http", "https"],
  ["POST /mcp-servers", "forwardHeaders", many(20, "x-a"), many(21, "x-a")],
  ["POST /mcp-servers", "forwardHeaders", ["X-A"], ["X A"]],
  ["POST /mcp-servers", "relayHeaders", [long(128)], [long(129)]],
  ["PATCH /mcp-servers/github", "forwardHeaders", [], null],
  ["PATCH /mcp-servers/github", "forwardHeaders", ["x-request-id"], ["Authorization"]],
  ["PATCH /mcp-servers/github", "relayHeaders", ["x-ratelimit-remaining"], ["set-cookie"]],
  ["PATCH /mcp-servers/github", "disabled", false, "false"],
  ["PATCH /mcp-servers/github", "kind", "mcp", null],
  ["PATCH /mcp-servers/github", "url", "https://b.example.com", 1],
  [secrets, "name", long(128), long(129)],
  [secrets, "name", "_a.b-c", "1a"],
  [secrets, "value", long(8), long(7)],
  [secrets, "value", long(8_192), long(8_193)],
  [secrets, "value", "éééé", "ééé"],
  [secrets, "value", "é".repeat(4_096), "é".repeat(4_097)],
  [secrets, "value", "a value with spaces", "a value with a new line\n"],
  [secrets, "value", "a-value-of-a-test", "a-value\u0000of-a-test"],
  [secrets, "value", "a-value-of-a-test", " a-value-of-a-test"],
  [secrets, "value", "a-value-of-a-test", 12_345_678],
  [secrets, "expires", "2099-01-01T00:00:00Z", "2099-01-01"],
  [secrets, "expires", "2099-01-01T00:00:00+01:00", "2001-01-01T00:00:00Z"],
  [secrets, "expires", "9999-12-31T23:59:59Z", "1969-12-31T23:59:59Z"],
  [secrets, "redacted", false, 0],
  [secrets, "injection", { kind: "bearer" }, { kind: "bearer", header: "X" }],
  [secrets, "injection", { kind: "header", header: long(128) }, { kind: "header", header: long(129) }],
  [secrets, "injection", { kind: "header", header: "X-Key" }, { kind: "header", header: "X Key" }],
  [secrets, "injection", { kind: "header", header: "X-Key" }, { kind: "header", header: "Transfer-Encoding" }],
  [
    secrets,
    "injection",
    { kind: "template", header: "X-Key", template: `{value}${long(249)}` },
    { kind: "template", header: "X-Key", template: `{value}${long(250)}` },
  ],
  [injection, "header", "X-Other", "Host"],
  [injection, "kind", "header", "unknown"],
  ["POST /tokens", "owner", long(100), long(101)],
  ["POST /tokens", "owner", "Zoë Ünal", "Zoë\u202eÜnal"],
  ["POST /tokens", "role", "admin", "owner"],
  ["POST /tokens", "servers", many(100, "github"), many(101, "github")],
  ["POST /tokens", "servers", ["github"], []],
  ["POST /tokens", "tools", many(100, "tool"), many(101, "tool")],
  ["POST /tokens", "tools", [long(128)], [long(129)]],
  ["POST /tokens", "methods", ["GET"], ["get"]],
  ["POST /tokens", "expires", "2099-01-01T00:00:00Z", 4_070_908_800_000],
  [rotate, "overlapMs", 2_592_000_000, 2_592_000_001],
  [rotate, "overlapMs", 0, -1],
  [rotate, "overlapMs", 1, 1.5],
];

async function ask(installation: Installation, route: string, body: object) {
  const { send, admin, operator, clientOf, tokenOf } = installation;
  const client = clientOf(admin.token);
  await client.createServer({ slug: "github", url: "https://mcp.example.com" });
  await client.setSecret("github", { name: "A", value: "a-value-of-a-test" });
  const { info } = await tokenOf("member", "somebody");
  const [method = "", path = ""] = route.split(" ");
  const token = path.startsWith("/workspaces") ? operator.token : admin.token;
  return await send(token, method, path.replace("{id}", info.id), { body });
}

it.each(cases)("%s accepts %s at its limit, and refuses it beyond the limit", async (route, field, good, bad) => {
  const accepted = await ask(await install(), route, { ...valid[route], [field]: good });
  expect(accepted.status, accepted.text).toBeLessThan(300);
  const refused = await ask(await install(), route, { ...valid[route], [field]: bad });
  expect(refused.status, refused.text).toBe(422);
  expect(refused.json).toMatchObject({ code: "FIELD_INVALID" });
  expect(Reflect.get(Object(refused.json), "detail")).toContain(field);
});

it.each(Object.keys(valid))("%s refuses an unknown field, and the answer does not contain its name", async (route) => {
  const { status, text } = await ask(await install(), route, { ...valid[route], "secret-looking-name": 1 });
  expect(status).toBe(422);
  expect(text).not.toContain("secret-looking-name");
});

it.each(Object.keys(valid))("%s refuses a body that is not an object", async (route) => {
  for (const body of [[], "text", 1, null]) {
    const { send, admin, operator } = await install();
    const [method = "", path = ""] = route.split(" ");
    const token = path.startsWith("/workspaces") ? operator.token : admin.token;
    const { status, text } = await send(token, method, path.replace("{id}", admin.info.id), {
      body: JSON.stringify(body),
    });
    expect(status, text).toBe(422);
  }
});

it.each([
  ["/mcp-servers/UPPER", "slug"],
  ["/mcp-servers/a%2Fb", "slug"],
  ["/mcp-servers/github/secrets/1a/injection", "name"],
  ["/workspaces/a_b", "name"],
])("the API refuses the path %s, and the answer names the field %s", async (path, name) => {
  const { send, admin, operator } = await install();
  const token = path.startsWith("/workspaces") ? operator.token : admin.token;
  const { status, json } = await send(token, "GET", path);
  expect(status).toBe(422);
  expect(json).toMatchObject({ fields: [{ in: "path", name }] });
});

it("GET /calls filters by owner, server, tool, token, outcome and time, and refuses other filters", async () => {
  const { send, clientOf, admin, audit, service } = await install();
  const client = clientOf(admin.token);
  const { workspace } = await service.authenticate(admin.token);
  const caller = { tokenId: "t0ken0000002", owner: "bob", role: "member", address: undefined } as const;
  const other = { callId: "c4ll00000002", caller, server: "gitlab", tool: undefined, reason: "TOKEN_REVOKED" };
  await audit.recordCall(toolCall(workspace));
  await audit.recordCall(toolCall(workspace, { ...other, at: Date.parse("2026-11-29T00:00:00Z") }));
  const of = async (filter: Parameters<typeof client.listCalls>[0]) =>
    (await client.listCalls(filter)).items.map(({ callId }) => callId);
  expect(await of({})).toEqual(["c4ll00000002", "c4ll00000001"]);
  for (const filter of [
    { owner: "ci" },
    { server: "github" },
    { tool: "create_issue" },
    { token: "t0ken0000001" },
    { outcome: "answered" },
    { until: "2026-11-28T12:00:00Z" },
  ] as const) {
    expect(await of(filter), JSON.stringify(filter)).toEqual(["c4ll00000001"]);
  }
  expect(await of({ outcome: "refused", from: "2026-11-28T12:00:00Z" })).toEqual(["c4ll00000002"]);
  for (const query of ["from=yesterday", "outcome=lost", "server=A", "token=x", "tool=%20", "secret=A"]) {
    expect((await send(admin.token, "GET", `/calls?${query}`)).status, query).toBe(422);
  }
});

it("the API returns a recorded call by its id, and explains a call to a server", async () => {
  const { clientOf, admin, audit, service } = await install();
  const client = clientOf(admin.token);
  const caller = await service.authenticate(admin.token);
  await audit.recordCall(toolCall(caller.workspace, { status: undefined }));
  expect(await client.getCall("c4ll00000001")).toMatchObject({ status: null, tool: "create_issue", reason: null });
  const missing = { code: "CALL_NOT_FOUND", status: 404 };
  await expect(client.getCall("c4ll00000009")).rejects.toMatchObject(missing);
  await client.createServer({ slug: "github", url: "https://mcp.example.com/mcp" });
  await client.setSecret("github", { name: "A", value: "a-value-of-a-test", injection: { kind: "bearer" } });
  const { info } = await service.createToken(caller, { owner: "ci", role: "member", tools: ["search"] });
  expect(await client.explainCall("github", { tokenId: info.id, tool: "delete" })).toMatchObject({
    token: { id: info.id, owner: "ci" },
    server: { slug: "github", origin: "https://mcp.example.com", host: "mcp.example.com" },
    secrets: [{ name: "A", header: "Authorization", injection: { kind: "bearer" }, unusable: null }],
    refusals: ["TOOL_OUT_OF_SCOPE"],
  });
  await client.createServer({ slug: "api", url: "https://api.example.com", kind: "http" });
  const reader = await service.createToken(caller, { owner: "ci", role: "member", methods: ["GET"] });
  const call = { tokenId: reader.info.id, method: "POST" } as const;
  expect(await client.explainCall("api", call)).toMatchObject({ refusals: ["METHOD_OUT_OF_SCOPE"] });
});

it("GET /changes filters by owner, server, action and time, and refuses other filters", async () => {
  const { send, clientOf, admin } = await install();
  const client = clientOf(admin.token);
  await client.createServer({ slug: "github", url: "https://mcp.example.com" });
  await client.createServer({ slug: "gitlab", url: "https://mcp.example.com" });
  await client.setSecret("github", { name: "A", value: "a-value-of-a-test" });
  const of = async (filter: Parameters<typeof client.listChanges>[0]) =>
    (await client.listChanges(filter)).items.map(({ action, server }) => `${action} ${server}`);
  expect(await of({ server: "github" })).toEqual(["secret.set github", "server.create github"]);
  expect(await of({ action: "server.create" })).toEqual(["server.create gitlab", "server.create github"]);
  expect(await of({ owner: "nobody" })).toEqual([]);
  expect(await of({ from: "2099-01-01T00:00:00Z" })).toEqual([]);
  expect(await of({ until: "2099-01-01T00:00:00Z", server: "gitlab" })).toEqual(["server.create gitlab"]);
  for (const query of ["from=yesterday", "action=secret.read", "server=A", "secret=A"]) {
    expect((await send(admin.token, "GET", `/changes?${query}`)).status, query).toBe(422);
  }
});
