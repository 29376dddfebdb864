import { onTestFinished } from "vitest";
import { connectMcpClient, type McpClientKind, type McpClientPeer } from "./mcp-clients.ts";

/** The callers of one MCP endpoint of a gateway. */
export interface McpCallers {
  /** The URL of the endpoint. */
  readonly url: string;
  /** Connects a client with the token of the member, or with another one. The client ends with the test. */
  connect(kind: McpClientKind, token?: string, url?: string): Promise<McpClientPeer>;
  /** Sends a message of the legacy protocol, without a client. */
  send(message: object, session?: string, token?: string): Promise<Response>;
}

/** Returns callers of an endpoint, with a token of a member. */
export function mcpCallers(url: string, memberToken: string): McpCallers {
  return {
    url,
    connect: async (kind, token = memberToken, at = url) => {
      const client = await connectMcpClient(kind, at, { authorization: `Bearer ${token}` });
      onTestFinished(async () => {
        // The tests of revoked tokens leave a client that cannot end its session.
        await client.close().catch(() => {});
      });
      return client;
    },
    send: (message, session, token = memberToken) =>
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
