import type { ServerKind } from "../model.ts";

/** The server, tool and method of a call, to compare with the scopes of its token. */
export interface CallTarget {
  /** The slug of the server. */
  readonly server: string;
  /** The kind of the server. */
  readonly kind: ServerKind;
  /** The tool that is called. `undefined` if no tool is called. */
  readonly tool?: string | undefined;
  /** The HTTP method. `undefined` to skip the check of the method. */
  readonly method?: string | undefined;
}

/** The scopes of a token. `undefined` for a scope that limits nothing. */
export interface TokenScopes {
  /** The slugs of the servers. */
  readonly servers?: readonly string[] | undefined;
  /** The names of the tools. */
  readonly tools?: readonly string[] | undefined;
  /** The HTTP methods. */
  readonly methods?: readonly string[] | undefined;
}

/**
 * Returns which scopes of a token do not allow a call.
 *
 * A server of the kind `http` has no tools. So a token with tools may call such a server only if the token has methods, too.
 *
 * @example
 * const target = { server: "github", kind: "mcp", tool: "create_issue" } as const;
 * console.log(scopesWithout({ tools: ["list_issues"] }, target)); // [ "tool" ]
 */
export function scopesWithout(
  { servers, tools, methods }: TokenScopes,
  { server, kind, tool, method }: CallTarget,
): readonly ("server" | "tool" | "method")[] {
  const isOutside = (scope: readonly string[] | undefined, name: string | undefined) =>
    scope !== undefined && name !== undefined && !scope.includes(name);
  const outside: ("server" | "tool" | "method")[] = [];
  if (isOutside(servers, server)) outside.push("server");
  const hasNoTool = kind === "http" && tools !== undefined && methods === undefined;
  if (hasNoTool || isOutside(tools, tool)) outside.push("tool");
  if (isOutside(methods, method)) outside.push("method");
  return outside;
}
