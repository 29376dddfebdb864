import { JsonScanner } from "./json-scanner.ts";
import { type McpHeaders, requireSameName } from "./mcp-headers.ts";
import { McpRefusedError } from "./mcp-refused-error.ts";

/** The parts of an MCP message that the gateway reads. */
export interface McpMessage {
  /** The method; `undefined` for the response to a request of the server. */
  readonly method: string | undefined;
  /** The tool that `tools/call` names; `undefined` for other methods. */
  readonly tool: string | undefined;
  /** The id of the request or of the response; `undefined` for a notification. */
  readonly id: string | number | undefined;
  /** Whether the message is a notification, which gets no response. */
  readonly isNotification: boolean;
}

/** The members of a message that were found so far. */
interface Found {
  method?: string;
  id?: string | number;
  hasResult: boolean;
  params: Params;
}

/** The members of `params` that name what a method uses. */
interface Params {
  name?: string;
  uri?: string;
  taskId?: string;
}

const maxBytes = 4 * 1024 * 1024;
const maxDepth = 64;
/** The most members of a message, and of its `params`. */
const maxMembers = 1_000;

/**
 * Reads the body of an MCP request. Accepts only a body in which each server reads the same method and tool: valid JSON in
 * UTF-8, no batch, no key twice, and headers that agree with the body. So the gateway can forward the bytes unchanged.
 *
 * @throws McpRefusedError for any other body.
 */
export function readMcpBody(body: Uint8Array, headers: McpHeaders = {}): McpMessage {
  if (body.length > maxBytes) throw new McpRefusedError("BODY_TOO_LARGE", "The body has more than 4 MiB");
  const { method, id, hasResult, params } = readMessage(new JsonScanner(body, { maxDepth }));
  if (method === undefined) {
    if (!hasResult || id === undefined) throw invalid("neither a method, nor the result of a request with an id");
  } else if (hasResult) {
    throw invalid("both a method and a result");
  }
  const tool = method === "tools/call" ? params.name : undefined;
  if (method === "tools/call" && tool === undefined) throw invalid("no name of the tool to call");
  requireSameName(headers, { method, id }, params);
  return { method, tool, id, isNotification: method !== undefined && id === undefined };
}

function readMessage(scanner: JsonScanner): Found {
  if (scanner.kind() === "array") {
    throw new McpRefusedError("BATCH_REFUSED", "The body is a batch. Send each message in a request of its own");
  }
  if (scanner.kind() !== "object") throw invalid("no object");
  const found: Found = { hasResult: false, params: {} };
  const requireKnown = uniqueKeys(messageKeys);
  scanner.members((key) => {
    requireKnown(key);
    if (key === "method") found.method = requireString(scanner, "method");
    else if (key === "id") found.id = requireId(scanner);
    else if (key === "params") found.params = readParams(scanner);
    else {
      found.hasResult ||= key === "result" || key === "error";
      scanner.skip();
    }
  });
  scanner.end();
  return found;
}

function readParams(scanner: JsonScanner): Params {
  const params: Params = {};
  if (scanner.kind() === "null") {
    scanner.skip();
    return params;
  }
  if (scanner.kind() !== "object") throw invalid("`params` that are no object");
  const requireKnown = uniqueKeys(paramsKeys);
  scanner.members((key) => {
    requireKnown(key);
    if ((key === "name" || key === "uri" || key === "taskId") && scanner.kind() === "string") {
      params[key] = requireString(scanner, `params.${key}`);
    } else scanner.skip();
  });
  return params;
}

/** Returns a check for duplicate keys of one object. Servers in Go ignore the case of a key, and use the last one. */
function uniqueKeys(known: ReadonlyMap<string, string>): (key: string) => void {
  const seen = new Set<string>();
  return (key) => {
    const name = fold(key);
    if (seen.has(name) || (known.get(name) ?? key) !== key || !key.isWellFormed()) {
      throw new McpRefusedError(
        "KEY_AMBIGUOUS",
        "The body has a key twice, in another case, or with half of a character, so servers may read another call in it",
      );
    }
    seen.add(name);
    if (seen.size > maxMembers) throw invalid(`more than ${maxMembers} keys in one object`);
  };
}

/** Removes the case of a key. Both steps are needed: `ſ` becomes an `s` through upper case, and `K` a `k` through lower case. */
const fold = (key: string) => key.toUpperCase().toLowerCase();

const byFold = (...keys: string[]): ReadonlyMap<string, string> => new Map(keys.map((key) => [fold(key), key]));
const messageKeys = byFold("jsonrpc", "method", "id", "params", "result", "error");
const paramsKeys = byFold("name", "uri", "taskId", "arguments", "_meta");

function requireString(scanner: JsonScanner, name: string): string {
  if (scanner.kind() !== "string") throw invalid(`a \`${name}\` that is no text`);
  const value = scanner.string();
  // Decoders replace half of a surrogate pair with different characters.
  if (!value.isWellFormed()) throw invalid(`half of a character in \`${name}\``);
  return value;
}

function requireId(scanner: JsonScanner): string | number {
  if (scanner.kind() !== "number") return requireString(scanner, "id");
  const value = scanner.number();
  if (!Number.isFinite(value)) throw invalid("an `id` that is too large");
  return value;
}

function invalid(what: string): McpRefusedError {
  return new McpRefusedError("MESSAGE_INVALID", `The body is no message of MCP: it has ${what}`);
}
