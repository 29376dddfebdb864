import { onTestFinished } from "vitest";
import { type Installation, startInstallation } from "../installation.ts";
import { type McpCallers, mcpCallers } from "../peers/mcp-callers.ts";
import { type AddToServer, type McpEra, type McpPeer, startMcpServer } from "../peers/mcp-server.ts";

/** A gateway in front of several servers, and clients of its endpoint for all of them. */
export interface Workspace extends Installation, McpCallers {}

/** Starts a server that is stopped when the test has finished. */
export async function startPeer(eras: readonly McpEra[], addToServer?: AddToServer): Promise<McpPeer> {
  const server = await startMcpServer({ eras, ...(addToServer === undefined ? {} : { addToServer }) });
  onTestFinished(() => server.close());
  return server;
}

/** Starts a gateway in front of servers, by slug. Each server gets the value of a secret in the header `x-api-key`. */
export async function startWorkspace(
  servers: Readonly<Record<string, { readonly url: string; readonly port: number }>>,
): Promise<Workspace> {
  const installation = await startInstallation(Object.values(servers));
  for (const [slug, { url }] of Object.entries(servers)) {
    await installation.addServer({ slug, url, kind: "mcp", rule: { kind: "header", header: "x-api-key" } });
  }
  return {
    ...installation,
    ...mcpCallers(`${installation.gateway.url}/mcp`, installation.token),
  };
}
