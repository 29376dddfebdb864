import { BlockList, isIP } from "node:net";
import type { Server } from "@keyward/admin/client";

/** Returns the path at the gateway at which callers reach a server. */
export function callPath(slug: string, kind: Server["kind"]): string {
  return kind === "mcp" ? `/s/${slug}/mcp` : `/s/${slug}/`;
}

/** The path at the gateway at which callers reach all MCP servers of their token. */
export const allMcpPath = "/mcp";

/** Returns the paths for a server whose kind is not known: one for each kind. */
export function callPathsOf(slug: string): readonly string[] {
  return [`/s/${slug}/mcp`, `/s/${slug}/<path>`];
}

// Link-local addresses are not here, because the gateway allows none.
const ownNetworks = new BlockList();
for (const [network, prefix] of [
  ["0.0.0.0", 8],
  ["10.0.0.0", 8],
  ["100.64.0.0", 10],
  ["127.0.0.0", 8],
  ["172.16.0.0", 12],
  ["192.168.0.0", 16],
] as const) {
  ownNetworks.addSubnet(network, prefix, "ipv4");
}
ownNetworks.addAddress("::1", "ipv6");
ownNetworks.addSubnet("fc00::", 7, "ipv6");

/**
 * Returns a note if the gateway refuses calls to a URL always, or without `--allow-address`; otherwise `undefined`. The gateway
 * resolves a host name only at a call, so this function knows no address for a name other than `localhost`.
 */
export async function allowanceNote(url: string): Promise<string | undefined> {
  if (!URL.canParse(url)) return undefined;
  const { protocol, hostname, port } = new URL(url);
  const host = hostname.replace(/^\[|\]$/g, "");
  const family = isIP(host);
  const shownPort = port === "" ? (protocol === "https:" ? "443" : "80") : port;
  const refusal = family === 0 ? undefined : await refusalOf(`${hostname}:${shownPort}`);
  if (refusal !== undefined) return `The gateway refuses each call to this server. The address ${refusal}`;
  const isLocalName = /(?:^|\.)localhost\.?$/.test(host);
  const isOwn = isLocalName || (family !== 0 && ownNetworks.check(host, family === 6 ? "ipv6" : "ipv4"));
  if (!isOwn && protocol === "https:") return undefined;
  const address = isLocalName ? "127.0.0.1" : family === 0 ? "<address>" : hostname;
  const reason = isOwn ? "is not public" : "has plain HTTP";
  return `The URL ${reason}, so the gateway refuses calls to this server, unless it was started with \`keyward gateway start --allow-address ${address}:${shownPort}\`.`;
}

/** Returns why the gateway can never call an address; `undefined` if it can, or if an operator can allow the address. */
async function refusalOf(address: string): Promise<string | undefined> {
  const { parseAddressException } = await import("@keyward/gateway");
  try {
    parseAddressException(address);
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : "cannot be allowed";
  }
}
