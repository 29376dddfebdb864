import { once } from "node:events";
import { request } from "node:http";
import { expect, it } from "vitest";
import {
  answerJson,
  bodyOf,
  startInstallation,
  startMortalUpstream,
  startUpstream,
  testValue,
  type Upstream,
} from "./installation.ts";
import { startRawUpstream } from "./raw-http.ts";

const ok: Parameters<typeof startUpstream>[0] = (_, response) => answerJson(response, {});

async function startWith(
  upstream: Pick<Upstream, "port" | "origin">,
  options: Parameters<typeof startInstallation>[1] = {},
) {
  const installation = await startInstallation([upstream], options);
  await installation.addServer({ slug: "api", url: upstream.origin });
  return installation;
}

it("a server is ready after it has answered with any status but 401", async () => {
  const installation = await startWith(await startUpstream((_, response) => void response.writeHead(503).end("no")));
  expect(await installation.stateOf("api")).toMatchObject({ status: "unknown", lastSeen: undefined });
  const beforeMs = Date.now();
  await (await installation.call("/s/api/")).text();
  const state = await installation.stateOf("api");
  expect(state).toEqual({ status: "ready", since: state.lastSeen, lastSeen: state.since, lastError: undefined });
  expect(state.since).toBeGreaterThanOrEqual(beforeMs);
});

it("the state is refused if the server answers 401, and unknown after the secret was set again", async () => {
  let expected = "another value";
  const upstream = await startUpstream((request, response) => {
    if (request.headers.authorization === `Bearer ${expected}`) answerJson(response, {});
    else response.writeHead(401).end(testValue);
  });
  const installation = await startWith(upstream);
  await (await installation.call("/s/api/")).text();
  const refused = await installation.stateOf("api");
  expect(refused).toMatchObject({
    status: "refused",
    lastError: { reason: "The server refused its credential: it answered with the status 401" },
  });
  expected = "a-new-value-0123456789";
  const { admin, caller } = installation;
  await admin.setSecret(caller, "api", { name: "API_TOKEN", value: expected, rule: { kind: "bearer" } });
  const { lastError } = refused;
  expect(await installation.stateOf("api")).toMatchObject({ status: "unknown", since: undefined, lastError });
  await (await installation.call("/s/api/")).text();
  expect(await installation.stateOf("api")).toMatchObject({ status: "ready", lastError });
});

it("the state is failed while the server is dead, and ready with the last error after the server has restarted", async () => {
  const upstream = await startMortalUpstream(ok);
  const installation = await startWith(upstream);
  await upstream.end();
  expect((await installation.call("/s/api/")).status).toBe(502);
  const failed = await installation.stateOf("api");
  expect(failed).toMatchObject({ status: "failed", lastError: { reason: "The connection to the server failed" } });
  expect((await installation.call("/s/api/")).status).toBe(502);
  expect(await installation.stateOf("api")).toMatchObject({ status: "failed", since: failed.since });
  await upstream.begin();
  expect((await installation.call("/s/api/")).status).toBe(200);
  const { reason } = failed.lastError ?? {};
  expect(await installation.stateOf("api")).toMatchObject({ status: "ready", lastError: { reason } });
});

it("the state is failed if the server breaks off its answer", async () => {
  const upstream = await startRawUpstream((socket) => {
    socket.write("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf");
    socket.destroySoon();
  });
  const installation = await startWith(upstream);
  await installation.call("/s/api/").then((answer) => answer.text().catch(() => {}));
  const reason = "The server could not be reached, or broke off its answer";
  expect(await installation.stateOf("api")).toMatchObject({ status: "failed", lastError: { reason } });
});

it("the state is failed if the server's address is refused, and the reason contains no address", async () => {
  const upstream = await startUpstream(ok);
  const installation = await startInstallation([]);
  await installation.addServer({ slug: "api", url: upstream.origin });
  await installation.call("/s/api/");
  const { status, lastError } = await installation.stateOf("api");
  expect(status).toBe("failed");
  expect(lastError?.reason).toMatch(/address/);
  expect(lastError?.reason).not.toContain("127.0.0.1");
});

it("the state is failed if the server hangs, even after it has read the caller's whole body", async () => {
  const upstream = await startUpstream((request) => void bodyOf(request));
  const installation = await startWith(upstream, { limits: { silenceMs: 300 } });
  expect((await installation.call("/s/api/", { method: "POST", body: "a body" })).status).toBe(504);
  const reason = "The server did not answer in time";
  expect(await installation.stateOf("api")).toMatchObject({ status: "failed", lastError: { reason } });
});

it("the state stays unknown if a caller stops in the middle of its body, disconnects, or is refused", async () => {
  const upstream = await startUpstream((request) => void bodyOf(request).catch(() => {}));
  const installation = await startWith(upstream, { limits: { silenceMs: 300 } });
  const { gateway, token, call } = installation;
  const headers = { authorization: `Bearer ${token}`, "content-length": "100" };
  const slow = request(`${gateway.url}/s/api/`, { method: "POST", headers });
  slow.write("half");
  const [answer] = await once(slow, "response");
  expect(answer.statusCode).toBe(504);
  slow.on("error", () => {}).destroy();
  expect(upstream.requests).toHaveLength(1);
  const leaving = new AbortController();
  const left = call("/s/api/", { signal: leaving.signal }).catch(() => {});
  await expect.poll(() => upstream.requests.length).toBe(2);
  leaving.abort();
  await left;
  await expect.poll(() => gateway.openCalls).toBe(0);
  expect((await call("/s/api/../x", { headers: { authorization: "Bearer kwt_none" } })).status).toBeGreaterThan(399);
  expect(await installation.stateOf("api")).toMatchObject({ status: "unknown" });
});

it("the state is ready while a stream of events is open", async () => {
  const upstream = await startUpstream((_, response) => {
    response.writeHead(200, { "content-type": "text/event-stream" }).write(": nothing\n\n");
  });
  const installation = await startWith(upstream);
  const leaving = new AbortController();
  const stream = await installation.call("/s/api/events", { signal: leaving.signal });
  expect(stream.status).toBe(200);
  expect(await installation.stateOf("api")).toMatchObject({ status: "ready" });
  leaving.abort();
});

it("the state is unknown for a server that was deleted and added again", async () => {
  const upstream = await startUpstream(ok);
  const installation = await startWith(upstream);
  await (await installation.call("/s/api/")).text();
  expect(await installation.stateOf("api")).toMatchObject({ status: "ready" });
  await installation.admin.deleteServer(installation.caller, "api");
  await installation.addServer({ slug: "api", url: upstream.origin });
  expect(await installation.stateOf("api")).toMatchObject({ status: "unknown" });
});
