import { once } from "node:events";
import { copyFile, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { fileKeys } from "@keyward/keys-env";
import { type Call, openAuditLog } from "@keyward/secrets";
import { newCallId } from "@keyward/secrets/reader";
import { expect, onTestFinished } from "vitest";
import { exportClients } from "../src/service/client-configuration/exported.ts";
import { copyOfService, startGateway } from "./gateway-process.ts";
import { keyward, keywardReading, startKeyward } from "./keyward-process.ts";

type Fields = Readonly<Record<string, unknown>>;

/** What a case needs of the operator who runs a command with `--json`. */
interface ServiceDesk {
  readonly folder: string;
  env: Readonly<Record<string, string>>;
  path(name: string): string;
  do(...commandLine: readonly string[]): Promise<Fields>;
  result(...flags: readonly string[]): Promise<Fields>;
  resultOf(how: { readonly input?: string; readonly exitCode?: number }, ...flags: readonly string[]): Promise<Fields>;
  failure(code: string, ...flags: readonly string[]): Promise<Fields>;
}

const server = ["github", "https://mcp.example.com/mcp"] as const;
const value = { input: "a-value-that-is-not-printed" };

/** Sets a service up in the folder of the desk, starts it, and logs the desk in as the first admin. */
async function logIn(desk: ServiceDesk, role: "admin" | "operator" = "admin"): Promise<void> {
  desk.env = {};
  const { admin, operator } = await copyOfService(desk.folder);
  const { url } = await startGateway(desk.folder);
  desk.env = { KEYWARD_URL: url, KEYWARD_TOKEN: role === "admin" ? admin : operator };
}

/** Logs in, and adds a server with a secret. */
async function withSecret(desk: ServiceDesk): Promise<void> {
  await logIn(desk);
  await desk.do("servers", "add", ...server);
  const set = await keywardReading(value.input, desk.folder, desk.env, "secrets", "set", "github", "TOKEN", "--bearer");
  expect(set.exitCode).toBe(0);
}

/** Returns the id of the token that a result has. */
function idOf({ info }: Fields): string {
  return typeof info === "object" && info !== null && "id" in info ? String(info.id) : "";
}

/** Records calls in the audit of the desk, as the gateway does. Returns their ids. */
async function recordCalls(desk: ServiceDesk, ...calls: readonly Partial<Call>[]): Promise<string[]> {
  const keys = fileKeys(desk.path(".keyward/keyring.json"));
  const audit = openAuditLog({ path: desk.path(".keyward/audit.db"), keys });
  const [, workspace = ""] = String(desk.env["KEYWARD_TOKEN"]).split("_");
  const ids: string[] = [];
  for (const call of calls) {
    const callId = newCallId();
    await audit.recordCall({
      callId,
      at: Date.now() - 35,
      workspace,
      caller: { tokenId: "t0ken0000001", owner: "ci", role: "member", address: "192.0.2.7" },
      server: "github",
      method: "POST",
      path: "/mcp",
      mcpMethod: "tools/call",
      tool: "create_issue",
      status: 200,
      durationMs: 35,
      requestBytes: 120,
      answerBytes: 900,
      secrets: [{ name: "TOKEN", revision: 1 }],
      redactions: 0,
      ...call,
    });
    ids.push(callId);
  }
  await audit.close();
  return ids;
}

/** For each command of the secrets service: what it prints as a result, and as an error. */
export function serviceCases(
  expectValid: (name: string, stdout: string) => Fields,
): Readonly<Record<string, (desk: ServiceDesk) => Promise<void>>> {
  return {
    "gateway-init": async (desk) => {
      desk.env = {};
      const { tokensFile, tokens } = await desk.result();
      expect(tokens).toBeNull();
      expect(await readFile(String(tokensFile), "utf8")).toMatch(/^operator {2}kwt_service_.*\nadmin {5}kwt_.*\n$/);
      await desk.failure("ALREADY_INITIALIZED");
      await rm(desk.path(".keyward"), { recursive: true });
      await rm(desk.path("keyward.config.ts"));
      expect(await desk.result("--print-tokens", "--workspace", "other")).toMatchObject({
        workspace: "other",
        tokens: { operator: expect.stringMatching(/^kwt_/) },
        tokensFile: null,
      });
    },
    "gateway-start": async (desk) => {
      desk.env = {};
      await desk.failure("USAGE");
      await copyOfService(desk.folder);
      const { printed, stop } = await startGateway(desk.folder);
      expect(expectValid("gateway-start", printed().stdout)).toMatchObject({ initialized: false, tokensFile: null });
      expect(await stop()).toBe(0);
      const other = createServer().listen(0, "127.0.0.1");
      onTestFinished(() => void other.close());
      await expect.poll(() => other.address()).not.toBeNull();
      const address = other.address();
      const port = typeof address === "object" ? String(address?.port) : "";
      await desk.failure("STORE_UNAVAILABLE", "--port", port);
    },
    "gateway-doctor": async (desk) => {
      desk.env = {};
      await desk.failure("USAGE");
      await copyOfService(desk.folder);
      expect(await desk.result()).toMatchObject({ problems: 0 });
      const { findings } = await desk.resultOf({ exitCode: 1 }, "--url", "http://127.0.0.1:1");
      expect(findings).toContainEqual(expect.objectContaining({ level: "problem", subject: "service" }));
    },
    login: async (desk) => {
      await logIn(desk);
      const { KEYWARD_URL: url = "", KEYWARD_TOKEN: token = "" } = desk.env;
      desk.env = { XDG_CONFIG_HOME: desk.folder };
      await desk.failure("USAGE", "--url", url, "--token", "kwt_any");
      expect(await desk.resultOf({ input: token }, "--url", url)).toMatchObject({ role: "admin", expiresAtMs: null });
    },
    logout: async (desk) => {
      desk.env = { XDG_CONFIG_HOME: desk.folder };
      expect(await desk.result()).toMatchObject({ removed: false });
      desk.env = { XDG_CONFIG_HOME: desk.path("file") };
      await writeFile(desk.path("file"), "");
      await desk.failure("USAGE");
    },
    "workspaces-create": async (desk) => {
      await logIn(desk, "operator");
      expect(await desk.result("payments", "--owner", "Ada")).toMatchObject({ workspace: { name: "payments" } });
      await desk.failure("WORKSPACE_EXISTS", "payments", "--owner", "Ada");
    },
    "workspaces-list": async (desk) => {
      desk.env = { XDG_CONFIG_HOME: desk.folder };
      await desk.failure("USAGE");
      await logIn(desk, "operator");
      expect(await desk.result()).toMatchObject({ workspaces: [{ name: "main" }], complete: true });
    },
    "workspaces-delete": async (desk) => {
      await logIn(desk, "operator");
      await desk.failure("NOT_CONFIRMED", "main");
      expect(await desk.result("main", "--yes")).toEqual({ workspace: "main", deleted: true });
    },
    "servers-add": async (desk) => {
      await logIn(desk);
      expect(await desk.result(...server)).toMatchObject({ server: { slug: "github", kind: "mcp" } });
      const flags = ["--forward-header", "X-Api-Version", "--forward-header", "x-b", "--relay-header", "x-c"];
      expect(await desk.result("api", "https://api.example.com", "--kind", "http", ...flags)).toMatchObject({
        server: { forwardHeaders: ["x-api-version", "x-b"], relayHeaders: ["x-c"] },
      });
      await desk.failure("FIELD_INVALID", "b", "https://b.example.com", "--forward-header", "cookie");
      expect(await desk.failure("SERVER_EXISTS", ...server)).toMatchObject({ requestId: expect.any(String) });
    },
    "servers-list": async (desk) => {
      await logIn(desk);
      await desk.do("servers", "add", ...server);
      await desk.do("servers", "add", "other", "https://other.example.com", "--kind", "http");
      expect(await desk.result()).toMatchObject({ servers: [{ slug: "other" }, { slug: "github" }], complete: true });
      expect(await desk.result("--limit", "1")).toMatchObject({ servers: [{ slug: "other" }], complete: false });
      desk.env = { ...desk.env, KEYWARD_TOKEN: "kwt_none" };
      await desk.failure("TOKEN_REFUSED");
    },
    "servers-show": async (desk) => {
      await logIn(desk);
      await desk.failure("SERVER_NOT_FOUND", "github");
      await desk.do("servers", "add", ...server);
      expect(await desk.result("github")).toMatchObject({ server: { url: server[1] } });
    },
    "servers-set": async (desk) => {
      await logIn(desk);
      await desk.do("servers", "add", ...server);
      expect(await desk.result("github", "--disable")).toMatchObject({ server: { disabled: true, revision: 1 } });
      const flags = ["--forward-header", "x-a", "--forward-header", "x-b", "--relay-header", "x-c"];
      const lists = { forwardHeaders: ["x-a", "x-b"], relayHeaders: ["x-c"] };
      expect(await desk.result("github", ...flags)).toMatchObject({ server: lists });
      expect(await desk.result("github", "--enable")).toMatchObject({ server: lists });
      expect(await desk.result("github", "--no-forward-headers", "--relay-header", "x-d")).toMatchObject({
        server: { forwardHeaders: [], relayHeaders: ["x-d"] },
      });
      await desk.failure("USAGE", "github", "--no-relay-headers", "--relay-header", "x-d");
      await desk.failure("REVISION_CHANGED", "github", "--enable", "--if-revision", "0");
    },
    "servers-remove": async (desk) => {
      await logIn(desk);
      await desk.do("servers", "add", ...server);
      await desk.failure("NOT_CONFIRMED", "github");
      expect(await desk.result("github", "--yes")).toEqual({ server: "github", removed: true });
    },
    "secrets-set": async (desk) => {
      await logIn(desk);
      await desk.do("servers", "add", ...server);
      await desk.failure("USAGE", "github", "TOKEN");
      expect(await desk.resultOf(value, "github", "TOKEN", "--bearer")).toMatchObject({
        secret: { name: "TOKEN", injection: { kind: "bearer", header: null } },
        created: true,
      });
      expect(
        await desk.resultOf(value, "github", "MY_KEY", "--template", "token {value}", "--header", "X-Key"),
      ).toMatchObject({
        secret: { injection: { kind: "template", header: "X-Key", template: "token {value}" } },
      });
      const flags = ["--expires", "2100-01-31", "--no-redact"];
      expect(await desk.resultOf(value, "github", "OTHER_KEY", ...flags)).toMatchObject({
        secret: { injection: { header: "OTHER_KEY" }, redacted: false, expiresAtMs: Date.parse("2100-01-31") },
        warnings: [expect.any(String), expect.any(String)],
      });
    },
    "secrets-inject": async (desk) => {
      await withSecret(desk);
      expect(await desk.result("github", "TOKEN", "--header", "X-Token")).toMatchObject({
        secret: { injection: { kind: "header", header: "X-Token" } },
        created: false,
      });
      await desk.failure("USAGE", "github", "TOKEN");
      await desk.failure("FIELD_INVALID", "github", "TOKEN", "--header", "host");
    },
    "secrets-list": async (desk) => {
      await withSecret(desk);
      expect(await desk.result("github")).toMatchObject({
        secrets: [{ name: "TOKEN", revision: 1, lastUsedAtMs: null }],
      });
      await desk.failure("SERVER_NOT_FOUND", "other");
    },
    "secrets-delete": async (desk) => {
      await withSecret(desk);
      await desk.failure("USAGE", "github");
      await desk.failure("NOT_CONFIRMED", "github", "TOKEN");
      expect(await desk.result("github", "TOKEN", "--yes")).toEqual({ server: "github", names: ["TOKEN"] });
      expect(await desk.result("github", "--all", "--yes")).toEqual({ server: "github", names: [] });
    },
    "secrets-import": async (desk) => {
      await logIn(desk);
      await desk.do("servers", "add", ...server);
      await desk.failure("USAGE", "github", ".env");
      await writeFile(desk.path(".env"), "FIRST_KEY=the-first-value-of-two\nHost=the-second-value\n");
      await desk.failure("USAGE", "github", ".env");
      await writeFile(desk.path(".env"), "FIRST_KEY=the-first-value-of-two\nSECOND_KEY=the-second-value\n");
      expect(await desk.result("github", ".env")).toMatchObject({
        secrets: [
          { name: "FIRST_KEY", created: true, error: null },
          { name: "SECOND_KEY", created: true, error: null },
        ],
      });
    },
    import: async (desk) => {
      await logIn(desk);
      await desk.failure("USAGE", "mcp.json");
      const headers = { Authorization: `Bearer ${value.input}`, Accept: "*/*", Cookie: "a" };
      const whole = { github: { url: server[1], headers: { Authorization: headers.Authorization } } };
      await writeFile(desk.path("mcp.json"), JSON.stringify({ mcpServers: whole }));
      expect(await desk.result("mcp.json", "--dry-run")).toMatchObject({
        dryRun: true,
        servers: [{ outcome: "added" }],
      });
      expect(await desk.result("mcp.json")).toMatchObject({
        servers: [{ name: "github", slug: "github", outcome: "added", headers: [{ outcome: "set" }], error: null }],
      });
      const mcpServers = { ...whole, local: { command: "npx" }, other: { url: server[1], headers } };
      await writeFile(desk.path("mcp.json"), JSON.stringify({ mcpServers }));
      expect(await desk.resultOf({ exitCode: 1 }, "mcp.json", "--replace")).toMatchObject({
        servers: [
          { outcome: "present", headers: [{ secret: "Authorization", outcome: "replaced" }] },
          { slug: null, outcome: "not-imported", error: { code: "USAGE" } },
          { outcome: "added", headers: [{ outcome: "set" }, { outcome: "skipped" }, { outcome: "not-set" }] },
        ],
      });
    },
    export: async (desk) => {
      await logIn(desk);
      await desk.failure("USAGE", "--each-server");
      await desk.do("servers", "add", ...server);
      for (const client of exportClients) {
        expect(await desk.result("--client", client)).toMatchObject({ client, complete: true });
        expect(JSON.stringify(await desk.result("--client", client, "--each-server"))).toContain("/s/github/mcp");
      }
    },
    "tokens-create": async (desk) => {
      await logIn(desk);
      await desk.failure("SERVER_NOT_FOUND", "--owner", "ci", "--servers", "github");
      await desk.do("servers", "add", ...server);
      const flags = ["--servers", "github", "--tools", "a,b", "--methods", "get,post", "--expires", "2100-01-31"];
      expect(await desk.result("--owner", "ci", ...flags)).toMatchObject({
        info: { owner: "ci", role: "member", servers: ["github"], tools: ["a", "b"], methods: ["GET", "POST"] },
        urls: [expect.stringMatching(/\/s\/github\/mcp$/)],
      });
    },
    "tokens-list": async (desk) => {
      await logIn(desk);
      expect(await desk.result()).toMatchObject({ tokens: [{ owner: "first admin", role: "admin" }], complete: true });
      expect(await desk.result("--owner", "none")).toMatchObject({ tokens: [] });
      desk.env = { KEYWARD_URL: "http://127.0.0.1:1", KEYWARD_TOKEN: "kwt_none" };
      await desk.failure("SERVICE_UNREACHABLE");
    },
    "tokens-rotate": async (desk) => {
      await logIn(desk);
      const id = idOf(await desk.do("tokens", "create", "--owner", "ci"));
      expect(await desk.result(id, "--overlap", "1h")).toMatchObject({ info: { owner: "ci" } });
      await desk.failure("TOKEN_NOT_FOUND", "aaaaaaaaaaaa");
    },
    "tokens-revoke": async (desk) => {
      await logIn(desk);
      const id = idOf(await desk.do("tokens", "create", "--owner", "ci"));
      await desk.failure("NOT_CONFIRMED", id);
      expect(await desk.result(id, "--yes")).toEqual({ tokenIds: [id] });
      expect(await desk.result("--owner", "ci", "--yes")).toEqual({ tokenIds: [] });
      await desk.failure("LAST_ADMIN", "--owner", "first admin", "--yes");
    },
    "tokens-recover": async (desk) => {
      desk.env = {};
      await copyOfService(desk.folder);
      expect(await desk.result()).toMatchObject({ info: { role: "operator", owner: "recovered" }, urls: [] });
      expect(await desk.result("--workspace", "main", "--owner", "Ada")).toMatchObject({ info: { role: "admin" } });
      await desk.failure("WORKSPACE_NOT_FOUND", "--workspace", "other");
    },
    changes: async (desk) => {
      await withSecret(desk);
      const { changes } = await desk.result("--server", "github");
      expect(changes).toMatchObject([
        { action: "secret.set", subject: "TOKEN", outcome: "done", revision: 1 },
        { action: "server.create", owner: "first admin", role: "admin", address: "127.0.0.1" },
      ]);
      expect(await desk.result("--action", "secret.set", "--from", "2020-01-01")).toMatchObject({ changes: [{}] });
      await desk.failure("USAGE", "--action", "secret.read");
    },
    "secrets-explain": async (desk) => {
      await withSecret(desk);
      const id = idOf(await desk.do("tokens", "create", "--owner", "ci", "--tools", "search"));
      const flags = ["--server", "github", "--token-id", id];
      expect(await desk.result(...flags)).toMatchObject({
        refusals: [],
        token: { id, owner: "ci", role: "member" },
        server: { slug: "github", host: "mcp.example.com" },
        secrets: [{ name: "TOKEN", revision: 1, injection: { kind: "bearer" }, header: "Authorization" }],
      });
      expect(await desk.result(...flags, "--tool", "delete")).toMatchObject({ refusals: ["TOOL_OUT_OF_SCOPE"] });
      await desk.failure("TOKEN_NOT_FOUND", "--server", "github", "--token-id", "aaaaaaaaaaaa");
      await desk.failure("USAGE", ...flags, "--method", "GET");
      await desk.do("servers", "add", "api", "https://api.example.com", "--kind", "http");
      const reader = await desk.do("tokens", "create", "--owner", "reader", "--methods", "get");
      const ofApi = ["--server", "api", "--token-id", idOf(reader)];
      expect(await desk.result(...ofApi, "--method", "get")).toMatchObject({ refusals: [] });
      expect(await desk.result(...ofApi, "--method", "POST")).toMatchObject({ refusals: ["METHOD_OUT_OF_SCOPE"] });
      await desk.failure("USAGE", ...ofApi, "--tool", "delete");
    },
    "calls-list": async (desk) => {
      await logIn(desk);
      const ids = await recordCalls(desk, {}, { tool: undefined, status: undefined, reason: "TOKEN_REVOKED" });
      const { calls, complete } = await desk.result();
      expect({ calls, complete }).toMatchObject({
        calls: [
          { callId: ids[1], outcome: "refused", status: null, reason: "TOKEN_REVOKED" },
          { callId: ids[0], outcome: "answered", status: 200, secrets: [{ name: "TOKEN", revision: 1 }] },
        ],
        complete: true,
      });
      const flags = ["--owner", "ci", "--server", "github", "--tool", "create_issue", "--token-id", "t0ken0000001"];
      expect(await desk.result(...flags, "--outcome", "answered", "--from", "2020-01-01")).toMatchObject({
        calls: [{ callId: ids[0] }],
      });
      expect(await desk.result("--until", "2020-01-01")).toMatchObject({ calls: [] });
      await desk.failure("USAGE", "--outcome", "lost");
    },
    "calls-tail": async (desk) => {
      await logIn(desk);
      await recordCalls(desk, { server: "before" });
      const child = startKeyward(desk.folder, desk.env, "calls", "tail", "--every", "100ms", "--json");
      onTestFinished(() => void child.kill("SIGKILL"));
      const ended = once(child, "close");
      let [stdout, stderr] = ["", ""];
      child.stdout.on("data", (data) => {
        stdout += String(data);
      });
      child.stderr.on("data", (data) => {
        stderr += String(data);
      });
      await expect.poll(() => stderr, { timeout: 20_000 }).toContain("until Ctrl-C");
      const ids = await recordCalls(desk, { server: "first" }, { server: "second" });
      await expect.poll(() => stdout.split("\n").length, { timeout: 20_000 }).toBeGreaterThan(2);
      ids.push(...(await recordCalls(desk, { at: Date.now() - 40_000, durationMs: 40_000 })));
      await expect.poll(() => stdout.split("\n").length, { timeout: 20_000 }).toBeGreaterThan(3);
      child.kill("SIGINT");
      await ended;
      const lines = stdout.trimEnd().split("\n");
      const calls = lines.slice(0, 3).map((line) => expectValid("calls-tail", `${line}\n`));
      expect(calls.map(({ callId }) => callId)).toEqual(ids);
      desk.env = { KEYWARD_URL: "http://127.0.0.1:1", KEYWARD_TOKEN: "kwt_none" };
      await desk.failure("SERVICE_UNREACHABLE");
    },
    "calls-explain": async (desk) => {
      await logIn(desk);
      const [id = ""] = await recordCalls(desk, { redactions: 2 });
      expect(await desk.result(id)).toMatchObject({
        call: { callId: id, owner: "ci", secrets: [{ name: "TOKEN", revision: 1 }], redactions: 2 },
      });
      await desk.failure("CALL_NOT_FOUND", "aaaaaaaaaaaa");
    },
    "audit-verify": async (desk) => {
      desk.env = {};
      await desk.failure("USAGE");
      await copyOfService(desk.folder);
      expect(await desk.result()).toMatchObject({ ok: true, problems: [], openChains: [] });
      await desk.do("audit", "anchor", "--out", "anchor.json");
      const anchor: { heads: object[] } = JSON.parse(await readFile(desk.path("anchor.json"), "utf8"));
      const heads = [
        ...anchor.heads,
        { workspace: "service", chain: "aaaaaaaaaaaa", sequence: 1, hash: "0".repeat(64) },
      ];
      await writeFile(desk.path("other.json"), JSON.stringify({ ...anchor, heads }));
      const { problems } = await desk.resultOf({ exitCode: 1 }, "--anchor", "other.json");
      expect(problems).toMatchObject([{ chain: "aaaaaaaaaaaa", sequence: null }]);
      // A process that runs has chains without a closing entry.
      const { url } = await startGateway(desk.folder);
      await keyward(desk.folder, { KEYWARD_URL: url, KEYWARD_TOKEN: "kwt_none" }, "servers", "list");
      expect(await desk.result()).toMatchObject({ ok: true });
    },
    "audit-anchor": async (desk) => {
      desk.env = {};
      await copyOfService(desk.folder);
      expect(await desk.result("--out", "anchor.json")).toMatchObject({ file: "anchor.json" });
      expect(await desk.result()).toMatchObject({
        anchor: { version: 1, heads: [{ workspace: "service" }] },
        file: null,
      });
      const audit = desk.path(".keyward/audit.db");
      await copyFile(audit, desk.path("older.db"));
      await desk.do("tokens", "recover", "--owner", "thief");
      expect(await desk.result("--out", "anchor.json")).toMatchObject({ file: "anchor.json" });
      const anchors = await readFile(desk.path("anchor.json"), "utf8");
      expect(anchors.trimEnd().split("\n")).toHaveLength(2);
      // An attacker puts the audit back. Then the next anchor is made, also without the check.
      for (const suffix of ["-wal", "-shm"]) await rm(audit + suffix, { force: true });
      await copyFile(desk.path("older.db"), audit);
      await desk.failure("AUDIT_INVALID", "--out", "anchor.json");
      expect(await readFile(desk.path("anchor.json"), "utf8")).toBe(anchors);
      const { anchor } = await desk.result();
      await writeFile(desk.path("anchor.json"), `${anchors}${JSON.stringify(anchor)}\n`);
      const verified = await keyward(desk.folder, {}, "audit", "verify", "--anchor", "anchor.json");
      expect(verified).toMatchObject({ exitCode: 1, stdout: expect.stringContaining("PROBLEM") });
    },
    "audit-export": async (desk) => {
      desk.env = {};
      await desk.failure("USAGE");
      await copyOfService(desk.folder);
      const { stdout, exitCode } = await keyward(desk.folder, {}, "audit", "export", "--json");
      expect(exitCode).toBe(0);
      const entries = stdout
        .trimEnd()
        .split("\n")
        .map((line) => expectValid("audit-export", `${line}\n`));
      expect(entries.map(({ kind }) => kind)).toEqual(["chain-opened", "change", "outcome", "chain-closed"]);
    },
  };
}
