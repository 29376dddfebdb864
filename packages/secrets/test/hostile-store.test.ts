import { KeywardError } from "@keyward/core";
import { type IssuedToken, SecretsAdmin } from "@keyward/secrets";
import { SecretsReader } from "@keyward/secrets/reader";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { HostileStore, haltedRead, haltedScan } from "./hostile-store.ts";
import { keysIn, type Service, startService, valuesOf } from "./service.ts";

const dayMs = 24 * 3_600_000;
const url = "https://mcp.example.com/mcp";
const value = "test-0123456789abcdef";
const refused = { code: "TOKEN_REFUSED" };

async function start() {
  const service = await startService();
  return { ...service, hostile: new HostileStore(service) };
}

/** Starts a service whose server `github` has a secret. */
async function startWithSecret() {
  const service = await start();
  const { admin, as } = service;
  await admin.createServer(as.admin, { slug: "github", url });
  await admin.setSecret(as.admin, "github", { name: "TOKEN", value });
  return service;
}

/** Starts a service whose workspace `pay` was deleted, and put back after the sweep has removed the lists of the workspace. */
async function startWithPutBackWorkspace() {
  const { hostile, ...service } = await start();
  const { admin, as } = service;
  const pay = await admin.createWorkspace(as.operator, { name: "pay", adminOwner: "ana" });
  const ana = await admin.authenticate(pay.admin.token);
  await admin.createServer(ana, { slug: "bank", url });
  await admin.setSecret(ana, "bank", { name: "TOKEN", value });
  const deleted = new Map<string, unknown>();
  for (const key of await keysIn(service, "")) {
    if (key.includes(pay.workspace.id) && !key.startsWith("list/")) deleted.set(key, await hostile.read(key));
  }
  await admin.deleteWorkspace(as.operator, "pay");
  await admin.sweep({ now: Date.now() + 1.5 * dayMs });
  for (const [key, record] of deleted) await hostile.putBack(key, record);
  return { ...service, pay, deleted };
}

/** Expects that calls can use the secret, in a process that has read nothing yet. */
async function expectSecret(service: Service): Promise<void> {
  const reader = new SecretsReader({ store: service.store, keys: service.keys });
  onTestFinished(() => reader.close());
  expect(await valuesOf({ ...service, reader }, "github")).toEqual({ TOKEN: value });
}

/** Opens the service as a process that has read nothing yet. */
function freshProcess({ store, keys, audit }: Service): SecretsAdmin {
  const admin = new SecretsAdmin({ store, keys, audit });
  onTestFinished(() => admin.close());
  return admin;
}

/** Runs `work` while the clock of this process is ahead by a number of days. */
async function at<Result>(days: number, work: () => Promise<Result>): Promise<Result> {
  vi.setSystemTime(Date.now() + days * dayMs);
  try {
    return await work();
  } finally {
    vi.useRealTimers();
  }
}

describe("an attacker who writes to the store and has no key", () => {
  it("cannot make the sweep erase a workspace by removing its record", async () => {
    const { hostile, ...service } = await startWithSecret();
    const { admin, as, problems } = service;
    const key = `workspace/${as.admin.workspace}`;
    const record = await hostile.read(key);
    const keysOfWorkspace = async () =>
      (await keysIn(service, "")).filter((found) => found.includes(as.admin.workspace ?? ""));
    const before = await keysOfWorkspace();
    await hostile.remove(key);
    for (const days of [2, 4, 100, 100.5, 101])
      await admin.sweep({ now: Date.now() + days * dayMs, abandonedAfterMs: 0 });
    expect(problems).toContainEqual(expect.objectContaining({ code: "RECORD_MISSING" }));
    await hostile.putBack(key, record);
    expect(await keysOfWorkspace()).toEqual(before);
    await expectSecret(service);
  });

  it("cannot make an initialization erase workspaces by removing or replacing the record of the installation", async () => {
    const { hostile, ...service } = await startWithSecret();
    const { as } = service;
    const workspace = `workspace/${as.admin.workspace}`;
    const records = { service: await hostile.read("service"), [workspace]: await hostile.read(workspace) };
    for (const removed of [["service"], ["service", workspace]]) {
      for (const key of removed) await hostile.remove(key);
      const process = freshProcess(service);
      await expect(process.initialize()).rejects.toMatchObject({ code: "RECORD_MISSING" });
      for (const [key, record] of Object.entries(records)) await hostile.putBack(key, record);
      await expectSecret(service);
    }
  });

  it("cannot hide a server and its values by removing its record", async () => {
    const { hostile, ...service } = await startWithSecret();
    const { admin, as, problems } = service;
    const key = `server/${as.admin.workspace}/github`;
    const record = await hostile.read(key);
    await hostile.remove(key);
    for (const days of [2, 4]) await admin.sweep({ now: Date.now() + days * dayMs, abandonedAfterMs: 0 });
    expect(problems).toMatchObject([{ code: "RECORD_MISSING" }, { code: "RECORD_MISSING" }]);
    expect(await admin.listServers(as.admin)).toMatchObject({ items: [], unreadable: ["github"] });
    await hostile.putBack(key, record);
    expect(await admin.listServers(as.admin)).toMatchObject({ items: [{ slug: "github" }], unreadable: [] });
    expect(await valuesOf(service, "github")).toEqual({ TOKEN: value });
  });

  it.each(["sweeps", "the deletion of the workspace"])(
    "cannot keep values of a server in the store by removing its record, if the server is created again before %s",
    async (end) => {
      const { hostile, ...service } = await startWithSecret();
      const { admin, as } = service;
      await hostile.remove(`server/${as.admin.workspace}/github`);
      await admin.createServer(as.admin, { slug: "github", url });
      await admin.setSecret(as.admin, "github", { name: "TOKEN", value });
      expect(await keysIn(service, "value/")).toHaveLength(2);
      if (end === "sweeps") await admin.sweep({ now: Date.now() + 2 * dayMs });
      else await admin.deleteWorkspace(as.operator, "main");
      expect(await keysIn(service, "value/")).toHaveLength(end === "sweeps" ? 1 : 0);
      if (end === "sweeps") await expectSecret(service);
      const fresh = freshProcess(service);
      expect(await fresh.checkRecords(fresh.localOperator())).toMatchObject({ problems: [], unlisted: [] });
    },
  );

  it("cannot bring a deleted server or workspace back for longer than until the next sweep", async () => {
    const { hostile, ...service } = await startWithSecret();
    const { admin, as } = service;
    const pay = await admin.createWorkspace(as.operator, { name: "pay", adminOwner: "ana" });
    const deleted = new Map<string, unknown>();
    for (const key of await keysIn(service, "")) deleted.set(key, await hostile.read(key));
    await admin.deleteServer(as.admin, "github");
    await admin.deleteWorkspace(as.operator, "pay");
    const kept = await keysIn(service, "");
    const putBack = [...deleted.keys()].filter((key) => !kept.includes(key) && !key.startsWith("used/"));
    expect(putBack.map((key) => key.split("/")[0]).toSorted()).toEqual(["server", "token", "value", "workspace"]);
    for (const key of putBack) await hostile.putBack(key, deleted.get(key));
    const fresh = freshProcess(service);
    const { problems } = await fresh.checkRecords(fresh.localOperator());
    expect(problems).toEqual([
      { record: "the server github of the workspace main", code: "RECORD_ROLLED_BACK" },
      { record: "the workspace pay", code: "RECORD_ROLLED_BACK" },
    ]);
    await fresh.sweep();
    await expect(fresh.authenticate(pay.admin.token)).rejects.toMatchObject(refused);
    expect((await fresh.listServers(as.admin)).items).toEqual([]);
    expect((await fresh.listWorkspaces(as.operator)).items).toMatchObject([{ name: "main" }]);
    const left = await keysIn(service, "");
    expect(putBack.filter((key) => left.includes(key))).toEqual([]);
    expect(await fresh.checkRecords(fresh.localOperator())).toMatchObject({ problemCount: 0, unlistedCount: 0 });
  });

  it("cannot bring a workspace or its records back after the sweep has removed the lists of the workspace", async () => {
    const { pay, deleted, ...service } = await startWithPutBackWorkspace();
    const fresh = freshProcess(service);
    await fresh.sweep({ now: Date.now() + 1.6 * dayMs });
    expect((await keysIn(service, "")).filter((key) => deleted.has(key))).toEqual([]);
    await expect(fresh.authenticate(pay.admin.token)).rejects.toMatchObject(refused);
  });

  it("cannot keep records of a workspace that was put back if the process of the sweep ends while it removes them", async () => {
    const { pay, deleted, ...service } = await startWithPutBackWorkspace();
    const { store, keys, audit } = service;
    const dying = haltedScan(store, async () => {
      throw new KeywardError("STORE_UNAVAILABLE", "The process was killed", { hint: "None." });
    });
    const killed = new SecretsAdmin({ store: dying, keys, audit });
    onTestFinished(() => killed.close());
    await expect(killed.sweep({ now: Date.now() + 1.6 * dayMs })).rejects.toMatchObject({ code: "STORE_UNAVAILABLE" });
    expect((await keysIn(service, "")).filter((key) => deleted.has(key))).not.toEqual([]);
    const fresh = freshProcess(service);
    await expect(fresh.authenticate(pay.admin.token)).rejects.toMatchObject(refused);
    await fresh.sweep({ now: Date.now() + 1.7 * dayMs });
    expect((await keysIn(service, "")).filter((key) => deleted.has(key))).toEqual([]);
  });

  it("can put back a deleted server a day later, until an admin deletes it again, as the check says", async () => {
    const { hostile, ...service } = await startWithSecret();
    const { admin, as } = service;
    const stored = [`server/${as.admin.workspace}/github`, ...(await keysIn(service, "value/"))];
    const deleted = new Map<string, unknown>();
    for (const key of stored) deleted.set(key, await hostile.read(key));
    await admin.deleteServer(as.admin, "github");
    await admin.sweep({ now: Date.now() + 1.5 * dayMs });
    for (const [key, record] of deleted) await hostile.putBack(key, record);
    const fresh = freshProcess(service);
    await fresh.sweep({ now: Date.now() + 1.6 * dayMs });
    const check = () => fresh.checkRecords(fresh.localOperator());
    expect(await check()).toMatchObject({ problems: [], unlisted: ["the server github of the workspace main"] });
    await fresh.deleteServer(as.admin, "github");
    expect((await keysIn(service, "")).filter((key) => deleted.has(key))).toEqual([]);
    expect(await check()).toMatchObject({ problems: [], unlisted: [] });
  });

  it("can put back a deleted workspace after the retention, until the tokens of that time are refused", async () => {
    const { hostile, ...service } = await start();
    const { admin, as } = service;
    const pay = await admin.createWorkspace(as.operator, { name: "pay", adminOwner: "ana" });
    const deleted = new Map<string, unknown>();
    for (const key of await keysIn(service, "")) {
      if (key.includes(pay.workspace.id)) deleted.set(key, await hostile.read(key));
    }
    await admin.deleteWorkspace(as.operator, "pay");
    for (let days = 3; days <= 93; days += 3) await admin.sweep({ now: Date.now() + days * dayMs });
    for (const [key, record] of deleted) await hostile.putBack(key, record);
    const fresh = freshProcess(service);
    await fresh.sweep({ now: Date.now() + 93.1 * dayMs });
    const { unlisted } = await fresh.checkRecords(fresh.localOperator());
    expect(unlisted).toEqual(["the workspace pay"]);
    expect(await fresh.authenticate(pay.admin.token)).toMatchObject({ owner: "ana" });
    await fresh.revokeTokensBefore(fresh.localOperator(), Date.now());
    await expect(freshProcess(service).authenticate(pay.admin.token)).rejects.toMatchObject(refused);
  });

  it("cannot make the sweep erase a server within the day after the deletion of another one with the same slug", async () => {
    const { hostile, ...service } = await startWithSecret();
    const { admin, as, problems } = service;
    const key = `server/${as.admin.workspace}/github`;
    const former = await hostile.read(key);
    await admin.deleteServer(as.admin, "github");
    await admin.createServer(as.admin, { slug: "github", url });
    await admin.setSecret(as.admin, "github", { name: "TOKEN", value });
    const now = await hostile.read(key);
    await hostile.putBack(key, former);
    const fresh = service.open();
    for (const days of [1.5, 3]) await fresh.sweep({ now: Date.now() + days * dayMs, abandonedAfterMs: 0 });
    expect(problems).toContainEqual(expect.objectContaining({ code: "RECORD_MISSING" }));
    await hostile.putBack(key, now);
    await expectSecret(service);
  });

  it("cannot make the sweep erase a server by putting back the record of a deleted one with the same slug", async () => {
    const { hostile, ...service } = await startWithSecret();
    const { admin, as, problems } = service;
    const key = `server/${as.admin.workspace}/github`;
    const former = await hostile.read(key);
    await admin.deleteServer(as.admin, "github");
    await admin.sweep({ now: Date.now() + 2 * dayMs });
    await admin.createServer(as.admin, { slug: "github", url });
    await admin.setSecret(as.admin, "github", { name: "TOKEN", value });
    const now = await hostile.read(key);
    await hostile.putBack(key, former);
    const fresh = service.open();
    for (const days of [4, 6]) await fresh.sweep({ now: Date.now() + days * dayMs, abandonedAfterMs: 0 });
    expect(problems).toContainEqual(expect.objectContaining({ code: "RECORD_MISSING" }));
    await hostile.putBack(key, now);
    await expectSecret(service);
    expect(await admin.listServers(as.admin)).toMatchObject({ items: [{ slug: "github" }] });
  });

  it("is not blamed for a server that another process deletes while the servers are read", async () => {
    const { hostile: _, ...service } = await startWithSecret();
    const { admin, as, keys, audit, problems } = service;
    const deleting = async (halted: string) => {
      if (!halted.includes("server/")) return;
      const { items } = await admin.listServers(as.admin);
      if (items.length > 0) await admin.deleteServer(as.admin, "github");
    };
    const store = haltedRead(service.store, deleting);
    const other = new SecretsAdmin({ store, keys, audit, onProblem: (problem) => problems.push(problem) });
    onTestFinished(() => other.close());
    expect(await other.listServers(as.admin)).toMatchObject({ items: [], unreadable: [] });
    await admin.createServer(as.admin, { slug: "github", url });
    await other.sweep({ now: Date.now() + 2 * dayMs });
    expect(problems).toEqual([]);
    expect((await admin.listServers(as.admin)).items).toEqual([]);
  });

  it("cannot hide a token from a revocation after a restore by putting back an old page of the list", async () => {
    const { hostile, ...service } = await start();
    const { as } = service;
    const page = `list/${as.admin.workspace}/tokens/0`;
    const old = await hostile.read(page);
    const { token, info } = await service.admin.createToken(as.admin, { owner: "ci", role: "member" });
    await hostile.putBack(page, old);
    await expect.poll(() => Date.now(), { timeout: 5_000 }).toBeGreaterThan(info.created + 1);
    const fresh = freshProcess(service);
    await fresh.revokeTokensBefore(fresh.localOperator(), Date.now());
    await expect(fresh.authenticate(token)).rejects.toMatchObject(refused);
  });

  it("cannot keep a token valid by hiding it, if the token is dated in the future because a clock was ahead", async () => {
    const { hostile, ...service } = await start();
    const { admin, as } = service;
    const page = `list/${as.admin.workspace}/tokens/0`;
    const old = await hostile.read(page);
    const { token } = await at(60, () => admin.createToken(as.admin, { owner: "ci", role: "member" }));
    await hostile.putBack(page, old);
    const fresh = freshProcess(service);
    await fresh.revokeTokensBefore(fresh.localOperator(), Date.now());
    const created: IssuedToken[] = [];
    for (const days of [0, 90]) {
      const recovered = { workspace: "main", owner: `day ${days}` };
      created.push(await at(days, () => fresh.recoverToken(fresh.localOperator(), recovered)));
    }
    for (const days of [0, 61]) {
      await at(days, async () => {
        await expect(freshProcess(service).authenticate(token)).rejects.toMatchObject(refused);
        for (const other of created) await freshProcess(service).authenticate(other.token);
      });
    }
    await fresh.revokeTokensBefore(fresh.localOperator(), Date.now());
    await expect(freshProcess(service).authenticate(created[1]?.token ?? "")).rejects.toMatchObject(refused);
  });

  it("is noticed after putting back an old page of a list that this process has read", async () => {
    const { hostile, admin, as } = await start();
    const page = `list/${as.admin.workspace}/tokens/0`;
    const old = await hostile.read(page);
    await admin.createToken(as.admin, { owner: "ci", role: "member" });
    await hostile.putBack(page, old);
    const list = await admin.listTokens(as.admin);
    expect(list).toMatchObject({ items: [], unreadable: ["all entries of page 0 of the list"] });
    await expect(admin.revokeTokensOf(as.admin, "ci")).rejects.toMatchObject({ code: "RECORD_ROLLED_BACK" });
  });

  it("makes a change end with the outcome failed by putting back an old record that this process has read", async () => {
    const { hostile, admin, as, audit } = await startWithSecret();
    const key = `server/${as.admin.workspace}/github`;
    const old = await hostile.read(key);
    await admin.updateServer(as.admin, "github", { disabled: true });
    await hostile.putBack(key, old);
    const change = admin.updateServer(as.admin, "github", { disabled: true });
    await expect(change).rejects.toMatchObject({
      code: "RECORD_ROLLED_BACK",
      hint: expect.stringContaining("and the time of the restore, and keep the flag for later starts"),
    });
    expect(audit.kept.at(-1)).toMatchObject({ action: "server.update", outcome: "failed" });
  });

  it("cannot keep tokens valid by damaging one of them before a revocation after a restore", async () => {
    const { hostile, ...service } = await start();
    const { admin, as, tokens } = service;
    const damaged = await admin.createToken(as.admin, { owner: "damaged", role: "member" });
    const key = `token/${as.admin.workspace}/${damaged.info.id}`;
    const record = await hostile.read(key);
    await hostile.damage(key);
    await expect.poll(() => Date.now(), { timeout: 5_000 }).toBeGreaterThan(damaged.info.created + 1);
    await admin.revokeTokensBefore(admin.localOperator(), Date.now());
    await hostile.putBack(key, record);
    for (const token of [...Object.values(tokens), damaged.token]) {
      await expect(admin.authenticate(token)).rejects.toMatchObject(refused);
    }
  });

  it("cannot make the token of a revoked admin or operator valid by putting back its record", async () => {
    const { hostile, ...service } = await start();
    const { admin, as } = service;
    for (const [caller, role, home] of [
      [as.admin, "admin", as.admin.workspace],
      [as.operator, "operator", "service"],
    ] as const) {
      const { token, info } = await admin.createToken(caller, { owner: "second", role });
      const key = `token/${home}/${info.id}`;
      const record = await hostile.read(key);
      await admin.revokeToken(caller, info.id);
      await hostile.putBack(key, record);
      await expect(freshProcess(service).authenticate(token)).rejects.toMatchObject(refused);
    }
  });
});

describe("a record that cannot be read", () => {
  it("does not hide the other items of a list", async () => {
    const { hostile, admin, as } = await start();
    await admin.createWorkspace(as.operator, { name: "other", adminOwner: "other" });
    for (const slug of ["github", "jira"]) await admin.createServer(as.admin, { slug, url });
    const { workspace } = as.admin;
    const other = await admin.getWorkspace(as.operator, "other");
    await hostile.damage(`token/${workspace}/${as.member.tokenId}`);
    await hostile.damage(`server/${workspace}/jira`);
    await hostile.damage(`workspace/${other.id}`);
    const listed = await admin.listTokens(as.admin);
    expect(listed.items.map(({ owner }) => owner).sort()).toEqual(["auditor", "first admin"]);
    expect(listed.unreadable).toEqual([as.member.tokenId]);
    expect(await admin.listServers(as.admin)).toMatchObject({
      items: [{ slug: "github" }],
      unreadable: ["jira"],
    });
    expect(await admin.listWorkspaces(as.operator)).toMatchObject({
      items: [{ name: "main" }],
      unreadable: ["other"],
    });
  });

  it("does not hide the secrets of other servers that expire soon", async () => {
    const { hostile, ...service } = await start();
    const { admin, as, problems } = service;
    const expires = Date.now() + dayMs;
    await admin.createWorkspace(as.operator, { name: "other", adminOwner: "other" });
    for (const slug of ["github", "jira", "linear"]) {
      await admin.createServer(as.admin, { slug, url });
      await admin.setSecret(as.admin, slug, { name: "TOKEN", value, expires });
    }
    const other = await admin.getWorkspace(as.operator, "other");
    await hostile.damage(`server/${as.admin.workspace}/jira`);
    await hostile.damage(`workspace/${other.id}`);
    const expiring = await admin.expiringSecrets(admin.localOperator());
    expect(expiring.map(({ server }) => server).sort()).toEqual(["github", "linear"]);
    expect(problems).toHaveLength(2);
  });

  it("does not prevent the revocation of the other tokens of its owner", async () => {
    const { hostile, admin, as } = await start();
    const own = [];
    for (let count = 0; count < 3; count++)
      own.push(await admin.createToken(as.admin, { owner: "ci", role: "member" }));
    const [first, middle, last] = own;
    await hostile.damage(`token/${as.admin.workspace}/${middle?.info.id}`);
    await expect(admin.revokeTokensOf(as.admin, "ci")).rejects.toMatchObject({ code: expect.any(String) });
    for (const issued of [first, last]) {
      await expect(admin.authenticate(issued?.token ?? "")).rejects.toMatchObject(refused);
    }
  });

  it("does not prevent the sweep from removing the other tokens", async () => {
    const { hostile, ...service } = await start();
    const { admin, as, problems } = service;
    const own = [];
    for (let count = 0; count < 3; count++)
      own.push(await admin.createToken(as.admin, { owner: "ci", role: "member" }));
    for (const { info } of own) await admin.revokeToken(as.admin, info.id);
    await hostile.damage(`token/${as.admin.workspace}/${own[1]?.info.id}`);
    for (const days of [40, 40.5, 41]) await admin.sweep({ now: Date.now() + days * dayMs });
    const left = await keysIn(service, `token/${as.admin.workspace}/`);
    expect(left).toContain(`token/${as.admin.workspace}/${own[1]?.info.id}`);
    expect(left).not.toContain(`token/${as.admin.workspace}/${own[0]?.info.id}`);
    expect(left).not.toContain(`token/${as.admin.workspace}/${own[2]?.info.id}`);
    expect(problems).not.toEqual([]);
  });

  it("does not prevent the holder of the keyring from recovering a token", async () => {
    const { hostile, ...service } = await start();
    const { admin, as, problems } = service;
    const local = admin.localOperator();
    for (const home of [as.admin.workspace, "service"]) {
      await hostile.damage(`list/${home}/tokens/0`);
      await hostile.damage(`list/${home}/tokens/head`);
    }
    await hostile.putBack("list/workspaces/1", "damaged");
    for (const workspace of ["main", undefined]) {
      const issued = [];
      for (const owner of ["ana", "bob"]) issued.push(await admin.recoverToken(local, { workspace, owner }));
      const [first, second] = issued;
      const caller = await freshProcess(service).authenticate(first?.token ?? "");
      for (const process of [admin, freshProcess(service)]) {
        const { items, unreadable } = await process.listTokens(caller);
        expect(items.map(({ id }) => id)).toEqual([second?.info.id, first?.info.id]);
        expect(unreadable).toEqual(["all entries of page 0 of the list"]);
      }
    }
    await admin.sweep();
    expect(problems).toHaveLength(5);
    await expect(admin.getWorkspace(as.operator, "other")).rejects.toMatchObject({ code: "RECORD_NOT_SEALED" });
  });

  it("does not hide newer pages of a list if the record is the head of the list", async () => {
    const { hostile, ...service } = await start();
    const { admin, as } = service;
    const page = `list/${as.admin.workspace}/tokens/0`;
    const head = `list/${as.admin.workspace}/tokens/head`;
    const old = { page: await hostile.read(page), head: await hostile.read(head) };
    await hostile.damage(page);
    const { info } = await admin.createToken(as.admin, { owner: "ci", role: "member" });
    await hostile.putBack(page, old.page);
    for (const change of [() => hostile.putBack(head, old.head), () => hostile.remove(head)]) {
      await change();
      const { items } = await freshProcess(service).listTokens(as.admin, { owner: "ci" });
      expect(items).toMatchObject([{ id: info.id }]);
    }
  });

  it("does not prevent the deletion of the other servers and the tokens of a workspace", async () => {
    const { hostile, ...service } = await start();
    const { admin, as, problems } = service;
    const { workspace } = as.admin;
    for (const slug of ["github", "jira", "linear"]) {
      await admin.createServer(as.admin, { slug, url });
      await admin.setSecret(as.admin, slug, { name: "TOKEN", value });
    }
    await hostile.putBack(`list/${workspace}/tokens/1`, "damaged");
    const key = `server/${workspace}/jira`;
    const record = await hostile.read(key);
    await hostile.damage(key);
    await expect(admin.deleteWorkspace(as.operator, "main")).rejects.toMatchObject({ code: expect.any(String) });
    expect(await keysIn(service, `server/${workspace}/`)).toEqual([key]);
    expect(await keysIn(service, `value/${workspace}/`)).toHaveLength(1);
    expect(await keysIn(service, `token/${workspace}/`)).toEqual([]);
    await hostile.putBack(key, record);
    await hostile.remove(`list/${workspace}/tokens/1`);
    await admin.sweep();
    expect(problems).toEqual([]);
    expect(await keysIn(service, `value/${workspace}/`)).toEqual([]);
  });

  it("does not prevent the removal of the audit of a deleted workspace", async () => {
    const { hostile, ...service } = await start();
    const { admin, as, audit, problems } = service;
    const key = `server/${as.admin.workspace}/github`;
    await admin.createServer(as.admin, { slug: "github", url });
    const record = await hostile.read(key);
    await admin.deleteWorkspace(as.operator, "main");
    await hostile.putBack(key, record);
    await hostile.damage(key);
    const removed: unknown[] = [];
    audit.removeBefore = async (workspace) => removed.push(workspace);
    await admin.sweep({ now: Date.now() + 2 * dayMs });
    expect(removed).toEqual([undefined, as.admin.workspace]);
    expect(problems).toHaveLength(1);
  });
});

it("an unavailable key provider is not reported as a record that cannot be read", async () => {
  const { hostile: _, ...service } = await startWithSecret();
  let loads = 0;
  const load = async () => {
    if (loads++ === 0) return service.keys;
    throw new KeywardError("PROVIDER_UNAVAILABLE", "The keys cannot be loaded", { hint: "Repeat the call." });
  };
  const maxAgeMs = 100;
  const keys = { load, freshness: { maxAgeMs, timeoutMs: 50 } };
  const store = haltedRead(service.store, async (read) => {
    const began = performance.now();
    // From here on, the keyring is too old.
    if (read.includes("workspace/")) await expect.poll(() => performance.now() - began).toBeGreaterThan(maxAgeMs);
  });
  const admin = new SecretsAdmin({ store, keys, audit: service.audit });
  onTestFinished(() => admin.close());
  const search = admin.expiringSecrets(admin.localOperator());
  await expect(search).rejects.toMatchObject({ code: "PROVIDER_UNAVAILABLE" });
});
