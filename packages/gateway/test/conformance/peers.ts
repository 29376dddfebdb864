// Compares what the official clients and the MCP Inspector get from a server directly and through the gateway. The servers are
// @modelcontextprotocol/server-everything and the server of `../peers`. Not part of the test suite: the peers are installed with
// npm into the user's cache.
//
//   node --conditions development packages/gateway/test/conformance/peers.ts [--workspace]
//
// With --workspace, the gateway is called by its endpoint for all servers of a workspace, with mapped names.
// Ends with the status 1 if a result differs, or if a peer fails directly.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { connectMcpClient, type McpClientKind } from "../peers/mcp-clients.ts";
import { startMcpServer } from "../peers/mcp-server.ts";
import { addConformanceTools } from "./conformance-tools.ts";
import { startGatewayWithToken } from "./gateway-with-token.ts";
import { installedTools, runProgram } from "./tools.ts";

/** A server that is called, and how to end it. */
interface Peer {
  readonly name: string;
  readonly url: string;
  readonly calls: readonly (readonly [tool: string, given: Record<string, string | number>])[];
  readonly resource: string;
  readonly prompt: string;
  readonly clients: readonly McpClientKind[];
  /** The protocols that the Inspector is asked to use. */
  readonly eras: readonly string[];
  close(): Promise<void>;
}

// The program listens on every address of the machine, and tells no port that the system has chosen.
const onLoopback = `
  import { Server } from "node:net";
  const { listen } = Server.prototype;
  Server.prototype.listen = function (port, ...more) {
    this.once("listening", () => console.log("PORT " + this.address().port));
    return listen.call(this, { port: Number(port), host: "127.0.0.1" }, ...more);
  };`;

async function startEverything(tools: string): Promise<Peer> {
  const program = join(tools, "@modelcontextprotocol/server-everything/dist/index.js");
  const preload = `data:text/javascript,${encodeURIComponent(onLoopback)}`;
  // One of the tools of the server returns its environment.
  const child = spawn(process.execPath, ["--import", preload, program, "streamableHttp"], {
    env: { PORT: "0" },
    stdio: ["ignore", "pipe", "ignore"],
  });
  const ended = once(child, "close");
  const lines = createInterface({ input: child.stdout });
  const port = await new Promise<string>((resolve, reject) => {
    lines.on("line", (line) => {
      const [, found] = /^PORT (\d+)$/.exec(line) ?? [];
      if (found !== undefined) resolve(found);
    });
    void ended.then(() => reject(new Error("server-everything ended before it listened")));
  });
  return {
    name: "server-everything",
    url: `http://127.0.0.1:${port}/mcp`,
    calls: [
      ["echo", { message: "Grüße" }],
      ["get-sum", { a: 2, b: 40 }],
      ["trigger-long-running-operation", { duration: 1, steps: 4 }],
      ["trigger-sampling-request", { prompt: "Who?", maxTokens: 10 }],
    ],
    resource: "demo://resource/static/document/architecture.md",
    prompt: "simple-prompt",
    clients: ["v2 legacy", "v2 auto", "v1"],
    eras: ["legacy", "auto"],
    close: async () => {
      child.kill("SIGKILL");
      await ended;
    },
  };
}

async function startOwn(): Promise<Peer> {
  const server = await startMcpServer({ addToServer: addConformanceTools });
  return {
    name: "our server",
    url: server.url,
    calls: [
      ["echo", { text: "Grüße" }],
      ["progress", { steps: 3 }],
      ["sampling", { question: "Who?" }],
    ],
    resource: "test://static-text",
    prompt: "test_simple_prompt",
    clients: ["v2 modern", "v2 legacy", "v2 auto", "v1"],
    eras: ["legacy", "auto", "modern"],
    close: () => server.close(),
  };
}

const isWorkspace = process.argv.includes("--workspace");
/**
 * Where a client speaks the modern protocol with the endpoint of a workspace, and the legacy one with the server itself. It
 * then leaves out other members of the results, and counts the questions of a server as progress.
 */
const usesAnotherProtocol: ReadonlySet<string> = new Set([
  "server-everything, client v2 auto: trigger-sampling-request",
  "server-everything, Inspector, auto: tools/list",
  "server-everything, Inspector, auto: resources/read",
]);

let [compared, failures] = [0, 0];

/** Runs a task at both URLs, and compares the results. */
async function compare(name: string, run: (isThrough: boolean) => Promise<unknown>): Promise<void> {
  compared++;
  const [direct, through] = [await settled(run(false)), await settled(run(true))];
  const isSame = direct.text === through.text && !direct.isError;
  const isExplained = isWorkspace && !direct.isError && !through.isError && usesAnotherProtocol.has(name);
  if (!isSame && !isExplained) failures++;
  console.log(`${isSame ? "same   " : "DIFFERS"} ${name}${!isSame && isExplained ? ": another protocol" : ""}`);
  if (!isSame) console.log(`  directly: ${direct.text}\n  through the gateway: ${through.text}`);
}

async function settled(result: Promise<unknown>): Promise<{ readonly text: string; readonly isError: boolean }> {
  try {
    return { text: JSON.stringify(await result), isError: false };
  } catch (error) {
    return { text: String(error), isError: true };
  }
}

const tools = await installedTools();
const folder = await mkdtemp(join(tmpdir(), "keyward-peers-"));
const inspector = join(tools, "@modelcontextprotocol/inspector/clients/launcher/build/index.js");

async function inspect(given: readonly string[]): Promise<unknown> {
  const fixed = ["--cli", "--transport", "http", "--format", "json", "--quiet"];
  const { exitCode, stdout, stderr } = await runProgram(inspector, [...fixed, ...given], folder);
  if (exitCode !== 0) throw new Error(`The Inspector ended with ${exitCode}: ${stdout}${stderr}`);
  return JSON.parse(stdout);
}

for (const peer of [await startEverything(tools), await startOwn()]) {
  const gateway = await startGatewayWithToken(peer.url);
  const through = isWorkspace ? gateway.workspaceUrl : gateway.gatewayUrl;
  const authorization = `Bearer ${gateway.token}`;
  for (const kind of peer.clients) {
    const connect = (isThrough: boolean) =>
      isThrough ? connectMcpClient(kind, through, { authorization }) : connectMcpClient(kind, peer.url);
    await compare(`${peer.name}, client ${kind}: tools/list`, async (isThrough) => {
      const client = await connect(isThrough);
      const names = await client.listTools();
      await client.close();
      return names;
    });
    for (const [tool, given] of peer.calls) {
      await compare(`${peer.name}, client ${kind}: ${tool}`, async (isThrough) => {
        const client = await connect(isThrough);
        const steps: number[] = [];
        const result = await client.callTool(tool, given, { onProgress: (step) => steps.push(step) });
        await client.close();
        return { result, steps };
      });
    }
  }
  const [[tool, given] = ["", {}]] = peer.calls;
  const requests = {
    "tools/list": [],
    "tools/call": ["--tool-name", tool, "--tool-args-json", JSON.stringify(given)],
    "resources/list": [],
    "resources/read": ["--uri", peer.resource],
    "prompts/list": [],
    "prompts/get": ["--prompt-name", peer.prompt],
  };
  for (const era of peer.eras) {
    for (const [method, flags] of Object.entries(requests)) {
      await compare(`${peer.name}, Inspector, ${era}: ${method}`, (isThrough) =>
        inspect([
          ...(isThrough
            ? ["--server-url", through, "--header", `Authorization: ${authorization}`]
            : ["--server-url", peer.url]),
          ...["--protocol-era", era, "--method", method, ...flags],
        ]),
      );
    }
  }
  await gateway.close();
  await peer.close();
}
await rm(folder, { recursive: true });
console.log(`${compared} results were compared, ${failures} differ.`);
process.exitCode = failures === 0 ? 0 : 1;
