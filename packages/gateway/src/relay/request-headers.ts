import type { IncomingMessage } from "node:http";
import { GatewayProblem } from "../problem.ts";

// Everything else stays here: the caller's own credentials, cookies and address, `Host`, the headers of the connection,
// and `Range`, since three requests for parts of an answer could read a whole value past the redaction.
const forwarded: ReadonlySet<string> = new Set([
  "accept",
  "accept-language",
  "content-encoding",
  "content-language",
  "content-type",
  "if-match",
  "if-modified-since",
  "if-none-match",
  "if-unmodified-since",
  "last-event-id",
  "mcp-method",
  "mcp-name",
  "mcp-protocol-version",
  "user-agent",
]);
const forwardedPrefix = "mcp-param-";
/** The header of a session of MCP, which the relay replaces. */
export const sessionHeader = "mcp-session-id";
// A second value of one of these could be read by the server, and the first one by the gateway.
const single: readonly string[] = [
  ...forwarded,
  sessionHeader,
  "authorization",
  "host",
  "origin",
  "content-length",
].filter((name) => name !== "accept" && name !== "accept-language" && name !== "if-match" && name !== "if-none-match");

/**
 * Returns the headers of the caller that are forwarded, in lower case.
 *
 * @throws GatewayProblem `REQUEST_MALFORMED` for a header that came more than once.
 */
export function forwardedHeaders({
  headersDistinct,
}: Pick<IncomingMessage, "headersDistinct">): Record<string, string> {
  const headers: Record<string, string> = {};
  for (const [name, values = []] of Object.entries(headersDistinct)) {
    if (values.length > 1 && (single.includes(name) || name.startsWith(forwardedPrefix))) throw repeated();
    if (forwarded.has(name) || name.startsWith(forwardedPrefix)) headers[name] = values.join(", ");
  }
  // A compressed answer would have to be decompressed before it is searched.
  return { ...headers, "accept-encoding": "identity" };
}

/**
 * Returns the headers of the caller that are forwarded because the settings of a server list them.
 *
 * @throws GatewayProblem `REQUEST_MALFORMED` for a header that came more than once.
 */
export function listedHeaders(
  { headersDistinct }: Pick<IncomingMessage, "headersDistinct">,
  names: readonly string[],
): Record<string, string> {
  const headers: Record<string, string> = {};
  for (const [name, values = []] of Object.entries(headersDistinct)) {
    if (forwarded.has(name) || !names.includes(name)) continue;
    const [value, second] = values;
    if (second !== undefined) throw repeated();
    if (value !== undefined) headers[name] = value;
  }
  return headers;
}

function repeated(): GatewayProblem {
  return new GatewayProblem("REQUEST_MALFORMED", "A header of the request came more than once", {
    hint: "Send each header once.",
  });
}
