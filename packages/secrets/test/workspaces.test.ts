import { randomBytes } from "node:crypto";
import { describe, expect, it } from "vitest";
import { keysIn, startService } from "./service.ts";

const url = "https://mcp.example.com/mcp";

describe("a workspace", () => {
  it("contains only its own servers, secrets and tokens", async () => {
    const { admin, as, reader } = await startService();
    const other = await admin.createWorkspace(as.operator, { name: "other", adminOwner: "other" });
    const stranger = await admin.authenticate(other.admin.token);
    const value = randomBytes(16).toString("hex");
    await admin.createServer(as.admin, { slug: "github", url });
    await admin.setSecret(as.admin, "github", { name: "TOKEN", value });
    await expect(admin.getServer(stranger, "github")).rejects.toMatchObject({ code: "SERVER_NOT_FOUND" });
    await expect(admin.listSecrets(stranger, "github")).rejects.toMatchObject({ code: "SERVER_NOT_FOUND" });
    expect((await admin.listServers(stranger)).items).toEqual([]);
    await admin.createServer(stranger, { slug: "github", url });
    const member = await admin.createToken(stranger, { owner: "member", role: "member" });
    expect((await reader.forCall(member.token, "github")).secrets).toEqual([]);
  });

  it("has a name that no other workspace has, even if several operators create it at once", async () => {
    const service = await startService();
    const { admin, as } = service;
    await expect(admin.createWorkspace(as.operator, { name: "main", adminOwner: "x" })).rejects.toMatchObject({
      code: "WORKSPACE_EXISTS",
    });
    const created = await Promise.allSettled(
      Array.from({ length: 8 }, () => service.open().createWorkspace(as.operator, { name: "two", adminOwner: "x" })),
    );
    expect(created.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    const names = (await admin.listWorkspaces(as.operator)).items.map(({ name }) => name);
    expect(names.sort()).toEqual(["main", "two"]);
  });

  it("is deleted with all its records, and its tokens are refused", async () => {
    const service = await startService();
    const { admin, as, tokens, reader } = service;
    const { id } = await admin.getWorkspace(as.operator, "main");
    for (const slug of ["github", "jira"]) {
      await admin.createServer(as.admin, { slug, url });
      await admin.setSecret(as.admin, slug, { name: "TOKEN", value: randomBytes(16).toString("hex") });
    }
    await reader.forCall(tokens.member, "github");
    await expect(admin.deleteWorkspace(as.operator, "main", { ifRevision: 77 })).rejects.toMatchObject({
      code: "REVISION_CHANGED",
    });
    await admin.deleteWorkspace(as.operator, "main");
    const refused = { code: "TOKEN_REFUSED" };
    await expect(admin.authenticate(tokens.admin)).rejects.toMatchObject(refused);
    await expect(reader.forCall(tokens.member, "github")).rejects.toMatchObject(refused);
    const left = async () => (await keysIn(service, "")).filter((key) => key.includes(id));
    expect((await left()).filter((key) => !key.startsWith("used/") && !key.startsWith("list/"))).toEqual([]);
    expect((await admin.listWorkspaces(as.operator)).items).toEqual([]);
    await admin.createWorkspace(as.operator, { name: "main", adminOwner: "again" });
    // The lists stay for a day, because a process that was halted may still store a record.
    await admin.sweep({ now: Date.now() + 25 * 3_600_000 });
    expect(await left()).toEqual([]);
  });

  it("refuses changes after its deletion by an admin who was authenticated before", async () => {
    const service = await startService();
    const { admin, as } = service;
    await admin.deleteWorkspace(as.operator, "main");
    const refused = { code: "TOKEN_REFUSED" };
    await expect(admin.createToken(as.admin, { owner: "late", role: "member" })).rejects.toMatchObject(refused);
    await expect(admin.createServer(as.admin, { slug: "late", url })).rejects.toMatchObject(refused);
  });
});

describe("an installation", () => {
  it("is initialized once, even if several processes initialize it at once", async () => {
    const service = await startService();
    await expect(service.admin.initialize()).rejects.toMatchObject({ code: "ALREADY_INITIALIZED" });
    await service.store.clear();
    await service.store.namespaced("keyward-service").clear();
    const admins = Array.from({ length: 6 }, () => service.open());
    const results = await Promise.allSettled(admins.map((admin) => admin.initialize()));
    expect(results.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    const operator = service.admin.localOperator();
    expect((await service.admin.listTokens(operator)).items).toHaveLength(1);
    expect((await service.admin.listWorkspaces(operator)).items).toHaveLength(1);
  });

  it("is not ready before it was initialized", async () => {
    const service = await startService();
    await service.admin.ready();
    await service.store.namespaced("keyward-service").clear();
    await expect(service.admin.ready()).rejects.toMatchObject({ code: "NOT_INITIALIZED" });
  });
});
