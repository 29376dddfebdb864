import type { CallRequest } from "./call-load.ts";
import { type CallEffort, CallProcesses, type CallRatios, contender, medians, ratios, type Target } from "./calls.ts";
import { toolServerSlug } from "./tool-server.ts";

export const workspaceCallsName = "calls through the endpoint of a workspace";

/** The cost of calls through `/mcp`, divided by the cost of the same calls through the endpoint of their server. */
export interface WorkspaceCallFigures {
  readonly request: string;
  readonly endpoint: string;
  readonly cpuUs: number;
  readonly p50Ms: number;
  /** Ratios to the same call through the endpoint of one server. `undefined` for a request that only the workspace can answer. */
  readonly ratio: CallRatios | undefined;
}

const servers = 100;
const given = { query: "is:open label:bug", repository: "example/shop", limit: 20 };

/**
 * Compares calls through the endpoint for all servers of a workspace with calls through the endpoint of one server, 64 at once,
 * in both protocols. Also measures the list of all tools of 100 servers.
 */
export async function measureWorkspaceCalls(effort: CallEffort): Promise<readonly WorkspaceCallFigures[]> {
  await using processes = await CallProcesses.start();
  const gateway = await processes.gateway(10, { toolServers: servers });
  const slug = toolServerSlug(0);
  const ofServer = `/s/${slug}/mcp`;
  const [tool, publicTool] = ["search_issues_0", `${slug}__search_issues_0`];
  const pairs = [
    {
      request: "tools/call, 2026-07-28",
      alone: contender("/s/<server>/mcp", gateway, [ofServer], modern("tools/call", tool)),
      whole: contender("/mcp", gateway, ["/mcp"], modern("tools/call", publicTool)),
    },
    {
      request: "tools/call, 2025-11-25",
      alone: contender("/s/<server>/mcp", gateway, [ofServer], legacy(await begin(gateway, ofServer), tool)),
      whole: contender("/mcp", gateway, ["/mcp"], legacy(await begin(gateway, "/mcp"), publicTool)),
    },
  ];
  await untilListed(gateway);
  const listing = contender("/mcp", gateway, ["/mcp"], modern("tools/list", undefined));
  await processes.measure([...pairs.flatMap(({ alone, whole }) => [alone, whole]), listing], undefined, effort);
  const figures = pairs.flatMap(({ request, alone, whole }) =>
    [alone, whole].map((one) => {
      const { cpuUs, p50Ms } = medians(one);
      return { request, endpoint: one.name, cpuUs, p50Ms, ratio: ratios(one, alone) };
    }),
  );
  const { cpuUs, p50Ms } = medians(listing);
  const request = `tools/list of ${servers} servers`;
  return [...figures, { request, endpoint: listing.name, cpuUs, p50Ms, ratio: undefined }];
}

function modern(method: string, name: string | undefined): CallRequest {
  const meta = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientInfo": { name: "bench", version: "1" },
    "io.modelcontextprotocol/clientCapabilities": {},
  };
  return {
    body: JSON.stringify({
      ...{ jsonrpc: "2.0", id: 7, method },
      params: { _meta: meta, ...(name === undefined ? {} : { name, arguments: given }) },
    }),
    headers: {
      "mcp-protocol-version": "2026-07-28",
      "mcp-method": method,
      ...(name === undefined ? {} : { "mcp-name": name }),
    },
  };
}

function legacy(session: string, name: string): CallRequest {
  return {
    body: JSON.stringify({ jsonrpc: "2.0", id: 7, method: "tools/call", params: { name, arguments: given } }),
    headers: { "mcp-protocol-version": "2025-11-25", "mcp-session-id": session },
  };
}

/** Begins a session, and returns its id. */
async function begin(gateway: Target, path: string): Promise<string> {
  const params = { protocolVersion: "2025-11-25", capabilities: {}, clientInfo: { name: "bench", version: "1" } };
  const answer = await send(gateway, path, {
    body: JSON.stringify({ jsonrpc: "2.0", id: 1, method: "initialize", params }),
    headers: {},
  });
  await answer.text();
  const session = answer.headers.get("mcp-session-id");
  if (session === null) throw new Error(`${path} began no session, and answered with ${answer.status}`);
  return session;
}

/** Waits until the gateway has read the lists of all servers. */
async function untilListed(gateway: Target): Promise<void> {
  for (;;) {
    const { result }: { result: { tools: { name: string }[] } } = JSON.parse(
      await (await send(gateway, "/mcp", modern("tools/list", undefined))).text(),
    );
    if (new Set(result.tools.map(({ name }) => name.split("__")[0])).size === servers) return;
  }
}

async function send({ url, token }: Target, path: string, { body, headers }: CallRequest): Promise<Response> {
  return await fetch(`${url}${path}`, {
    method: "POST",
    body,
    headers: {
      ...{ accept: "application/json, text/event-stream", "content-type": "application/json" },
      authorization: `Bearer ${token}`,
      ...headers,
    },
  });
}
