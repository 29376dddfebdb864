import type { IncomingMessage, ServerResponse } from "node:http";

/** The beginning of the path of a server with tools. */
export const toolServerPath = "/tools/";
const toolsOfServer = 10;
const text = "the text of an answer ".repeat(42);

/** Returns the slug of a server with tools. */
export function toolServerSlug(number: number): string {
  return `tools-${number}`;
}

/** Answers a message as an MCP server of both protocols, with ten tools whose answers have 1 KiB. */
export async function answerMcp(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk);
  if (request.method !== "POST") return void response.writeHead(request.method === "DELETE" ? 200 : 405).end();
  const { id, method }: { id?: number; method: string } = JSON.parse(Buffer.concat(chunks).toString());
  if (id === undefined) return void response.writeHead(202).end();
  const result = resultOf(method);
  const outcome = result === undefined ? { error: { code: -32_601, message: "Method not found" } } : { result };
  const body = Buffer.from(JSON.stringify({ jsonrpc: "2.0", id, ...outcome }));
  response.writeHead(200, {
    "content-type": "application/json",
    "content-length": body.length,
    ...(method === "initialize" ? { "mcp-session-id": "a-session-of-the-bench" } : {}),
  });
  response.end(body);
}

function resultOf(method: string): object | undefined {
  const capabilities = { tools: {} };
  switch (method) {
    case "initialize":
      return { protocolVersion: "2025-11-25", capabilities, serverInfo: { name: "bench", version: "1" } };
    case "server/discover":
      return {
        ...{ resultType: "complete", supportedVersions: ["2026-07-28", "2025-11-25"], capabilities },
        ...{ ttlMs: 60_000, cacheScope: "private" },
      };
    case "tools/list":
      return { resultType: "complete", ttlMs: 60_000, cacheScope: "private", tools: tools() };
    case "tools/call":
      return { resultType: "complete", content: [{ type: "text", text }] };
    default:
      return undefined;
  }
}

function tools(): object[] {
  return Array.from({ length: toolsOfServer }, (_, index) => ({
    name: `search_issues_${index}`,
    description: "Searches the issues of a repository, and returns those that match a query.",
    inputSchema: {
      type: "object",
      properties: { query: { type: "string" }, repository: { type: "string" }, limit: { type: "number" } },
      required: ["query"],
    },
  }));
}
