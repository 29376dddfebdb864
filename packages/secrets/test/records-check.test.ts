import { describe, expect, it, onTestFinished, vi } from "vitest";
import { HostileStore } from "./hostile-store.ts";
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
    expect(problems).toEqual({ problemCount: 0, problems: [] });
    await admin.setSecret(as.admin, "github", { name: "THREE", value: "a-value-of-THREE" });
    expect((await check()).readable).toBe(readable + 1);
    await admin.deleteServer(as.admin, "github");
    expect(await check()).toMatchObject({ problemCount: 0 });
    await admin.deleteWorkspace(as.operator, "main");
    expect(await check()).toMatchObject({ problemCount: 0 });
  });

  it.each(kinds)("names a damaged record %s", async (prefix, record) => {
    const service = await start();
    const [key = ""] = await keysIn(service, prefix);
    await service.hostile.damage(key);
    const { problems, problemCount } = await service.check();
    expect(problemCount).toBe(1);
    expect(problems).toEqual([{ record: expect.stringMatching(record), code: "RECORD_TAMPERED" }]);
  });

  it.each(kinds)("names a removed record %s", async (prefix, record) => {
    const service = await start();
    const [key = ""] = await keysIn(service, prefix);
    await service.hostile.remove(key);
    const { problems, problemCount } = await service.check();
    expect(problemCount).toBe(1);
    expect(problems).toEqual([{ record: expect.stringMatching(record), code: "RECORD_MISSING" }]);
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

  it("names the token of a member and the last use that are damaged, and goes on", async () => {
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
    const { problems } = await service.check();
    expect(problems.map(({ record }) => record)).toEqual([
      `the token ${tokenId} of the workspace main`,
      "the head of the list of tokens of the workspace main",
    ]);
  });

  it("refuses the value of another secret in the place of a value", async () => {
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
