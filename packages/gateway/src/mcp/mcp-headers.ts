import { McpRefusedError } from "./mcp-refused-error.ts";

/** The headers that repeat the method and the name in a request's body. MCP has them since version 2026-07-28. */
export interface McpHeaders {
  /** The value of `mcp-method`. */
  readonly method?: string | undefined;
  /** The value of `mcp-name`. */
  readonly name?: string | undefined;
}

/** The name in a body: of a tool or prompt (`name`), a resource (`uri`) or a task (`taskId`). */
type Named = Readonly<Partial<Record<"name" | "uri" | "taskId", string>>>;

/** The member of `params` that `mcp-name` repeats, by the method. Tasks are an extension of the protocol. */
const sources: ReadonlyMap<string, keyof Named> = new Map([
  ["tools/call", "name"],
  ["prompts/get", "name"],
  ["resources/read", "uri"],
  ["tasks/get", "taskId"],
  ["tasks/update", "taskId"],
  ["tasks/cancel", "taskId"],
]);

/**
 * Checks that the headers and the body name the same method and tool. A header may be missing: servers of an earlier protocol
 * do not need it, and servers of a later protocol refuse the request themselves.
 *
 * @throws McpRefusedError `HEADER_MISMATCH` if a header differs from the body.
 */
export function requireSameName(
  headers: McpHeaders,
  { method, id }: { readonly method?: string | undefined; readonly id?: string | number | undefined },
  named: Named,
): void {
  if (headers.method !== undefined && headers.method !== method) throw mismatch("mcp-method", id);
  if (headers.name === undefined) return;
  const name = decodeName(headers.name);
  const source = sources.get(method ?? "");
  const isSame = source === undefined ? Object.values(named).some((value) => value === name) : named[source] === name;
  if (name === undefined || !isSame) throw mismatch("mcp-name", id);
}

/** Decodes a header, which may be encoded as `=?base64?…?=`. Returns `undefined` if the header is ambiguous. */
function decodeName(header: string): string | undefined {
  const [, encoded] = /^=\?base64\?(.*)\?=$/.exec(header) ?? [];
  if (encoded === undefined) return /^[\x20-\x7e\t]*$/.test(header) ? header : undefined;
  const bytes = Buffer.from(encoded, "base64");
  if (bytes.toString("base64") !== encoded) return undefined;
  const text = bytes.toString("utf8");
  return Buffer.from(text).equals(bytes) ? text : undefined;
}

function mismatch(header: string, id: string | number | undefined): McpRefusedError {
  return new McpRefusedError("HEADER_MISMATCH", `The header ${header} and the body do not name the same`, id);
}
