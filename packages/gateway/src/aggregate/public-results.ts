import { arrayIn, isObject, type Json, type JsonObject } from "./json.ts";
import { publicUri } from "./names.ts";

/** Replaces the URIs in a server's result by the URIs that callers of the endpoint use. */
export function publicResult(method: string, slug: string, result: JsonObject): JsonObject {
  switch (method) {
    case "tools/call":
      return withList(result, "content", (block) => publicBlock(slug, block));
    case "prompts/get":
      return withList(result, "messages", (message) => publicMessage(slug, message));
    case "resources/read":
      return withList(result, "contents", (contents) => withUri(slug, contents));
    default:
      return result;
  }
}

function withList(result: JsonObject, name: string, change: (element: Json) => Json): JsonObject {
  return result[name] === undefined ? result : { ...result, [name]: arrayIn(result, name).map(change) };
}

function publicMessage(slug: string, message: Json): Json {
  if (!isObject(message)) return message;
  const { content } = message;
  if (Array.isArray(content)) return withList(message, "content", (block) => publicBlock(slug, block));
  return content === undefined ? message : { ...message, content: publicBlock(slug, content) };
}

function publicBlock(slug: string, block: Json): Json {
  if (!isObject(block)) return block;
  if (block["type"] === "resource_link") return withUri(slug, block);
  const { type, resource } = block;
  return type === "resource" && isObject(resource) ? { ...block, resource: withUri(slug, resource) } : block;
}

function withUri(slug: string, value: Json): Json {
  return isObject(value) && typeof value["uri"] === "string" ? { ...value, uri: publicUri(slug, value["uri"]) } : value;
}
