import { GatewayProblem } from "../problem.ts";

/** The target of a call: the server's slug, and the path and query at that server. */
export interface CallTarget {
  readonly slug: string;
  /** The path after the slug, beginning with a slash, exactly as the caller sent it. */
  readonly path: string;
  /** The query with its question mark; "" for none. */
  readonly query: string;
}

const route = /^\/s\/([a-z0-9]+(?:-[a-z0-9]+)*)(\/[^?]*)(\?.*)?$/;
const pathCharacters = /^(?:[\w.~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*$/;
const queryCharacters = /^[\x21-\x7e]*$/;
// Also encoded twice, because some servers decode a path twice.
const separators = /%(?:25)*(?:2f|5c|0[0-9a-f]|1[0-9a-f]|7f)/i;
const encodedDot = /%(?:25)*2e/gi;

/**
 * Reads the target of a request: `/s/<slug>/<path>`. The path is forwarded unchanged. So a path that a server could read
 * differently than the gateway is refused.
 *
 * @throws GatewayProblem `ROUTE_NOT_FOUND`, `PATH_REFUSED`.
 */
export function readTarget(target: string): CallTarget {
  const [, slug, path, query = ""] = route.exec(target) ?? [];
  if (slug === undefined || path === undefined || slug.length > 32) {
    throw new GatewayProblem("ROUTE_NOT_FOUND", "The gateway has no such path", {
      hint: "The path of a call is /s/<server>/mcp for an MCP server, /mcp for all MCP servers of the token, and /s/<server>/<path> for another server.",
    });
  }
  if (!pathCharacters.test(path) || separators.test(path) || path.includes("//") || hasDotSegment(path)) {
    throw pathRefused(
      "The path has a dot segment, an empty segment, or a separator or control character that is encoded",
    );
  }
  if (!queryCharacters.test(query) || query.includes("#"))
    throw pathRefused("The query has a character that must be encoded");
  return { slug, path, query };
}

/** Returns the path for the request to a server: the path of the server's URL, followed by the path of the call. */
export function pathAt(serverUrl: URL, kind: "mcp" | "http", { path, query }: CallTarget): string {
  const base = serverUrl.pathname.replace(/\/$/, "");
  if (kind === "http") return `${base}${path}${query}`;
  // An MCP server has one endpoint, which is its URL.
  if (path === "/mcp") return `${base === "" ? "/" : base}${query}`;
  throw new GatewayProblem("ROUTE_NOT_FOUND", "The path of an MCP server can only be /mcp", {
    hint: "The path of a call to an MCP server is /s/<server>/mcp, and /mcp for all MCP servers of the token.",
  });
}

function hasDotSegment(path: string): boolean {
  return path
    .replace(encodedDot, ".")
    .split("/")
    .some((segment) => segment === "." || segment === ".." || /^\.{1,2};/.test(segment));
}

function pathRefused(detail: string): GatewayProblem {
  return new GatewayProblem("PATH_REFUSED", detail, {
    hint: "Write the path in its normal form, without `.`, `..`, `//`, and encoded slashes.",
  });
}
