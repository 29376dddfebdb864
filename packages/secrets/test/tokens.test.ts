import { createHash } from "node:crypto";
import { KeywardError } from "@keyward/core";
import { SecretsAdmin, SecretsError } from "@keyward/secrets";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { slowStore } from "./hostile-store.ts";
import { keysIn, startService } from "./service.ts";

const refused = { code: "TOKEN_REFUSED" };

describe("a token", () => {
  it("has the form that scanners for leaked tokens can find, and is stored as a hash only", async () => {
    const service = await startService();
    const { token, info } = await service.admin.createToken(service.as.admin, { owner: "ci", role: "member" });
    expect(token).toMatch(/^kwt_[a-z0-9]{12}_[a-z0-9]{12}_[0-9A-Za-z]{49}$/);
    expect(token).toContain(`_${info.id}_`);
    expect(service.tokens.operator).toMatch(/^kwt_service_[a-z0-9]{12}_[0-9A-Za-z]{49}$/);
    const { EncryptedStore } = await import("@keyward/core");
    const { scopeOfServiceRecord } = await import("@keyward/secrets");
    const view = service.store.namespaced("keyward-service");
    const opened = new EncryptedStore(view, { keys: service.keys, scope: scopeOfServiceRecord });
    const texts = await Promise.all((await keysIn(service, "")).map((key) => opened.get(key)));
    const everything = texts.join("\n");
    expect(everything).toContain(createHash("sha256").update(token).digest("base64url"));
    expect(everything).not.toContain(token.slice(-49, -6));
  });

  it("is refused if one character is changed, left out or added", async () => {
    const { admin, tokens } = await startService();
    const { member } = tokens;
    const changed = Array.from({ length: member.length }, (_, at) => {
      const other = member[at] === "a" ? "b" : "a";
      return member.slice(0, at) + other + member.slice(at + 1);
    });
    const wrong = [
      ...changed,
      member.slice(1),
      member.slice(0, -1),
      `${member}a`,
      ` ${member}`,
      "",
      "kwt_",
      "x".repeat(1e6),
    ];
    for (const token of wrong) await expect(admin.authenticate(token)).rejects.toMatchObject(refused);
  });

  it("is refused with the same error whether it is unknown, revoked, expired or altered", async () => {
    const { admin, as, tokens } = await startService();
    const short = await admin.createToken(as.admin, { owner: "short", role: "member", expires: Date.now() + 200 });
    const revoked = await admin.createToken(as.admin, { owner: "revoked", role: "member" });
    await admin.revokeToken(as.admin, revoked.info.id);
    const messageOf = async (token: string) => {
      const error: unknown = await admin.authenticate(token).then(
        () => undefined,
        (thrown: unknown) => thrown,
      );
      return error instanceof SecretsError ? `${error.code} ${error.message} ${error.hint}` : undefined;
    };
    await expect.poll(() => messageOf(short.token), { timeout: 20_000 }).toBeDefined();
    const messages = new Set<string | undefined>();
    for (const token of [short.token, revoked.token, `${tokens.member}x`, "kwt"]) messages.add(await messageOf(token));
    expect([...messages]).toEqual([expect.stringMatching(/^TOKEN_REFUSED/)]);
  });

  it("shows when it was last used", async () => {
    const { admin, as, tokens } = await startService();
    const lastUsed = async () =>
      (await admin.listTokens(as.admin)).items.find(({ owner }) => owner === "member")?.lastUsed;
    await admin.authenticate(tokens.member);
    await expect.poll(lastUsed, { timeout: 20_000 }).toBeGreaterThan(0);
  });

  it("gives a member access to the servers in its scope only", async () => {
    const { admin, as, reader } = await startService();
    for (const slug of ["github", "jira"]) await admin.createServer(as.admin, { slug, url: "https://example.com" });
    const { token } = await admin.createToken(as.admin, {
      owner: "ci",
      role: "member",
      servers: ["github"],
      tools: ["search"],
      methods: ["GET"],
    });
    expect(await reader.forCall(token, "github")).toMatchObject({ tools: ["search"], methods: ["GET"] });
    const hidden = { code: "SERVER_NOT_FOUND" };
    await expect(reader.forCall(token, "jira")).rejects.toMatchObject(hidden);
    await expect(reader.forCall(token, "unknown")).rejects.toMatchObject(hidden);
    const unknown = { owner: "ci", role: "member", servers: ["unknown", "github", "gone"] } as const;
    await expect(admin.createToken(as.admin, unknown)).rejects.toMatchObject({
      ...hidden,
      message: "The workspace does not have every server of the list. Missing: number 1, 3",
    });
  });

  it("stops working for calls that begin after its revocation, on every process", async () => {
    const service = await startService();
    const { admin, as, reader } = service;
    await admin.createServer(as.admin, { slug: "github", url: "https://example.com" });
    const { token, info } = await admin.createToken(as.admin, { owner: "ci", role: "member" });
    await reader.forCall(token, "github");
    const revoked = await service.open().revokeToken(as.admin, info.id);
    expect(revoked.revoked).toBeGreaterThan(0);
    await expect(reader.forCall(token, "github")).rejects.toMatchObject(refused);
    await expect(admin.authenticate(token)).rejects.toMatchObject(refused);
    expect((await admin.revokeToken(as.admin, info.id)).revoked).toBe(revoked.revoked);
  });

  it("is replaced by a token with the same scopes, and can be used until the overlap ends", async () => {
    const { admin, as } = await startService();
    const scopes = { owner: "ci", role: "member", tools: ["search"] } as const;
    const former = await admin.createToken(as.admin, scopes);
    const next = await admin.rotateToken(as.admin, former.info.id, { overlapMs: 3_600_000 });
    expect(next.info).toMatchObject(scopes);
    await admin.authenticate(former.token);
    await admin.authenticate(next.token);
    await admin.rotateToken(as.admin, next.info.id, { overlapMs: 0 });
    await expect(admin.authenticate(next.token)).rejects.toMatchObject(refused);
    await expect(admin.rotateToken(as.admin, next.info.id, { overlapMs: 0 })).rejects.toMatchObject({
      code: "TOKEN_NOT_FOUND",
    });
  });

  it("gives its end to each token that replaces it, also an end from an earlier rotation", async () => {
    const { admin, as } = await startService();
    const { info } = await admin.createToken(as.admin, { owner: "ci", role: "member" });
    const first = await admin.rotateToken(as.admin, info.id, { overlapMs: 3_600_000 });
    expect(first.info.expires).toBeUndefined();
    const ends = (await admin.listTokens(as.admin, { owner: "ci" })).items.find(({ id }) => id === info.id)?.expires;
    const second = await admin.rotateToken(as.admin, info.id, { overlapMs: 86_400_000 });
    expect(second.info.expires).toBe(ends);
  });

  it.each(["member", "admin"] as const)(
    "does not live longer by two rotations at once, in the role %s",
    async (role) => {
      const { admin, as, open } = await startService();
      const { info } = await admin.createToken(as.admin, { owner: "ci", role });
      const overlapMs = 86_400_000;
      const both = await Promise.allSettled(
        [admin, open()].map((each) => each.rotateToken(as.admin, info.id, { overlapMs })),
      );
      const made = both.flatMap((end) => (end.status === "fulfilled" ? [end.value.info] : []));
      const errors = both.flatMap((end) => (end.status === "rejected" ? [end.reason] : []));
      expect(made.filter(({ expires }) => expires === undefined)).toHaveLength(1);
      for (const error of errors) expect(error).toMatchObject({ code: "SERVICE_BUSY" });
      const valid = (await admin.listTokens(as.admin, { owner: "ci" })).items.filter(
        ({ expires }) => expires === undefined,
      );
      expect(valid.map(({ id }) => id)).toEqual(
        made.filter(({ expires }) => expires === undefined).map(({ id }) => id),
      );
    },
  );

  it("does not live longer by a rotation after another one that was stopped before it wrote the former token", async () => {
    const { admin, as, store, keys, audit } = await startService();
    const { info } = await admin.createToken(as.admin, { owner: "ci", role: "admin" });
    let isDead = false;
    const dying = slowStore(store, async (changes) => {
      isDead ||= changes.includes(`token/${as.admin.workspace}/${info.id}`);
      if (isDead) throw new KeywardError("STORE_UNAVAILABLE", "The process was killed", { hint: "Test." });
    });
    const killed = new SecretsAdmin({ store: dying, keys, audit });
    onTestFinished(() => killed.close());
    await killed.rotateToken(as.admin, info.id, { overlapMs: 3_600_000 }).catch(() => {});
    expect(isDead).toBe(true);
    const former = async () =>
      (await admin.listTokens(as.admin, { owner: "ci" })).items.find(({ id }) => id === info.id);
    const ends = (await former())?.expires;
    expect(ends).toBeDefined();
    const next = await admin.rotateToken(as.admin, info.id, { overlapMs: 86_400_000 });
    expect(next.info.expires).toBe(ends);
    expect((await former())?.expires).toBe(ends);
  });

  it("is revoked with all tokens of its owner", async () => {
    const { admin, as } = await startService();
    const own = [];
    for (let count = 0; count < 3; count++)
      own.push(await admin.createToken(as.admin, { owner: "ci", role: "member" }));
    const other = await admin.createToken(as.admin, { owner: "other", role: "member" });
    const revoked = await admin.revokeTokensOf(as.admin, "ci");
    expect([...revoked].sort()).toEqual(own.map(({ info }) => info.id).sort());
    for (const { token } of own) await expect(admin.authenticate(token)).rejects.toMatchObject(refused);
    await admin.authenticate(other.token);
  });
});

describe("the last admin of a workspace", () => {
  it("does not keep the other tokens of the same owner valid when all of them are revoked", async () => {
    const { admin, as } = await startService();
    const member = await admin.createToken(as.admin, { owner: "first admin", role: "member" });
    // The token of the last admin is now the newest of this owner, and is tried first.
    const last = await admin.rotateToken(as.admin, as.admin.tokenId, { overlapMs: 0 });
    const caller = await admin.authenticate(last.token);
    await expect(admin.revokeTokensOf(caller, "first admin")).rejects.toMatchObject({ code: "LAST_ADMIN" });
    await expect(admin.authenticate(member.token)).rejects.toMatchObject(refused);
    await admin.authenticate(last.token);
  });

  it("cannot be revoked, and can be rotated", async () => {
    const { admin, as, tokens } = await startService();
    const last = { code: "LAST_ADMIN" };
    await expect(admin.revokeToken(as.admin, as.admin.tokenId)).rejects.toMatchObject(last);
    await expect(admin.revokeTokensOf(as.admin, "first admin")).rejects.toMatchObject(last);
    await admin.authenticate(tokens.admin);
    const next = await admin.rotateToken(as.admin, as.admin.tokenId, { overlapMs: 0 });
    await expect(admin.authenticate(tokens.admin)).rejects.toMatchObject(refused);
    await admin.authenticate(next.token);
  });

  it("remains if two admins revoke each other at once", async () => {
    for (let round = 0; round < 20; round++) {
      const service = await startService();
      const { admin, as } = service;
      const second = await admin.createToken(as.admin, { owner: "second", role: "admin" });
      const other = await admin.authenticate(second.token);
      const results = await Promise.allSettled([
        admin.revokeToken(as.admin, second.info.id),
        service.open().revokeToken(other, as.admin.tokenId),
      ]);
      expect(results.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    }
  });

  it("leaves the expired tokens of other admins in the list", async () => {
    const { admin, as } = await startService();
    const expired = await admin.createToken(as.admin, { owner: "guest", role: "admin", expires: Date.now() + 100 });
    await expect.poll(() => Date.now(), { timeout: 5_000 }).toBeGreaterThan(expired.info.expires ?? 0);
    await admin.createToken(as.admin, { owner: "second", role: "admin" });
    expect((await admin.listTokens(as.admin)).items.map(({ owner }) => owner)).toContain("guest");
  });

  it("is not replaced by an admin whose token expires earlier", async () => {
    const { admin, as } = await startService();
    await admin.createToken(as.admin, { owner: "guest", role: "admin", expires: Date.now() + 60_000 });
    const rotated = await admin.rotateToken(as.admin, as.admin.tokenId, { overlapMs: 0 });
    const caller = await admin.authenticate(rotated.token);
    const { items } = await admin.listTokens(caller);
    const next = items.find(({ owner, expires }) => owner === "first admin" && expires === undefined);
    await expect(admin.revokeToken(caller, next?.id ?? "")).resolves.toBeDefined();
  });
});

describe("an operator", () => {
  it("has a first token for 24 hours, and creates others", async () => {
    const { admin, as } = await startService();
    expect((as.operator.expires ?? 0) - Date.now()).toBeGreaterThan(23 * 3_600_000);
    expect((as.operator.expires ?? 0) - Date.now()).toBeLessThanOrEqual(24 * 3_600_000);
    const { token } = await admin.createToken(as.operator, { owner: "ops", role: "operator" });
    expect((await admin.authenticate(token)).workspace).toBeUndefined();
    const owners = (await admin.listTokens(as.operator)).items.map(({ owner }) => owner);
    expect(owners.sort()).toEqual(["first operator", "ops"]);
  });

  it("creates and revokes only tokens of operators, and an admin only tokens of one workspace", async () => {
    const { admin, as } = await startService();
    const notAllowed = { code: "NOT_ALLOWED" };
    await expect(admin.createToken(as.operator, { owner: "x", role: "admin" })).rejects.toMatchObject(notAllowed);
    await expect(admin.createToken(as.admin, { owner: "x", role: "operator" })).rejects.toMatchObject(notAllowed);
    const other = await admin.createWorkspace(as.operator, { name: "other", adminOwner: "other" });
    const missing = { code: "TOKEN_NOT_FOUND" };
    await expect(admin.revokeToken(as.admin, other.admin.info.id)).rejects.toMatchObject(missing);
    await expect(admin.revokeToken(as.operator, other.admin.info.id)).rejects.toMatchObject(missing);
    await expect(admin.revokeToken(as.admin, as.operator.tokenId)).rejects.toMatchObject(missing);
  });

  it("gets a new token on the machine, and the admin of a workspace too", async () => {
    const { admin, as } = await startService();
    const local = admin.localOperator();
    const operator = await admin.recoverToken(local, { owner: "recovered" });
    expect((await admin.authenticate(operator.token)).role).toBe("operator");
    const adminToken = await admin.recoverToken(local, { owner: "recovered", workspace: "main" });
    expect(await admin.authenticate(adminToken.token)).toMatchObject({ role: "admin", workspace: as.admin.workspace });
    await expect(admin.recoverToken(as.operator, { owner: "x" })).rejects.toMatchObject({ code: "NOT_ALLOWED" });
  });

  it("revokes every token from before a restore, the last admins included", async () => {
    const { admin, as, tokens } = await startService();
    const time = Date.now() + 1;
    await expect.poll(() => Date.now(), { timeout: 5_000 }).toBeGreaterThan(time);
    const fresh = await admin.createToken(as.operator, { owner: "after", role: "operator" });
    await expect(admin.revokeTokensBefore(as.operator, time)).rejects.toMatchObject({ code: "NOT_ALLOWED" });
    expect(await admin.revokeTokensBefore(admin.localOperator(), time)).toBe(4);
    for (const token of Object.values(tokens)) await expect(admin.authenticate(token)).rejects.toMatchObject(refused);
    await admin.authenticate(fresh.token);
  });

  it("is told that a clock was ahead when tokens were revoked, and can correct the time", async () => {
    const { admin, as } = await startService();
    vi.useFakeTimers({ toFake: ["Date"] });
    onTestFinished(() => void vi.useRealTimers());
    const ahead = Date.now() + 3_600_000;
    vi.setSystemTime(ahead);
    const before = await admin.recoverToken(admin.localOperator(), { owner: "before" });
    await admin.revokeTokensBefore(admin.localOperator(), ahead);
    vi.setSystemTime(ahead - 3_600_000);
    const jumped = { code: "CLOCK_JUMPED" };
    // No command prints a token that the service refuses.
    await expect(admin.recoverToken(admin.localOperator(), { owner: "x" })).rejects.toMatchObject(jumped);
    await expect(admin.ready()).rejects.toMatchObject(jumped);
    await expect(admin.listTokens(as.admin)).resolves.toBeDefined();
    await expect(admin.revokeTokensBefore(admin.localOperator(), Date.now())).rejects.toMatchObject(jumped);
    await admin.revokeTokensBefore(admin.localOperator(), Date.now(), { clockWasAhead: true });
    await admin.ready();
    const fresh = await admin.recoverToken(admin.localOperator(), { owner: "fresh" });
    await admin.authenticate(fresh.token);
    await expect(admin.authenticate(before.token)).rejects.toMatchObject(refused);
  });

  it("refuses the token of a clock that was ahead for good, also after further revocations", async () => {
    const { admin, as, tokens } = await startService();
    vi.useFakeTimers({ toFake: ["Date"] });
    onTestFinished(() => void vi.useRealTimers());
    const hourMs = 3_600_000;
    const now = Date.now();
    vi.setSystemTime(now + 24 * hourMs);
    const ahead = await admin.createToken(as.admin, { owner: "ahead", role: "member" });
    vi.setSystemTime(now + hourMs);
    await admin.revokeTokensBefore(admin.localOperator(), now + hourMs);
    // The flag is kept for later starts, and its time is raised once.
    for (const [hours, before] of [
      [48, 1],
      [72, 1],
      [96, 20],
    ] as const) {
      vi.setSystemTime(now + hours * hourMs);
      await admin.revokeTokensBefore(admin.localOperator(), now + before * hourMs);
      for (const token of [ahead.token, ...Object.values(tokens)]) {
        await expect(admin.authenticate(token)).rejects.toMatchObject(refused);
      }
    }
  });

  it("cannot make revoked tokens valid again with an earlier time", async () => {
    const { admin, tokens } = await startService();
    vi.useFakeTimers({ toFake: ["Date"] });
    onTestFinished(() => void vi.useRealTimers());
    // The clock of another machine may be ahead by some seconds.
    vi.setSystemTime(Date.now() + 5_000);
    await admin.revokeTokensBefore(admin.localOperator(), Date.now());
    vi.setSystemTime(Date.now() - 4_000);
    await expect(admin.revokeTokensBefore(admin.localOperator(), 0)).rejects.toMatchObject({ code: "CLOCK_JUMPED" });
    for (const token of Object.values(tokens)) await expect(admin.authenticate(token)).rejects.toMatchObject(refused);
    await expect(admin.recoverToken(admin.localOperator(), { owner: "x" })).rejects.toMatchObject({
      code: "CLOCK_JUMPED",
    });
  });
});

describe("the owner of a token", () => {
  it("has one form for each label that looks the same", async () => {
    const { admin, as } = await startService();
    const composed = "Ren\u00e9";
    const { info } = await admin.createToken(as.admin, { owner: "Rene\u0301", role: "member" });
    expect(info.owner).toBe(composed);
    expect(await admin.revokeTokensOf(as.admin, "Rene\u0301")).toEqual([info.id]);
    for (const hidden of ["\u115f", "\u3164", "\u034f", "\ufe0f", "\u200b", "\u{e0100}"]) {
      const created = admin.createToken(as.admin, { owner: `ci${hidden}`, role: "member" });
      await expect(created).rejects.toMatchObject({ code: "FIELD_INVALID" });
    }
  });
});
