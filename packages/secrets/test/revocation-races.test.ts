import { SecretsAdmin } from "@keyward/secrets";
import { describe, expect, it, onTestFinished } from "vitest";
import { HostileStore, haltedRead, slowStore } from "./hostile-store.ts";
import { AuditInMemory, type Service, startService } from "./service.ts";

const refused = { code: "TOKEN_REFUSED" };

/** Opens the service as a process that does something else once, when it is about to write a record whose key matches. */
function interrupted({ store, keys, audit }: Service, key: RegExp, act: () => Promise<unknown>): SecretsAdmin {
  let isDone = false;
  const slow = slowStore(store, async (written) => {
    if (isDone || !key.test(written)) return;
    isDone = true;
    await act();
  });
  const admin = new SecretsAdmin({ store: slow, keys, audit });
  onTestFinished(() => admin.close());
  return admin;
}

describe("a token that is revoked while one of its calls waits", () => {
  it("makes no change, even if the call waited for the audit", async () => {
    const service = await startService();
    const { admin, as, store, keys } = service;
    const { token, info } = await admin.createToken(as.admin, { owner: "eve", role: "admin" });
    const audit = new AuditInMemory();
    const begin = audit.begin.bind(audit);
    audit.begin = async (change) => {
      await admin.revokeToken(as.admin, info.id);
      return await begin(change);
    };
    const slow = new SecretsAdmin({ store, keys, audit });
    onTestFinished(() => slow.close());
    const eve = await slow.authenticate(token);
    await expect(slow.createServer(eve, { slug: "late", url: "https://example.com" })).rejects.toMatchObject(refused);
    expect((await admin.listServers(as.admin)).items).toEqual([]);
    expect(audit.kept).toMatchObject([{ action: "server.create", outcome: "refused" }]);
  });

  it.each(["admin", "member"] as const)("creates no other token with the role %s", async (role) => {
    for (const key of [/list\/.*tokens/, /token\//]) {
      const service = await startService();
      const { admin, as } = service;
      const { token } = await admin.createToken(as.admin, { owner: "eve", role: "admin" });
      const slow = interrupted(service, key, () => admin.revokeTokensOf(as.admin, "eve"));
      const eve = await slow.authenticate(token);
      await expect(slow.createToken(eve, { owner: "eve", role })).rejects.toMatchObject(refused);
      expect((await admin.listTokens(as.admin, { owner: "eve" })).items.filter(({ revoked }) => !revoked)).toEqual([]);
    }
  });

  it("is not replaced by a rotation", async () => {
    for (const role of ["admin", "member"] as const) {
      for (const key of [/list\/.*tokens/, /token\//, role === "admin" ? /workspace\// : /token\//]) {
        const service = await startService();
        const { admin, as } = service;
        const { info } = await admin.createToken(as.admin, { owner: "eve", role });
        const slow = interrupted(service, key, () => admin.revokeTokensOf(as.admin, "eve"));
        await expect(slow.rotateToken(as.admin, info.id, { overlapMs: 60_000 })).rejects.toMatchObject({
          code: "TOKEN_NOT_FOUND",
        });
        const { items } = await admin.listTokens(as.admin, { owner: "eve" });
        expect(items.filter(({ revoked }) => revoked === undefined)).toEqual([]);
        expect(await admin.checkRecords(admin.localOperator())).toMatchObject({ problems: [], unlisted: [] });
      }
    }
  });
});

describe("a rotation of a token that fails after both tokens were revoked", () => {
  it("does not list the former token as an admin again", async () => {
    const service = await startService();
    const { admin, as, store, keys, audit } = service;
    const { token, info } = await admin.createToken(as.admin, { owner: "ana", role: "admin" });
    const hostile = new HostileStore(service);
    const key = `token/${as.admin.workspace}/${info.id}`;
    const record = await hostile.read(key);
    let wasCounted = false;
    // Halts the rotation where it reads its new token, after it was counted.
    const slow = new SecretsAdmin({
      store: haltedRead(store, async (keysRead) => {
        const homes = (await admin.listTokens(as.admin)).items.filter(({ owner }) => owner === "ana");
        if (wasCounted || homes.length < 2 || !keysRead.includes("token/")) return;
        wasCounted = true;
        await admin.revokeTokensOf(as.admin, "ana");
      }),
      keys,
      audit,
    });
    onTestFinished(() => slow.close());
    await expect(slow.rotateToken(as.admin, info.id, { overlapMs: 0 })).rejects.toMatchObject({
      code: "TOKEN_NOT_FOUND",
    });
    expect(wasCounted).toBe(true);
    await expect(admin.revokeToken(as.admin, as.admin.tokenId)).rejects.toMatchObject({ code: "LAST_ADMIN" });
    await hostile.putBack(key, record);
    const fresh = new SecretsAdmin({ store, keys, audit });
    onTestFinished(() => fresh.close());
    await expect(fresh.authenticate(token)).rejects.toMatchObject(refused);
  });
});

describe("another rotation of an admin's token whose expiry is only in the record of the workspace", () => {
  const hourMs = 3_600_000;

  /** Rotates a token in a process that cannot write the record of the former token. */
  async function startRotated() {
    const service = await startService();
    const { admin, as } = service;
    const { info } = await admin.createToken(as.admin, { owner: "ana", role: "admin" });
    const away = () => Promise.reject(new Error("The store is away"));
    const slow = interrupted(service, new RegExp(`token/[a-z0-9]+/${info.id}`), away);
    await slow.rotateToken(as.admin, info.id, { overlapMs: hourMs });
    const find = async () =>
      (await admin.listTokens(as.admin, { owner: "ana" })).items.find(({ id }) => id === info.id);
    const ends = (await find())?.expires;
    expect(ends).toBeLessThanOrEqual(Date.now() + hourMs);
    return { ...service, info, ends, find };
  }

  it("does not prolong the life of the token if the rotation fails and is undone", async () => {
    const { admin, as, store, keys, audit, info, ends, find } = await startRotated();
    let [isCounted, hasFailed] = [false, false];
    const noted = slowStore(store, async (written) => {
      isCounted ||= written.includes("workspace/");
    });
    const failing = haltedRead(noted, async (read) => {
      if (!isCounted || hasFailed || !read.includes("token/")) return;
      hasFailed = true;
      expect((await find())?.expires).toBeLessThan(ends ?? 0);
      throw new Error("The store is away");
    });
    const slow = new SecretsAdmin({ store: failing, keys, audit });
    onTestFinished(() => slow.close());
    await expect(slow.rotateToken(as.admin, info.id, { overlapMs: hourMs / 2 })).rejects.toMatchObject({
      code: "STORE_UNAVAILABLE",
    });
    expect(hasFailed).toBe(true);
    expect((await find())?.expires).toBe(ends);
    expect((await admin.listTokens(as.admin, { owner: "ana" })).items).toHaveLength(2);
  });

  it("does not prolong the life of the token if its overlap is longer", async () => {
    const { admin, as, info, ends, find } = await startRotated();
    await admin.rotateToken(as.admin, info.id, { overlapMs: 2 * hourMs });
    expect((await find())?.expires).toBe(ends);
  });
});

describe("a workspace with 100 admins", () => {
  async function startFull() {
    const service = await startService();
    const { admin, as } = service;
    for (let count = 1; count < 100; count++) await admin.createToken(as.admin, { owner: "many", role: "admin" });
    return service;
  }

  it("can be recovered even while the tokens of all admins are being rotated", async () => {
    const { admin, as } = await startFull();
    const { items } = await admin.listTokens(as.admin, { limit: 100 });
    const rotated = await Promise.allSettled(
      items
        .filter(({ role }) => role === "admin")
        .map(({ id }) => admin.rotateToken(as.admin, id, { overlapMs: 86_400_000 })),
    );
    expect(rotated.filter(({ status }) => status === "rejected")).not.toEqual([]);
    const recovered = await admin.recoverToken(admin.localOperator(), { owner: "recovered", workspace: "main" });
    await admin.authenticate(recovered.token);
  });

  it("refuses another admin, but allows the rotation of each admin's token and a recovery on the machine", async () => {
    const { admin, as } = await startFull();
    await expect(admin.createToken(as.admin, { owner: "more", role: "admin" })).rejects.toMatchObject({
      code: "LIMIT_REACHED",
    });
    const rotated = await admin.rotateToken(as.admin, as.admin.tokenId, { overlapMs: 60_000 });
    await admin.authenticate(rotated.token);
    const recovered = await admin.recoverToken(admin.localOperator(), { owner: "recovered", workspace: "main" });
    await admin.authenticate(recovered.token);
  });
});

describe("a server that another admin deletes before its creator has an answer", () => {
  it("is reported to its creator as created", async () => {
    const { admin, as, store, keys, audit } = await startService();
    let isDeleted = false;
    // The creator reads the list again after it has stored the record.
    const slow = haltedRead(store, async (keysRead) => {
      if (isDeleted || !keysRead.includes("servers/0")) return;
      isDeleted = (await admin.listServers(as.admin)).items.length > 0;
      if (isDeleted) await admin.deleteServer(as.admin, "brief");
    });
    const creator = new SecretsAdmin({ store: slow, keys, audit });
    onTestFinished(() => creator.close());
    const created = await creator.createServer(as.admin, { slug: "brief", url: "https://example.com" });
    expect([created.slug, isDeleted]).toEqual(["brief", true]);
    expect((await admin.listServers(as.admin)).items).toEqual([]);
    await admin.createServer(as.admin, { slug: "brief", url: "https://example.com" });
  });
});

describe("a creation that is halted for longer than a day", () => {
  it("fails with SERVICE_BUSY, and creates nothing", async () => {
    const dayLater = () => ({ now: Date.now() + 25 * 3_600_000 });
    const service = await startService();
    const { admin, as } = service;
    const slowToken = interrupted(service, /token\//, () => admin.sweep(dayLater()));
    await expect(slowToken.createToken(as.admin, { owner: "ghost", role: "member" })).rejects.toMatchObject({
      code: "SERVICE_BUSY",
    });
    const slowServer = interrupted(service, /server\//, () => admin.sweep(dayLater()));
    await expect(
      slowServer.createServer(as.admin, { slug: "ghost", url: "https://example.com" }),
    ).rejects.toMatchObject({ code: "SERVICE_BUSY" });
    const slowWorkspace = interrupted(service, /workspace\//, () => admin.sweep(dayLater()));
    await expect(
      slowWorkspace.createWorkspace(as.operator, { name: "ghost", adminOwner: "ghost" }),
    ).rejects.toMatchObject({ code: "SERVICE_BUSY" });
    expect((await admin.listServers(as.admin)).items).toEqual([]);
    expect((await admin.listTokens(as.admin, { owner: "ghost" })).items).toEqual([]);
    expect((await admin.listWorkspaces(as.operator)).items).toHaveLength(1);
  });
});
