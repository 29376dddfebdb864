import { arrayIn, isObject, type Json, type JsonObject, textIn } from "./json.ts";
import { publicName, publicUri } from "./names.ts";

/** The kinds of lists that an MCP server can have. */
export const listKinds = ["tools", "prompts", "resources", "resourceTemplates"] as const;

export type ListKind = (typeof listKinds)[number];

/** How each kind of list is requested from a server. */
export const listSources: {
  readonly [Kind in ListKind]: {
    readonly method: string;
    readonly capability: string;
    readonly key: "name" | "uri" | "uriTemplate";
  };
} = {
  tools: { method: "tools/list", capability: "tools", key: "name" },
  prompts: { method: "prompts/list", capability: "prompts", key: "name" },
  resources: { method: "resources/list", capability: "resources", key: "uri" },
  resourceTemplates: { method: "resources/templates/list", capability: "resources", key: "uriTemplate" },
};

/** An entry of a list of the endpoint. */
export interface ListedItem {
  /** The name, the URI or the template at the server. */
  readonly name: string;
  /** The name, the URI or the template that callers of the endpoint use. */
  readonly publicName: string;
  /** The whole entry as JSON, with the public name. */
  readonly json: string;
  /** For tools of the modern protocol: the path of each argument that a header repeats, by the name of the header. */
  readonly headers: ReadonlyMap<string, readonly string[]> | undefined;
}

/** Converts one page of a server's list to entries of the endpoint's list. Skips an entry without a name. */
export function itemsIn(kind: ListKind, slug: string, result: JsonObject): readonly ListedItem[] {
  const { key } = listSources[kind];
  return arrayIn(result, kind).flatMap((entry): ListedItem[] => {
    const name = textIn(entry, key);
    if (!isObject(entry) || name === undefined || name === "") return [];
    const shown = key === "name" ? publicName({ slug, name }) : publicUri(slug, name);
    const json = JSON.stringify({ ...entry, [key]: shown });
    const headers = json.includes(headerKeyword) ? argumentsWithHeader(entry["inputSchema"]) : undefined;
    return [{ name, publicName: shown, json, headers }];
  });
}

const headerKeyword = "x-mcp-header";
const maxDepth = 16;

/** Returns the path of each argument that a header repeats, by the name of the header. */
function argumentsWithHeader(schema: Json | undefined): ReadonlyMap<string, readonly string[]> {
  const found = new Map<string, readonly string[]>();
  const visit = (node: Json | undefined, path: readonly string[]): void => {
    if (!isObject(node) || path.length > maxDepth) return;
    const header = textIn(node, headerKeyword);
    if (header !== undefined && path.length > 0 && /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/.test(header)) {
      found.set(header, path);
    }
    const properties = node["properties"];
    if (!isObject(properties)) return;
    for (const [name, child] of Object.entries(properties)) visit(child, [...path, name]);
  };
  visit(schema, []);
  return found;
}
