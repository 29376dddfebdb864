import type { RequestListener } from "node:http";
import type { Socket } from "node:net";
import { gzipSync } from "node:zlib";
import { describe, expect, it } from "vitest";
import type { CallLimits } from "../src/index.ts";
import { type Installation, startInstallation, startUpstream, testValue } from "./installation.ts";
import { exchange, openConnection, requestOf, startRawUpstream } from "./raw-http.ts";

/** What a caller sees of an answer. */
interface Seen {
  readonly status: number | undefined;
  readonly headers: Headers;
  readonly text: string;
  /** True if the end of the answer has arrived. */
  readonly isWhole: boolean;
}

async function seenBy(call: Promise<Response>): Promise<Seen> {
  const answer = await call.catch(() => undefined);
  if (answer === undefined) return { status: undefined, headers: new Headers(), text: "", isWhole: false };
  let text = "";
  const { status, headers, body } = answer;
  const reader = body?.pipeThrough(new TextDecoderStream("latin1")).getReader();
  try {
    for (let part = await reader?.read(); part?.done === false; part = await reader?.read()) text += part.value;
    return { status, headers, text, isWhole: true };
  } catch {
    return { status, headers, text, isWhole: false };
  }
}

function codeIn({ text }: Seen): unknown {
  const { code }: { code?: unknown } = JSON.parse(text);
  return code;
}

/** Starts a server that answers with bytes as they are, and a gateway before the server. */
async function startRaw(bytes: string | Buffer, limits?: CallLimits, end = true) {
  const upstream = await startRawUpstream((socket) => {
    socket.write(typeof bytes === "string" ? Buffer.from(bytes, "latin1") : bytes);
    if (end) socket.end();
  });
  const installation = await startInstallation([upstream], { limits });
  await installation.addServer({ slug: "api", url: upstream.origin });
  return { upstream, ...installation };
}

async function startServer(listener: RequestListener, limits?: CallLimits) {
  const upstream = await startUpstream(listener);
  const installation = await startInstallation([upstream], { limits });
  await installation.addServer({ slug: "api", url: upstream.origin });
  return { upstream, ...installation };
}

async function lastCall({ admin, caller }: Pick<Installation, "admin" | "caller">) {
  await expect.poll(async () => (await admin.listCalls(caller)).items.length).toBeGreaterThan(0);
  return (await admin.listCalls(caller)).items[0];
}

describe("an answer that breaks off", () => {
  it.each([
    ["before the status", "", 502],
    ["within the headers", "HTTP/1.1 200 OK\r\nContent-Le", 502],
    ["within a small body", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", 502],
  ])("%s is an error of the server", async (_, bytes, status) => {
    const { call } = await startRaw(bytes);
    const seen = await seenBy(call("/s/api/"));
    expect([seen.status, codeIn(seen)]).toEqual([status, "SERVER_UNAVAILABLE"]);
  });

  it.each([
    ["a large body", `Content-Length: 300000\r\n\r\n${"a".repeat(200_000)}`],
    ["a body in chunks", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"],
    ["a chunk", "Transfer-Encoding: chunked\r\n\r\n50\r\nhello"],
    ["a stream of events", "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n7\r\ndata: a\r\n"],
    ["a compressed body", `Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n\x1f\x8b\x08\x00\x00\r\n`],
  ])("is visibly incomplete for the caller if it breaks off within %s", async (_, rest) => {
    const running = await startRaw(`HTTP/1.1 200 OK\r\n${rest}`);
    const seen = await seenBy(running.call("/s/api/"));
    expect(seen.isWhole && seen.status === 200).toBe(false);
    expect(await lastCall(running)).toMatchObject({ reason: "SERVER_UNAVAILABLE" });
  });

  it("ends the caller's stream if the server was killed within the stream, and the next call works", async () => {
    let open: Socket | undefined;
    const running = await startServer((request, response) => {
      if (request.url !== "/events") return void response.end("ok");
      open = request.socket;
      response.writeHead(200, { "content-type": "text/event-stream" });
      response.write("data: a\n\n");
    });
    const answer = await running.call("/s/api/events");
    const reader = answer.body?.getReader();
    await reader?.read();
    open?.resetAndDestroy();
    await expect(reader?.read()).rejects.toThrow("terminated");
    expect((await seenBy(running.call("/s/api/"))).text).toBe("ok");
  });

  it("is cut if it has more bytes than its length, and not taken for a longer answer", async () => {
    const { call } = await startRaw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello and more");
    const seen = await seenBy(call("/s/api/"));
    expect(seen.text).not.toContain("more");
  });
});

describe("an answer that is not valid HTTP", () => {
  it.each([
    ["two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"],
    ["a length and chunks", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
    ["a length that is no number", "HTTP/1.1 200 OK\r\nContent-Length: a\r\n\r\nab"],
    ["a NUL in a header", "HTTP/1.1 200 OK\r\nETag: a\0b\r\nContent-Length: 0\r\n\r\n"],
    ["a control character in a header", "HTTP/1.1 200 OK\r\nETag: a\x01b\x7f\r\nContent-Length: 0\r\n\r\n"],
    ["a line feed alone", "HTTP/1.1 200 OK\r\nETag: a\nSet-Cookie: b\r\nContent-Length: 0\r\n\r\n"],
    ["a carriage return alone", "HTTP/1.1 200 OK\r\nETag: a\rSet-Cookie: b\r\nContent-Length: 0\r\n\r\n"],
    ["no HTTP", "220 mail.example ESMTP\r\n"],
    ["a status of two digits", "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n"],
    ["a status of four digits", "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n"],
    ["headers without an end", `HTTP/1.1 200 OK\r\n${"X-Header: a\r\n".repeat(10_000)}`],
    ["a header that is too large", `HTTP/1.1 200 OK\r\nETag: ${"a".repeat(100_000)}\r\n\r\n`],
    ["a change of protocol", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: a\r\nConnection: Upgrade\r\n\r\nabc"],
  ])("is refused if it has %s", async (_, bytes) => {
    const { call } = await startRaw(bytes);
    const seen = await seenBy(call("/s/api/"));
    expect([seen.status, codeIn(seen)]).toEqual([502, "SERVER_UNAVAILABLE"]);
    expect(seen.headers.get("set-cookie")).toBeNull();
  });
});

describe("an answer with an odd shape", () => {
  it("is relayed without the server's 1xx responses, reason phrase and trailers", async () => {
    const { gateway, token } = await startRaw(
      `HTTP/1.1 103 Early Hints\r\nLink: <${testValue}>\r\n\r\nHTTP/1.1 200 ${testValue}\r\nTrailer: X-End\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-End: ${testValue}\r\n\r\n`,
    );
    const answer = await exchange(gateway.url, requestOf("GET /s/api/ HTTP/1.1", token));
    expect(answer).toMatch(/^HTTP\/1\.1 200 OK\r\n/);
    expect(answer).toContain("hello");
    expect(answer).not.toContain(testValue);
    expect(answer).not.toMatch(/103|x-end|trailer/i);
  });

  it.each([
    [204, "GET"],
    [304, "GET"],
    [200, "HEAD"],
  ])("has no body if its status is %s, the method is %s, and the server sends a body", async (status, method) => {
    const { gateway, token } = await startRaw(
      `HTTP/1.1 ${status} OK\r\nContent-Length: 9\r\nContent-Encoding: gzip\r\n\r\nforbidden`,
    );
    const answer = await exchange(gateway.url, requestOf(`${method} /s/api/ HTTP/1.1`, token));
    expect(answer).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
    expect(answer).not.toContain("forbidden");
  });

  it.each(["gzip", "deflate", "br", "zstd"])("may name the encoding %s and have no body", async (encoding) => {
    const { call } = await startServer((request, response) => {
      const status = Number(request.url?.slice(1));
      const length = request.url === "/201" ? { "content-length": "0" } : {};
      response.writeHead(status, { "content-encoding": encoding, ...length }).end();
    });
    for (const [method, status] of [
      ["HEAD", 200],
      ["GET", 204],
      ["GET", 304],
      ["GET", 201],
      ["GET", 200],
    ] as const) {
      expect(await seenBy(call(`/s/api/${status}`, { method }))).toMatchObject({ status, text: "", isWhole: true });
    }
  });

  it("is refused and recorded with the refusal if the status is above 599", async () => {
    for (const status of [600, 999]) {
      const { call, admin, caller } = await startRaw(`HTTP/1.1 ${status} OK\r\nContent-Length: 2\r\n\r\nok`);
      const seen = await seenBy(call("/s/api/"));
      expect([seen.status, codeIn(seen)]).toEqual([502, "ANSWER_REFUSED"]);
      expect(await lastCall({ admin, caller })).toMatchObject({ status: 502, reason: "ANSWER_REFUSED" });
    }
  });

  it("may have bytes above 127 in a header, and keeps them", async () => {
    const { gateway, token } = await startRaw('HTTP/1.1 200 OK\r\nETag: "\xe4\xff"\r\nContent-Length: 2\r\n\r\nok');
    const answer = await exchange(gateway.url, requestOf("GET /s/api/ HTTP/1.1", token));
    expect(answer).toContain('etag: "\xe4\xff"');
  });

  it("is relayed without headers for cookies, challenges and proxies", async () => {
    const names = ["Set-Cookie", "WWW-Authenticate", "Proxy-Authenticate", "Authentication-Info", "Clear-Site-Data"];
    const others = [
      "Alt-Svc",
      "Strict-Transport-Security",
      "Refresh",
      "SourceMap",
      "Access-Control-Allow-Origin",
      "Via",
    ];
    const lines = [...names, ...others].map((name) => `${name}: evil`).join("\r\n");
    const { call } = await startRaw(`HTTP/1.1 403 No\r\n${lines}\r\nContent-Length: 2\r\n\r\nno`);
    const seen = await seenBy(call("/s/api/"));
    expect(seen.status).toBe(403);
    expect(JSON.stringify([...seen.headers])).not.toContain("evil");
  });

  it("is not followed if it is a redirect, and shows no value", async () => {
    const { call, upstream } = await startRaw(
      `HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/?token=${testValue}\r\nContent-Length: 0\r\n\r\n`,
    );
    const seen = await seenBy(call("/s/api/"));
    expect(seen.headers.get("location")).toBe("http://127.0.0.1:1/?token=REDACTED");
    expect(upstream.sockets).toHaveLength(1);
  });

  it("that is a web page cannot act in the origin of the gateway or of the dashboard", async () => {
    const { call } = await startServer((_, response) => {
      response.writeHead(200, {
        "content-type": "text/html",
        "content-security-policy": "default-src *",
        refresh: "0",
      });
      response.end("<script>fetch('/s/api/')</script>");
    });
    const { headers } = await seenBy(call("/s/api/"));
    expect(headers.get("content-security-policy")).toBe("sandbox; default-src 'none'");
    expect(headers.get("x-content-type-options")).toBe("nosniff");
    expect(headers.get("refresh")).toBeNull();
    expect([...headers.keys()].filter((name) => name.startsWith("access-control"))).toEqual([]);
  });
});

describe("an answer in which values cannot be found", () => {
  it.each([
    ["another charset behind the first", "Content-Type: text/html; charset=utf-8; charset=utf-16"],
    [
      "another charset in a second header",
      "Content-Type: text/html; charset=utf-8\r\nContent-Type: text/html; charset=utf-7",
    ],
    ["a charset in single quotes", "Content-Type: text/html; charset='utf-8'"],
    ["two encodings", "Content-Encoding: gzip, gzip"],
    ["two headers of encodings", "Content-Encoding: identity\r\nContent-Encoding: gzip"],
    ["a part of the body", "Content-Range: bytes 0-8/100", "206 Partial Content"],
  ])("is refused if it has %s", async (_, line, status = "200 OK") => {
    const { call } = await startRaw(`HTTP/1.1 ${status}\r\n${line}\r\nContent-Length: 9\r\n\r\nforbidden`);
    const seen = await seenBy(call("/s/api/"));
    expect([seen.status, codeIn(seen)]).toEqual([502, "ANSWER_REFUSED"]);
  });

  it("is refused if it has a transfer coding other than chunked", async () => {
    const body = gzipSync(testValue);
    const head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n";
    const chunk = Buffer.concat([Buffer.from(`${body.length.toString(16)}\r\n`), body, Buffer.from("\r\n0\r\n\r\n")]);
    const { call } = await startRaw(Buffer.concat([Buffer.from(head), chunk]));
    const seen = await seenBy(call("/s/api/"));
    expect([seen.status, codeIn(seen)]).toEqual([502, "ANSWER_REFUSED"]);
  });

  it("is refused if the id of its session contains a value", async () => {
    const upstream = await startUpstream((_, response) => {
      response.writeHead(200, { "mcp-session-id": `session-${testValue}`, "content-type": "application/json" });
      response.end("{}");
    });
    const running = await startInstallation([upstream]);
    await running.addServer({ slug: "tools", url: upstream.origin, kind: "mcp" });
    const body = JSON.stringify({ jsonrpc: "2.0", id: 1, method: "initialize" });
    const headers = { "content-type": "application/json" };
    const seen = await seenBy(running.call("/s/tools/mcp", { method: "POST", body, headers }));
    expect([seen.status, codeIn(seen)]).toEqual([502, "ANSWER_REFUSED"]);
    expect(JSON.stringify([...seen.headers])).not.toContain(testValue);
    expect(await lastCall(running)).toMatchObject({ redactions: 1 });
  });
});

describe("a server that does not stop", () => {
  it.each([
    ["never begins", ""],
    ["never ends its headers", "HTTP/1.1 200 OK\r\nETag: a\r\n"],
    ["never ends a small body", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc"],
  ])("and %s is given up after some time", async (_, bytes) => {
    const running = await startRaw(bytes, { silenceMs: 300 }, false);
    const seen = await seenBy(running.call("/s/api/"));
    expect([seen.status, codeIn(seen)]).toEqual([504, "SERVER_TIMEOUT"]);
    await expect.poll(() => running.upstream.sockets.every(({ destroyed }) => destroyed)).toBe(true);
  });

  it("is disconnected in the middle of a large body, and the caller sees that the body is cut off", async () => {
    const begin = `HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n${"abcdefghi\n".repeat(20_000)}`;
    const running = await startRaw(begin, { silenceMs: 300 }, false);
    expect(await seenBy(running.call("/s/api/"))).toMatchObject({ status: 200, isWhole: false });
    expect(await lastCall(running)).toMatchObject({ reason: "SERVER_TIMEOUT" });
  });

  it.each([
    ["with a length", { "content-length": "1000000000" }, (chunk: Buffer) => chunk],
    ["in chunks", {}, (chunk: Buffer) => chunk],
    [
      "in a stream of events",
      { "content-type": "text/event-stream" },
      () => Buffer.from(`data: ${"a".repeat(1_000)}\n\n`),
    ],
    ["in a line without an end", { "content-type": "text/event-stream" }, (chunk: Buffer) => chunk],
  ])("and sends too much %s is cut off", async (_, headers, chunkOf) => {
    const chunk = Buffer.alloc(65_536, "a");
    const running = await startServer(
      (_request, response) => {
        response.writeHead(200, headers);
        const more = () => {
          while (!response.destroyed && response.write(chunkOf(chunk)));
        };
        response.on("drain", more);
        more();
      },
      { maxAnswerBytes: 1_000_000 },
    );
    const seen = await seenBy(running.call("/s/api/"));
    expect(seen.isWhole && seen.status === 200).toBe(false);
    expect(seen.text.length).toBeLessThanOrEqual(1_000_000);
    expect(await lastCall(running)).toMatchObject({ reason: "ANSWER_TOO_LARGE" });
  });

  it("and compresses too much into a small body is cut off", async () => {
    const bomb = gzipSync(Buffer.alloc(200 * 1_048_576));
    const running = await startServer(
      (_, response) => {
        response.writeHead(200, { "content-encoding": "gzip", "content-length": bomb.length });
        response.end(bomb);
      },
      { maxAnswerBytes: 1_000_000 },
    );
    const before = process.memoryUsage().arrayBuffers;
    const seen = await seenBy(running.call("/s/api/"));
    expect(seen.isWhole && seen.status === 200).toBe(false);
    expect(seen.text.length).toBeLessThanOrEqual(1_000_000);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(30_000_000);
    expect(await lastCall(running)).toMatchObject({ reason: "ANSWER_TOO_LARGE" });
  });

  it.each([
    ["plain", undefined],
    ["compressed", "gzip"],
  ])("cannot send on while its caller does not read: %s", async (_, encoding) => {
    // Bytes that cannot be compressed.
    const block = Buffer.from(Array.from({ length: 65_536 }, (_item, index) => (index * 7_919) % 251));
    const compressed = gzipSync(Buffer.concat(Array.from({ length: 400 }, () => block)), { level: 0 });
    let written = 0;
    const running = await startServer((_request, response) => {
      response.writeHead(200, encoding === undefined ? {} : { "content-encoding": encoding });
      let offset = 0;
      const more = () => {
        for (let goesOn = true; goesOn && !response.destroyed && written < 200_000_000; ) {
          const chunk = encoding === undefined ? block : compressed.subarray(offset, offset + 65_536);
          offset += chunk.length;
          if (chunk.length === 0) return void response.end();
          written += chunk.length;
          goesOn = response.write(chunk);
        }
      };
      response.on("drain", more);
      more();
    });
    const socket = await openConnection(running.gateway.url);
    socket.pause();
    socket.write(requestOf("GET /s/api/ HTTP/1.1", running.token));
    await expect.poll(() => written).toBeGreaterThan(65_536);
    // The server is held when it has written nothing for two looks in a row.
    let before = -1;
    await expect
      .poll(
        () => {
          const isHeld = written === before;
          before = written;
          return isHeld;
        },
        { interval: 300, timeout: 10_000 },
      )
      .toBe(true);
    expect(written).toBeLessThan(25_000_000);
    socket.destroy();
    await expect.poll(() => running.gateway.openCalls).toBe(0);
  });
});

describe("an admin who changes the URL of a server", () => {
  it("gets no value at the new host", async () => {
    const [first, second] = [await startUpstream((_, r) => r.end("a")), await startUpstream((_, r) => r.end("b"))];
    const { admin, caller, addServer, call } = await startInstallation([first, second]);
    await addServer({ slug: "api", url: first.origin });
    expect((await seenBy(call("/s/api/"))).text).toBe("a");
    await admin.updateServer(caller, "api", { url: second.origin });
    const seen = await seenBy(call("/s/api/"));
    expect([seen.status, codeIn(seen)]).toEqual([502, "SECRET_UNUSABLE"]);
    // The caller is a member, who learns neither the value nor the name of the secret.
    expect(seen.text).not.toContain(testValue);
    expect(seen.text).not.toContain("API_TOKEN");
    expect(second.requests).toEqual([]);
  });

  it("gets no address that only another server with the same origin may have", async () => {
    const upstream = await startUpstream((_, response) => response.end("internal"));
    const { addServer, call } = await startInstallation([], {
      allowedAddresses: [{ cidr: "127.0.0.1/32", port: upstream.port, server: "main/allowed" }],
    });
    await addServer({ slug: "allowed", url: upstream.origin });
    await addServer({ slug: "other", url: upstream.origin });
    for (let count = 0; count < 3; count++) {
      expect((await seenBy(call("/s/allowed/"))).text).toBe("internal");
      const seen = await seenBy(call("/s/other/"));
      expect([seen.status, codeIn(seen)]).toEqual([502, "ADDRESS_REFUSED"]);
    }
    expect(upstream.requests).toHaveLength(3);
  });
});

describe("a caller who disconnects", () => {
  it("cancels the request at the server, also before the server has answered", async () => {
    const running = await startServer(() => {});
    const leaving = new AbortController();
    const calling = seenBy(running.call("/s/api/", { signal: leaving.signal }));
    await expect.poll(() => running.upstream.requests.length).toBe(1);
    leaving.abort();
    await calling;
    await expect.poll(() => running.upstream.requests[0]?.socket.destroyed).toBe(true);
    expect(await lastCall(running)).toMatchObject({ outcome: "left" });
  });
});
