import { randomBytes } from "node:crypto";
import { type Caller, hasRight, type Right, type Role, rolesWithRight, type SecretsAdmin } from "@keyward/secrets";
import { describe, expect, it } from "vitest";
import { startService } from "./service.ts";

const roles: readonly Role[] = ["member", "auditor", "admin", "operator"];

/** The methods that take a caller. */
type CallerMethod = {
  [Name in keyof SecretsAdmin]: Parameters<SecretsAdmin[Name]> extends [Caller, ...unknown[]] ? Name : never;
}[keyof SecretsAdmin];

/** A call of a method, and the right that it needs. The compiler refuses a method without an entry. */
const calls: Record<
  CallerMethod,
  { readonly right: Right; readonly call: (admin: SecretsAdmin, caller: Caller) => unknown }
> = {
  whoAmI: { right: "whoami", call: (admin, caller) => admin.whoAmI(caller) },
  checkRecords: { right: "keys.read", call: (admin, caller) => admin.checkRecords(caller) },
  census: { right: "keys.read", call: (admin, caller) => admin.census(caller) },
  rotationStatus: { right: "keys.read", call: (admin, caller) => admin.rotationStatus(caller) },
  createWorkspace: {
    right: "workspaces.change",
    call: (admin, caller) => admin.createWorkspace(caller, { name: "another", adminOwner: "x" }),
  },
  listWorkspaces: { right: "workspaces.read", call: (admin, caller) => admin.listWorkspaces(caller) },
  getWorkspace: { right: "workspaces.read", call: (admin, caller) => admin.getWorkspace(caller, "main") },
  deleteWorkspace: { right: "workspaces.change", call: (admin, caller) => admin.deleteWorkspace(caller, "unknown") },
  createServer: {
    right: "servers.change",
    call: (admin, caller) => admin.createServer(caller, { slug: "another", url: "https://example.com" }),
  },
  listServers: { right: "servers.read", call: (admin, caller) => admin.listServers(caller) },
  getServer: { right: "servers.read", call: (admin, caller) => admin.getServer(caller, "github") },
  updateServer: { right: "servers.change", call: (admin, caller) => admin.updateServer(caller, "github", {}) },
  deleteServer: { right: "servers.change", call: (admin, caller) => admin.deleteServer(caller, "unknown") },
  setSecret: {
    right: "secrets.change",
    call: (admin, caller) => admin.setSecret(caller, "github", { name: "TOKEN", value: "0123456789abcdef" }),
  },
  listSecrets: { right: "secrets.read", call: (admin, caller) => admin.listSecrets(caller, "github") },
  deleteSecret: { right: "secrets.change", call: (admin, caller) => admin.deleteSecret(caller, "github", "UNKNOWN") },
  deleteAllSecrets: { right: "secrets.change", call: (admin, caller) => admin.deleteAllSecrets(caller, "unknown") },
  setInjection: {
    right: "secrets.change",
    call: (admin, caller) => admin.setInjection(caller, "github", "UNKNOWN", { kind: "bearer" }),
  },
  createToken: {
    right: "tokens.change",
    call: (admin, caller) => {
      const role = caller.role === "operator" ? "operator" : "member";
      return admin.createToken(caller, { owner: "another", role });
    },
  },
  listTokens: { right: "tokens.read", call: (admin, caller) => admin.listTokens(caller) },
  revokeToken: { right: "tokens.change", call: (admin, caller) => admin.revokeToken(caller, "aaaaaaaaaaaa") },
  revokeTokensOf: { right: "tokens.change", call: (admin, caller) => admin.revokeTokensOf(caller, "nobody") },
  rotateToken: {
    right: "tokens.change",
    call: (admin, caller) => admin.rotateToken(caller, "aaaaaaaaaaaa", { overlapMs: 0 }),
  },
  recoverToken: { right: "workspaces.change", call: (admin, caller) => admin.recoverToken(caller, { owner: "x" }) },
  revokeTokensBefore: { right: "workspaces.change", call: (admin, caller) => admin.revokeTokensBefore(caller, 0) },
  expiringSecrets: { right: "workspaces.read", call: (admin, caller) => admin.expiringSecrets(caller) },
  listCalls: { right: "calls.read", call: (admin, caller) => admin.listCalls(caller) },
  findCall: { right: "calls.read", call: (admin, caller) => admin.findCall(caller, "aaaaaaaaaaaa") },
  explainCall: {
    right: "calls.explain",
    call: (admin, caller) => admin.explainCall(caller, { server: "github", tokenId: "aaaaaaaaaaaa" }),
  },
  listChanges: { right: "changes.read", call: (admin, caller) => admin.listChanges(caller) },
};

/** Only the holder of the keyring on the machine may call these, so every token is refused. */
const onlyLocal: readonly string[] = ["recoverToken", "revokeTokensBefore", "expiringSecrets", "checkRecords"];

async function codeOf(call: () => unknown): Promise<string> {
  try {
    await call();
    return "done";
  } catch (error) {
    return error instanceof Error && "code" in error ? String(error.code) : String(error);
  }
}

describe.each(roles)("a caller with the role %s", (role) => {
  it.each(Object.entries(calls))(
    "may call %s only if the role has the right that the method requires",
    async (name, { right, call }) => {
      const { admin, as, audit } = await startService();
      await admin.createServer(as.admin, { slug: "github", url: "https://example.com" });
      const before = audit.kept.length;
      const code = await codeOf(() => call(admin, as[role]));
      if (hasRight(role, right) && !onlyLocal.includes(name)) {
        expect(code).not.toBe("NOT_ALLOWED");
      } else {
        expect(code).toBe("NOT_ALLOWED");
        expect(audit.kept.length).toBe(before);
      }
    },
  );
});

describe("the roles", () => {
  it("have exactly the rights in this list", () => {
    const rightsOf = (role: Role) =>
      Object.entries(rolesWithRight).flatMap(([right, list]) => (list.includes(role) ? [right] : []));
    expect(rightsOf("member").sort()).toEqual(["servers.call", "whoami"]);
    expect(rightsOf("auditor").sort()).toEqual(["calls.read", "changes.read", "whoami"]);
    expect(rightsOf("operator").sort()).toEqual(
      [
        "changes.read",
        "keys.read",
        "tokens.change",
        "tokens.read",
        "whoami",
        "workspaces.change",
        "workspaces.read",
      ].sort(),
    );
  });

  it("cannot be forged with an object that looks like a caller", async () => {
    const { admin, as } = await startService();
    const forged: Caller = Object.assign(Object.create(Object.prototype), { ...as.member, role: "admin" });
    expect(await codeOf(() => admin.listServers(forged))).toBe("TOKEN_REFUSED");
  });

  it("let nobody but a member call a server", async () => {
    const { admin, as, reader, tokens } = await startService();
    await admin.createServer(as.admin, { slug: "github", url: "https://example.com" });
    await reader.forCall(tokens.member, "github");
    for (const role of ["auditor", "admin"] as const) {
      expect(await codeOf(() => reader.forCall(tokens[role], "github"))).toBe("NOT_ALLOWED");
    }
    expect(await codeOf(() => reader.forCall(tokens.operator, "github"))).toBe("NOT_ALLOWED");
  });
});

describe("what a member reads", () => {
  it("never contains the name of a secret, even in an error", async () => {
    const { admin, as, reader, tokens } = await startService();
    const name = `NAME_${randomBytes(8).toString("hex")}`;
    await admin.createServer(as.admin, { slug: "github", url: "https://example.com" });
    await admin.setSecret(as.admin, "github", { name, value: "0123456789abcdef" });
    await admin.updateServer(as.admin, "github", { url: "https://other.example.com" });
    const seen: unknown[] = [];
    for (const { call } of Object.values(calls)) {
      seen.push(await Promise.resolve(call(admin, as.member)).catch((error: unknown) => error));
    }
    seen.push(await reader.forCall(tokens.member, "github").catch((error: unknown) => error));
    const { inspect } = await import("node:util");
    expect(inspect(seen, { depth: 10, showHidden: true })).not.toContain(name);
  });
});
