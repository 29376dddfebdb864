// A gateway over SQLite or Redis, in a process of its own. Parameters: the origin of the server that is called, the number of
// servers with tools, the number of other servers in the workspace, and the URL of a Redis server if the store is not SQLite.
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseAddressException, startGateway } from "@keyward/gateway";
import { RedisStore } from "@keyward/store-redis";
import { SqliteStore } from "@keyward/store-sqlite";
import { callAnswers } from "./call-answers.ts";
import { fillService } from "./service-fill.ts";
import { toolServerPath, toolServerSlug } from "./tool-server.ts";

const [origin = "", toolServers = "0", others = "0", redis] = process.argv.slice(2);
const folder = mkdtempSync(join(tmpdir(), "keyward-bench-gateway-"));
const service = await fillService(
  {
    make: () =>
      redis === undefined
        ? new SqliteStore(join(folder, "service.db"))
        : new RedisStore(redis, { prefix: `gateway${process.pid}` }),
    remove: () => {},
  },
  { servers: Number(others), tokens: 10, url: `${origin}/1-kib` },
);
const { store, keys, audit, admin, caller, member } = service;
for (const { name } of callAnswers) {
  for (const redacted of [true, false]) {
    const slug = `${name}-${redacted ? "redacted" : "plain"}`;
    await admin.createServer(caller, { slug, url: `${origin}/${name}`, kind: "mcp" });
    const value = `a-value-of-${slug}`.padEnd(40, "0123456789");
    await admin.setSecret(caller, slug, { name: "TOKEN", value, rule: { kind: "bearer" }, redacted });
  }
}
for (let number = 0; number < Number(toolServers); number++) {
  const slug = toolServerSlug(number);
  await admin.createServer(caller, { slug, url: `${origin}${toolServerPath}${number}`, kind: "mcp" });
  const value = `a-value-of-${slug}`.padEnd(40, "0123456789");
  await admin.setSecret(caller, slug, { name: "TOKEN", value, rule: { kind: "bearer" } });
}
const unlimited = 1_000_000_000;
const gateway = await startGateway({
  ...{ store, keys, audit, port: 0 },
  ready: () => admin.ready(),
  allowedAddresses: [parseAddressException(origin.replace("http://", ""))],
  limits: { callsPerSecond: unlimited, burstCalls: unlimited },
  onProblem: (problem) => console.error(problem),
});
process.on("message", () => process.send?.(process.cpuUsage()));
process.once("disconnect", async () => {
  await gateway.close();
  await service.close();
  rmSync(folder, { recursive: true, force: true });
  process.exit();
});
process.send?.({ url: gateway.url, token: member });
