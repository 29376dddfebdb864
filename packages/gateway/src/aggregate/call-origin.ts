import { type CallRequest, namesAndValues } from "../relay/index.ts";

/** The headers and the address of a caller's request, which each call to a server repeats. */
export interface CallOrigin {
  /** The headers of the caller, in lower case, without the headers that describe the message. */
  readonly headers: Readonly<Record<string, string>>;
  readonly remoteAddress: string | undefined;
}

/** Headers that describe the caller's message or connection. A call to a server sets its own. */
const ofMessage =
  /^(?:accept|content-.*|transfer-encoding|connection|keep-alive|te|trailer|if-.*|last-event-id|mcp-.*|origin|cookie)$/;

/** Returns the parts of a caller's request that the calls to servers repeat. The relay forwards few of these headers. */
export function originOf(request: Pick<CallRequest, "headers" | "rawHeaders" | "socket">): CallOrigin {
  const { headers, socket } = request;
  const twice = namesThatCameTwice(request);
  const repeated = Object.entries(headers).flatMap(([name, value]): [string, string][] =>
    typeof value === "string" && !ofMessage.test(name) && !twice.has(name) ? [[name, value]] : [],
  );
  return { headers: Object.fromEntries(repeated), remoteAddress: socket.remoteAddress };
}

/** Returns the names of headers that came more than once. Node.js joins the values of most of these, and no server may get the result. */
function namesThatCameTwice(request: Pick<CallRequest, "rawHeaders">): ReadonlySet<string> {
  const seen = new Set<string>();
  const twice = new Set<string>();
  for (const [name] of namesAndValues(request)) (seen.has(name) ? twice : seen).add(name);
  return twice;
}

/** Returns the headers of a caller that repeat arguments of a tool, which servers of the modern protocol may demand. */
export function argumentHeaders({ headers }: Pick<CallRequest, "headers">): Readonly<Record<string, string>> {
  const found = Object.entries(headers).flatMap(([name, value]): [string, string][] =>
    typeof value === "string" && name.startsWith("mcp-param-") ? [[name, value]] : [],
  );
  return Object.fromEntries(found);
}
