// A gateway over SQLite, in a process of its own. Parameters: the number of members, and `slug=URL` for each server. Answers each
// message with the memory that is in use after a full garbage collection. Other processes may use its store, audit and keyring.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Keyring } from "@keyward/core";
import { GatewayProblem, parseAddressException, startGateway } from "@keyward/gateway";
import { fileKeys } from "@keyward/keys-env";
import { openAuditLog, SecretsAdmin } from "@keyward/secrets";
import { SqliteStore } from "@keyward/store-sqlite";

const [members = "1", ...given] = process.argv.slice(2);
const servers = given.map((pair) => {
  const [slug = "", url = ""] = pair.split("=");
  return { slug, url };
});
const unlimited = 1_000_000_000;

const folder = mkdtempSync(join(tmpdir(), "keyward-load-"));
const store = new SqliteStore(join(folder, "service.db"));
const keys = fileKeys(join(folder, "keyring.json"));
await keys.create(Keyring.generate("k0"));
const audit = openAuditLog({ path: join(folder, "audit.db"), keys, replica: true });
const admin = new SecretsAdmin({ store, keys, audit });
const caller = await admin.authenticate((await admin.initialize()).admin.token);
const value = "a-value-of-the-load-0123456789abcdefghij";
for (const { slug, url } of servers) {
  await admin.createServer(caller, { slug, url, kind: "mcp" });
  await admin.setSecret(caller, slug, { name: "TOKEN", value, rule: { kind: "bearer" } });
}
const tokens: string[] = [];
for (let index = 0; index < Number(members); index++) {
  tokens.push((await admin.createToken(caller, { owner: `load-${index}`, role: "member" })).token);
}
const gateway = await startGateway({
  ...{ store, keys, audit, port: 0, replica: true },
  ready: () => admin.ready(),
  allowedAddresses: servers.map(({ url }) => parseAddressException(new URL(url).host)),
  limits: {
    callsPerSecond: unlimited,
    burstCalls: unlimited,
    concurrentCalls: unlimited,
    concurrentCallsOfToken: unlimited,
    concurrentCallsOfServer: unlimited,
  },
  onProblem: (problem) => {
    // The servers of a load may be unreliable.
    if (!(problem instanceof GatewayProblem && problem.code.startsWith("SERVER_"))) console.error(problem);
  },
});
process.on("message", () => {
  globalThis.gc?.();
  process.send?.({ ...process.memoryUsage(), openCalls: gateway.openCalls });
});
process.once("disconnect", async () => {
  await gateway.close();
  await admin.close();
  await audit.close();
  await store.disconnect();
  rmSync(folder, { recursive: true, force: true });
});
process.send?.({ url: gateway.url, tokens, folder });
