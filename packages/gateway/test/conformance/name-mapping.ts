import { createServer, type IncomingHttpHeaders, request as send } from "node:http";
import { bodyOf } from "../installation.ts";
import { listeningProxy } from "./listening-proxy.ts";

/**
 * Starts a proxy in front of the endpoint of a workspace with one server. Its clients use the names that the server has, so that
 * a suite that knows nothing of the endpoint can test it. The proxy adds a token.
 */
export async function startNameMapping({ target, token, slug }: { target: string; token: string; slug: string }) {
  const prefix = { name: `${slug}__`, uri: `keyward+${slug}+` };
  const server = createServer(async (request, response) => {
    const text = await bodyOf(request);
    const body = text === "" ? text : mappedBody(text, prefix);
    const headers = { ...mappedHeaders(request.headers, prefix, token), "content-length": Buffer.byteLength(body) };
    const forwarded = send(target, { method: request.method, headers });
    forwarded.once("response", (answer) => {
      const { "content-length": _, ...relayed } = answer.headers;
      response.writeHead(answer.statusCode ?? 502, relayed);
      response.flushHeaders();
      let rest = "";
      answer.setEncoding("utf8");
      answer.on("data", (piece: string) => {
        const lines = (rest + piece).split("\n");
        rest = lines.pop() ?? "";
        for (const line of lines) response.write(`${withoutPrefix(line, prefix)}\n`);
      });
      answer.once("close", () => {
        if (answer.complete) response.end(withoutPrefix(rest, prefix));
        else response.destroy();
      });
    });
    forwarded.once("error", () => response.destroy());
    response.once("close", () => forwarded.destroy());
    forwarded.end(body);
  });
  return await listeningProxy(server);
}

interface Prefix {
  readonly name: string;
  readonly uri: string;
}

function mappedHeaders(headers: IncomingHttpHeaders, prefix: Prefix, token: string): Record<string, string> {
  const mapped: Record<string, string> = { authorization: `Bearer ${token}` };
  for (const [name, value] of Object.entries(headers)) {
    if (typeof value !== "string" || /^(?:connection|content-length|keep-alive|transfer-encoding)$/.test(name))
      continue;
    mapped[name] = value;
  }
  const named = mapped["mcp-name"];
  if (named === undefined) return mapped;
  const [, encoded] = /^=\?base64\?(.*)\?=$/.exec(named) ?? [];
  const added = mapped["mcp-method"] === "resources/read" ? prefix.uri : prefix.name;
  mapped["mcp-name"] =
    encoded === undefined
      ? added + named
      : `=?base64?${Buffer.from(added + Buffer.from(encoded, "base64").toString()).toString("base64")}?=`;
  return mapped;
}

function mappedBody(text: string, prefix: Prefix): string {
  const message = parsed(text);
  const params = message?.["params"];
  if (!isRecord(params)) return text;
  const method = String(message?.["method"]);
  const ref = isRecord(params["ref"]) ? { ref: mapped(params["ref"], prefix) } : {};
  const own = /^(?:tools\/call|prompts\/get|resources\/(?:read|subscribe|unsubscribe))$/.test(method)
    ? mapped(params, prefix)
    : params;
  return JSON.stringify({ ...message, params: { ...own, ...ref } });
}

function mapped(given: Record<string, unknown>, prefix: Prefix): Record<string, unknown> {
  const { name, uri } = given;
  return {
    ...given,
    ...(typeof name === "string" ? { name: prefix.name + name } : {}),
    ...(typeof uri === "string" ? { uri: prefix.uri + uri } : {}),
  };
}

function withoutPrefix(text: string, { name, uri }: Prefix): string {
  return text.replaceAll(`"${name}`, '"').replaceAll(uri, "");
}

function parsed(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return isRecord(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
