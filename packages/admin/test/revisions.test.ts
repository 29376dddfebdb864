import { expect, it } from "vitest";
import { type Installation, install } from "./installation.ts";

async function withServer(): Promise<Installation> {
  const installation = await install();
  const { send, admin } = installation;
  await send(admin.token, "POST", "/mcp-servers", { body: { slug: "github", url: "https://mcp.example.com" } });
  await send(admin.token, "POST", "/mcp-servers/github/secrets", { body: { name: "A", value: "a-value-of-a-test" } });
  return installation;
}

it.each(["/mcp-servers/github", "/mcp-servers/github/secrets", "/mcp-servers/github/secrets/A/injection"])(
  "GET %s answers with the revision as its ETag, and with 304 if If-None-Match has this ETag",
  async (path) => {
    const { send, admin } = await withServer();
    const etag = (await send(admin.token, "GET", path)).headers.get("etag") ?? "";
    expect(etag).toBe('"1"');
    for (const known of [etag, `"0", ${etag}`, "*", `W/${etag}`]) {
      const same = await send(admin.token, "GET", path, { headers: { "if-none-match": known } });
      expect([same.status, same.text, same.headers.get("etag")]).toEqual([304, "", etag]);
      expect(same.headers.get("cache-control")).toBe("no-store");
    }
    const other = await send(admin.token, "GET", path, { headers: { "if-none-match": '"0"' } });
    expect(other.status).toBe(200);
  },
);

it("GET of a workspace answers with the revision as its ETag", async () => {
  const { send, operator } = await install();
  const { headers } = await send(operator.token, "GET", "/workspaces/main");
  const etag = headers.get("etag") ?? "";
  expect(etag).toMatch(/^"\d+"$/);
  const same = await send(operator.token, "GET", "/workspaces/main", { headers: { "if-none-match": etag } });
  expect(same.status).toBe(304);
});

it("DELETE of a workspace is refused if If-Match names another revision", async () => {
  const { send, operator } = await install();
  const stale = await send(operator.token, "DELETE", "/workspaces/main", { headers: { "if-match": '"999"' } });
  expect(stale.status).toBe(412);
  const etag = (await send(operator.token, "GET", "/workspaces/main")).headers.get("etag") ?? "";
  const right = await send(operator.token, "DELETE", "/workspaces/main", { headers: { "if-match": etag } });
  expect(right.status).toBe(204);
});

const changes = [
  ["PATCH", "/mcp-servers/github", { disabled: true }],
  ["DELETE", "/mcp-servers/github", undefined],
  ["POST", "/mcp-servers/github/secrets", { name: "A", value: "another-value-of-a-test" }],
  ["DELETE", "/mcp-servers/github/secrets", undefined],
  ["DELETE", "/mcp-servers/github/secrets/A", undefined],
  ["PUT", "/mcp-servers/github/secrets/A/injection", { kind: "bearer" }],
] as const;

it.each(changes)("%s %s is refused if If-Match names another revision", async (method, path, body) => {
  const { send, admin } = await withServer();
  const ask = (ifMatch: string) => send(admin.token, method, path, { body, headers: { "if-match": ifMatch } });
  const refused = await ask('"0"');
  expect(refused.status).toBe(412);
  expect(refused.json).toMatchObject({ code: "REVISION_CHANGED", status: 412 });
  const state = await send(admin.token, "GET", "/mcp-servers/github/secrets");
  expect(state.headers.get("etag")).toBe('"1"');
  const done = await ask('"1"');
  expect(done.status, done.text).toBeLessThan(300);
});

it.each(changes)("%s %s is accepted at any revision if the request has If-Match: *", async (method, path, body) => {
  const { send, admin } = await withServer();
  const done = await send(admin.token, method, path, { body, headers: { "if-match": "*" } });
  expect(done.status, done.text).toBeLessThan(300);
});

it.each(["0", '"x"', '"1', 'W/"1"', '"1", "2"', '"-1"', '"1234567890123456"'])(
  "refuses If-Match: %s, which is not an ETag of the service",
  async (ifMatch) => {
    const { send, admin } = await withServer();
    const headers = { "if-match": ifMatch };
    const { status, json } = await send(admin.token, "PATCH", "/mcp-servers/github", {
      body: { disabled: true },
      headers,
    });
    expect(status).toBe(422);
    expect(json).toMatchObject({ fields: [{ in: "header", name: "if-match" }] });
  },
);

it("the answer to a change has the same ETag as the next read", async () => {
  const { send, admin } = await withServer();
  const changed = await send(admin.token, "PATCH", "/mcp-servers/github", { body: { disabled: true } });
  const read = await send(admin.token, "GET", "/mcp-servers/github");
  expect(changed.headers.get("etag")).toBe(read.headers.get("etag"));
  const set = await send(admin.token, "POST", "/mcp-servers/github/secrets", {
    body: { name: "B", value: "a-value-of-a-test" },
  });
  expect(set.status).toBe(201);
  expect(set.headers.get("location")).toBe("/api/v1/admin/mcp-servers/github/secrets/B/injection");
  const list = await send(admin.token, "GET", "/mcp-servers/github/secrets");
  expect(set.headers.get("etag")).toBe(list.headers.get("etag"));
});

it("a value is refused if the server has another origin than expectedOrigin", async () => {
  const { send, clientOf, admin } = await withServer();
  const client = clientOf(admin.token);
  const expectedOrigin = "https://mcp.example.com";
  const secret = { name: "B", value: "b-value-of-a-test", expectedOrigin };
  expect((await client.setSecret("github", secret)).secret.origin).toBe(expectedOrigin);
  await client.updateServer("github", { url: "https://attacker.example" });
  const refused = await send(admin.token, "POST", "/mcp-servers/github/secrets", { body: secret });
  expect([refused.status, refused.json]).toEqual([412, expect.objectContaining({ code: "ORIGIN_CHANGED" })]);
});
