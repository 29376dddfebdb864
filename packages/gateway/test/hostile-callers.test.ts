import { once } from "node:events";
import { request as httpRequest } from "node:http";
import { describe, expect, it } from "vitest";
import { answerJson, bodyOf, type Installation, startInstallation, startUpstream, testValue } from "./installation.ts";
import { closed, exchange, openConnection, requestOf, statusesIn } from "./raw-http.ts";

const message = (method: string, params: unknown = {}) => JSON.stringify({ jsonrpc: "2.0", id: 1, method, params });

/** Starts an MCP server that answers each message, and sends events without end for GET. */
async function startMcp(options: Parameters<typeof startInstallation>[1] = {}) {
  const upstream = await startUpstream((request, response) => {
    if (request.method === "GET") {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write("data: first\n\n");
      return;
    }
    bodyOf(request).then(
      () => answerJson(response, { jsonrpc: "2.0", id: 1, result: {} }),
      () => response.destroy(),
    );
  });
  const installation = await startInstallation([upstream], options);
  await installation.addServer({ slug: "tools", url: `${upstream.origin}/mcp`, kind: "mcp" });
  return { upstream, ...installation };
}

function post(body: string, headers: Readonly<Record<string, string>> = {}): RequestInit {
  return { method: "POST", body, headers: { "content-type": "application/json", ...headers } };
}

async function codeOf(answer: Response): Promise<unknown> {
  const { code }: { code?: unknown } = JSON.parse(await answer.text());
  return [answer.status, code];
}

async function revoke({ admin, caller }: Pick<Installation, "admin" | "caller">, owner: string): Promise<void> {
  for (const { id } of (await admin.listTokens(caller)).items.filter((token) => token.owner === owner)) {
    await admin.revokeToken(caller, id);
  }
}

describe("a stolen token of a member", () => {
  it("calls only the servers, methods and tools of its scope", async () => {
    const { gateway, admin, caller, addServer, upstream } = await startMcp();
    await addServer({ slug: "other", url: upstream.origin });
    const { token } = await admin.createToken(caller, {
      owner: "narrow",
      role: "member",
      servers: ["tools"],
      tools: ["echo"],
      methods: ["POST"],
    });
    const headers = { authorization: `Bearer ${token}` };
    const call = (path: string, init: RequestInit) => fetch(`${gateway.url}${path}`, init).then(codeOf);
    const tool = (name: string) => post(message("tools/call", { name }), headers);
    expect(await call("/s/other/items", post("{}", headers))).toEqual([404, "SERVER_NOT_FOUND"]);
    expect(await call("/s/unknown/items", post("{}", headers))).toEqual([404, "SERVER_NOT_FOUND"]);
    expect(await call("/s/tools/mcp", { headers })).toEqual([403, "NOT_ALLOWED"]);
    expect(await call("/s/tools/mcp", tool("delete"))).toEqual([403, "NOT_ALLOWED"]);
    expect(upstream.requests).toEqual([]);
    expect(await call("/s/tools/mcp", tool("echo"))).toEqual([200, undefined]);
  });

  it("calls no HTTP API if the token is limited to tools and has no methods", async () => {
    const { gateway, admin, caller, addServer, upstream } = await startMcp();
    await addServer({ slug: "api", url: upstream.origin });
    const call = async (scopes: object, init?: RequestInit) => {
      const { token } = await admin.createToken(caller, {
        owner: "narrow",
        role: "member",
        tools: ["echo"],
        ...scopes,
      });
      const headers = { ...init?.headers, authorization: `Bearer ${token}` };
      return await fetch(`${gateway.url}/s/api/items`, { ...init, headers }).then(codeOf);
    };
    for (const method of ["GET", "POST", "DELETE"]) expect(await call({}, { method })).toEqual([403, "NOT_ALLOWED"]);
    expect(await call({ servers: ["api"] })).toEqual([403, "NOT_ALLOWED"]);
    expect(upstream.requests).toEqual([]);
    expect(await call({ methods: ["POST"] }, { method: "GET" })).toEqual([403, "NOT_ALLOWED"]);
    expect(upstream.requests).toEqual([]);
    expect(await call({ methods: ["POST"] }, post(message("tools/list"), {}))).toEqual([200, undefined]);
  });

  it("gives no access to the servers of another workspace, and neither does a token of an admin", async () => {
    const { gateway, admin, upstream, problems } = await startMcp();
    const operator = admin.localOperator();
    const { admin: other } = await admin.createWorkspace(operator, { name: "other", adminOwner: "eve" });
    const foreigner = await admin.authenticate(other.token);
    const { token } = await admin.createToken(foreigner, { owner: "foreign", role: "member" });
    const call = (bearer: string) =>
      fetch(`${gateway.url}/s/tools/mcp`, post(message("tools/list"), { authorization: `Bearer ${bearer}` }));
    expect(await codeOf(await call(token))).toEqual([404, "SERVER_NOT_FOUND"]);
    expect((await call(other.token)).status).toBeGreaterThanOrEqual(400);
    expect(upstream.requests).toEqual([]);
    expect(problems).toEqual([]);
  });

  it("is refused after its revocation, and streams and requests in progress end within two seconds", async () => {
    const { gateway, token, admin, caller, call } = await startMcp();
    const answer = await call("/s/tools/mcp", { headers: { accept: "text/event-stream" } });
    const reader = answer.body?.getReader();
    await reader?.read();
    const upload = await openConnection(gateway.url);
    upload.resume();
    upload.write(
      requestOf("POST /s/tools/mcp HTTP/1.1", token, ["Content-Type: application/json", "Content-Length: 100"], "{"),
    );
    await expect.poll(() => gateway.openCalls).toBe(2);
    const uploadEnds = closed(upload);
    await revoke({ admin, caller }, "ci");
    const revokedAt = performance.now();
    while ((await reader?.read())?.done === false);
    await uploadEnds;
    expect(performance.now() - revokedAt).toBeLessThan(2_000);
    expect(await codeOf(await call("/s/tools/mcp"))).toEqual([401, "TOKEN_REFUSED"]);
  });
});

describe("the header Authorization", () => {
  it.each([
    [undefined],
    [""],
    ["Bearer"],
    ["Bearer "],
    ["Basic a3d0OmE="],
    ["Bearer kwt_a_b_c"],
    [`Bearer ${"a".repeat(300)}`],
    ["Bearer TOKEN extra"],
    ["Bearer TOKEN,"],
    ["TOKEN"],
  ])("is refused if it is %j, and the answer does not mention OAuth", async (given: string | undefined) => {
    const { gateway, token, upstream } = await startMcp();
    const headers: Record<string, string> = given === undefined ? {} : { authorization: given.replace("TOKEN", token) };
    const answer = await fetch(`${gateway.url}/s/tools/mcp`, post(message("tools/list"), headers));
    expect(answer.headers.get("www-authenticate")).toBe('Bearer realm="keyward"');
    expect(await codeOf(answer)).toEqual([401, "TOKEN_REFUSED"]);
    expect(upstream.requests).toEqual([]);
  });

  it("is not replaced by a token in the query, in a cookie or in another header", async () => {
    const { gateway, token, upstream } = await startMcp();
    const headers = { cookie: `token=${token}`, "x-api-key": token, "proxy-authorization": `Bearer ${token}` };
    const answer = await fetch(`${gateway.url}/s/tools/mcp?access_token=${token}`, post(message("a"), headers));
    expect(answer.status).toBe(401);
    expect(upstream.requests).toEqual([]);
  });
});

describe("headers of a caller", () => {
  it("cannot replace what the gateway injects, and are refused if one of them is sent twice", async () => {
    const upstream = await startUpstream((_, response) => answerJson(response, {}));
    const { gateway, token, addServer } = await startInstallation([upstream]);
    await addServer({ slug: "api", url: upstream.origin, rule: { kind: "header", header: "X-Api-Key" } });
    const spellings = [
      "X-Api-Key: evil",
      "x-api-key: evil",
      "X_Api_Key: evil",
      "X-Api-Key: a",
      "Connection: X-Api-Key",
    ];
    await exchange(gateway.url, requestOf("GET /s/api/items HTTP/1.1", token, spellings));
    expect(upstream.requests[0]?.headersDistinct["x-api-key"]).toEqual([testValue]);
    expect(upstream.requests[0]?.rawHeaders.join("\n")).not.toContain("evil");
    for (const name of [
      "Authorization: Bearer other",
      "Content-Type: text/plain\r\nContent-Type: text/html",
      "Mcp-Method: a\r\nmcp-method: b",
      "Mcp-Param-Region: a\r\nMcp-Param-Region: b",
      "Mcp-Session-Id: a\r\nMcp-Session-Id: b",
      "Last-Event-ID: 1\r\nLast-Event-ID: 2",
      "Origin: http://localhost\r\nOrigin: http://evil.example",
    ]) {
      const answer = await exchange(gateway.url, requestOf("GET /s/api/items HTTP/1.1", token, [name]));
      expect(statusesIn(answer)[0], name).toBeGreaterThanOrEqual(400);
    }
    expect(upstream.requests).toHaveLength(1);
  });

  it("cannot ask for a part of an answer or for a compressed answer, and cannot control a proxy", async () => {
    const upstream = await startUpstream((_, response) => answerJson(response, {}));
    const { gateway, token, addServer } = await startInstallation([upstream]);
    await addServer({ slug: "api", url: upstream.origin });
    const lines = [
      "Range: bytes=0-1",
      "If-Range: a",
      "Request-Range: bytes=0-1",
      "Accept-Encoding: gzip",
      "Max-Forwards: 0",
      "Via: 1.1 a",
      "Forwarded: for=1.2.3.4",
      "X-Forwarded-For: 1.2.3.4",
      "X-Real-IP: 1.2.3.4",
      "__proto__: a",
      "constructor: a",
    ];
    const answer = await exchange(gateway.url, requestOf("GET /s/api/items HTTP/1.1", token, lines));
    expect(statusesIn(answer)).toEqual([200]);
    const { headers = {} } = upstream.requests[0] ?? {};
    expect(Object.keys(headers).sort()).toEqual(["accept-encoding", "authorization", "connection", "host"]);
    expect(headers["accept-encoding"]).toBe("identity");
  });
});

describe("a host or an origin", () => {
  it.each([
    ["evil.example", undefined, 421],
    ["localhost.evil.example", undefined, 421],
    ["localhost@evil.example", undefined, 421],
    ["evil.example#localhost", undefined, 421],
    ["127.0.0.1.nip.io", undefined, 421],
    ["0.0.0.0", undefined, 421],
    ["localhost", "http://evil.example", 403],
    ["localhost", "null", 403],
    ["localhost", "http://localhost.evil.example", 403],
    ["localhost", "http://localhost:1", 403],
    ["localhost", "", 403],
    ["localhost:1234", undefined, 200],
    ["LOCALHOST", "http://localhost", 200],
  ])("%j with the origin %j answers %j", async (host, origin, status) => {
    const { gateway, token, upstream } = await startMcp();
    const body = message("tools/list");
    const lines = [
      `Host: ${host}`,
      `Authorization: Bearer ${token}`,
      "Connection: close",
      "Content-Type: application/json",
      `Content-Length: ${body.length}`,
    ];
    if (origin !== undefined) lines.push(`Origin: ${origin}`);
    const answer = await exchange(gateway.url, `POST /s/tools/mcp HTTP/1.1\r\n${lines.join("\r\n")}\r\n\r\n${body}`);
    expect(statusesIn(answer)).toEqual([status]);
    expect(answer).not.toMatch(/^access-control-/im);
    expect(upstream.requests).toHaveLength(status === 200 ? 1 : 0);
  });
});

describe("a message of MCP", () => {
  const tool = (name: string) => message("tools/call", { name });
  it.each([
    ["two methods", '{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"tools/call","params":{"name":"a"}}'],
    ["two methods, one escaped", '{"jsonrpc":"2.0","id":1,"method":"tools/list","m\\u0065thod":"tools/call"}'],
    ["two tools", '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}'],
    ["two objects of params", '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"},"params":{}}'],
    ["a batch", `[${tool("a")},${tool("b")}]`],
    ["two messages", `${tool("a")}${tool("b")}`],
    ["a byte order mark", `\ufeff${tool("a")}`],
    ["too many levels", message("tools/call", JSON.parse("[".repeat(100) + "]".repeat(100)))],
    ["no JSON", "method=tools/call"],
    ["nothing", ""],
  ])("is refused if it has %s", async (_, body) => {
    const { call, upstream } = await startMcp();
    expect(await codeOf(await call("/s/tools/mcp", post(body)))).toEqual([400, "BODY_MALFORMED"]);
    expect(upstream.requests).toEqual([]);
  });

  it.each([
    ["a tool in the body and another in the header", { "mcp-method": "tools/call", "mcp-name": "b" }],
    ["a method in the body and another in the header", { "mcp-method": "tools/list", "mcp-name": "a" }],
  ])("is refused with the error that MCP demands if it has %s", async (_, headers) => {
    const { call, upstream } = await startMcp();
    const answer = await call("/s/tools/mcp", post(tool("a"), headers));
    expect([answer.status, await answer.json()]).toMatchObject([400, { error: { code: -32_020 } }]);
    expect(upstream.requests).toEqual([]);
  });

  it.each([
    { "content-type": "application/json; charset=utf-7" },
    { "content-type": "application/json; charset=utf-16le" },
    { "content-type": "application/json; charset=utf-8; charset=utf-7" },
    { "content-type": "text/plain" },
    { "content-type": "application/json", "content-encoding": "br" },
    { "content-type": "application/json", "content-encoding": "gzip" },
  ])("is refused if a server could decode it as another message: %j", async (headers) => {
    const { call, upstream } = await startMcp();
    const answer = await call("/s/tools/mcp", { method: "POST", body: message("tools/list"), headers });
    expect(await codeOf(answer)).toEqual([400, "BODY_MALFORMED"]);
    expect(upstream.requests).toEqual([]);
  });

  it("that is too large is refused, with and without a length, before the server is called", async () => {
    const { gateway, token, call, upstream } = await startMcp();
    const body = message("tools/call", { name: "a", text: "x".repeat(4 * 1_048_576) });
    expect(await codeOf(await call("/s/tools/mcp", post(body)))).toEqual([413, "BODY_TOO_LARGE"]);
    const socket = await openConnection(gateway.url);
    let answer = "";
    socket.on("data", (chunk) => {
      answer += String(chunk);
    });
    const ended = closed(socket);
    socket.write(
      requestOf("POST /s/tools/mcp HTTP/1.1", token, ["Content-Type: application/json", "Transfer-Encoding: chunked"]),
    );
    // A body without an end: the gateway answers, and ends the connection.
    const chunk = `10000\r\n${"x".repeat(65_536)}\r\n`;
    const more = () => {
      while (answer === "" && socket.writable && socket.write(chunk));
    };
    socket.on("drain", more);
    more();
    await ended;
    expect(statusesIn(answer)).toEqual([413]);
    await expect.poll(() => gateway.openCalls).toBe(0);
    expect(upstream.requests).toEqual([]);
  });

  it("is refused if too many bodies are in memory, until a caller disconnects and its memory is released", async () => {
    const { gateway, token, call, admin, caller, problems } = await startMcp({
      limits: { maxBodyMemoryBytes: 100_000 },
    });
    const socket = await openConnection(gateway.url);
    const part = "x".repeat(90_000);
    socket.write(
      requestOf("POST /s/tools/mcp HTTP/1.1", token, ["Content-Type: application/json", "Content-Length: 95000"], part),
    );
    const large = () => call("/s/tools/mcp", post(message("a", { text: "y".repeat(20_000) })));
    await expect.poll(async () => (await large()).status).toBe(503);
    socket.destroy();
    await expect.poll(async () => (await large()).status).toBe(200);
    await expect
      .poll(async () => (await admin.listCalls(caller)).items.filter(({ status }) => status !== 200 && status !== 503))
      .toMatchObject([{ status: undefined, outcome: "left" }]);
    expect(problems.filter((problem) => !String(problem).includes("too many large bodies"))).toEqual([]);
  });
});

describe("many calls", () => {
  it("are refused with 429 if they have one token, except `initialize`, which is refused with 503", async () => {
    const { call, admin, caller, gateway } = await startMcp({ limits: { callsPerSecond: 1, burstCalls: 2 } });
    const statuses = await Promise.all([1, 2, 3, 4].map(() => call("/s/tools/mcp", post(message("tools/list")))));
    expect(statuses.map(({ status }) => status).sort()).toEqual([200, 200, 429, 429]);
    for (const method of ["initialize", "server/discover"]) {
      const answer = await call("/s/tools/mcp", post(message(method)));
      expect([answer.status, Number(answer.headers.get("retry-after")) > 0]).toEqual([503, true]);
    }
    const { token } = await admin.createToken(caller, { owner: "other", role: "member" });
    const headers = { authorization: `Bearer ${token}` };
    expect((await fetch(`${gateway.url}/s/tools/mcp`, post(message("tools/list"), headers))).status).toBe(200);
  });

  it("are refused if too many with one token are in progress, while a call with another token is answered", async () => {
    const { call, admin, caller, gateway } = await startMcp({ limits: { concurrentCallsOfToken: 2 } });
    const leaving = new AbortController();
    const open = () => call("/s/tools/mcp", { signal: leaving.signal });
    await Promise.all([open(), open()]);
    expect(await codeOf(await call("/s/tools/mcp", post(message("initialize"))))).toEqual([503, "SERVICE_BUSY"]);
    const { token } = await admin.createToken(caller, { owner: "other", role: "member" });
    const headers = { authorization: `Bearer ${token}` };
    expect((await fetch(`${gateway.url}/s/tools/mcp`, post(message("tools/list"), headers))).status).toBe(200);
    leaving.abort();
    await expect.poll(async () => (await call("/s/tools/mcp", post(message("tools/list")))).status).toBe(200);
  });

  it("are refused with 429 after their token was refused too often", async () => {
    const { call, admin, caller } = await startMcp({ limits: { refusalsPerMinute: 3 } });
    await revoke({ admin, caller }, "ci");
    const statuses: number[] = [];
    for (let count = 0; count < 5; count++) statuses.push((await call("/s/tools/mcp")).status);
    expect(statuses).toEqual([401, 401, 401, 429, 429]);
  });

  it("whose answers contain values are refused after a while, so that a caller cannot guess a value", async () => {
    const upstream = await startUpstream((_, response) => answerJson(response, { value: testValue }));
    const { addServer, call } = await startInstallation([upstream], { limits: { redactionsPerHour: 3 } });
    await addServer({ slug: "api", url: upstream.origin });
    const statuses: number[] = [];
    for (let count = 0; count < 5; count++) statuses.push((await call("/s/api/")).status);
    expect(statuses).toEqual([200, 200, 200, 403, 403]);
  });
});

describe("a body for a server of another kind", () => {
  it("is refused if it is too large, with and without a length, and the server gets no complete request", async () => {
    const upstream = await startUpstream((request, response) => {
      bodyOf(request).then(
        () => answerJson(response, {}),
        () => response.destroy(),
      );
    });
    const { addServer, call, gateway, token } = await startInstallation([upstream], {
      limits: { maxBodyBytes: 100_000 },
    });
    await addServer({ slug: "api", url: upstream.origin });
    expect(await codeOf(await call("/s/api/", { method: "POST", body: "x".repeat(100_001) }))).toEqual([
      413,
      "BODY_TOO_LARGE",
    ]);
    const request = httpRequest(`${gateway.url}/s/api/`, {
      method: "POST",
      headers: { authorization: `Bearer ${token}` },
    });
    request.on("error", () => {});
    for (let count = 0; count < 10; count++) request.write("x".repeat(20_000));
    const [answer] = await once(request, "response");
    expect(answer.statusCode).toBe(413);
    request.destroy();
    for (const { complete } of upstream.requests) expect(complete).toBe(false);
    await expect.poll(() => gateway.openCalls).toBe(0);
  });

  it("may take longer than a server may be silent", async () => {
    const upstream = await startUpstream((request, response) => {
      bodyOf(request).then(
        (body) => answerJson(response, { length: body.length }),
        () => response.destroy(),
      );
    });
    const { addServer, gateway, token } = await startInstallation([upstream], { limits: { silenceMs: 500 } });
    await addServer({ slug: "api", url: upstream.origin });
    const request = httpRequest(`${gateway.url}/s/api/`, {
      method: "POST",
      headers: { authorization: `Bearer ${token}` },
    });
    const answered = once(request, "response");
    const beganAt = performance.now();
    await new Promise<void>((resolve) => {
      const writing = setInterval(() => {
        request.write("x");
        if (performance.now() - beganAt < 3_000) return;
        clearInterval(writing);
        request.end();
        resolve();
      }, 100);
    });
    const [answer] = await answered;
    expect(answer.statusCode).toBe(200);
    answer.resume();
  });
});
