import { once } from "node:events";
import { request as httpRequest } from "node:http";
import { describe, expect, it } from "vitest";
import { answerJson, type Installation, startInstallation, startUpstream, testValue } from "./installation.ts";

/** Sends a request whose headers may come more than once. Returns the status and the body. */
async function callWith({ gateway, token }: Installation, path: string, headers: Record<string, string | string[]>) {
  const request = httpRequest(`${gateway.url}${path}`, { headers: { authorization: `Bearer ${token}`, ...headers } });
  request.end();
  const [answer] = await once(request, "response");
  const chunks: Buffer[] = [];
  for await (const chunk of answer) chunks.push(chunk);
  return { status: answer.statusCode, body: Buffer.concat(chunks).toString("utf8") };
}

describe("the headers of callers that a server's settings list", () => {
  it.each([
    ["http", "/s/api/items"],
    ["mcp", "/s/api/mcp"],
  ] as const)("are forwarded to a server of the kind %s, and no other ones", async (kind, path) => {
    const upstream = await startUpstream((_, response) => answerJson(response, {}));
    const { addServer, call } = await startInstallation([upstream]);
    await addServer({ slug: "api", url: upstream.origin, kind, forwardHeaders: ["X-Api-Version", "idempotency-key"] });
    const headers = { "x-api-version": "2026-11-28", "Idempotency-Key": "a, b", "x-other": "no", cookie: "a=b" };
    expect((await call(path, { headers })).status).toBe(200);
    const [request] = upstream.requests;
    expect(request?.headers).toMatchObject({ "x-api-version": "2026-11-28", "idempotency-key": "a, b" });
    expect(Object.keys(request?.headers ?? {})).not.toEqual(expect.arrayContaining(["x-other"]));
    expect(request?.headers.cookie).toBeUndefined();
  });

  it("are forwarded from the first call after they are listed, until the list is emptied", async () => {
    const upstream = await startUpstream((_, response) => answerJson(response, {}));
    const { addServer, call, admin, caller } = await startInstallation([upstream]);
    await addServer({ slug: "api", url: upstream.origin });
    const headers = { "x-api-version": "1" };
    await call("/s/api/", { headers });
    await admin.updateServer(caller, "api", { forwardHeaders: ["x-api-version"] });
    await call("/s/api/", { headers });
    await admin.updateServer(caller, "api", { forwardHeaders: [] });
    await call("/s/api/", { headers });
    expect(upstream.requests.map((request) => request.headers["x-api-version"])).toEqual([undefined, "1", undefined]);
  });

  it("never replace or accompany the header of a secret", async () => {
    const upstream = await startUpstream((_, response) => answerJson(response, {}));
    const { addServer, call } = await startInstallation([upstream]);
    const rule = { kind: "header", header: "X-Api-Key" } as const;
    await addServer({ slug: "api", url: upstream.origin, rule, forwardHeaders: ["x-api-key", "x_api_key"] });
    const headers = { "x-api-key": "key-of-the-caller", x_api_key: "key-of-the-caller" };
    expect((await call("/s/api/", { headers })).status).toBe(200);
    expect(upstream.requests[0]?.headers["x-api-key"]).toBe(testValue);
    expect(upstream.requests[0]?.rawHeaders.join()).not.toContain("key-of-the-caller");
  });

  it("are refused if one of them is sent twice, and the audit has the refusal", async () => {
    const upstream = await startUpstream((_, response) => answerJson(response, {}));
    const installation = await startInstallation([upstream]);
    const { addServer, admin, caller } = installation;
    await addServer({ slug: "api", url: upstream.origin, forwardHeaders: ["x-api-version"] });
    const twice = { "x-api-version": ["1", "2"] };
    const refused = await callWith(installation, "/s/api/", twice);
    expect([refused.status, JSON.parse(refused.body)]).toMatchObject([400, { code: "REQUEST_MALFORMED" }]);
    expect((await callWith(installation, "/s/api/", { "x-other": ["1", "2"] })).status).toBe(200);
    expect(upstream.requests).toHaveLength(1);
    expect((await admin.listCalls(caller)).items.at(-1)).toMatchObject({ status: 400, reason: "REQUEST_MALFORMED" });
  });

  it("may include a header that the gateway forwards in any case", async () => {
    const upstream = await startUpstream((_, response) => answerJson(response, {}));
    const installation = await startInstallation([upstream]);
    await installation.addServer({ slug: "api", url: upstream.origin, forwardHeaders: ["accept", "constructor"] });
    const accept = ["text/plain", "text/html"];
    expect((await callWith(installation, "/s/api/", { accept })).status).toBe(200);
    expect(upstream.requests[0]?.headers).toMatchObject({ accept: "text/plain, text/html" });
  });
});

describe("the headers of answers that a server's settings list", () => {
  it.each([
    ["http", "/s/api/items"],
    ["mcp", "/s/api/mcp"],
  ] as const)("are relayed from a server of the kind %s, and no other ones", async (kind, path) => {
    const upstream = await startUpstream((_, response) =>
      answerJson(response, {}, { "X-RateLimit-Remaining": "4711", "x-other": "no", "set-cookie": "a=b" }),
    );
    const { addServer, call } = await startInstallation([upstream]);
    await addServer({
      slug: "api",
      url: upstream.origin,
      kind,
      relayHeaders: ["x-ratelimit-remaining", "constructor"],
    });
    const { status, headers } = await call(path);
    expect(status).toBe(200);
    expect(headers.get("x-ratelimit-remaining")).toBe("4711");
    expect([headers.get("x-other"), headers.get("set-cookie"), headers.get("constructor")]).toEqual([null, null, null]);
  });

  it("are relayed with all their lines and letters outside ASCII, and without the value of a secret", async () => {
    const upstream = await startUpstream((_, response) => {
      const encoded = Buffer.from(testValue).toString("base64");
      const name = Buffer.from("Zoë 😀").toString("latin1");
      response.writeHead(200, { "x-echo": [`a ${testValue}`, `b ${encoded}`], "x-name": name });
      response.end("{}");
    });
    const { addServer, call, admin, caller } = await startInstallation([upstream]);
    await addServer({ slug: "api", url: upstream.origin, relayHeaders: ["x-echo", "x-name"] });
    const { headers, status } = await call("/s/api/");
    expect(status).toBe(200);
    expect(headers.get("x-echo")).toMatch(/^a REDACTED, b .*REDACTED/);
    expect(headers.get("x-echo")).not.toContain(testValue);
    expect(Buffer.from(headers.get("x-name") ?? "", "latin1").toString()).toBe("Zoë 😀");
    await expect.poll(async () => (await admin.listCalls(caller)).items).toMatchObject([{ redactions: 2 }]);
  });
});
