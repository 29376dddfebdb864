import { once } from "node:events";
import { request } from "node:http";
import { connect, type Socket } from "node:net";
import { type AdminServerOptions, type RunningAdminServer, startAdminServer } from "@keyward/admin";
import { AdminClient } from "@keyward/admin/client";
import { createApiKey, HttpStore, startKvServer } from "@keyward/http-kv";
import { MemoryStore } from "@keyward/store-memory";
import { expect, it, onTestFinished } from "vitest";
import { type Installation, install, serviceWith } from "./installation.ts";

async function start(
  installation: Installation,
  options: Partial<AdminServerOptions> = {},
): Promise<RunningAdminServer> {
  const server = await startAdminServer({ admin: installation.service, port: 0, ...options });
  onTestFinished(() => server.close());
  return server;
}

function connectTo(url: string): Socket {
  const { hostname, port } = new URL(url);
  const socket = connect(Number(port), hostname);
  socket.on("error", () => {});
  onTestFinished(() => {
    socket.destroy();
  });
  return socket;
}

async function write(socket: Socket, text: string): Promise<void> {
  await new Promise((resolve) => socket.write(text, resolve));
}

/** Returns everything that the server sends before it closes the connection. */
async function received(socket: Socket): Promise<string> {
  const pieces: Buffer[] = [];
  socket.on("data", (piece) => pieces.push(piece));
  await once(socket, "close");
  return Buffer.concat(pieces).toString();
}

async function exchange(url: string, text: string): Promise<string> {
  const socket = connectTo(url);
  const answer = received(socket);
  await write(socket, text);
  return await answer;
}

function postHead(token: string, length: number): string {
  return `POST /api/v1/admin/mcp-servers HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${token}\r\nContent-Type: application/json\r\nContent-Length: ${length}\r\n\r\n`;
}

/** Sends a request on a new connection. Returns the status, or the code of the error if no answer arrived. */
async function statusOf(url: string, token: string, body?: object): Promise<number | string> {
  return await new Promise((resolve) => {
    const sent = request(url, {
      agent: false,
      method: body === undefined ? "GET" : "POST",
      headers: { authorization: `Bearer ${token}`, "content-type": "application/json" },
    });
    sent.on("response", (response) => {
      response.resume();
      response.on("end", () => resolve(response.statusCode ?? 0));
    });
    sent.on("error", (error) => resolve("code" in error ? String(error.code) : "error"));
    sent.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

it("the server accepts a deletion without a body, and a body without a length", async () => {
  const installation = await install();
  const { url } = await start(installation);
  const client = new AdminClient({ url, token: installation.admin.token });
  await client.createServer({ slug: "github", url: "https://mcp.example.com/mcp" });
  await client.deleteServer("github");
  const body = JSON.stringify({ slug: "other", url: "https://mcp.example.com/mcp" });
  const head = postHead(installation.admin.token, 0).replace(
    /Content-Length: 0\r\n\r\n$/,
    "Transfer-Encoding: chunked\r\n",
  );
  const chunked = `${head}Connection: close\r\n\r\n${body.length.toString(16)}\r\n${body}\r\n0\r\n\r\n`;
  expect(await exchange(url, chunked)).toMatch(/^HTTP\/1\.1 201 /);
});

it("AdminClient reaches the API on a port of the loopback interface", async () => {
  const installation = await install();
  const { url } = await start(installation);
  expect(new URL(url).hostname).toBe("127.0.0.1");
  const client = new AdminClient({ url, token: installation.admin.token });
  await client.createServer({ slug: "github", url: "https://mcp.example.com" });
  expect((await client.listServers()).items.map(({ slug }) => slug)).toEqual(["github"]);
});

it("the server reads a body without a Content-Length, and refuses the body if it is too long", async () => {
  const installation = await install();
  const { url } = await start(installation);
  const post = async (text: string) => {
    const { status } = await fetch(`${url}/api/v1/admin/mcp-servers`, {
      method: "POST",
      headers: { authorization: `Bearer ${installation.admin.token}`, "content-type": "application/json" },
      body: new Blob([text]).stream(),
      duplex: "half",
    });
    return status;
  };
  expect(await post(JSON.stringify({ slug: "github", url: "https://mcp.example.com" }))).toBe(201);
  expect(await post("x".repeat(70_000))).toBe(413);
  expect(await post("{")).toBe(400);
});

it("the server accepts a change without a body, with and without a Content-Length", async () => {
  const installation = await install();
  const { url } = await start(installation);
  const client = new AdminClient({ url, token: installation.admin.token });
  for (const length of ["", "Content-Length: 0\r\n", "Transfer-Encoding: chunked\r\n"]) {
    await client.createServer({ slug: "github", url: "https://mcp.example.com" });
    const head = `DELETE /api/v1/admin/mcp-servers/github HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n`;
    const end = length.startsWith("Transfer") ? "0\r\n\r\n" : "";
    const token = `Authorization: Bearer ${installation.admin.token}\r\n`;
    expect(await exchange(url, `${head}${token}${length}\r\n${end}`)).toMatch(/^HTTP\/1\.1 204 /);
  }
});

it("the server closes the connection of a client that sends its headers too slowly", async () => {
  const { url } = await start(await install(), { headersTimeoutMs: 200 });
  const answer = await exchange(url, "GET /api/v1/admin/whoami HTTP/1.1\r\nHost: localhost\r\nX-Slow: ");
  expect(answer).toMatch(/^HTTP\/1\.1 408 /);
  expect(answer).toContain("application/problem+json");
});

it("the server closes the connection of a client that sends its body too slowly", async () => {
  const installation = await install();
  const errors: unknown[] = [];
  const { url } = await start(installation, { requestTimeoutMs: 300, onError: (error) => errors.push(error) });
  const answer = await exchange(url, `${postHead(installation.admin.token, 100)}{`);
  expect(answer).toMatch(/^(?:HTTP\/1\.1 408 |$)/);
  expect(errors).toEqual([]);
});

it("the server answers other clients while slow clients hold connections open", async () => {
  const installation = await install();
  const { url } = await start(installation, { limits: { concurrentRequests: 5 } });
  for (let count = 0; count < 50; count++) await write(connectTo(url), "GET / HTTP/1.1\r\nHost: localhost\r\n");
  expect(await statusOf(`${url}/api/v1/admin/whoami`, installation.admin.token)).toBe(200);
});

it.each([
  ["GARBAGE\r\n\r\n", 400],
  ["GET /api/v1/admin/whoami HTTP/1.1\r\n\r\n", 400],
  ["GET /api/v1/admin/whoami HTTP/1.1\r\nHost: a b\r\n\r\n", 400],
  [`GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: ${"a".repeat(20_000)}\r\n\r\n`, 431],
  ["TRACE / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 404],
  ["GET http://evil.example.com/api/v1/admin/whoami HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 401],
  ["GET / HTTP/1.1\r\nHost: evil.example.com\r\nConnection: close\r\n\r\n", 421],
])("the server answers %j with the status %i and problem details", async (text, status) => {
  const { url } = await start(await install());
  const answer = await exchange(url, text);
  expect(answer).toMatch(new RegExp(`^HTTP/1\\.1 ${status} `));
  expect(answer.toLowerCase()).toContain("content-type: application/problem+json");
});

it("the server finishes the requests in progress when close() is called under load, and refuses new ones", async () => {
  const installation = await install();
  const { url, close } = await start(installation, { limits: "lifted" });
  const { token } = installation.admin;
  const outcomes: (number | string)[] = [];
  let isClosing = false;
  const load = Array.from({ length: 8 }, async (_, worker) => {
    for (let count = 0; !isClosing || count === 0; count++) {
      const body = { slug: `server-${worker}-${count}`, url: "https://mcp.example.com" };
      outcomes.push(await statusOf(`${url}/api/v1/admin/mcp-servers`, token, body));
    }
  });
  await expect.poll(() => outcomes.length).toBeGreaterThan(20);
  await close();
  isClosing = true;
  await Promise.all(load);
  const made = installation.audit.entries.filter(({ action }) => action === "server.create");
  expect(made.every(({ outcome }) => outcome === "done")).toBe(true);
  expect(outcomes.filter((outcome) => outcome === 201)).toHaveLength(made.length);
  const others = new Set(outcomes.filter((outcome) => outcome !== 201));
  for (const outcome of others) expect([503, "ECONNREFUSED", "ECONNRESET"]).toContain(outcome);
  expect(await statusOf(`${url}/healthz`, token)).toBe("ECONNREFUSED");
});

it("close() closes a connection if its request is still in progress after drainMs", async () => {
  const installation = await install();
  const { service, admin } = installation;
  let begun = 0;
  const watched = serviceWith(service, "authenticate", (token, options) => {
    begun++;
    return service.authenticate(token, options);
  });
  const { url, close } = await start(installation, { admin: watched, drainMs: 100 });
  const socket = connectTo(url);
  const closed = once(socket, "close");
  await write(socket, postHead(admin.token, 100));
  await expect.poll(() => begun).toBe(1);
  await Promise.all([close(), close()]);
  await closed;
});

it("while the server closes, /readyz and the API answer 503", async () => {
  const installation = await install();
  const { url, close } = await start(installation);
  // Both requests have begun, so their connections stay open.
  const posting = connectTo(url);
  const asking = connectTo(url);
  const body = '{"slug":"github","url":"https://mcp.example.com"}';
  await write(posting, postHead(installation.admin.token, body.length));
  await write(asking, "GET /readyz HTTP/1.1\r\nHost: localhost\r\nX-Unfinished: ");
  expect(await statusOf(`${url}/readyz`, "")).toBe(200);
  const [posted, asked] = [received(posting), received(asking)];
  const closed = close();
  await write(asking, "1\r\n\r\n");
  expect(await asked).toMatch(/^HTTP\/1\.1 503 .*"notReady":\["closing"\]/s);
  await write(posting, body);
  expect(await posted).toMatch(/^HTTP\/1\.1 201 /);
  await closed;
});

it("/readyz names the part of the service that fails, and /healthz still answers that the process is live", async () => {
  const { apiKey, entry } = createApiKey({ tenant: "service" });
  const kv = await startKvServer({ store: new MemoryStore(), tenants: [entry], port: 0 });
  onTestFinished(() => kv.close());
  const store = new HttpStore({ url: kv.url, apiKey, retries: 0, timeoutMs: 2_000 });
  const installation = await install({ store });
  const { url } = await start(installation);
  const ready = async () => {
    const response = await fetch(`${url}/readyz`);
    return [response.status, await response.json()];
  };
  expect(await ready()).toEqual([200, { status: "ready", listener: "admin" }]);
  installation.audit.away = true;
  expect(await ready()).toEqual([503, { status: "not ready", listener: "admin", notReady: ["audit"] }]);
  installation.audit.away = false;
  await kv.close();
  expect(await ready()).toEqual([503, { status: "not ready", listener: "admin", notReady: ["store"] }]);
  const live = await fetch(`${url}/healthz`);
  expect([live.status, await live.json(), live.headers.get("cache-control")]).toEqual([
    200,
    { status: "live" },
    "no-store",
  ]);
});

it.each([
  [[], "203.0.113.9", "127.0.0.1"],
  [["127.0.0.0/8"], "203.0.113.9", "203.0.113.9"],
  [["127.0.0.0/8"], "198.51.100.7, 203.0.113.9", "203.0.113.9"],
  [["127.0.0.0/8", "203.0.113.0/24"], "198.51.100.7, 203.0.113.9", "198.51.100.7"],
  [["127.0.0.0/8"], "not an address", "127.0.0.1"],
  [["127.0.0.0/8"], "2001:db8::7", "2001:db8::7"],
  [["10.0.0.0/8"], "203.0.113.9", "127.0.0.1"],
])(
  "the server, with trustProxies %j and X-Forwarded-For %j, records the address %s",
  async (trustProxies, forwarded, address) => {
    const installation = await install();
    const { url } = await start(installation, { trustProxies });
    const { status } = await fetch(`${url}/api/v1/admin/mcp-servers`, {
      method: "POST",
      headers: {
        authorization: `Bearer ${installation.admin.token}`,
        "content-type": "application/json",
        "x-forwarded-for": forwarded,
      },
      body: JSON.stringify({ slug: "github", url: "https://mcp.example.com" }),
    });
    expect(status).toBe(201);
    expect(installation.audit.entries[0]?.caller.address).toBe(address);
  },
);

it("startAdminServer rejects if another server uses the port", async () => {
  const installation = await install();
  const { url } = await start(installation);
  const port = Number(new URL(url).port);
  await expect(startAdminServer({ admin: installation.service, port })).rejects.toMatchObject({
    code: "STORE_UNAVAILABLE",
    message: expect.stringContaining(String(port)),
  });
});
