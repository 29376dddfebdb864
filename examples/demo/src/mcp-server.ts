import { once } from "node:events";
import { createServer } from "node:http";
import { getRequestListener } from "@hono/node-server";
import { createMcpHandler, McpServer } from "@modelcontextprotocol/server";

/** An MCP server on loopback that needs a credential. */
export interface DemoMcpServer {
  readonly url: string;
  /** The header `Authorization` of each call of the tool, as the server got it. */
  readonly received: readonly string[];
  close(): Promise<void>;
}

/** Starts an MCP server with one careless tool: it repeats the credential that it got. */
export async function startMcpServer(): Promise<DemoMcpServer> {
  const received: string[] = [];
  const handler = createMcpHandler(({ requestInfo }) => {
    const server = new McpServer({ name: "demo", version: "1.0.0" });
    server.registerTool("whoami", { description: "Repeats the credential of the call" }, async () => {
      const credential = requestInfo?.headers.get("authorization") ?? "none";
      received.push(credential);
      return { content: [{ type: "text", text: `You called me with ${credential}` }] };
    });
    return server;
  });
  const server = createServer(getRequestListener((request) => handler.fetch(request)));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  const port = typeof address === "object" && address !== null ? address.port : 0;
  return {
    url: `http://127.0.0.1:${port}/mcp`,
    received,
    close: async () => {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
}
