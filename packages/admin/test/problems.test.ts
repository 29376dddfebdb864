import { createAdminApi } from "@keyward/admin";
import { createApiKey, HttpStore, startKvServer } from "@keyward/http-kv";
import { MemoryStore } from "@keyward/store-memory";
import { expect, it, onTestFinished } from "vitest";
import { problem } from "../src/schemas/problem-schemas.ts";
import { type Answer, apiPath, install, serviceWith, wholeText } from "./installation.ts";

function requireProblem({ status, headers, json }: Answer) {
  expect(headers.get("content-type")).toBe("application/problem+json");
  const read = problem.parse(json);
  expect(read.status).toBe(status);
  expect(read.instance).toBe(headers.get("x-request-id"));
  expect(read.hint).not.toBe("");
  return read;
}

it("the API answers an unknown route with 404", async () => {
  const { send } = await install();
  const answer = await send(undefined, "GET", "/no-such-route");
  expect(answer.status).toBe(404);
  expect(requireProblem(answer).code).toBe("ROUTE_NOT_FOUND");
});

it.each(["/.well-known/oauth-protected-resource", "/.well-known/oauth-authorization-server/mcp", "/", "/favicon.ico"])(
  "the API answers %s with 404 in JSON, so that no client begins an OAuth discovery",
  async (path) => {
    const { service } = await install();
    const response = await createAdminApi({ admin: service }).request(path);
    expect(response.status).toBe(404);
    expect(response.headers.get("www-authenticate")).toBe(null);
    expect(await response.json()).toMatchObject({ code: "ROUTE_NOT_FOUND" });
  },
);

it.each([
  ["PUT", "/mcp-servers", "GET, POST, HEAD"],
  ["POST", "/mcp-servers/github", "GET, PATCH, DELETE, HEAD"],
  ["GET", "/mcp-servers/github/secrets/A", "DELETE"],
  ["OPTIONS", "/whoami", "GET, HEAD"],
  ["DELETE", "/openapi.json", "GET, HEAD"],
])("the API answers %s %s with 405 and the methods of the route", async (method, path, allowed) => {
  const { send, admin } = await install();
  const answer = await send(admin.token, method, path);
  expect(answer.status).toBe(405);
  expect(answer.headers.get("allow")?.split(", ").sort()).toEqual(allowed.split(", ").sort());
  expect(requireProblem(answer).code).toBe("METHOD_NOT_ALLOWED");
});

it.each([
  ["GET", "/calls/nonsense", {}, "path field id must be the id of a call"],
  ["DELETE", "/tokens/nonsense", {}, "path field id must be an id of 12 lower-case letters and digits"],
  ["GET", "/calls?token=nonsense", {}, "query field token must be an id of 12 lower-case letters and digits"],
  ["GET", "/calls?from=nonsense", {}, "query field from must be a time in RFC 3339"],
  ["GET", "/tokens?limit=nonsense", {}, "query field limit must be a whole number from 1 to 100"],
  [
    "DELETE",
    "/mcp-servers/github",
    { "if-match": "nonsense" },
    "header field if-match must be a revision in double quotes",
  ],
])("the answer to %s %s %j states the rule of the refused field", async (method, path, headers, rule) => {
  const { send, admin } = await install();
  const { detail } = requireProblem(await send(admin.token, method, path, { headers }));
  expect(detail).toContain(rule);
  expect(detail).not.toMatch(/regex|datetime|;/);
});

it.each(["{", "", "[", "nul", '{"slug":"a",}'])("the API answers the broken JSON %j with 400", async (body) => {
  const { send, admin } = await install();
  const answer = await send(admin.token, "POST", "/mcp-servers", { body });
  expect(answer.status).toBe(400);
  expect(requireProblem(answer).code).toBe("BODY_MALFORMED");
});

it.each(["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/xml"])(
  "the API answers the content type %s with 415",
  async (type) => {
    const { send, admin } = await install();
    const answer = await send(admin.token, "POST", "/mcp-servers", { body: "{}", headers: { "content-type": type } });
    expect(answer.status).toBe(415);
    expect(requireProblem(answer).code).toBe("CONTENT_TYPE_UNSUPPORTED");
  },
);

it("the API answers a body over the limit with 413, with and without a Content-Length", async () => {
  const { send, service, admin } = await install();
  const body = JSON.stringify({ name: "A", value: "x".repeat(70_000) });
  const answer = await send(admin.token, "POST", "/mcp-servers/github/secrets", { body });
  expect(answer.status).toBe(413);
  expect(requireProblem(answer).code).toBe("BODY_TOO_LARGE");
  const chunked = await createAdminApi({ admin: service }).request(`${apiPath}/mcp-servers`, {
    method: "POST",
    headers: { authorization: `Bearer ${admin.token}`, "content-type": "application/json" },
    body: new Blob([body]).stream(),
    duplex: "half",
  });
  expect(chunked.status).toBe(413);
});

it("the API answers a request that SecretsAdmin refuses with the error code of SecretsAdmin", async () => {
  const { send, admin } = await install();
  const server = { slug: "github", url: "https://mcp.example.com" };
  await send(admin.token, "POST", "/mcp-servers", { body: server });
  const exists = await send(admin.token, "POST", "/mcp-servers", { body: server });
  expect([exists.status, requireProblem(exists).code]).toEqual([409, "SERVER_EXISTS"]);
  const missing = await send(admin.token, "GET", "/mcp-servers/nowhere");
  expect([missing.status, requireProblem(missing).code]).toEqual([404, "SERVER_NOT_FOUND"]);
  const last = await send(admin.token, "DELETE", `/tokens/${admin.info.id}`);
  expect([last.status, requireProblem(last).code]).toEqual([409, "LAST_ADMIN"]);
  const rule = { name: "A", value: "a-value-of-a-test", injection: { kind: "header", header: "Host" } };
  const refused = await send(admin.token, "POST", "/mcp-servers/github/secrets", { body: rule });
  expect([refused.status, requireProblem(refused).code]).toEqual([422, "FIELD_INVALID"]);
});

it("an error contains no text of the request, even if that text has a valid form", async () => {
  const { send, admin, operator } = await install({ limits: "lifted" });
  const pasted = "pasted5f2as3cr3t";
  const secrets = "/mcp-servers/github/secrets";
  const value = "a-value-of-a-test";
  const header = (name: string) => ({ kind: "header", header: name });
  await send(admin.token, "POST", "/mcp-servers", { body: { slug: "github", url: "https://mcp.example.com" } });
  await send(admin.token, "POST", secrets, { body: { name: "A", value, injection: header(pasted.toUpperCase()) } });
  await send(admin.token, "POST", secrets, { body: { name: "B", value, injection: header("X-B") } });
  const refused = [
    ["POST", secrets, { name: "C", value, injection: header(pasted) }],
    ["POST", secrets, { name: "C", value, injection: header(`mcp-${pasted}`) }],
    ["POST", secrets, { name: `proxy-${pasted}`, value }],
    ["POST", secrets, { name: pasted, value: "API_KEY_NAME" }],
    ["POST", secrets, { name: "C", value, expectedOrigin: `https://${pasted}.example.com` }],
    ["POST", secrets, { name: "C", value, injection: { kind: "template", header: "X-C", template: pasted } }],
    ["POST", secrets, { name: "C", value: pasted, injection: { kind: "basic" } }],
    ["POST", secrets, { name: "C", value, [pasted]: 1 }],
    ["PUT", `${secrets}/B/injection`, header(pasted)],
    ["PUT", `${secrets}/${pasted}/injection`, header("X-C")],
    ["DELETE", `${secrets}/${pasted}`, undefined],
    ["GET", `/mcp-servers/${pasted}`, undefined],
    ["POST", "/mcp-servers", { slug: "other", url: `https://${pasted}:${pasted}@example.com` }],
    ["POST", "/mcp-servers", { slug: "other", url: `https://example.com/?${pasted}` }],
    ["POST", "/tokens", { owner: "somebody", role: "member", servers: [pasted] }],
    ["POST", "/tokens", { owner: pasted, role: "operator" }],
    ["DELETE", `/tokens/${pasted.slice(0, 12)}`, undefined],
    ["GET", `/tokens?cursor=${pasted}`, undefined],
    ["GET", `/changes?cursor=${pasted}`, undefined],
    ["GET", `/${pasted}?${pasted}`, undefined],
  ] as const;
  for (const [method, path, body] of refused) {
    const answer = await send(admin.token, method, path, { body });
    expect(answer.status, `${method} ${path}`).toBeGreaterThanOrEqual(400);
    expect(wholeText(answer), `${method} ${path}`).not.toContain(pasted.slice(0, 12));
  }
  expect(wholeText(await send(operator.token, "GET", `/workspaces/${pasted}`))).not.toContain(pasted);
});

it("the API answers 503 while the audit log is unavailable, and makes no change", async () => {
  const errors: unknown[] = [];
  const { send, admin, audit } = await install({ onError: (error) => errors.push(error) });
  audit.away = true;
  const body = { slug: "github", url: "https://mcp.example.com" };
  const answer = await send(admin.token, "POST", "/mcp-servers", { body });
  expect([answer.status, requireProblem(answer).code]).toEqual([503, "AUDIT_UNAVAILABLE"]);
  expect(answer.headers.get("retry-after")).toBe("5");
  expect(errors).toHaveLength(1);
  audit.away = false;
  expect((await send(admin.token, "GET", "/mcp-servers/github")).status).toBe(404);
});

it("the API answers 503 on every route while the store is unavailable, and does not name the store", async () => {
  const { apiKey, entry } = createApiKey({ tenant: "service" });
  const kv = await startKvServer({ store: new MemoryStore(), tenants: [entry], port: 0 });
  onTestFinished(() => kv.close());
  const errors: unknown[] = [];
  const store = new HttpStore({ url: kv.url, apiKey, retries: 0, timeoutMs: 2_000 });
  const { send, admin } = await install({ store, onError: (error) => errors.push(error) });
  expect((await send(admin.token, "GET", "/mcp-servers")).status).toBe(200);
  await kv.close();
  for (const [method, path, body] of [
    ["GET", "/whoami", undefined],
    ["GET", "/mcp-servers", undefined],
    ["POST", "/mcp-servers", { slug: "github", url: "https://mcp.example.com" }],
    ["DELETE", "/tokens?owner=nobody", undefined],
  ] as const) {
    const answer = await send(admin.token, method, path, { body });
    expect([answer.status, requireProblem(answer).code]).toEqual([503, "STORE_UNAVAILABLE"]);
    expect(answer.headers.get("retry-after")).toBe("5");
    expect(answer.text).not.toContain(new URL(kv.url).port);
    expect(answer.headers.get("www-authenticate")).toBe(null);
  }
  expect(errors).toHaveLength(4);
});

it("the API answers an unexpected error with 500 without details, and reports the error with the id of the request", async () => {
  const errors: { error: unknown; requestId: string }[] = [];
  const { service, admin } = await install();
  const broken = serviceWith(service, "listServers", () => Promise.reject(new Error("a detail of the inside")));
  const app = createAdminApi({ admin: broken, onError: (error, { requestId }) => errors.push({ error, requestId }) });
  const headers = { authorization: `Bearer ${admin.token}` };
  const response = await app.request(`${apiPath}/mcp-servers`, { headers });
  const text = await response.text();
  expect(response.status).toBe(500);
  expect(text).not.toContain("a detail of the inside");
  expect(JSON.parse(text)).toMatchObject({ code: "INTERNAL_ERROR", instance: errors[0]?.requestId });
  expect(errors[0]?.error).toMatchObject({ message: "a detail of the inside" });
});

it("the API sets the security headers for browsers in each answer", async () => {
  const { send, admin } = await install();
  for (const [token, method, path] of [
    [admin.token, "GET", "/whoami"],
    [undefined, "GET", "/whoami"],
    [undefined, "GET", "/openapi.json"],
    [admin.token, "GET", "/nowhere"],
  ] as const) {
    const { headers } = await send(token, method, path);
    expect(headers.get("cache-control")).toBe("no-store");
    expect(headers.get("x-content-type-options")).toBe("nosniff");
    expect(headers.get("content-security-policy")).toContain("default-src 'none'");
    expect(headers.get("access-control-allow-origin")).toBe(null);
  }
});

it.each([
  ["evil.example.com", undefined, 421],
  ["localhost.evil.example.com:8481", undefined, 421],
  ["10.0.0.1:8481", undefined, 421],
  ["user@localhost", undefined, 421],
  ["localhost:8481", "http://evil.example.com", 403],
  ["localhost:8481", "null", 403],
  ["localhost:8481", "http://localhost:9999", 403],
  ["localhost:8481", "http://localhost:8481", 200],
  ["127.0.0.1:8481", undefined, 200],
  ["[::1]:8481", undefined, 200],
  ["LOCALHOST", undefined, 200],
  ["keyward.example.com", "https://keyward.example.com", 200],
  ["keyward.example.com:8443", undefined, 200],
] as const)("answers the host %s with the origin %s with %i", async (host, origin, status) => {
  const { send, admin } = await install({ publicUrl: "https://keyward.example.com" });
  const headers = origin === undefined ? { host } : { host, origin };
  expect((await send(admin.token, "GET", "/whoami", { headers })).status).toBe(status);
});
