import { inspect } from "node:util";
import { type CallGrant, SecretsReader, SessionKey } from "@keyward/secrets/reader";
import { describe, expect, it, onTestFinished } from "vitest";
import { HostileStore, haltedRead } from "./hostile-store.ts";
import { keysIn, type Service, startService } from "./service.ts";

const url = "https://mcp.example.com/mcp";

/** Starts a service with two servers, and begins a call of each of two members to each of them. */
async function startWithCalls() {
  const service = await startService();
  const { admin, as, reader } = service;
  const open: { readonly name: string; readonly grant: CallGrant }[] = [];
  const ids: Record<string, string> = {};
  for (const slug of ["github", "linear"]) await admin.createServer(as.admin, { slug, url });
  for (const owner of ["mia", "noa"]) {
    const { token, info } = await admin.createToken(as.admin, { owner, role: "member" });
    ids[owner] = info.id;
    for (const slug of ["github", "linear"]) {
      open.push({ name: `${owner} ${slug}`, grant: await reader.forCall(token, slug) });
    }
  }
  const calls = open.map(({ name, grant }) => ({ ...grant, name }));
  const ended = async () =>
    (await reader.stillAllowed(calls)).map(({ call, reason }) => `${call.name} ${reason}`).sort();
  return { service, calls, ids, ended };
}

/** Writes another record of a token, as another release or process could. */
async function changeToken({ store, keys, as }: Service, id: string, change: (record: object) => object) {
  const { EncryptedStore } = await import("@keyward/core");
  const { scopeOfServiceRecord, serviceNamespace } = await import("@keyward/secrets");
  const encrypted = new EncryptedStore(store.namespaced(serviceNamespace), { keys, scope: scopeOfServiceRecord });
  encrypted.namespace = serviceNamespace;
  onTestFinished(() => encrypted.disconnect());
  const key = `token/${as.admin.workspace}/${id}`;
  const record: unknown = JSON.parse(String(await encrypted.get(key)));
  if (typeof record !== "object" || record === null) throw new Error("no record");
  await encrypted.set(key, JSON.stringify(change(record)));
}

describe("calls in progress", () => {
  it("continue while nothing has changed", async () => {
    const { ended, service } = await startWithCalls();
    expect(await ended()).toEqual([]);
    expect(await service.reader.stillAllowed([])).toEqual([]);
  });

  it("end when their token is revoked", async () => {
    const { service, ids, ended } = await startWithCalls();
    await service.admin.revokeToken(service.as.admin, ids["mia"] ?? "");
    expect(await ended()).toEqual(["mia github TOKEN_REVOKED", "mia linear TOKEN_REVOKED"]);
  });

  it("end when their token expires", async () => {
    const { service, ids, ended } = await startWithCalls();
    await changeToken(service, ids["noa"] ?? "", (record) => ({ ...record, revision: 9, expires: Date.now() - 1 }));
    expect(await ended()).toEqual(["noa github TOKEN_EXPIRED", "noa linear TOKEN_EXPIRED"]);
  });

  it("end when their token is limited to other servers, tools or methods", async () => {
    const { service, ids, calls } = await startWithCalls();
    await changeToken(service, ids["mia"] ?? "", (record) => ({
      ...record,
      revision: 9,
      servers: ["github"],
      tools: ["search"],
      methods: ["GET"],
    }));
    const [github, linear] = calls;
    if (github === undefined || linear === undefined) throw new Error("no calls");
    const asked = [
      linear,
      github,
      { ...github, tool: "search" },
      { ...github, tool: "delete" },
      { ...github, method: "GET" },
      { ...github, method: "POST" },
    ];
    const ended = await service.reader.stillAllowed(asked);
    expect(ended.map(({ call }) => asked.indexOf(call))).toEqual([0, 3, 5]);
    for (const { reason } of ended) expect(reason).toBe("TOKEN_NARROWED");
  });

  it("end when their token is narrowed to tools and their server is not an MCP server", async () => {
    const { service } = await startWithCalls();
    const { admin, as, reader } = service;
    await admin.createServer(as.admin, { slug: "api", url, kind: "http" });
    const { token, info } = await admin.createToken(as.admin, { owner: "mia", role: "member" });
    const call = { ...(await reader.forCall(token, "api")), method: "GET" };
    expect(await reader.stillAllowed([call])).toEqual([]);
    await changeToken(service, info.id, (record) => ({ ...record, revision: 9, tools: ["search"] }));
    expect(await reader.stillAllowed([call])).toMatchObject([{ reason: "TOKEN_NARROWED" }]);
  });

  it("end when their server is disabled, deleted, or deleted and created again", async () => {
    const { service, ended } = await startWithCalls();
    const { admin, as } = service;
    await admin.updateServer(as.admin, "github", { disabled: true });
    expect(await ended()).toEqual(["mia github SERVER_DISABLED", "noa github SERVER_DISABLED"]);
    await admin.updateServer(as.admin, "github", { disabled: false });
    expect(await ended()).toEqual([]);
    await admin.deleteServer(as.admin, "linear");
    const removed = ["mia linear SERVER_REMOVED", "noa linear SERVER_REMOVED"];
    expect(await ended()).toEqual(removed);
    await admin.createServer(as.admin, { slug: "linear", url });
    expect(await ended()).toEqual(removed);
  });

  it("end if the record of their token or server cannot be read, and the problem is reported once", async () => {
    const { service, calls, ids, ended } = await startWithCalls();
    const hostile = new HostileStore(service);
    const key = `token/${service.as.admin.workspace}/${ids["mia"]}`;
    await hostile.damage(key);
    expect(await ended()).toEqual(["mia github RECORD_UNREADABLE", "mia linear RECORD_UNREADABLE"]);
    expect(service.problems).toHaveLength(1);
    const [first] = await service.reader.stillAllowed(calls);
    expect(first?.problem).toBe(service.problems.at(-1));
    await hostile.damage(key);
    expect(await ended()).toEqual([]);
    const [server = ""] = await keysIn(service, `server/${service.as.admin.workspace}/linear`);
    await hostile.damage(server);
    expect(await ended()).toEqual(["mia linear RECORD_UNREADABLE", "noa linear RECORD_UNREADABLE"]);
  });

  it("are checked with one call to the store, which reads each record once", async () => {
    const { service, calls } = await startWithCalls();
    const reads: string[] = [];
    const store = haltedRead(service.store, async (keys) => {
      reads.push(keys);
    });
    const reader = new SecretsReader({ store, keys: service.keys });
    onTestFinished(() => reader.close());
    await reader.stillAllowed(calls);
    reads.length = 0;
    await reader.stillAllowed([...calls, ...calls, ...calls]);
    expect(reads).toHaveLength(1);
    const keys: unknown = JSON.parse(reads[0] ?? "");
    // The installation, the workspace, two tokens and two servers.
    expect(keys).toHaveLength(6);
  });
});

describe("the grant of a call", () => {
  it("contains the workspace, and does not show the session key when it is printed", async () => {
    const { calls, service } = await startWithCalls();
    const [grant] = calls;
    expect(grant?.workspace).toEqual({ id: service.as.admin.workspace, name: "main" });
    const bytes = grant?.sessionKey.reveal() ?? new Uint8Array();
    expect(bytes).toHaveLength(32);
    expect(calls.at(-1)?.sessionKey.reveal()).toEqual(bytes);
    const key = new SessionKey(Buffer.from(bytes).toString("base64"));
    const shown = [
      `${key}`,
      String(key),
      JSON.stringify({ grant, key }),
      inspect({ grant, key }, { showHidden: true, depth: 9 }),
    ];
    for (const encoding of ["base64", "hex"] as const) {
      expect(shown.join()).not.toContain(Buffer.from(bytes).toString(encoding));
    }
  });
});
