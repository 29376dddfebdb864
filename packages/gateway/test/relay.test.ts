import { once } from "node:events";
import { createGunzip, gzipSync } from "node:zlib";
import { describe, expect, it } from "vitest";
import { answerJson, bodyOf, startInstallation, startUpstream, testValue } from "./installation.ts";

describe("a call", () => {
  it("reaches the server with the server's credential, and without the token and the cookies of the caller", async () => {
    const upstream = await startUpstream((_, response) => answerJson(response, { ok: true }));
    const { addServer, call } = await startInstallation([upstream]);
    await addServer({ slug: "api", url: `${upstream.origin}/base` });
    const answer = await call("/s/api/v1/items?page=2", {
      method: "GET",
      headers: { cookie: "a=b", accept: "application/json", "x-forwarded-for": "1.2.3.4", range: "bytes=0-1" },
    });
    expect(answer.status).toBe(200);
    expect(await answer.json()).toEqual({ ok: true });
    const [request] = upstream.requests;
    expect(request?.url).toBe("/base/v1/items?page=2");
    expect(request?.headers).toEqual({
      accept: "application/json",
      "accept-encoding": "identity",
      "accept-language": "*",
      authorization: `Bearer ${testValue}`,
      connection: "keep-alive",
      host: `127.0.0.1:${upstream.port}`,
      "user-agent": expect.any(String),
    });
  });

  it.each([
    [{ kind: "header", header: "X-Api-Key" }, "x-api-key", testValue],
    [{ kind: "bearer" }, "authorization", `Bearer ${testValue}`],
    [{ kind: "template", header: "Authorization", template: "token {value}" }, "authorization", `token ${testValue}`],
  ] as const)("contains the value where the rule %j puts it", async (rule, header, expected) => {
    const upstream = await startUpstream((_, response) => answerJson(response, {}));
    const { addServer, call } = await startInstallation([upstream]);
    await addServer({ slug: "api", url: upstream.origin, rule });
    expect((await call("/s/api/")).status).toBe(200);
    expect(upstream.requests[0]?.headers[header]).toBe(expected);
  });

  it("uses a new value from the next call on, and no value after the token is revoked", async () => {
    const upstream = await startUpstream((_, response) => answerJson(response, {}));
    const { addServer, call, admin, caller } = await startInstallation([upstream]);
    await addServer({ slug: "api", url: upstream.origin });
    await call("/s/api/");
    await admin.setSecret(caller, "api", { name: "API_TOKEN", value: "another-test-value" });
    await call("/s/api/");
    const [member] = (await admin.listTokens(caller)).items.filter(({ owner }) => owner === "ci");
    await admin.revokeToken(caller, member?.id ?? "");
    const refused = await call("/s/api/");
    expect(refused.status).toBe(401);
    expect(refused.headers.get("www-authenticate")).toBe('Bearer realm="keyward"');
    expect(upstream.requests.map(({ headers }) => headers.authorization)).toEqual([
      `Bearer ${testValue}`,
      "Bearer another-test-value",
    ]);
  });

  it("relays the body unchanged, in both directions", async () => {
    const upstream = await startUpstream((request, response) => {
      void bodyOf(request).then((body) => answerJson(response, { method: request.method, body }));
    });
    const { addServer, call } = await startInstallation([upstream]);
    await addServer({ slug: "api", url: upstream.origin });
    for (const method of ["POST", "PUT", "PATCH", "DELETE"]) {
      const body = `${method} ${"x".repeat(100_000)}`;
      const answer = await call("/s/api/items", { method, body });
      expect(await answer.json()).toEqual({ method, body });
    }
  });

  it("relays a compressed body with the header that names its compression", async () => {
    const upstream = await startUpstream((request, response) => {
      const { "content-encoding": encoding } = request.headers;
      const body = request.pipe(createGunzip());
      void bodyOf(body).then((text) => answerJson(response, { encoding, text }));
    });
    const { addServer, call } = await startInstallation([upstream]);
    await addServer({ slug: "api", url: upstream.origin });
    const headers = { "content-encoding": "gzip" };
    const answer = await call("/s/api/", { method: "POST", body: gzipSync("text"), headers });
    expect(await answer.json()).toEqual({ encoding: "gzip", text: "text" });
  });

  it("gets an answer without a body if the server sends none, and the next answer on the same connection", async () => {
    const upstream = await startUpstream((request, response) => {
      if (request.method === "DELETE") response.writeHead(204).end();
      else answerJson(response, { method: request.method });
    });
    const { addServer, call } = await startInstallation([upstream]);
    await addServer({ slug: "api", url: upstream.origin });
    for (const [method, status, body] of [
      ["HEAD", 200, ""],
      ["DELETE", 204, ""],
      ["GET", 200, '{"method":"GET"}'],
    ] as const) {
      const answer = await call("/s/api/items", { method });
      expect([answer.status, await answer.text()]).toEqual([status, body]);
    }
  });

  it("is recorded with who called what, and without arguments", async () => {
    const upstream = await startUpstream((_, response) => answerJson(response, { value: testValue }));
    const { addServer, call, admin, caller } = await startInstallation([upstream]);
    await addServer({ slug: "api", url: upstream.origin });
    await call("/s/api/users/4711/keys?secret=yes", { method: "POST", body: "private" });
    const { items } = await admin.listCalls(caller);
    expect(items).toMatchObject([
      {
        caller: { owner: "ci", role: "member", address: "127.0.0.1" },
        server: "api",
        method: "POST",
        path: "/users/*/keys",
        status: 200,
        outcome: "answered",
        requestBytes: 7,
        secrets: [{ name: "API_TOKEN", revision: 1 }],
        redactions: 1,
      },
    ]);
    expect(JSON.stringify(items)).not.toMatch(/private|secret=|4711/);
  });
});

describe("a call that the gateway refuses", () => {
  it("is recorded with its reason, and without a secret that was not used", async () => {
    const upstream = await startUpstream((_, response) => answerJson(response, {}));
    const { addServer, gateway, admin, caller } = await startInstallation([upstream]);
    await addServer({ slug: "api", url: upstream.origin });
    const { token } = await admin.createToken(caller, { owner: "reader", role: "member", methods: ["GET"] });
    const headers = { authorization: `Bearer ${token}` };
    const refused = await fetch(`${gateway.url}/s/api/x`, { method: "POST", body: "x", headers });
    expect([refused.status, await refused.json()]).toMatchObject([403, { code: "NOT_ALLOWED" }]);
    const { items } = await admin.listCalls(caller);
    expect(items).toMatchObject([{ status: 403, reason: "NOT_ALLOWED", outcome: "refused", secrets: [] }]);
    expect(upstream.requests).toHaveLength(0);
  });

  it("is recorded with its caller if the token may not call the server, or the server cannot be reached", async () => {
    const upstream = await startUpstream((_, response) => answerJson(response, {}));
    const { addServer, call, gateway, admin, caller } = await startInstallation([upstream]);
    await addServer({ slug: "refused", url: "http://10.0.0.1/" });
    await addServer({ slug: "gone", url: `${upstream.origin}/` });
    await admin.updateServer(caller, "gone", { disabled: true });
    const { token } = await admin.createToken(caller, { owner: "auditor", role: "auditor" });
    const asAuditor = () => fetch(`${gateway.url}/s/gone/`, { headers: { authorization: `Bearer ${token}` } });
    const answers = [await call("/s/refused/"), await call("/s/gone/"), await call("/s/unknown/"), await asAuditor()];
    expect(answers.map(({ status }) => status)).toEqual([502, 404, 404, 403]);
    const { items } = await admin.listCalls(caller);
    expect(items.map(({ caller: { owner }, server, reason, secrets }) => [owner, server, reason, secrets])).toEqual([
      ["auditor", "gone", "NOT_ALLOWED", []],
      ["ci", "*", "SERVER_NOT_FOUND", []],
      ["ci", "gone", "SERVER_NOT_FOUND", []],
      ["ci", "refused", "ADDRESS_REFUSED", []],
    ]);
  });

  it("leaves the new value of a secret marked as unused, until a call uses the value", async () => {
    const upstream = await startUpstream((_, response) => answerJson(response, {}));
    const { addServer, call, admin, caller } = await startInstallation([upstream]);
    await addServer({ slug: "api", url: upstream.origin });
    const lastUsed = async () => (await admin.listSecrets(caller, "api")).secrets[0]?.lastUsed;
    await call("/s/api/");
    await expect.poll(lastUsed).toBeDefined();
    await admin.setSecret(caller, "api", { name: "API_TOKEN", value: "another-test-value" });
    expect(await lastUsed()).toBeUndefined();
    await call("/s/api/");
    await expect.poll(lastUsed).toBeDefined();
  });
});

describe("a stream of events", () => {
  it("is relayed without a value that was set after the stream began, once a call uses the value", async () => {
    let report = (_: string) => {};
    const upstream = await startUpstream((request, response) => {
      if (request.url !== "/events") return answerJson(response, {});
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write("data: begun\n\n");
      report = (text) => void response.write(`data: ${text}\n\n`);
    });
    const { addServer, call, admin, caller } = await startInstallation([upstream]);
    await addServer({ slug: "api", url: upstream.origin });
    const stream = await call("/s/api/events");
    const reader = stream.body?.pipeThrough(new TextDecoderStream()).getReader();
    expect((await reader?.read())?.value).toBe("data: begun\n\n");
    const newValue = "a-new-test-value-0123456789";
    await admin.setSecret(caller, "api", { name: "API_TOKEN", value: newValue });
    await call("/s/api/other");
    report(`${newValue} and ${testValue}`);
    expect((await reader?.read())?.value).toBe("data: REDACTED and REDACTED\n\n");
    await reader?.cancel();
  });

  it.each([
    ["end with carriage returns", "data: begun\r\r", (text: string) => `data: ${text}\r\r`],
    ["end within its chunks", "data: begun\n\ndata: ", (text: string) => `${text}\n\ndata: `],
  ])(
    "is relayed without a value that was set after the stream began, also if its lines %s",
    async (_, begin, write) => {
      let report = (_text: string) => {};
      const upstream = await startUpstream((request, response) => {
        if (request.url !== "/events") return answerJson(response, {});
        response.writeHead(200, { "content-type": "text/event-stream" });
        response.write(begin);
        report = (text) => void response.write(write(text));
      });
      const { addServer, call, admin, caller } = await startInstallation([upstream]);
      await addServer({ slug: "api", url: upstream.origin });
      const stream = await call("/s/api/events");
      const reader = stream.body?.pipeThrough(new TextDecoderStream()).getReader();
      let seen = "";
      const until = async (text: string) => {
        while (!seen.includes(text)) seen += (await reader?.read())?.value ?? text;
      };
      await until("begun");
      const newValue = "a-new-test-value-0123456789";
      await admin.setSecret(caller, "api", { name: "API_TOKEN", value: newValue });
      await call("/s/api/other");
      report("first");
      await until("first");
      report(`second ${newValue}`);
      await until("second");
      expect(seen).toMatch(/second REDACTED[\r\n]/);
      await reader?.cancel();
    },
  );

  it("is relayed without a value that was set after the stream began, also if no call of this process uses the value", async () => {
    let report = (_: string) => {};
    const upstream = await startUpstream((_, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      report = (text) => void response.write(`data: ${text}\n\n`);
      report("begun");
    });
    const { addServer, call, admin, caller } = await startInstallation([upstream]);
    await addServer({ slug: "api", url: upstream.origin });
    const stream = await call("/s/api/events");
    const reader = stream.body?.pipeThrough(new TextDecoderStream()).getReader();
    expect((await reader?.read())?.value).toBe("data: begun\n\n");
    const newValue = "a-new-test-value-0123456789";
    await admin.setSecret(caller, "api", { name: "API_TOKEN", value: newValue });
    await expect
      .poll(async () => {
        report(`${newValue} and ${testValue}`);
        return (await reader?.read())?.value;
      })
      .toBe("data: REDACTED and REDACTED\n\n");
    await reader?.cancel();
  });
});

describe("an answer", () => {
  it("is relayed without the value, wherever the server repeats the value", async () => {
    const bodies: Record<
      string,
      (url: string) => { readonly headers?: Record<string, string>; readonly body: Buffer }
    > = {
      "/plain": () => ({ body: Buffer.from(`a ${testValue} b`) }),
      "/json": () => ({ body: Buffer.from(JSON.stringify({ headers: { authorization: `Bearer ${testValue}` } })) }),
      "/base64": () => ({ body: Buffer.from(Buffer.from(`user:${testValue}`).toString("base64")) }),
      "/hex": () => ({ body: Buffer.from(Buffer.from(testValue).toString("hex")) }),
      "/header": () => ({
        headers: { etag: `"${testValue}"`, location: `/x?token=${testValue}` },
        body: Buffer.from(""),
      }),
      "/gzip": () => ({ headers: { "content-encoding": "gzip" }, body: gzipSync(`a ${testValue} b`) }),
    };
    const upstream = await startUpstream((request, response) => {
      const { headers = {}, body } = bodies[request.url ?? ""]?.("") ?? { body: Buffer.from("unknown") };
      response.writeHead(200, { "content-type": "text/plain", "content-length": body.length, ...headers });
      response.end(body);
    });
    const { addServer, call } = await startInstallation([upstream]);
    await addServer({ slug: "api", url: upstream.origin });
    for (const path of Object.keys(bodies)) {
      const answer = await call(`/s/api${path}`);
      const text = `${JSON.stringify([...answer.headers])}${await answer.text()}`;
      expect(text, path).not.toContain(testValue);
      expect(text, path).not.toContain(Buffer.from(testValue).toString("hex"));
      expect(text, path).not.toContain(Buffer.from(testValue).toString("base64").slice(4, 40));
      expect(text, path).toMatch(/REDACTED/);
    }
  });

  it("is relayed without cookies and challenges, and cannot act as a page in the gateway's origin", async () => {
    const upstream = await startUpstream((_, response) => {
      response.writeHead(403, {
        "content-type": "text/html",
        "set-cookie": "a=b",
        "www-authenticate": 'Bearer resource_metadata="https://evil.example"',
        "access-control-allow-origin": "*",
        "x-anything": "else",
      });
      response.end("<script>alert(1)</script>");
    });
    const { addServer, call } = await startInstallation([upstream]);
    await addServer({ slug: "api", url: upstream.origin });
    const answer = await call("/s/api/");
    expect(answer.status).toBe(403);
    const names = [...answer.headers.keys()].filter((name) => !["connection", "date", "keep-alive"].includes(name));
    expect(names).toEqual([
      "content-security-policy",
      "content-type",
      "transfer-encoding",
      "x-content-type-options",
      "x-request-id",
    ]);
    expect(answer.headers.get("content-security-policy")).toBe("sandbox; default-src 'none'");
  });

  it("becomes 502 if the server answers 401, so that the caller does not think that its own token is wrong", async () => {
    const upstream = await startUpstream((_, response) => {
      response.writeHead(401, { "www-authenticate": "Bearer" });
      response.end(testValue);
    });
    const { addServer, call } = await startInstallation([upstream]);
    await addServer({ slug: "api", url: upstream.origin });
    const answer = await call("/s/api/");
    expect(answer.status).toBe(502);
    expect(answer.headers.get("www-authenticate")).toBeNull();
    expect(await answer.json()).toMatchObject({ code: "CREDENTIAL_REFUSED" });
  });

  it.each([
    ["a part of the body", 206, { "content-range": "bytes 0-1/10" }],
    ["in an unknown encoding", 200, { "content-encoding": "compress" }],
    ["in another charset", 200, { "content-type": "text/plain; charset=utf-16" }],
    ["a body that is not of its encoding", 200, { "content-encoding": "gzip" }],
  ] as const)("is refused if it is %s", async (_, status, headers) => {
    const upstream = await startUpstream((_request, response) => {
      response.writeHead(status, headers);
      response.end(testValue);
    });
    const { addServer, call } = await startInstallation([upstream]);
    await addServer({ slug: "api", url: upstream.origin });
    const answer = await call("/s/api/").then(
      async (got) => ({ status: got.status, text: await got.text() }),
      () => undefined,
    );
    expect(answer?.text ?? "").not.toContain(testValue);
    if (answer !== undefined)
      expect([answer.status, JSON.parse(answer.text)]).toMatchObject([502, { code: "ANSWER_REFUSED" }]);
  });

  it("reaches the caller in pieces, while the server sends them", async () => {
    let next = () => {};
    const upstream = await startUpstream((_, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write("data: first\n\n");
      next = () => response.end("data: second\n\n");
    });
    const { addServer, call } = await startInstallation([upstream]);
    await addServer({ slug: "api", url: upstream.origin });
    const answer = await call("/s/api/events");
    const reader = answer.body?.pipeThrough(new TextDecoderStream()).getReader();
    expect((await reader?.read())?.value).toBe("data: first\n\n");
    next();
    expect((await reader?.read())?.value).toBe("data: second\n\n");
    expect((await reader?.read())?.done).toBe(true);
  });

  it("is cancelled at the server when the caller disconnects", async () => {
    let left: Promise<unknown> | undefined;
    const upstream = await startUpstream((_, response) => {
      left = once(response, "close");
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write("data: first\n\n");
    });
    const { addServer, call, gateway, admin, caller } = await startInstallation([upstream]);
    await addServer({ slug: "api", url: upstream.origin });
    const leaving = new AbortController();
    const answer = await call("/s/api/events", { signal: leaving.signal });
    expect(answer.status).toBe(200);
    leaving.abort();
    await left;
    await expect.poll(() => gateway.openCalls).toBe(0);
    await expect.poll(async () => (await admin.listCalls(caller)).items).toMatchObject([{ outcome: "left" }]);
  });
});
