import { onTestFinished } from "vitest";
import { type Installation, startInstallation } from "../installation.ts";
import { connectMcpClient, type McpClientKind, type McpClientPeer } from "../peers/mcp-clients.ts";
import { type AddToServer, type McpEra, type McpPeer, startMcpServer } from "../peers/mcp-server.ts";

/** A gateway in front of several servers, and clients of its endpoint for all of them. */
export interface Workspace extends Installation {
  /** The URL of the endpoint. */
  readonly url: string;
  /** Connects a client with the token of the member, or with another one. The client ends with the test. */
  connect(kind: McpClientKind, token?: string): Promise<McpClientPeer>;
  /** Sends a message of the legacy protocol, without a client. */
  send(message: object, session?: string, token?: string): Promise<Response>;
}

/** Starts a server that ends with the test. */
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
  const url = `${installation.gateway.url}/mcp`;
  return {
    ...installation,
    url,
    connect: async (kind, token = installation.token) => {
      const client = await connectMcpClient(kind, url, { authorization: `Bearer ${token}` });
      onTestFinished(async () => {
        // The tests of revoked tokens leave a client that cannot end its session.
        await client.close().catch(() => {});
      });
      return client;
    },
    send: (message, session, token = installation.token) =>
      fetch(url, {
        method: "POST",
        headers: {
          authorization: `Bearer ${token}`,
          accept: "application/json, text/event-stream",
          "content-type": "application/json",
          ...(session === undefined ? {} : { "mcp-session-id": session, "mcp-protocol-version": "2025-11-25" }),
        },
        body: JSON.stringify({ jsonrpc: "2.0", ...message }),
      }),
  };
}
