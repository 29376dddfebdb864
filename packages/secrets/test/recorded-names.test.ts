import { describe, expect, it } from "vitest";
import { HostileStore } from "./hostile-store.ts";
import { keysIn, startService } from "./service.ts";

const url = "https://mcp.example.com/mcp";
/** What a person pastes in the place of a name: it has the form of a slug, of an id and of the name of a secret. */
const pasted = "s3cr3tpasted";
const rule = { kind: "bearer" } as const;

/** Starts a service whose server `github` has the secret `TOKEN`. */
async function start() {
  const service = await startService();
  const { admin, as, audit } = service;
  await admin.createServer(as.admin, { slug: "github", url });
  await admin.setSecret(as.admin, "github", { name: "TOKEN", value: "a-value-of-the-secret" });
  audit.kept.length = 0;
  return service;
}

describe("the entry of a refused change", () => {
  it("contains * instead of an unknown name, which may be a value", async () => {
    const { admin, as, audit } = await start();
    const value = "a-value-of-the-secret";
    const changes: readonly (readonly [code: string, change: () => Promise<unknown>])[] = [
      ["SERVER_NOT_FOUND", () => admin.updateServer(as.admin, pasted, { disabled: true })],
      ["SERVER_NOT_FOUND", () => admin.deleteServer(as.admin, pasted)],
      ["SERVER_NOT_FOUND", () => admin.setSecret(as.admin, pasted, { name: pasted, value })],
      ["SERVER_NOT_FOUND", () => admin.deleteSecret(as.admin, pasted, pasted)],
      ["SERVER_NOT_FOUND", () => admin.deleteAllSecrets(as.admin, pasted)],
      ["SERVER_NOT_FOUND", () => admin.setInjection(as.admin, pasted, pasted, rule)],
      ["SECRET_NOT_FOUND", () => admin.deleteSecret(as.admin, "github", pasted)],
      ["SECRET_NOT_FOUND", () => admin.setInjection(as.admin, "github", pasted, rule)],
      ["TOKEN_NOT_FOUND", () => admin.revokeToken(as.admin, pasted)],
      ["TOKEN_NOT_FOUND", () => admin.rotateToken(as.admin, pasted, { overlapMs: 0 })],
      ["WORKSPACE_NOT_FOUND", () => admin.deleteWorkspace(as.operator, pasted)],
    ];
    for (const [code, change] of changes) await expect(change()).rejects.toMatchObject({ code });
    expect(audit.kept.map(({ server, subject, outcome }) => [server, subject, outcome])).toEqual([
      ["*", undefined, "refused"],
      ["*", undefined, "refused"],
      ["*", "*", "refused"],
      ["*", "*", "refused"],
      ["*", undefined, "refused"],
      ["*", "*", "refused"],
      ["github", "*", "refused"],
      ["github", "*", "refused"],
      [undefined, "*", "refused"],
      [undefined, "*", "refused"],
      [undefined, "*", "refused"],
    ]);
    expect(JSON.stringify(audit.kept)).not.toContain(pasted);
  });

  it("contains no URL and no header for a server, because each of them may be a value", async () => {
    const { admin, as, audit } = await start();
    const change = { url: `${url}/${pasted}`, forwardHeaders: [pasted] };
    await expect(admin.updateServer(as.admin, "unknown", change)).rejects.toMatchObject({ code: "SERVER_NOT_FOUND" });
    await expect(admin.createServer(as.admin, { slug: "github", ...change })).rejects.toMatchObject({
      code: "SERVER_EXISTS",
    });
    expect(audit.kept.map(({ server, detail, outcome }) => [server, detail, outcome])).toEqual([
      ["*", undefined, "refused"],
      ["github", undefined, "refused"],
    ]);
    await admin.updateServer(as.admin, "github", change);
    await admin.deleteServer(as.admin, "github");
    await admin.createServer(as.admin, { slug: "github", ...change });
    expect(audit.kept.slice(2).map(({ detail, outcome }) => [detail, outcome])).toEqual([
      [`url ${change.url}, forwardHeaders ${pasted}`, "done"],
      [undefined, "done"],
      [`mcp ${change.url}, forwardHeaders ${pasted}`, "done"],
    ]);
  });

  it("is not written if another field names a server or workspace that does not exist", async () => {
    const { admin, as, audit } = await start();
    const local = admin.localOperator();
    for (const change of [
      () => admin.createToken(as.admin, { owner: "ci", role: "member", servers: [pasted] }),
      () => admin.recoverToken(local, { workspace: pasted, owner: "ops" }),
    ]) {
      await expect(change()).rejects.toMatchObject({ code: expect.stringMatching(/_NOT_FOUND$/) });
    }
    expect(await admin.revokeTokensOf(as.admin, pasted)).toEqual([]);
    expect(audit.kept).toEqual([]);
  });

  it("is not written if all secrets of a server without secrets are deleted", async () => {
    const { admin, as, audit } = await start();
    await admin.createServer(as.admin, { slug: "empty", url });
    audit.kept.length = 0;
    expect((await admin.deleteAllSecrets(as.admin, "empty")).names).toEqual([]);
    expect(audit.kept).toEqual([]);
    await expect(admin.deleteAllSecrets(as.admin, "empty", { ifRevision: 9 })).rejects.toMatchObject({
      code: "REVISION_CHANGED",
    });
    expect((await admin.deleteAllSecrets(as.admin, "github")).names).toEqual(["TOKEN"]);
    expect(audit.kept.map(({ outcome }) => outcome)).toEqual(["refused", "done"]);
  });

  it("contains the name of a server, secret or token that exists, even if its record cannot be read", async () => {
    const service = await start();
    const { admin, as, audit } = service;
    const { workspace = "", tokenId } = as.member;
    await expect(admin.deleteSecret(as.admin, "github", "TOKEN", { ifRevision: 99 })).rejects.toMatchObject({
      code: "REVISION_CHANGED",
    });
    const hostile = new HostileStore(service);
    for (const key of [...(await keysIn(service, "server/")), `token/${workspace}/${tokenId}`])
      await hostile.damage(key);
    const tampered = { code: "RECORD_TAMPERED" };
    await expect(admin.deleteServer(as.admin, "github")).rejects.toMatchObject(tampered);
    await expect(admin.revokeToken(as.admin, tokenId)).rejects.toMatchObject(tampered);
    expect(audit.kept.map(({ server, subject, outcome }) => [server, subject, outcome])).toEqual([
      ["github", "TOKEN", "refused"],
      ["github", undefined, "failed"],
      [undefined, tokenId, "failed"],
    ]);
  });
});
