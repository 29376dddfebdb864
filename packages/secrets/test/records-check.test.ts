import { SecretsAdmin } from "@keyward/secrets";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { HostileStore, haltedRead, haltedScan } from "./hostile-store.ts";
import { keysIn, startService } from "./service.ts";

const url = "https://mcp.example.com/mcp";

/** Starts a service whose server `github` has two secrets. */
async function start() {
  const service = await startService();
  const { admin, as } = service;
  await admin.createServer(as.admin, { slug: "github", url });
  for (const name of ["ONE", "TWO"]) await admin.setSecret(as.admin, "github", { name, value: `a-value-of-${name}` });
  const check = () => service.open().checkRecords(admin.localOperator());
  return { ...service, check, hostile: new HostileStore(service) };
}

const kinds = [
  ["workspace/", "the workspace main"],
  ["server/", "the server github of the workspace main"],
  ["value/", "the value of ONE of the server github of the workspace main"],
  ["token/service/", /^the token \w+ of the operators$/],
  ["list/workspaces/0", "page 0 of the list of workspaces"],
  ["list/service/tokens/0", "page 0 of the list of tokens of the operators"],
] as const;

describe("a check of all records", () => {
  it("finds no problem in a service whose records are whole, and counts them", async () => {
    const { check, admin, as } = await start();
    const { readable, ...problems } = await check();
    expect(problems).toEqual({ problemCount: 0, problems: [], unlistedCount: 0, unlisted: [] });
    await admin.setSecret(as.admin, "github", { name: "THREE", value: "a-value-of-THREE" });
    expect((await check()).readable).toBe(readable + 1);
    await admin.deleteServer(as.admin, "github");
    expect(await check()).toMatchObject({ problemCount: 0, unlistedCount: 0 });
    await admin.deleteWorkspace(as.operator, "main");
    expect(await check()).toMatchObject({ problemCount: 0, unlistedCount: 0 });
  });

  it.each(kinds)("names a damaged record %s", async (prefix, record) => {
    const service = await start();
    const [key = ""] = await keysIn(service, prefix);
    await service.hostile.damage(key);
    const { problems, problemCount, unlistedCount } = await service.check();
    expect(problemCount).toBe(1);
    expect(problems).toEqual([{ record: expect.stringMatching(record), code: "RECORD_TAMPERED" }]);
    expect(unlistedCount).toBe(0);
  });

  it.each(kinds)("names a removed record %s", async (prefix, record) => {
    const service = await start();
    const [key = ""] = await keysIn(service, prefix);
    await service.hostile.remove(key);
    const { problems, problemCount } = await service.check();
    expect(problemCount).toBe(1);
    expect(problems).toEqual([{ record: expect.stringMatching(record), code: "RECORD_MISSING" }]);
  });

  it("waits before it reports an old entry without a record, which a sweep may be removing", async () => {
    const service = await start();
    const { admin, as, keys, audit, hostile } = service;
    const { info } = await admin.createToken(as.admin, { owner: "ci", role: "member" });
    const key = `token/${as.admin.workspace}/${info.id}`;
    await hostile.remove(key);
    const readMs: number[] = [];
    const store = haltedRead(service.store, async (read) => {
      if (read.includes(key)) readMs.push(performance.now());
    });
    const slow = new SecretsAdmin({ store, keys, audit });
    onTestFinished(() => slow.close());
    vi.setSystemTime(Date.now() + 60_000);
    onTestFinished(() => void vi.useRealTimers());
    expect((await slow.checkRecords(admin.localOperator())).problems).toMatchObject([{ code: "RECORD_MISSING" }]);
    const [first = 0] = readMs;
    // A timer may fire a little early.
    expect((readMs.at(-1) ?? 0) - first).toBeGreaterThan(1_950);
  });

  it("makes Node.js print no warning about a record that was missing for long", async () => {
    const service = await start();
    const [key = ""] = await keysIn(service, "server/");
    await service.hostile.remove(key);
    const warnings: string[] = [];
    const note = ({ message }: Error) => void warnings.push(message);
    process.on("warning", note);
    vi.useFakeTimers({ now: Date.now() + 60_000, toFake: ["Date"] });
    onTestFinished(() => {
      vi.useRealTimers();
      process.off("warning", note);
    });
    expect(await service.check()).toMatchObject({ problemCount: 1 });
    expect(warnings).toEqual([]);
  });

  it("names the token of a member and the last use that are damaged, and continues", async () => {
    const service = await start();
    const { workspace = "", tokenId } = service.as.member;
    const used = `used/${workspace}/${tokenId}`;
    await expect.poll(() => keysIn(service, "used/")).toContain(used);
    for (const key of [used, `token/${workspace}/${tokenId}`, `list/${workspace}/servers/head`]) {
      await service.hostile.damage(key);
    }
    const { problems } = await service.check();
    expect(problems.map(({ record }) => record)).toEqual([
      "the list of servers of the workspace main",
      `the token ${tokenId} of the workspace main`,
      `the last use of the token ${tokenId} of the workspace main`,
    ]);
  });

  it("names a list of tokens that was removed, with each of its admins that was removed too", async () => {
    const service = await start();
    const { workspace = "", tokenId } = service.as.admin;
    for (const key of await keysIn(service, `list/${workspace}/tokens/`)) await service.hostile.remove(key);
    await service.hostile.remove(`token/${workspace}/${tokenId}`);
    const { problems, unlisted } = await service.check();
    expect(problems.map(({ record }) => record)).toEqual([
      `the token ${tokenId} of the workspace main`,
      "the head of the list of tokens of the workspace main",
    ]);
    expect(unlisted).toHaveLength(2);
  });

  it("reports the value of another secret in the record of a value", async () => {
    const service = await start();
    const [one = "", two = ""] = await keysIn(service, "value/");
    await service.hostile.putBack(two, await service.hostile.read(one));
    expect(await service.check()).toMatchObject({ problemCount: 1, problems: [{ code: "RECORD_TAMPERED" }] });
  });

  it("returns at most 100 problems, and counts all of them", async () => {
    const service = await start();
    for (let index = 0; index < 100; index++) {
      await service.admin.createServer(service.as.admin, { slug: `s-${index}`, url });
    }
    for (const key of await keysIn(service, "server/")) await service.hostile.remove(key);
    const { problems, problemCount } = await service.check();
    expect([problems.length, problemCount]).toEqual([100, 101]);
  });
});

describe("a record that nothing names", () => {
  /** Removes all records whose keys begin with a prefix. */
  async function remove(service: Awaited<ReturnType<typeof start>>, prefix: string): Promise<void> {
    for (const key of await keysIn(service, prefix)) await service.hostile.remove(key);
  }

  /** Makes a server with a secret, and a token. */
  async function makeAll({ admin, as }: Awaited<ReturnType<typeof start>>, name: string): Promise<void> {
    await admin.createServer(as.admin, { slug: name, url });
    await admin.setSecret(as.admin, name, { name: "NEW", value: "a-value-of-NEW" });
    await admin.createToken(as.admin, { owner: name, role: "member" });
  }

  it("is found if a list was removed with all its pages", async () => {
    const service = await start();
    const { workspace = "" } = service.as.admin;
    const { readable } = await service.check();
    await remove(service, `list/${workspace}/servers/`);
    const servers = await service.check();
    expect(servers).toMatchObject({ problemCount: 0, unlisted: ["the server github of the workspace main"] });
    // Only the page of the list is not read any more.
    expect(servers.readable).toBe(readable - 1);
    await remove(service, `list/${workspace}/tokens/`);
    await remove(service, "list/service/tokens/");
    await remove(service, "list/workspaces/");
    const { unlisted, unlistedCount, problems } = await service.check();
    const { admin, member, auditor, operator } = service.as;
    expect(unlisted.toSorted()).toEqual(
      [
        "the workspace main",
        "the server github of the workspace main",
        `the token ${operator.tokenId} of the operators`,
        ...[admin, member, auditor].map(({ tokenId }) => `the token ${tokenId} of the workspace main`),
      ].toSorted(),
    );
    expect(unlistedCount).toBe(6);
    expect(problems.map(({ record }) => record)).toEqual([
      "the head of the list of tokens of the operators",
      "the head of the list of workspaces",
      "the head of the list of tokens of the workspace main",
    ]);
  });

  it("is found if one page of a longer list was removed, and is checked like others", async () => {
    const service = await start();
    const { admin, as, hostile } = service;
    for (let index = 0; index < 500; index++) await admin.createServer(as.admin, { slug: `s-${index}`, url });
    await hostile.remove(`list/${as.admin.workspace}/servers/0`);
    for (const key of (await keysIn(service, "value/")).slice(0, 1)) await hostile.damage(key);
    const { problems, unlisted, unlistedCount } = await service.check();
    expect(problems.map(({ record }) => record).toSorted()).toEqual([
      "page 0 of the list of servers of the workspace main",
      "the value of ONE of the server github of the workspace main",
    ]);
    expect([unlisted.length, unlistedCount]).toEqual([100, 500]);
  });

  it("is found if an older record of a server was put back: a newer value, which no secret uses", async () => {
    const service = await start();
    const { admin, as, hostile } = service;
    const [key = ""] = await keysIn(service, "server/");
    const older = await hostile.read(key);
    await admin.setSecret(as.admin, "github", { name: "THREE", value: "a-value-of-THREE" });
    await hostile.putBack(key, older);
    const { unlisted, problemCount } = await service.check();
    expect(unlisted).toEqual(["the value 3 of the server github of the workspace main"]);
    expect(problemCount).toBe(0);
  });

  it("shows that a server or a workspace is missing that no list names", async () => {
    const service = await start();
    const { workspace = "" } = service.as.admin;
    const [key = ""] = await keysIn(service, "value/");
    const [, , server] = key.split("/");
    await remove(service, `list/${workspace}/servers/`);
    await remove(service, "server/");
    const missingServer = await service.check();
    expect(missingServer.problems).toEqual([
      { record: `the server with the id ${server} of the workspace main, which has values,`, code: "RECORD_MISSING" },
    ]);
    await remove(service, "workspace/");
    await remove(service, "list/workspaces/");
    await service.hostile.damage(`token/${workspace}/${service.as.member.tokenId}`);
    const { problems, unlistedCount } = await service.check();
    expect(problems).toEqual([
      { record: "the head of the list of workspaces", code: "RECORD_MISSING" },
      { record: `the workspace ${workspace}`, code: "RECORD_MISSING" },
      { record: `the token ${service.as.member.tokenId} of the workspace ${workspace}`, code: "RECORD_TAMPERED" },
      {
        record: `the server with the id ${server} of the workspace ${workspace}, which has values,`,
        code: "RECORD_MISSING",
      },
    ]);
    expect(unlistedCount).toBe(0);
  });

  it("is not reported for what other processes make and change during the check", async () => {
    const service = await start();
    const { store, keys, audit, admin, as } = service;
    let made = 0;
    const make = async () => {
      made++;
      await makeAll(service, `new-${made}`);
      await admin.setSecret(as.admin, "github", { name: "ONE", value: "another-value-of-ONE" });
      await admin.createWorkspace(as.operator, { name: "new", adminOwner: "new" });
    };
    const checking = new SecretsAdmin({ store: haltedScan(store, make), keys, audit });
    onTestFinished(() => checking.close());
    expect(await checking.checkRecords(checking.localOperator())).toMatchObject({ problemCount: 0, unlistedCount: 0 });
    expect(made).toBe(1);
  });

  it.each([1, 2, 3, 4, 5, 6, 7, 8])(
    "is not reported for what was made during the check and deleted before read %i after the scan",
    async (read) => {
      const service = await start();
      const { store, keys, audit, admin, as } = service;
      let reads = Number.NEGATIVE_INFINITY;
      let isDeleted = false;
      const remove = async () => {
        if (++reads !== read) return;
        await admin.deleteServer(as.admin, "new");
        await admin.deleteWorkspace(as.operator, "new");
        isDeleted = true;
      };
      const make = async () => {
        await makeAll(service, "new");
        await admin.createWorkspace(as.operator, { name: "new", adminOwner: "new" });
        reads = 0;
      };
      const checking = new SecretsAdmin({ store: haltedRead(haltedScan(store, make), remove), keys, audit });
      onTestFinished(() => checking.close());
      const { unlisted, problems } = await checking.checkRecords(checking.localOperator());
      expect({ unlisted, problems, isDeleted }).toEqual({ unlisted: [], problems: [], isDeleted: true });
    },
  );
});
