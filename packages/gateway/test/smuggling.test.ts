import { describe, expect, it } from "vitest";
import { answerJson, bodyOf, startInstallation, startUpstream } from "./installation.ts";
import { closed, exchange, openConnection, requestOf, startRawUpstream, statusesIn } from "./raw-http.ts";

const smuggled = "GET /s/api/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";

async function startEcho() {
  const upstream = await startUpstream((request, response) => {
    bodyOf(request).then(
      (body) => answerJson(response, { body }),
      // The gateway breaks off a body that it cannot read to its end.
      () => response.destroy(),
    );
  });
  const installation = await startInstallation([upstream]);
  await installation.addServer({ slug: "api", url: upstream.origin });
  return { upstream, ...installation };
}

describe("a request whose end two HTTP parsers could place differently", () => {
  it.each([
    [
      "Content-Length and Transfer-Encoding",
      ["Content-Length: 5", "Transfer-Encoding: chunked"],
      `0\r\n\r\n${smuggled}`,
    ],
    [
      "Transfer-Encoding and Content-Length",
      ["Transfer-Encoding: chunked", "Content-Length: 5"],
      `0\r\n\r\n${smuggled}`,
    ],
    ["two different lengths", ["Content-Length: 5", "Content-Length: 0"], `hello${smuggled}`],
    ["the same length twice", ["Content-Length: 5", "Content-Length: 5"], `hello${smuggled}`],
    ["a list of lengths", ["Content-Length: 5, 5"], `hello${smuggled}`],
    ["a length with a sign", ["Content-Length: +5"], `hello${smuggled}`],
    ["a negative length", ["Content-Length: -5"], smuggled],
    ["a hexadecimal length", ["Content-Length: 0x5"], `hello${smuggled}`],
    ["a length that is too large for a number", ["Content-Length: 99999999999999999999"], smuggled],
    ["a coding that is not known", ["Transfer-Encoding: xchunked"], `0\r\n\r\n${smuggled}`],
    ["chunks that are not the last coding", ["Transfer-Encoding: chunked, identity"], `0\r\n\r\n${smuggled}`],
    ["chunks in another coding", ["Transfer-Encoding: gzip, chunked"], `0\r\n\r\n${smuggled}`],
    ["chunks twice", ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], `0\r\n\r\n${smuggled}`],
    ["a vertical tab before chunked", ["Transfer-Encoding: \x0bchunked"], `0\r\n\r\n${smuggled}`],
    ["a space before the colon", ["Transfer-Encoding : chunked"], `0\r\n\r\n${smuggled}`],
    ["a folded header", ["X-Folded: a", " Transfer-Encoding: chunked", "Content-Length: 5"], `hello${smuggled}`],
    ["a line feed alone", ["X-Other: a\nTransfer-Encoding: chunked"], `0\r\n\r\n${smuggled}`],
    ["a carriage return alone", ["X-Other: a\rTransfer-Encoding: chunked"], `0\r\n\r\n${smuggled}`],
    ["a NUL", ["X-Other: a\0b"], smuggled],
    ["a chunk size with a sign", ["Transfer-Encoding: chunked"], `+5\r\nhello\r\n0\r\n\r\n${smuggled}`],
    [
      "a chunk size that is too large",
      ["Transfer-Encoding: chunked"],
      `10000000000000005\r\nhello\r\n0\r\n\r\n${smuggled}`,
    ],
    ["a chunk that ends with a line feed alone", ["Transfer-Encoding: chunked"], `5\nhello\n0\n\n${smuggled}`],
    ["a chunk that is longer than its size", ["Transfer-Encoding: chunked"], `3\r\nhello\r\n0\r\n\r\n${smuggled}`],
    ["a chunk extension with a line feed", ["Transfer-Encoding: chunked"], `5;a\nb\r\nhello\r\n0\r\n\r\n${smuggled}`],
  ])("is refused: %s", async (_, lines, body) => {
    const { gateway, token, upstream } = await startEcho();
    const answer = await exchange(gateway.url, requestOf("POST /s/api/items HTTP/1.1", token, lines, body));
    expect(statusesIn(answer), answer).toEqual([400]);
    expect(upstream.requests.map(({ url }) => url)).not.toContain("/smuggled");
    // What the gateway has begun to forward breaks off: the server never sees a whole body.
    for (const request of upstream.requests) expect(request.complete).toBe(false);
  });

  it("is refused if it has a body and the method GET or HEAD", async () => {
    const { gateway, token, upstream } = await startEcho();
    for (const method of ["GET", "HEAD"]) {
      for (const [lines, body] of [
        [["Content-Length: 5"], "hello"],
        [["Transfer-Encoding: chunked"], "5\r\nhello\r\n0\r\n\r\n"],
      ] as const) {
        const request = requestOf(`${method} /s/api/items HTTP/1.1`, token, lines, body);
        expect(statusesIn(await exchange(gateway.url, request))).toEqual([400]);
      }
    }
    expect(upstream.requests).toEqual([]);
  });

  it("may have chunk extensions and trailers, which the gateway does not forward", async () => {
    const { gateway, token, upstream } = await startEcho();
    const body = "5;name=value\r\nhello\r\n0;last\r\nX-Trailer: a\r\nAuthorization: Bearer stolen\r\n\r\n";
    const request = requestOf(
      "POST /s/api/items HTTP/1.1",
      token,
      ["Transfer-Encoding: chunked", "Trailer: X-Trailer"],
      body,
    );
    const answer = await exchange(gateway.url, request);
    expect(statusesIn(answer)).toEqual([200]);
    expect(answer).toContain('{"body":"hello"}');
    expect(upstream.requests[0]?.headers).not.toHaveProperty("trailer");
    expect(upstream.requests[0]?.trailers).toEqual({});
  });
});

describe("a connection", () => {
  it("is closed at a second request before the first answer, and the second request is not forwarded", async () => {
    const { gateway, token, upstream } = await startEcho();
    const first = `GET /s/api/first HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${token}\r\n\r\n`;
    const second = requestOf("GET /s/api/second HTTP/1.1", token);
    await exchange(gateway.url, first + second);
    expect(upstream.requests.map(({ url }) => url)).not.toContain("/second");
  });

  it("is closed after a body that the gateway has refused without reading it", async () => {
    const { gateway, upstream } = await startEcho();
    const head = "POST /s/api/items HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n";
    expect(statusesIn(await exchange(gateway.url, head + smuggled))).toEqual([401]);
    expect(upstream.requests).toEqual([]);
  });
});

describe("a server", () => {
  it("gets one request, whatever the caller writes into the path and the headers", async () => {
    const upstream = await startRawUpstream((socket) => socket.end("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
    const { gateway, token, addServer } = await startInstallation([upstream]);
    await addServer({ slug: "api", url: upstream.origin });
    for (const [line, lines] of [
      ["GET /s/api/a%0d%0aX-Other:%20b HTTP/1.1", []],
      ["GET /s/api/a%0D%0A%0D%0AGET%20/other HTTP/1.1", []],
      ["GET /s/api/a?b=%0d%0aX-Other:%20c HTTP/1.1", []],
      ["GET /s/api/a HTTP/1.1", ["User-Agent: a\x85b\xa0c", "X-Other: d", "Connection: X-Other, keep-alive, close"]],
      [
        "GET /s/api/a HTTP/1.1",
        ["Keep-Alive: 5", "Proxy-Connection: keep-alive", "TE: trailers", "X-Forwarded-Host: evil"],
      ],
    ] as const) {
      await exchange(gateway.url, requestOf(line, token, lines));
    }
    const heads = upstream.received.join("");
    expect(heads.match(/^[A-Z]+ \S+ HTTP\/1\.1\r$/gm)).toHaveLength(
      upstream.received.filter((text) => text !== "").length,
    );
    expect(heads).not.toMatch(/^(?:x-other|keep-alive|proxy-connection|te|x-forwarded-host):/im);
    expect(heads).not.toContain(token);
  });

  it("that sends two answers to one request cannot answer the next call", async () => {
    const answers =
      "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirstHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged";
    const upstream = await startRawUpstream((socket) => socket.write(answers));
    const { addServer, call } = await startInstallation([upstream]);
    await addServer({ slug: "api", url: upstream.origin });
    for (let count = 0; count < 3; count++) {
      const text = await call("/s/api/").then((answer) => answer.text());
      expect(text).not.toContain("forged");
    }
  });
});

describe("a request line", () => {
  it.each([
    ["http://localhost/s/api/items", 404],
    ["http://evil.example/s/api/items", 404],
    ["//evil.example/s/api/items", 404],
    ["*", 404],
    ["/s/api/../other", 400],
    ["/s/api/%2e%2e/other", 400],
    ["/s/api/a\\..\\b", 400],
    ["/s/api/a#b", 400],
    ["/s/api/a\x7fb", 400],
    ["/s/api/a\xe4b", 400],
    ["/s/api/a\tb", 400],
    ["/s/api", 404],
    ["/S/api/items", 404],
    ["/s/API/items", 404],
    ["/s/%61pi/items", 404],
    ["/s/api%2fitems", 404],
    ["/s//items", 404],
    ["s/api/items", 400],
    ["/.well-known/oauth-protected-resource", 404],
    ["/.well-known/oauth-authorization-server/s/api/mcp", 404],
    ["/s/api/.well-known/../x", 400],
  ])("is refused if its target is %j", async (target, status) => {
    const { gateway, token, upstream } = await startEcho();
    const answer = await exchange(gateway.url, requestOf(`GET ${target} HTTP/1.1`, token));
    expect(statusesIn(answer)).toEqual([status]);
    expect(answer).toMatch(/^content-type: application\/problem\+json\r$/im);
    expect(upstream.requests).toEqual([]);
  });

  it.each([
    ["TRACE /s/api/items HTTP/1.1", [], 405, "METHOD_REFUSED"],
    ["OPTIONS /s/api/items HTTP/1.1", [], 405, "METHOD_REFUSED"],
    ["OPTIONS * HTTP/1.1", [], 404, "ROUTE_NOT_FOUND"],
    ["QUERY /s/api/items HTTP/1.1", [], 405, "METHOD_REFUSED"],
    ["PROPFIND /s/api/items HTTP/1.1", [], 405, "METHOD_REFUSED"],
    ["CONNECT evil.example:443 HTTP/1.1", [], 405, "METHOD_REFUSED"],
    ["CONNECT /s/api/items HTTP/1.1", [], 405, "METHOD_REFUSED"],
    ["get /s/api/items HTTP/1.1", [], 400, "REQUEST_MALFORMED"],
    ["GET /s/api/items HTTP/1.1", ["Upgrade: websocket", "Connection: Upgrade"], 400, "UPGRADE_REFUSED"],
    ["GET /s/api/items HTTP/1.1", ["Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"], 400, "UPGRADE_REFUSED"],
    ["PRI * HTTP/2.0", [], 400, "REQUEST_MALFORMED"],
    ["POST /s/api/items HTTP/1.1", ["Expect: 100-continue", "Content-Length: 2"], 417, "EXPECT_REFUSED"],
    ["POST /s/api/items HTTP/1.1", ["Expect: something-else", "Content-Length: 2"], 417, "EXPECT_REFUSED"],
  ] as const)("%s with %j is refused with a reason", async (line, lines, status, code) => {
    const { gateway, token, upstream } = await startEcho();
    const answer = await exchange(gateway.url, requestOf(line, token, lines));
    expect(statusesIn(answer), answer).toEqual([status]);
    expect(answer).toContain(`"code":"${code}"`);
    expect(upstream.requests).toEqual([]);
  });

  it("keeps its method if a header names another method", async () => {
    const { gateway, token, upstream } = await startEcho();
    const lines = ["X-HTTP-Method-Override: DELETE", "X-HTTP-Method: DELETE", "X-Original-URL: /admin"];
    await exchange(gateway.url, requestOf("GET /s/api/items HTTP/1.1", token, lines));
    const [request] = upstream.requests;
    expect(request?.method).toBe("GET");
    expect(Object.keys(request?.headers ?? {}).filter((name) => name.startsWith("x-"))).toEqual([]);
  });

  it("is refused if the request has no header Host, or two of them", async () => {
    const { gateway, token, upstream } = await startEcho();
    const without = `GET /s/api/items HTTP/1.1\r\nAuthorization: Bearer ${token}\r\nConnection: close\r\n\r\n`;
    expect(statusesIn(await exchange(gateway.url, without))).toEqual([421]);
    const twice = requestOf("GET /s/api/items HTTP/1.1", token, ["Host: evil.example"]);
    expect(statusesIn(await exchange(gateway.url, twice))).toEqual([400]);
    expect(upstream.requests).toEqual([]);
  });

  it("is refused if it is too large, and so are headers that are too large", async () => {
    const { gateway, token, upstream } = await startEcho();
    const large = requestOf("GET /s/api/items HTTP/1.1", token, [`X-Large: ${"a".repeat(70_000)}`]);
    expect(statusesIn(await exchange(gateway.url, large))).toEqual([431]);
    const socket = await openConnection(gateway.url);
    socket.resume();
    socket.write(requestOf(`GET /s/api/${"a".repeat(70_000)} HTTP/1.1`, token));
    await closed(socket);
    expect(upstream.requests).toEqual([]);
  });
});
