import { randomBytes } from "node:crypto";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { exportKeyring, Keyring } from "@keyward/core";
import { parseAddressException, startGateway } from "@keyward/gateway";
import { fileKeys } from "@keyward/keys-env";
import { openAuditLog, SecretsAdmin, verifyAudit } from "@keyward/secrets";
import { SqliteStore } from "@keyward/store-sqlite";
import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { startMcpServer } from "./mcp-server.ts";
import { Stage } from "./stage.ts";

/** Shows one call through the gateway: the credential goes in, and does not come back. Returns true if every check passed. */
export async function runGatewayDemo(): Promise<boolean> {
  const stage = new Stage();
  const folder = await mkdtemp(join(tmpdir(), "keyward-demo-"));
  const keyringPath = join(folder, "keyring.json");
  const keyring = Keyring.generate("2026-11").withStores(["service", "audit"]);
  await writeFile(keyringPath, exportKeyring(keyring), { mode: 0o600 });
  const [keys, auditPath] = [fileKeys(keyringPath), join(folder, "audit.db")];
  const store = new SqliteStore(join(folder, "service.db"));
  const audit = openAuditLog({ path: auditPath, keys });
  const secrets = new SecretsAdmin({ store, keys, audit });
  const server = await startMcpServer();
  const gateway = await startGateway({
    store,
    keys,
    audit,
    ready: () => secrets.ready(),
    port: 0,
    allowedAddresses: [parseAddressException(new URL(server.url).host)],
  });
  try {
    const { admin: first } = await secrets.initialize();
    const admin = await secrets.authenticate(first.token);

    stage.begin("An admin sets the credential of a server once, and makes a token for a member");
    const value = `demo-${randomBytes(20).toString("hex")}`;
    await secrets.createServer(admin, { slug: "github", url: server.url });
    await secrets.setSecret(admin, "github", { name: "GITHUB_TOKEN", value, rule: { kind: "bearer" } });
    const member = await secrets.createToken(admin, { owner: "ci", role: "member", servers: ["github"] });
    const url = new URL(`${gateway.url}/s/github/mcp`);
    stage.show(`the client gets the URL ${url} and a token, and never the credential`);

    stage.begin("A real MCP client calls a tool that repeats its credential");
    const answer = await callTool(url, member.token);
    stage.show(`the server got  ${hidden(server.received.at(-1), value)}`);
    stage.show(`the client got  ${answer}`);
    stage.hold("the server got the credential", server.received.at(-1) === `Bearer ${value}`);
    stage.hold("the client did not", !answer.includes(value) && answer.includes("REDACTED"));

    stage.begin("The admin sets a new value, and the client calls again");
    const newValue = `demo-${randomBytes(20).toString("hex")}`;
    await secrets.setSecret(admin, "github", { name: "GITHUB_TOKEN", value: newValue });
    await callTool(url, member.token);
    stage.hold("the next call has the new value", server.received.at(-1) === `Bearer ${newValue}`);

    stage.begin("The admin revokes the token, and the client calls again");
    const calls = server.received.length;
    await secrets.revokeToken(admin, member.info.id);
    const refused = await callTool(url, member.token).catch(() => "refused");
    stage.show(`the client got  ${refused}`);
    stage.hold(
      "the call was refused, and the server got nothing",
      refused === "refused" && server.received.length === calls,
    );

    stage.begin("Who called what: the calls of the tool, and not those with which a client begins and ends");
    const { items } = await secrets.listCalls(admin);
    for (const call of items.filter(({ tool }) => tool !== undefined)) {
      const used = call.secrets.map(({ name, revision }) => `${name} at revision ${revision}`).join(", ");
      stage.show(
        `${call.caller.owner} called ${call.server} ${call.tool}: ${call.status}, with ${used}, ${call.redactions} replaced`,
      );
    }
    stage.hold("the audit has both calls of the tool", items.filter(({ tool }) => tool === "whoami").length === 2);
    stage.hold("no entry has the value", ![value, newValue].some((text) => JSON.stringify(items).includes(text)));
    const { ok, entries } = await verifyAudit({ path: auditPath, keys });
    stage.hold(`the ${entries} entries of the audit verify`, ok);
  } finally {
    await gateway.close();
    await server.close();
    await secrets.close();
    await audit.close();
    await store.disconnect();
    await rm(folder, { recursive: true, force: true });
  }
  stage.end();
  return stage.allHeld;
}

async function callTool(url: URL, token: string): Promise<string> {
  const client = new Client({ name: "demo", version: "1.0.0" });
  const transport = new StreamableHTTPClientTransport(url, {
    requestInit: { headers: { authorization: `Bearer ${token}` } },
  });
  await client.connect(transport);
  try {
    const { content } = await client.callTool({ name: "whoami", arguments: {} });
    return content.map((part) => (part.type === "text" ? part.text : part.type)).join(" ");
  } finally {
    await client.close();
  }
}

/** Returns a text with the value shortened, for a screen that others may see. */
function hidden(text: string | undefined, value: string): string {
  return (text ?? "nothing").replace(value, `${value.slice(0, 8)}…`);
}
