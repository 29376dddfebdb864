import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AdminApiError, AdminClient } from "@keyward/admin/client";
import { MemoryStore } from "@keyward/store-memory";
import { SqliteStore } from "@keyward/store-sqlite";
import { expect, it, onTestFinished } from "vitest";
import { install } from "./installation.ts";

/** Creates a folder that is removed when the test has finished. */
function folder(): string {
  const path = mkdtempSync(join(tmpdir(), "keyward-admin-"));
  onTestFinished(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

it.each(["memory", "SQLite and an audit file"])(
  "AdminClient calls each route, and creates, changes and deletes servers, secrets and tokens in %s",
  async (place) => {
    const path = folder();
    const store = place === "memory" ? new MemoryStore() : new SqliteStore(join(path, "service.db"));
    onTestFinished(() => store.disconnect());
    const { clientOf, admin, operator } = await install(
      place === "memory" ? { store } : { store, auditPath: join(path, "audit.db") },
    );
    const client = clientOf(admin.token);
    expect(await client.whoAmI()).toMatchObject({ role: "admin", owner: "first admin", expires: null });
    const lists = { forwardHeaders: ["x-api-version"], relayHeaders: ["x-request-cost"] };
    expect(await client.createServer({ slug: "github", url: "https://mcp.example.com/mcp", ...lists })).toMatchObject({
      revision: 0,
      ...lists,
    });
    const set = await client.setSecret(
      "github",
      { name: "A", value: "a-value-of-a-test", expires: "2099-01-01T00:00:00Z", injection: { kind: "bearer" } },
      { ifRevision: 0 },
    );
    expect(set).toMatchObject({
      created: true,
      secret: { revision: 1, expires: "2099-01-01T00:00:00.000Z", weak: false },
    });
    expect(await client.getInjection("github", "A")).toEqual({ kind: "bearer" });
    await client.setInjection("github", "A", { kind: "header", header: "X-Key" }, { ifRevision: 1 });
    const { secrets } = await client.listSecrets("github");
    expect(secrets).toMatchObject([{ name: "A", injection: { kind: "header", header: "X-Key" }, unusable: null }]);
    const change = { url: "https://other.example.com", disabled: true, relayHeaders: [] };
    const moved = await client.updateServer("github", change);
    expect(moved).toMatchObject({ ...lists, relayHeaders: [], disabled: true, secretCount: 1 });
    expect((await client.listSecrets("github")).secrets).toMatchObject([{ unusable: "origin-changed" }]);
    expect(await client.deleteSecret("github", "A")).toMatchObject({ secretCount: 0 });
    await client.setSecret("github", { name: "B", value: "a-value-of-a-test" });
    expect(await client.deleteAllSecrets("github")).toMatchObject({ names: ["B"] });
    expect(await client.getServer("github")).toMatchObject({ secretCount: 0 });
    await client.deleteServer("github");
    expect(await client.listServers()).toEqual({ items: [], next: null, unreadable: [] });

    const issued = await client.createToken({ owner: "Ada", role: "member", methods: ["GET"], tools: ["list"] });
    expect(issued.info).toMatchObject({ servers: null, tools: ["list"], methods: ["GET"] });
    const rotated = await client.rotateToken(issued.info.id, { overlapMs: 60_000 });
    expect((await client.listTokens({ owner: "Ada" })).items.map(({ id }) => id)).toEqual([
      rotated.info.id,
      issued.info.id,
    ]);
    expect(await client.revokeToken(rotated.info.id)).toMatchObject({ revoked: expect.stringMatching(/Z$/) });
    expect(await client.revokeTokensOf("Ada")).toEqual([issued.info.id]);
    expect((await client.listChanges({ action: "token.rotate" })).items).toMatchObject([{ outcome: "done" }]);
    const actions: string[] = [];
    for (let cursor: string | undefined; ; ) {
      const { items, next } = await client.listChanges({ owner: "first admin" }, { limit: 5, cursor });
      actions.push(...items.map(({ action }) => action));
      if (next === null) break;
      cursor = next;
    }
    expect(actions).toEqual((await client.listChanges({ owner: "first admin" })).items.map(({ action }) => action));
    expect(actions).toHaveLength(12);

    const operatorClient = clientOf(operator.token);
    const { workspace, admin: first } = await operatorClient.createWorkspace({ name: "other", adminOwner: "Grace" });
    expect(await clientOf(first.token).whoAmI()).toMatchObject({ workspace: workspace.id, owner: "Grace" });
    expect((await operatorClient.listWorkspaces()).items.map(({ name }) => name)).toEqual(["other", "main"]);
    const { revision } = await operatorClient.getWorkspace("other");
    await operatorClient.deleteWorkspace("other", { ifRevision: revision });
    expect(await operatorClient.census()).toMatchObject({ unreadable: 0 });
    expect(await operatorClient.rotation()).toBe(null);
  },
);

it("AdminClient throws an error with the code, hint and request id of the service's answer", async () => {
  const { clientOf, admin } = await install();
  const client = clientOf(admin.token);
  await expect(client.getServer("nowhere")).rejects.toMatchObject({
    name: "AdminApiError",
    status: 404,
    code: "SERVER_NOT_FOUND",
    hint: expect.stringContaining("slug"),
    requestId: expect.stringMatching(/^[0-9a-f-]{36}$/),
  });
  await expect(client.createServer({ slug: "UPPER", url: "https://mcp.example.com" })).rejects.toMatchObject({
    status: 422,
    code: "FIELD_INVALID",
    message: expect.stringContaining("slug"),
  });
  await expect(clientOf("not-a-token").whoAmI()).rejects.toMatchObject({ status: 401, code: "TOKEN_REFUSED" });
});

it("whoAmI() returns the URL of the gateway to each role, or null if the service runs without a gateway", async () => {
  const callUrl = "https://keyward.example.com";
  const { clientOf, tokenOf, operator } = await install({ callUrl });
  const { token } = await tokenOf("member", "ci");
  for (const one of [token, operator.token]) expect(await clientOf(one).whoAmI()).toMatchObject({ callUrl });
  const without = await install();
  expect(await without.clientOf(without.admin.token).whoAmI()).toMatchObject({ callUrl: null });
});

it.each([
  ["not a URL", "token", "OPTION_INVALID"],
  ["ftp://localhost", "token", "OPTION_INVALID"],
  ["http://keyward.example.com", "token", "OPTION_INVALID"],
  ["https://user:password@keyward.example.com", "token", "OPTION_INVALID"],
  ["https://keyward.example.com/?a=b", "token", "OPTION_INVALID"],
  ["https://keyward.example.com", "two words", "OPTION_INVALID"],
  ["https://keyward.example.com", "", "OPTION_INVALID"],
])("AdminClient refuses the URL %s with the token %j, and its error contains neither", (url, token, code) => {
  expect(() => new AdminClient({ url, token })).toThrow(expect.objectContaining({ code }));
  expect(() => new AdminClient({ url, token })).toThrow(
    expect.objectContaining({ message: expect.not.stringContaining("password@") }),
  );
});

/** Starts an HTTP server that sends the answers of a test, and is not a secrets service. */
async function serve(answer: (target: string) => { status: number; headers?: Record<string, string>; body?: string }) {
  const requests: string[] = [];
  const server = createServer((request, response) => {
    requests.push(request.url ?? "");
    const { status, headers = {}, body } = answer(request.url ?? "");
    response.writeHead(status, headers);
    response.end(body);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  const address = server.address();
  const port = typeof address === "object" && address !== null ? address.port : 0;
  return { url: `http://127.0.0.1:${port}`, requests };
}

it("AdminClient refuses answers that do not match the admin API, and its error contains no token from them", async () => {
  const token = "kwt_a_b_0123456789";
  const hostile = JSON.stringify({
    type: "x",
    title: "x",
    status: 400,
    detail: `\u001b[31mYour token is ${token}`,
    code: "X",
    hint: `Send ${token}`,
    instance: "1",
  });
  for (const [answer, code] of [
    [{ status: 200, body: "<html>" }, "ANSWER_INVALID"],
    [{ status: 200, body: "{}" }, "ANSWER_INVALID"],
    [{ status: 200, body: "x".repeat(9 * 1024 * 1024) }, "ANSWER_INVALID"],
    [{ status: 502, body: "Bad gateway" }, "ANSWER_INVALID"],
    [{ status: 302, headers: { location: "/elsewhere" } }, "ANSWER_INVALID"],
    [{ status: 400, body: hostile }, "X"],
  ] as const) {
    const { url, requests } = await serve(() => answer);
    const error: unknown = await new AdminClient({ url, token }).whoAmI().catch((thrown: unknown) => thrown);
    if (!(error instanceof AdminApiError)) throw new Error("The client did not refuse the answer");
    expect(error.code).toBe(code);
    expect(`${error.message}${error.hint}`).not.toContain(token);
    expect(`${error.message}${error.hint}`).not.toContain("\u001b");
    expect(requests).toEqual(["/api/v1/admin/whoami"]);
  }
});

it.each(["", ".", ".."])("AdminClient sends no request for the name %j, which would change the route", async (name) => {
  let requests = 0;
  const fetch = async () => {
    requests++;
    return Response.json({});
  };
  const client = new AdminClient({ url: "http://127.0.0.1:1", token: "kwt_test", fetch });
  for (const call of [client.deleteAllSecrets(name), client.deleteServer(name), client.deleteSecret("github", name)]) {
    await expect(call).rejects.toMatchObject({ code: "FIELD_INVALID", status: undefined });
  }
  expect(requests).toBe(0);
});

it("AdminClient rejects with SERVICE_UNREACHABLE if the service is down or does not answer in time", async () => {
  const { url } = await serve(() => ({ status: 200, body: "{}" }));
  const port = Number(new URL(url).port);
  const silent = new AdminClient({
    url,
    token: "token",
    timeoutMs: 50,
    fetch: (_, init) =>
      new Promise((__, reject) => {
        init?.signal?.addEventListener("abort", () => reject(new Error("aborted")));
      }),
  });
  await expect(silent.whoAmI()).rejects.toMatchObject({ code: "SERVICE_UNREACHABLE", status: undefined });
  // Port 1 of the loopback interface has no server.
  expect(port).not.toBe(1);
  const unreachable = new AdminClient({ url: "http://127.0.0.1:1", token: "token" });
  await expect(unreachable.whoAmI()).rejects.toMatchObject({ code: "SERVICE_UNREACHABLE" });
});
