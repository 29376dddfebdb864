import { once } from "node:events";
import { Agent, get, type IncomingMessage } from "node:http";
import { connect, type Socket } from "node:net";
import { type AdminServerOptions, startAdminServer } from "@keyward/admin";
import { expect, it, onTestFinished } from "vitest";
import { install, serviceWith } from "./installation.ts";

/** One hour each, so that a test fails if the server waits for one of these times. */
const unlimited = { requestTimeoutMs: 3_600_000, idleTimeoutMs: 3_600_000, drainMs: 3_600_000 };

async function start(options: Partial<AdminServerOptions> = {}) {
  const installation = await install();
  const server = await startAdminServer({ admin: installation.service, port: 0, ...options });
  onTestFinished(() => server.close());
  return { ...installation, server };
}

/** Opens a connection, and sends only `text` on it. */
async function open(url: string, text = ""): Promise<Socket> {
  const socket = connect({ port: Number(new URL(url).port), host: "127.0.0.1", allowHalfOpen: true });
  socket.on("error", () => {});
  onTestFinished(() => {
    socket.destroy();
  });
  await once(socket, "connect");
  if (text !== "") socket.write(text);
  return socket;
}

async function isServed(url: string): Promise<boolean> {
  const { status } = await fetch(`${url}/healthz`, { headers: { connection: "close" } });
  return status === 200;
}

it.each(["", "GET / HTTP/1.1\r\n"])(
  "the server closes a connection that sends only %j, even if the client does not close its side",
  async (text) => {
    const { server } = await start({ ...unlimited, headersTimeoutMs: 100 });
    const socket = await open(server.url, text);
    const pieces: Buffer[] = [];
    socket.on("data", (piece) => pieces.push(piece));
    await once(socket, "end");
    expect(Buffer.concat(pieces).toString()).toMatch(/^HTTP\/1\.1 408 /);
    // close() resolves only after all connections are closed.
    await server.close();
  },
);

it.each([
  ["send nothing", ""],
  ["have sent a part of their headers", "GET /healthz HTTP/1.1\r\nHost: localhost\r\n"],
  ["have sent a part of a body", "POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{"],
  ["have had their answer", "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"],
])("the server answers new clients while as many connections as maxConnections allows %s", async (_, text) => {
  const { server } = await start({ maxConnections: 5 });
  for (let count = 0; count < 20; count++) await open(server.url, text);
  for (let count = 0; count < 3; count++) expect(await isServed(server.url)).toBe(true);
});

it("the server accepts a connection beyond maxConnections without closing one whose request is in progress", async () => {
  const { service, admin } = await install();
  const { promise: released, resolve: release } = Promise.withResolvers<void>();
  let asked = 0;
  const slow = serviceWith(service, "listServers", async (caller) => {
    asked++;
    await released;
    return await service.listServers(caller);
  });
  const { server } = await start({ admin: slow, maxConnections: 2 });
  const headers = { authorization: `Bearer ${admin.token}` };
  const answer = fetch(`${server.url}/api/v1/admin/mcp-servers`, { headers });
  await expect.poll(() => asked).toBe(1);
  for (let count = 0; count < 5; count++) await open(server.url);
  expect(await isServed(server.url)).toBe(true);
  release();
  expect((await answer).status).toBe(200);
});

it("the server closes a connection if the client sends a request before the answer to its previous one", async () => {
  const { service, admin } = await install();
  let asked = 0;
  const counted = serviceWith(service, "listServers", async (caller) => {
    asked++;
    return await service.listServers(caller);
  });
  const { server } = await start({ admin: counted });
  const request = `GET /api/v1/admin/mcp-servers HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer ${admin.token}\r\n\r\n`;
  const impatient = await open(server.url, request.repeat(50));
  impatient.resume();
  await once(impatient, "end");
  expect(asked).toBeLessThanOrEqual(1);
  const patient = new Agent({ keepAlive: true, maxSockets: 1 });
  onTestFinished(() => patient.destroy());
  for (let count = 0; count < 50; count++) {
    const sent = get(`${server.url}/healthz`, { agent: patient });
    const [answer]: IncomingMessage[] = await once(sent, "response");
    answer?.resume();
    await once(sent, "close");
    expect([answer?.statusCode, sent.reusedSocket]).toEqual([200, count > 0]);
  }
});

it("close() does not wait for a connection that has sent nothing", async () => {
  const { server } = await start({ ...unlimited, headersTimeoutMs: unlimited.requestTimeoutMs });
  await open(server.url);
  await isServed(server.url);
  await server.close();
});

it("an answer to a request whose body was not read has the header Connection: close", async () => {
  const { server } = await start();
  const head = "POST /api/v1/admin/tokens HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n";
  const socket = await open(server.url, `${head}{`);
  const pieces: Buffer[] = [];
  socket.on("data", (piece) => pieces.push(piece));
  await once(socket, "end");
  const answer = Buffer.concat(pieces).toString();
  expect(answer).toMatch(/^HTTP\/1\.1 401 /);
  expect(answer.toLowerCase()).toContain("\r\nconnection: close\r\n");
});
