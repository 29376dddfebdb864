// Runs the conformance suites of MCP against a server directly and through the gateway, and compares every check of every
// scenario. Not part of the test suite: the suites are installed with npm into the user's cache.
//
//   node --conditions development packages/gateway/test/conformance/run.ts [--workspace] [scenario …]
//
// With --workspace, the gateway is called by its endpoint for all servers of a workspace, with mapped names.
// Ends with the status 1 if a check differs without a reason in `explained`, or if an explained check no longer differs.
// The exit codes of the suites say less: they pass a gateway that drops `Last-Event-ID`, or refuses GET.
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { z } from "zod";
import { startMcpServer } from "../peers/mcp-server.ts";
import { addConformanceTools } from "./conformance-tools.ts";
import { startGatewayWithToken } from "./gateway-with-token.ts";
import { installedTools, runProgram } from "./tools.ts";

const suites = [
  { name: "0.1.16", module: "conformance-0.1", given: ["--suite", "all"] },
  { name: "0.2.0-alpha.12, 2025-11-25", module: "conformance-0.2", given: ["--requirements", "2025-11-25"] },
  { name: "0.2.0-alpha.12, 2026-07-28", module: "conformance-0.2", given: ["--requirements", "2026-07-28"] },
] as const;

/** Why a check differs, by scenario, id and name of the check. */
const explainedAtServer: Readonly<Record<string, string>> = {
  "dns-rebinding-protection localhost-host-rebinding-rejected DNSRebindingRejected":
    "The gateway compares Host and Origin with its own names, and this server does not.",
};

const isJson = "The endpoint answers with JSON if nothing comes before the response, and the check wants streams.";
const isNotResumed = "A stream of the endpoint cannot be resumed: its events have no ids.";
const explainedAtWorkspace: Readonly<Record<string, string>> = {
  ...explainedAtServer,
  "server-sse-multiple-streams server-sse-streams-functional ServerSSEStreamsFunctional": isJson,
  "server-sse-polling server-sse-priming-event ServerSendsPrimingEvent": isNotResumed,
  "server-sse-polling server-sse-retry-field ServerSendsRetryField": isNotResumed,
  "server-sse-polling server-sse-disconnect-resume ServerDisconnectResume": isNotResumed,
};

/** The status of each check of each scenario. A check that was made more than once has one status for each time. */
type Results = ReadonlyMap<string, ReadonlyMap<string, readonly string[]>>;

const checks = z.array(z.object({ id: z.string(), name: z.string(), status: z.string() }));

async function resultsOf(folder: string): Promise<Results> {
  const results = new Map<string, Map<string, string[]>>();
  for (const name of (await readdir(folder)).sort()) {
    const scenario = name.replace(/^server-/, "").replace(/-\d{4}-\d\d-\d\dT.*$/, "");
    const statuses = results.get(scenario) ?? new Map<string, string[]>();
    results.set(scenario, statuses);
    for (const check of checks.parse(JSON.parse(await readFile(join(folder, name, "checks.json"), "utf8")))) {
      if (check.status === "INFO") continue;
      const id = `${check.id} ${check.name}`;
      statuses.set(id, [...(statuses.get(id) ?? []), check.status]);
    }
  }
  return results;
}

function counted(statuses: ReadonlyMap<string, readonly string[]> = new Map()): string {
  const all = [...statuses.values()].flat();
  const count = (status: string) => all.filter((given) => given === status).length;
  const other = all.length - count("SUCCESS") - count("FAILURE");
  return `${count("SUCCESS")} passed, ${count("FAILURE")} failed${other === 0 ? "" : `, ${other} others`}`;
}

const isWorkspace = process.argv.includes("--workspace");
const explained = isWorkspace ? explainedAtWorkspace : explainedAtServer;
const given = process.argv.slice(2).filter((argument) => argument !== "--workspace");
const tools = await installedTools();
const folder = await mkdtemp(join(tmpdir(), "keyward-conformance-"));
const server = await startMcpServer({ addToServer: addConformanceTools });
const gateway = await startGatewayWithToken(server.url);
const unexplained: string[] = [];
const differing = new Set<string>();
let [compared, scenarios] = [0, 0];

for (const [index, suite] of suites.entries()) {
  const program = join(tools, suite.module, "dist/index.js");
  const run = async (url: string, side: string) => {
    const output = join(folder, `${index}-${side}`);
    const which = given.length === 0 ? [suite.given] : given.map((scenario) => ["--scenario", scenario]);
    for (const flags of which) {
      const { stdout, stderr } = await runProgram(program, ["server", "--url", url, "-o", output, ...flags], folder);
      if (stdout === "") throw new Error(`The suite ${suite.name} printed nothing: ${stderr}`);
    }
    return await resultsOf(output);
  };
  const direct = await run(server.url, "direct");
  const through = await run(isWorkspace ? gateway.workspaceUrl : gateway.url, "through");
  if (direct.size === 0) throw new Error(`The suite ${suite.name} has run no scenario`);
  console.log(`\n${suite.name}\n${"scenario".padEnd(48)}${"directly".padEnd(32)}through the gateway`);
  for (const scenario of [...new Set([...direct.keys(), ...through.keys()])].sort()) {
    scenarios++;
    const [one, other] = [direct.get(scenario), through.get(scenario)];
    console.log(`${scenario.padEnd(48)}${counted(one).padEnd(32)}${counted(other)}`);
    for (const check of new Set([...(one?.keys() ?? []), ...(other?.keys() ?? [])])) {
      compared++;
      const [before, after] = [one?.get(check)?.join(" ") ?? "none", other?.get(check)?.join(" ") ?? "none"];
      if (before === after) continue;
      const key = `${scenario} ${check}`;
      differing.add(key);
      const why = explained[key];
      if (why === undefined) unexplained.push(`${suite.name}: ${key}`);
      console.log(`  ${check}: ${before} → ${after}. ${why ?? "Not explained."}`);
    }
  }
}
await gateway.close();
await server.close();
if (process.env["KEEP_RESULTS"] === undefined) await rm(folder, { recursive: true });
else console.log(`The results are in ${folder}.`);

const outdated = given.length > 0 ? [] : Object.keys(explained).filter((key) => !differing.has(key));
console.log(`\n${scenarios} scenarios and ${compared} checks were compared.`);
for (const key of unexplained) console.log(`Differs without a reason: ${key}`);
for (const key of outdated) console.log(`Does not differ any more: ${key}`);
process.exitCode = unexplained.length + outdated.length === 0 ? 0 : 1;
