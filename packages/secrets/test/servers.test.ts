import { randomBytes } from "node:crypto";
import { describe, expect, it } from "vitest";
import { keysIn, type Service, startService, valuesOf } from "./service.ts";

const url = "https://mcp.example.com/mcp";

async function slugsOf({ admin, as }: Service): Promise<readonly string[]> {
  const slugs: string[] = [];
  let cursor: string | undefined;
  do {
    const page = await admin.listServers(as.admin, { cursor, limit: 7 });
    slugs.push(...page.items.map(({ slug }) => slug));
    cursor = page.next;
  } while (cursor !== undefined);
  return slugs;
}

describe("a server", () => {
  it("is listed from its creation to its deletion", async () => {
    const service = await startService();
    const { admin, as } = service;
    const created = await admin.createServer(as.admin, { slug: "github", url });
    expect(created).toMatchObject({ slug: "github", url, kind: "mcp", revision: 0, secretCount: 0, disabled: false });
    expect(await admin.getServer(as.admin, "github")).toEqual(created);
    expect(await slugsOf(service)).toEqual(["github"]);
    await expect(admin.createServer(as.admin, { slug: "github", url })).rejects.toMatchObject({
      code: "SERVER_EXISTS",
    });
    await admin.deleteServer(as.admin, "github");
    expect(await slugsOf(service)).toEqual([]);
    await expect(admin.getServer(as.admin, "github")).rejects.toMatchObject({ code: "SERVER_NOT_FOUND" });
    await expect(admin.deleteServer(as.admin, "github")).rejects.toMatchObject({ code: "SERVER_NOT_FOUND" });
  });

  it("is deleted with its values, and a new server with the same slug has no values", async () => {
    const service = await startService();
    const { admin, as } = service;
    await admin.createServer(as.admin, { slug: "github", url });
    const value = randomBytes(16).toString("hex");
    await admin.setSecret(as.admin, "github", { name: "TOKEN", value });
    await admin.deleteServer(as.admin, "github");
    expect(await keysIn(service, "value/")).toEqual([]);
    await admin.createServer(as.admin, { slug: "github", url });
    expect(await valuesOf(service, "github")).toEqual({});
    expect(await slugsOf(service)).toEqual(["github"]);
  });

  it("is created once if several admins create it at once", async () => {
    const service = await startService();
    const { admin, as } = service;
    const created = await Promise.allSettled(
      Array.from({ length: 10 }, () => service.open().createServer(as.admin, { slug: "github", url })),
    );
    expect(created.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    expect(await slugsOf(service)).toEqual(["github"]);
    expect((await admin.listServers(as.admin)).items).toHaveLength(1);
  });

  it("refuses calls while it is disabled", async () => {
    const { admin, as, reader, tokens } = await startService();
    await admin.createServer(as.admin, { slug: "github", url });
    await admin.updateServer(as.admin, "github", { disabled: true });
    await expect(reader.forCall(tokens.member, "github")).rejects.toMatchObject({
      code: "SERVER_NOT_FOUND",
      hint: expect.stringContaining("does not exist, is disabled, or is outside of the scope of the token"),
    });
    await admin.updateServer(as.admin, "github", { disabled: false, kind: "http" });
    expect((await reader.forCall(tokens.member, "github")).server).toMatchObject({ kind: "http", revision: 2 });
  });

  it("is listed on exactly one page, newest first, while others are created and deleted", async () => {
    const service = await startService();
    const { admin, as } = service;
    const kept = Array.from({ length: 40 }, (_, index) => `kept-${index}`);
    for (const slug of kept) await admin.createServer(as.admin, { slug, url });
    const slugs: string[] = [];
    let cursor: string | undefined;
    let round = 0;
    do {
      const page = await admin.listServers(as.admin, { cursor, limit: 7 });
      slugs.push(...page.items.map(({ slug }) => slug));
      cursor = page.next;
      await admin.createServer(as.admin, { slug: `new-${round}`, url });
      await admin.deleteServer(as.admin, `new-${round}`);
      round++;
    } while (cursor !== undefined);
    expect(slugs).toEqual([...kept].reverse());
  });

  it.each(["", "A", "a_b", "-a", "a-", "a--b", "a/b", "a".repeat(33), "é", "a b"])(
    "cannot have the slug %j",
    async (slug) => {
      const { admin, as } = await startService();
      await expect(admin.createServer(as.admin, { slug, url })).rejects.toMatchObject({ code: "FIELD_INVALID" });
    },
  );

  it.each([
    "",
    "mcp.example.com",
    "ftp://example.com",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "https://user:password@example.com/",
    "https://user@example.com/",
    "https://example.com/?key=1",
    "https://example.com/#part",
    "https://example.com/?",
    "https://exa mple.com/",
    "https://example.com\\path",
    `https://example.com/${"a".repeat(2_048)}`,
    "https://example.com/\u0007",
  ])("cannot have the URL %j", async (wrong) => {
    const { admin, as } = await startService();
    const failure = admin.createServer(as.admin, { slug: "github", url: wrong });
    await expect(failure).rejects.toMatchObject({ code: "FIELD_INVALID" });
    expect(String(await failure.catch((error: unknown) => error))).not.toContain("password@");
  });

  it("refuses a cursor of another list, and a limit out of bounds", async () => {
    const { admin, as } = await startService();
    for (const slug of ["a", "b", "c"]) await admin.createServer(as.admin, { slug, url });
    const { next } = await admin.listServers(as.admin, { limit: 1 });
    const other = await admin.createWorkspace(as.operator, { name: "other", adminOwner: "other" });
    const stranger = await admin.authenticate(other.admin.token);
    await expect(admin.listServers(stranger, { cursor: next })).rejects.toMatchObject({ code: "FIELD_INVALID" });
    for (const cursor of ["", "x", "A".repeat(10_000), Buffer.from("a 1 1").toString("base64url")]) {
      await expect(admin.listServers(as.admin, { cursor })).rejects.toMatchObject({ code: "FIELD_INVALID" });
    }
    for (const limit of [0, 101, 1.5, Number.NaN]) {
      await expect(admin.listServers(as.admin, { limit })).rejects.toMatchObject({ code: "FIELD_INVALID" });
    }
  });
});

describe("a long list", () => {
  it("contains each entry once, in pages of at most 500 entries, if several processes append at once", async () => {
    const service = await startService();
    const { admin, as } = service;
    const admins = Array.from({ length: 4 }, () => service.open());
    await Promise.all(
      admins.map(async (one, index) => {
        for (let count = 0; count < 140; count++) {
          await one.createToken(as.admin, { owner: `owner ${index}`, role: "member" });
        }
      }),
    );
    const seen = new Map<string, number>();
    let cursor: string | undefined;
    do {
      const page = await admin.listTokens(as.admin, { cursor, limit: 100 });
      for (const { id } of page.items) seen.set(id, (seen.get(id) ?? 0) + 1);
      cursor = page.next;
    } while (cursor !== undefined);
    expect(seen.size).toBe(3 + 4 * 140);
    expect([...seen.values()].every((count) => count === 1)).toBe(true);
    const pages = (await keysIn(service, "list/")).filter(
      (key) => /tokens\/\d+$/.test(key) && !key.includes("service"),
    );
    expect(pages).toHaveLength(2);
    const ofOne = await admin.listTokens(as.admin, { owner: "owner 2", limit: 100 });
    expect(ofOne.items).toHaveLength(100);
    expect((await admin.listTokens(as.admin, { owner: "owner 2", limit: 100, cursor: ofOne.next })).items).toHaveLength(
      40,
    );
  });
});
