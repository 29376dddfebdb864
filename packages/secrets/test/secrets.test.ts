import { randomBytes } from "node:crypto";
import { describe, expect, it } from "vitest";
import { keysIn, startService, valuesOf } from "./service.ts";

const url = "https://mcp.example.com/mcp";
const newValue = () => `test-${randomBytes(16).toString("hex")}`;

/** Starts a service with a server `github`. */
async function startWithServer() {
  const service = await startService();
  await service.admin.createServer(service.as.admin, { slug: "github", url });
  const set = (name: string, value = newValue(), more: object = {}) =>
    service.admin.setSecret(service.as.admin, "github", { name, value, ...more });
  return { ...service, set };
}

describe("a secret", () => {
  it("is sent, with its rule, by each call that begins after it was set", async () => {
    const service = await startWithServer();
    const value = newValue();
    const { created, secret } = await service.set("GITHUB_TOKEN", value, { rule: { kind: "bearer" } });
    expect(created).toBe(true);
    expect(secret).toMatchObject({ name: "GITHUB_TOKEN", revision: 1, setBy: "first admin", unusable: undefined });
    const { secrets } = await service.reader.forCall(service.tokens.member, "github");
    expect(secrets.map(({ rule, value: sent }) => [rule, sent.reveal()])).toEqual([[{ kind: "bearer" }, value]]);
  });

  it("keeps its rule when it is set again, and its former value is removed from the store", async () => {
    const service = await startWithServer();
    await service.set("GITHUB_TOKEN", newValue(), { rule: { kind: "bearer" } });
    const before = await keysIn(service, "value/");
    const value = newValue();
    const { created, secret } = await service.set("GITHUB_TOKEN", value);
    expect(created).toBe(false);
    expect(secret).toMatchObject({ rule: { kind: "bearer" }, revision: 2 });
    const after = await keysIn(service, "value/");
    expect(after).toHaveLength(1);
    expect(before).not.toContain(after[0]);
    expect(await valuesOf(service, "github")).toEqual({ GITHUB_TOKEN: value });
    expect(service.problems).toEqual([]);
  });

  it("is sent by default in the header with its name, with a warning about an underscore", async () => {
    const { set } = await startWithServer();
    const { secret, warnings } = await set("API_KEY");
    expect(secret.rule).toEqual({ kind: "header", header: "API_KEY" });
    expect(warnings).toEqual([expect.stringContaining("underscore")]);
    expect((await set("x-api-key")).warnings).toEqual([]);
  });

  it("cannot set a header that another secret of the server sets", async () => {
    const { set, admin, as } = await startWithServer();
    await set("ONE", newValue(), { rule: { kind: "bearer" } });
    const basic = { rule: { kind: "basic" } };
    await expect(set("TWO", `user:${newValue()}`, basic)).rejects.toMatchObject({ code: "RULE_CONFLICT" });
    await set("X-Two", newValue());
    await expect(
      admin.setInjection(as.admin, "github", "X-Two", { kind: "header", header: "AUTHORIZATION" }),
    ).rejects.toMatchObject({ code: "RULE_CONFLICT" });
    await set("ONE", newValue());
  });

  it("needs a value of the form user:password for the rule basic", async () => {
    const { set, admin, as } = await startWithServer();
    const basic = { kind: "basic" } as const;
    await expect(set("PAIR", newValue(), { rule: basic })).rejects.toMatchObject({ code: "FIELD_INVALID" });
    await set("PAIR", newValue(), { rule: { kind: "bearer" } });
    await expect(admin.setInjection(as.admin, "github", "PAIR", basic)).rejects.toMatchObject({
      code: "FIELD_INVALID",
    });
    await set("PAIR", `user:${newValue()}`, { rule: basic });
  });

  it("cannot be used after the origin of its server's URL has changed, until it is set again", async () => {
    const service = await startWithServer();
    const { admin, as, reader, tokens, set } = service;
    await set("TOKEN");
    await admin.updateServer(as.admin, "github", { url: "https://mcp.example.com/other" });
    await reader.forCall(tokens.member, "github");
    await admin.updateServer(as.admin, "github", { url: "https://mcp.example.com:8443/mcp" });
    expect((await admin.listSecrets(as.admin, "github")).secrets[0]?.unusable).toBe("origin-changed");
    await expect(reader.forCall(tokens.member, "github")).rejects.toMatchObject({ code: "SECRET_UNUSABLE" });
    const value = newValue();
    await set("TOKEN", value);
    expect(await valuesOf(service, "github")).toEqual({ TOKEN: value });
  });

  it("is stored only if the server has the origin that the caller expects", async () => {
    const service = await startWithServer();
    const { admin, as, set } = service;
    const expectedOrigin = "https://mcp.example.com";
    const former = newValue();
    expect((await set("TOKEN", former, { expectedOrigin })).secret.origin).toBe(expectedOrigin);
    await admin.updateServer(as.admin, "github", { url: "https://mcp.example.com.attacker.example/mcp" });
    await expect(set("TOKEN", newValue(), { expectedOrigin })).rejects.toMatchObject({ code: "ORIGIN_CHANGED" });
    await admin.updateServer(as.admin, "github", { url: `${expectedOrigin}/mcp` });
    expect(await valuesOf(service, "github")).toEqual({ TOKEN: former });
    for (const other of [`${expectedOrigin}/`, "mcp.example.com", ""]) {
      await expect(set("TOKEN", newValue(), { expectedOrigin: other })).rejects.toMatchObject({
        code: "FIELD_INVALID",
      });
    }
  });

  it("can be used until it expires, and its value is then removed from the store", async () => {
    const service = await startWithServer();
    const { admin, as, reader, tokens, set } = service;
    await set("TOKEN", newValue(), { expires: Date.now() + 300 });
    await expect
      .poll(
        () =>
          reader.forCall(tokens.member, "github").then(
            () => "",
            (error: { code: string }) => error.code,
          ),
        {
          timeout: 20_000,
        },
      )
      .toBe("SECRET_UNUSABLE");
    expect((await admin.listSecrets(as.admin, "github")).secrets[0]?.unusable).toBe("expired");
    const [key = ""] = await keysIn(service, "value/");
    expect(key === "" ? undefined : await service.store.namespaced("keyward-service").get(key)).toBeUndefined();
    expect((await admin.sweep()).expiring).toMatchObject([{ server: "github", name: "TOKEN" }]);
  });

  it("is deleted with its value, alone or with all others of the server", async () => {
    const service = await startWithServer();
    const { admin, as, set } = service;
    for (const name of ["A", "B", "C"]) await set(name);
    await admin.deleteSecret(as.admin, "github", "B");
    expect(Object.keys(await valuesOf(service, "github")).sort()).toEqual(["A", "C"]);
    expect(await keysIn(service, "value/")).toHaveLength(2);
    await expect(admin.deleteSecret(as.admin, "github", "B")).rejects.toMatchObject({ code: "SECRET_NOT_FOUND" });
    const { names } = await admin.deleteAllSecrets(as.admin, "github");
    expect([...names].sort()).toEqual(["A", "C"]);
    expect(await keysIn(service, "value/")).toEqual([]);
    expect(await valuesOf(service, "github")).toEqual({});
  });

  it.each([
    ["a token", 0],
    ["a token without its last character", 1],
    ["a token without its checksum", 6],
    ["a third of the secret of a token", 33],
  ])("cannot have %s in its name or its rule, nor can an owner or a server", async (_, cut) => {
    const { admin, as, set, audit, tokens } = await startWithServer();
    const token = tokens.member.slice(0, tokens.member.length - cut);
    const at = (given: string) => `https://example.com/${given}`;
    const before = audit.kept.length;
    const attempts: (() => Promise<unknown>)[] = [
      () => set(token),
      () => set(`OLD.${token}.x`),
      () => set("TOKEN", newValue(), { rule: { kind: "header", header: token } }),
      () => set("TOKEN", newValue(), { rule: { kind: "template", header: "X-Key", template: `${token}{value}` } }),
      () => admin.deleteSecret(as.admin, "github", token),
      () => admin.setInjection(as.admin, "github", token, { kind: "bearer" }),
      () => admin.createToken(as.admin, { owner: `of ${token}`, role: "member" }),
      () => admin.createToken(as.admin, { owner: "ci", role: "member", tools: ["search", token] }),
      () => admin.revokeTokensOf(as.admin, token),
      () => admin.createWorkspace(as.operator, { name: "another", adminOwner: token }),
      () => admin.createServer(as.admin, { slug: "other", url: at(token) }),
      () => admin.createServer(as.admin, { slug: "other", url: `https://${token}.example.com` }),
      () => admin.updateServer(as.admin, "github", { url: at(`${token}/mcp`) }),
      () => admin.updateServer(as.admin, "github", { forwardHeaders: [token] }),
    ];
    for (const attempt of attempts) {
      const error: unknown = await attempt().catch((thrown: unknown) => thrown);
      expect(error).toMatchObject({ code: "FIELD_INVALID", message: expect.stringContaining("without a token") });
      expect(String(error)).not.toContain(token);
    }
    expect(audit.kept.length).toBe(before);
    // A value may be a token, such as that of another gateway.
    await set("TOKEN", token);
    await set("kwt_SHORT");
  });

  it("is changed only if the server has the revision that the caller passes", async () => {
    const service = await startWithServer();
    const { admin, as } = service;
    const secret = { name: "TOKEN", value: newValue() };
    await admin.setSecret(as.admin, "github", secret, { ifRevision: 0 });
    const stale = { ifRevision: 0 };
    const refused = { code: "REVISION_CHANGED" };
    await expect(admin.setSecret(as.admin, "github", { ...secret, value: newValue() }, stale)).rejects.toMatchObject(
      refused,
    );
    await expect(admin.deleteSecret(as.admin, "github", "TOKEN", stale)).rejects.toMatchObject(refused);
    await expect(admin.deleteServer(as.admin, "github", stale)).rejects.toMatchObject(refused);
    expect(await valuesOf(service, "github")).toEqual({ TOKEN: secret.value });
    expect(await keysIn(service, "value/")).toHaveLength(1);
  });

  it("has one of the values that several admins set at once, and the store has no other", async () => {
    const service = await startWithServer();
    const admins = Array.from({ length: 4 }, () => service.open());
    const values = Array.from({ length: 20 }, newValue);
    await Promise.all(
      values.map((value, index) => admins[index % 4]?.setSecret(service.as.admin, "github", { name: "TOKEN", value })),
    );
    const { TOKEN = "" } = await valuesOf(service, "github");
    expect(values).toContain(TOKEN);
    expect(await keysIn(service, "value/")).toHaveLength(1);
    expect((await service.admin.getServer(service.as.admin, "github")).revision).toBe(20);
  });

  it("is refused if the server already has 100 other secrets", async () => {
    const { set } = await startWithServer();
    for (let count = 0; count < 100; count++) await set(`S${count}`);
    await expect(set("S100")).rejects.toMatchObject({ code: "LIMIT_REACHED" });
    await set("S99");
  });
});

describe("a value", () => {
  it("that was swapped with its name is refused before anything is recorded or shown", async () => {
    const { set, audit, admin, as } = await startWithServer();
    const before = audit.kept.length;
    const swapped = `ghp_${randomBytes(8).toString("hex")}0a`;
    const failure = set(swapped, "GITHUB_TOKEN");
    await expect(failure).rejects.toMatchObject({ code: "FIELD_INVALID" });
    expect(String(await failure.catch((error: unknown) => error))).not.toContain(swapped);
    expect(audit.kept.length).toBe(before);
    expect((await admin.listSecrets(as.admin, "github")).secrets).toEqual([]);
    await set("X-Api-Key-2-for-github", "AKIAIOSFODNN7EXAMPLE");
  });

  const refused: Readonly<Record<string, string>> = {
    "shorter than 8 bytes": "1234567",
    "longer than 8,192 bytes": "x".repeat(8_193),
    "longer than 8,192 bytes in UTF-8": "é".repeat(4_097),
    "with the end of a line": "0123456789\nab",
    "with CR": "0123456789\rab",
    "with NUL": "0123456789\0ab",
    "with another control character": "0123456789\u0007ab",
    "with white space at its end": "0123456789 ",
    "with white space at its beginning": "\t0123456789",
    "with a lone surrogate": "0123456789\ud800",
  };
  it.each(Object.entries(refused))("%s is refused, and the error does not repeat it", async (_, value) => {
    const { admin, as } = await startWithServer();
    const failure = admin.setSecret(as.admin, "github", { name: "TOKEN", value });
    await expect(failure).rejects.toMatchObject({ code: "FIELD_INVALID" });
    const error: unknown = await failure.catch((thrown: unknown) => thrown);
    expect(JSON.stringify([String(error), error])).not.toContain("0123456789");
  });

  it.each([8, 15, 16, 8_192])("is accepted if it has %d bytes", async (bytes) => {
    const service = await startWithServer();
    const value = "v".repeat(bytes);
    const { secret, warnings } = await service.set("token", value);
    expect(secret.weak).toBe(bytes < 16);
    expect(warnings.some((warning) => warning.includes("guessed"))).toBe(bytes < 16);
    expect(await valuesOf(service, "github")).toEqual({ token: value });
  });
});

describe("a rule", () => {
  const refused = [
    ..."host connection content-length transfer-encoding te trailer upgrade expect range accept-encoding cookie".split(
      " ",
    ),
    ..."proxy-authorization proxy-x mcp-session-id mcp-method keep-alive Host COOKIE".split(" "),
  ];
  it.each(refused)("cannot set the header %s", async (header) => {
    const { set } = await startWithServer();
    await expect(set("TOKEN", newValue(), { rule: { kind: "header", header } })).rejects.toMatchObject({
      code: "FIELD_INVALID",
    });
  });

  it.each(["Host", "Transfer-Encoding", "Content-Length", "Cookie", "Connection", "Mcp-Session-Id"])(
    "cannot set the header %s, even if the header is only the name of the secret",
    async (name) => {
      const { set, admin, as } = await startWithServer();
      await expect(set(name)).rejects.toMatchObject({ code: "FIELD_INVALID" });
      expect((await admin.listSecrets(as.admin, "github")).secrets).toEqual([]);
      await set(name, newValue(), { rule: { kind: "bearer" } });
    },
  );

  it.each(["Bad Header", "x:y", "x\r\ny", "", "é", "x".repeat(129)])("refuses the header name %j", async (header) => {
    const { set } = await startWithServer();
    await expect(set("TOKEN", newValue(), { rule: { kind: "header", header } })).rejects.toMatchObject({
      code: "FIELD_INVALID",
    });
  });

  it.each(["token", "{value} {value}", " {value}", "{value}\n", "é{value}"])(
    "refuses the template %j",
    async (template) => {
      const { set } = await startWithServer();
      const rule = { kind: "template", header: "Authorization", template };
      await expect(set("TOKEN", newValue(), { rule })).rejects.toMatchObject({ code: "FIELD_INVALID" });
    },
  );

  it("applies to the next call after it was changed", async () => {
    const { set, admin, as, reader, tokens } = await startWithServer();
    await set("TOKEN", newValue(), { rule: { kind: "bearer" } });
    const rule = { kind: "template", header: "X-Token", template: "token {value}" } as const;
    await admin.setInjection(as.admin, "github", "TOKEN", rule);
    expect((await reader.forCall(tokens.member, "github")).secrets[0]?.rule).toEqual(rule);
  });

  it("names a single header, and no pattern for several", async () => {
    const { set, admin, as } = await startWithServer();
    for (const rule of [
      { kind: "header", header: "X-*" },
      { kind: "template", header: "*", template: "key {value}" },
    ] as const) {
      const refused = { code: "FIELD_INVALID", message: expect.stringContaining("without `*`") };
      await expect(set("TOKEN", newValue(), { rule })).rejects.toMatchObject(refused);
    }
    expect((await admin.listSecrets(as.admin, "github")).secrets).toEqual([]);
  });
});
