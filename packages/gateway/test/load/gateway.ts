// A gateway over SQLite with the server `events`, in a process of its own. Parameter: the URL of the server. Answers each
// message with the memory that is in use after a full garbage collection. Other processes may use its store, audit and keyring.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Keyring } from "@keyward/core";
import { parseAddressException, startGateway } from "@keyward/gateway";
import { fileKeys } from "@keyward/keys-env";
import { openAuditLog, SecretsAdmin } from "@keyward/secrets";
import { SqliteStore } from "@keyward/store-sqlite";

const [url = ""] = process.argv.slice(2);
const unlimited = 1_000_000_000;

const folder = mkdtempSync(join(tmpdir(), "keyward-load-"));
const store = new SqliteStore(join(folder, "service.db"));
const keys = fileKeys(join(folder, "keyring.json"));
await keys.create(Keyring.generate("k0"));
const audit = openAuditLog({ path: join(folder, "audit.db"), keys, replica: true });
const admin = new SecretsAdmin({ store, keys, audit });
const caller = await admin.authenticate((await admin.initialize()).admin.token);
await admin.createServer(caller, { slug: "events", url, kind: "mcp" });
const value = "a-value-of-the-load-0123456789abcdefghij";
await admin.setSecret(caller, "events", { name: "TOKEN", value, rule: { kind: "bearer" } });
const { token } = await admin.createToken(caller, { owner: "load", role: "member" });
const gateway = await startGateway({
  ...{ store, keys, audit, port: 0, replica: true },
  ready: () => admin.ready(),
  allowedAddresses: [parseAddressException(new URL(url).host)],
  limits: {
    callsPerSecond: unlimited,
    burstCalls: unlimited,
    concurrentCalls: unlimited,
    concurrentCallsOfToken: unlimited,
    concurrentCallsOfServer: unlimited,
  },
  onProblem: (problem) => console.error(problem),
});
process.on("message", () => {
  globalThis.gc?.();
  process.send?.(process.memoryUsage());
});
process.once("disconnect", async () => {
  await gateway.close();
  await admin.close();
  await audit.close();
  await store.disconnect();
  rmSync(folder, { recursive: true, force: true });
});
process.send?.({ url: `${gateway.url}/s/events/mcp`, token, folder });
