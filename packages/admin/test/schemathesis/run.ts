// Runs Schemathesis against a real admin server, and counts the statuses of each route. Not part of the test suite.
//
//   python3 -m venv /tmp/schemathesis && /tmp/schemathesis/bin/pip install schemathesis
//   node packages/admin/test/schemathesis/run.ts /tmp/schemathesis/bin/schemathesis 300 [more arguments]
//
// The second argument is the time in seconds for each role. Ends with the status 1 if the server answered with a 5xx.
import { spawn } from "node:child_process";
import { subscribe } from "node:diagnostics_channel";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { startAdminServer } from "@keyward/admin";
import { Keyring } from "@keyward/core";
import { type Caller, openAuditLog, SecretsAdmin, SecretsError } from "@keyward/secrets";
import { SqliteStore } from "@keyward/store-sqlite";

const [program = "schemathesis", seconds = "300", ...more] = process.argv.slice(2);
const folder = mkdtempSync(join(tmpdir(), "keyward-schemathesis-"));
const store = new SqliteStore(join(folder, "service.db"));
const keys = Keyring.generate();
const audit = openAuditLog({ path: join(folder, "audit.db"), keys });
const admin = new SecretsAdmin({ store, keys, audit });
const first = await admin.initialize();
const operator = await admin.authenticate(first.operator.token);
const workspaceAdmin = await admin.authenticate(first.admin.token);
// Creates the servers, secrets and tokens that the examples of the OpenAPI document name.
await admin.createWorkspace(operator, { name: "payments", adminOwner: "Ada Example" });
await admin.createServer(workspaceAdmin, { slug: "github", url: "https://mcp.example.com/mcp" });
await admin.setSecret(workspaceAdmin, "github", {
  name: "API_TOKEN",
  value: "a-value-for-a-test",
  rule: { kind: "bearer" },
});
const auditor = await admin.createToken(workspaceAdmin, { owner: "auditor", role: "auditor" });
const member = await admin.createToken(workspaceAdmin, { owner: "member", role: "member" });

// Schemathesis revokes and rotates the tokens that it finds, its own as well: the next request then uses a new token.
const texts = new Map<string, string>();
async function current(role: string, text: string): Promise<Caller> {
  try {
    return await admin.authenticate(texts.get(role) ?? text);
  } catch (error) {
    if (!(error instanceof SecretsError) || error.code !== "TOKEN_REFUSED") throw error;
  }
  const local = admin.localOperator();
  const isOperator = role === "operator";
  const recovered = await admin.recoverToken(local, { owner: role, ...(isOperator ? {} : { workspace: "main" }) });
  const keeper = await admin.authenticate(recovered.token);
  const issued =
    role === "auditor" || role === "member" ? await admin.createToken(keeper, { owner: role, role }) : recovered;
  texts.set(role, issued.token);
  return await admin.authenticate(issued.token);
}
const roles = new Map([
  [first.admin.token, "admin"],
  [auditor.token, "auditor"],
  [member.token, "member"],
  [first.operator.token, "operator"],
]);
const authenticate: SecretsAdmin["authenticate"] = (token, options) => {
  const role = roles.get(token);
  return role === undefined ? admin.authenticate(token, options) : current(role, token);
};
const service = new Proxy(admin, {
  get: (target, name) => {
    if (name === "authenticate") return authenticate;
    const member: unknown = Reflect.get(target, name);
    return typeof member === "function" ? member.bind(target) : member;
  },
});

const counts = new Map<string, Map<string, number>>();
let authenticated = 0;
let failures = 0;

function isExchange(message: unknown): message is { request: IncomingMessage; response: ServerResponse } {
  return typeof message === "object" && message !== null && "request" in message && "response" in message;
}

function routeOf({ method, url = "" }: IncomingMessage): string {
  const path = url.replace(/\?.*$/s, "").replace("/api/v1/admin", "");
  const parts = path.split("/").map((part, index) => {
    const known =
      /^(?:whoami|changes|calls|explanation|keys|census|rotation|workspaces|mcp-servers|secrets|injection|tokens|rotate|openapi\.json|)$/;
    return known.test(part) && index !== 2 ? part : index === 2 && /^(?:census|rotation)$/.test(part) ? part : "{}";
  });
  return parts.length > 6 ? `${method} other` : `${method} ${parts.join("/")}`;
}

subscribe("http.server.response.finish", (message) => {
  if (!isExchange(message)) return;
  const { request, response } = message;
  const route = routeOf(request);
  const statuses = counts.get(route) ?? new Map<string, number>();
  counts.set(route, statuses);
  const status = String(response.statusCode);
  statuses.set(status, (statuses.get(status) ?? 0) + 1);
  if (request.headers.authorization !== undefined && response.statusCode !== 401) authenticated++;
  if (response.statusCode >= 500) failures++;
});

const server = await startAdminServer({
  admin: service,
  port: 0,
  limits: "lifted",
  onError: (error) => console.error("The server failed:", error),
});

for (const [role, token, share] of [
  ["admin", first.admin.token, 1],
  ["auditor", auditor.token, 0.1],
  ["member", member.token, 0.1],
  // Last, because an operator can delete the workspace of the others.
  ["operator", first.operator.token, 0.5],
] as const) {
  const before = authenticated;
  const child = spawn(
    program,
    [
      "run",
      `${server.url}/api/v1/admin/openapi.json`,
      "--header",
      `Authorization: Bearer ${token}`,
      "--max-time",
      String(Math.ceil(Number(seconds) * share)),
      "--continue-on-failure",
      // A revision that changed, a cursor of another list or a URL without a host is valid for the schema only.
      "--exclude-checks",
      "positive_data_acceptance",
      "--generation-database",
      "none",
      "--no-color",
      "--output-truncate",
      "true",
      ...more,
    ],
    { stdio: "inherit", cwd: folder },
  );
  await once(child, "exit");
  console.log(`${role}: ${authenticated - before} authenticated requests`);
}
await server.close();
await admin.close();
await audit.close();
await store.disconnect();
rmSync(folder, { recursive: true, force: true });

for (const [route, statuses] of [...counts].sort()) {
  const shown = [...statuses].sort().map(([status, count]) => `${status}: ${count}`);
  console.log(route.padEnd(60), shown.join(", "));
}
console.log(`${authenticated} authenticated requests, ${failures} answers with a status from 500`);
process.exitCode = failures === 0 ? 0 : 1;
