import { GatewayProblem } from "../problem.ts";
import type { CallRequest } from "./call-exchange.ts";

// No other header is forwarded: not the caller's credentials, cookies and address, `Host`, or headers of the connection. Not
// `Range`, because with requests for parts of an answer a caller could read a value in parts that the redaction does not find.
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
/** The header with the id of an MCP session. The relay replaces the id. */
export const sessionHeader = "mcp-session-id";
// A second value of one of these could be read by the server, and the first one by the gateway.
const single: ReadonlySet<string> = new Set(
  [...forwarded, sessionHeader, "authorization", "host", "origin", "content-length"].filter(
    (name) => name !== "accept" && name !== "accept-language" && name !== "if-match" && name !== "if-none-match",
  ),
);

/**
 * Returns the headers of the caller that are forwarded, in lower case.
 *
 * @throws GatewayProblem `REQUEST_MALFORMED` for a header that came more than once.
 */
export function forwardedHeaders(request: Pick<CallRequest, "rawHeaders">): Record<string, string> {
  const headers: Record<string, string> = {};
  const seen = new Set<string>();
  for (const [name, value] of namesAndValues(request)) {
    const isForwarded = forwarded.has(name) || name.startsWith(forwardedPrefix);
    if (!isForwarded && !single.has(name)) continue;
    const isRepeated = seen.has(name);
    if (isRepeated && (single.has(name) || name.startsWith(forwardedPrefix))) throw repeated();
    seen.add(name);
    if (isForwarded) headers[name] = isRepeated ? `${headers[name]}, ${value}` : value;
  }
  // A compressed answer would have to be decompressed before it is searched.
  headers["accept-encoding"] = "identity";
  return headers;
}

/**
 * Returns the headers of the caller that are forwarded because the settings of a server list them.
 *
 * @throws GatewayProblem `REQUEST_MALFORMED` for a header that came more than once.
 */
export function listedHeaders(
  request: Pick<CallRequest, "rawHeaders">,
  names: readonly string[],
): Record<string, string> {
  const headers: Record<string, string> = {};
  if (names.length === 0) return headers;
  for (const [name, value] of namesAndValues(request)) {
    if (forwarded.has(name) || !names.includes(name)) continue;
    if (Object.hasOwn(headers, name)) throw repeated();
    headers[name] = value;
  }
  return headers;
}

/** Yields the name of each header, in lower case, and its value. A header that came twice is yielded twice. */
export function* namesAndValues({ rawHeaders }: Pick<CallRequest, "rawHeaders">): Generator<[string, string]> {
  for (let at = 0; at + 1 < rawHeaders.length; at += 2) {
    yield [rawHeaders[at]?.toLowerCase() ?? "", rawHeaders[at + 1] ?? ""];
  }
}

function repeated(): GatewayProblem {
  return new GatewayProblem("REQUEST_MALFORMED", "A header of the request came more than once", {
    hint: "Send each header once.",
  });
}
