import { slugField } from "@keyward/secrets/fields";
import { CommandError } from "../../exit-codes.ts";
import { type Fields, isFields } from "./fields.ts";
import { type ClientHeader, clientHeaders } from "./headers.ts";
import { parseJsonc } from "./jsonc.ts";
import { resolvePlaceholders } from "./placeholders.ts";

/** A server in the configuration of an MCP client. */
export type ClientEntry = RemoteEntry | LeftEntry;

/** A server that the gateway can call. */
export interface RemoteEntry {
  readonly kind: "remote";
  /** The name of the server in the file. */
  readonly name: string;
  readonly slug: string;
  /** Never shown: a part of the path may be a credential. */
  readonly url: string;
  /** The names of the environment variables whose values are in the URL. */
  readonly urlVariables: readonly string[];
  readonly headers: readonly ClientHeader[];
}

/** A server that is not imported. */
export interface LeftEntry {
  readonly kind: "left";
  readonly name: string;
  readonly reason: string;
  readonly hint: string;
}

/** The names of the transport Streamable HTTP in the configurations of clients. */
const streamable = ["http", "streamable-http", "streamableHttp", "streamable_http"];
/** The fields other than `headers` in which a client's configuration may contain credentials. */
const otherCredentials = ["auth", "env", "envFile", "headersHelper", "oauth", "requestInit"];

/**
 * Reads the servers in the configuration of an MCP client: `mcpServers` of Claude, Cursor and Windsurf, or `servers` of VS
 * Code. Placeholders are replaced by environment variables.
 *
 * @throws CommandError `USAGE`. Neither an error nor a reason contains a value of the file.
 */
export function clientEntries(text: string, env: Readonly<Record<string, string | undefined>>): readonly ClientEntry[] {
  if (/^\s*(?:#|(?:export +)?[A-Za-z_][\w.-]*=)/.test(text)) {
    throw new CommandError("USAGE", "The file is an .env file, and does not say which server its variables are for", {
      hint: "Set a secret of one server for each variable: `keyward secrets import <server> <file>`.",
    });
  }
  const root = parseJsonc(text);
  const lists = isFields(root) ? listsOf(root) : [];
  const servers = lists.filter(isFields).flatMap((list) => Object.entries(list));
  if (servers.length === 0 || !lists.every(isFields)) {
    throw new CommandError("USAGE", "The file names no servers, so nothing was done", {
      hint: "The file is the configuration of an MCP client: an object with `mcpServers`, or in VS Code with `servers`.",
    });
  }
  const entries = servers.map(([name, given]) => clientEntry(name, given, env));
  const slugs = entries.flatMap((entry) => (entry.kind === "remote" ? [entry.slug] : []));
  const ofProjects = isFields(root) && hasProjects(root) ? [projects] : [];
  return [...entries.map((entry) => withoutCollision(entry, slugs)), ...ofProjects];
}

function listsOf({ mcpServers, servers, mcp }: Fields): readonly unknown[] {
  // The settings of VS Code have the servers in `mcp`.
  const ofSettings = isFields(mcp) ? mcp["servers"] : undefined;
  return [mcpServers, servers, ofSettings].filter((list) => list !== undefined);
}

/** Returns whether a file has servers of single projects, which Claude Code stores apart from `mcpServers`. */
function hasProjects({ projects: given }: Fields): boolean {
  const servers = isFields(given) ? Object.values(given).map((one) => isFields(one) && one["mcpServers"]) : [];
  return servers.some((list) => isFields(list) && Object.keys(list).length > 0);
}

const projects = left("projects", "The servers of single projects are not read", "Move them to `mcpServers`.");

function clientEntry(name: string, given: unknown, env: Readonly<Record<string, string | undefined>>): ClientEntry {
  if (!isFields(given)) return left(name, "The entry is not an object", "Correct the file.");
  const unfit = unfitEntry(given);
  if (unfit !== undefined) return left(name, ...unfit);
  const slug = slugOf(name);
  if (!slugField.safeParse(slug).success) {
    return left(name, "The name has no letter and no digit for a slug", "Rename the entry.");
  }
  const { text: url, variables, missing } = resolvePlaceholders(String(urlOf(given)), env);
  const add = `Add the server with \`keyward servers add ${slug} <url>\`.`;
  if (url === undefined)
    return left(name, `The URL has a placeholder. ${missing.join(". ")}`, `Set the variable. Or: ${add}`);
  const broken = brokenUrl(url);
  if (broken !== undefined)
    return left(name, broken, `${add} Set its credential with \`keyward secrets set ${slug} <NAME>\`.`);
  const others = otherCredentials.filter((field) => given[field] !== undefined);
  const unread = others.map((field): ClientHeader => {
    const hint = "Set the credential with `keyward secrets set <server> <NAME>`.";
    return { kind: "refused", header: null, reason: `The field \`${field}\` is not read`, hint };
  });
  const headers = [...clientHeaders(given["headers"], env), ...unread];
  return { kind: "remote", name, slug, url, urlVariables: variables, headers };
}

/** Returns why the gateway cannot call a server, and what to do; `undefined` if it can. */
function unfitEntry(given: Fields): readonly [reason: string, hint: string] | undefined {
  const { type = given["transport"], command, disabled } = given;
  const url = urlOf(given);
  if (disabled === true || given["enabled"] === false)
    return ["The client has the server disabled", "Enable the server in the file."];
  if (command !== undefined || type === "stdio") {
    return ["The server is a program on the machine of the client (stdio)", "Keep the entry in the client."];
  }
  const onlyHttp = "The gateway calls servers with Streamable HTTP. Check whether the server has a URL for it.";
  if (type === "sse") return ["The server uses the transport SSE", onlyHttp];
  if (type !== undefined && !(typeof type === "string" && streamable.includes(type))) {
    return ["The transport of the server is unknown", onlyHttp];
  }
  if (typeof url !== "string" || url === "") return ["The entry has no URL", "Correct the file."];
  // Clients without a type try both transports. By convention, the path `/sse` belongs to the older transport.
  if (type === undefined && /\/sse\/?$/.test(url)) {
    return [
      "The server seems to use the transport SSE",
      `${onlyHttp} If this is the URL for it, add \`"type": "http"\` to the entry.`,
    ];
  }
  return undefined;
}

/** Returns the URL of an entry. Windsurf names the field `serverUrl`, and Gemini `httpUrl`. */
function urlOf({ url, serverUrl, httpUrl }: Fields): unknown {
  return httpUrl ?? serverUrl ?? url;
}

/** Returns why the service would refuse a URL; `undefined` for a valid URL. */
function brokenUrl(text: string): string | undefined {
  if (!URL.canParse(text) || !/^https?:\/\//i.test(text)) return "The URL is not an absolute URL of http or https";
  const { username, password } = new URL(text);
  if (username !== "" || password !== "") return "The URL has a user or a password";
  if (text.includes("?")) return "The URL has a query, which may have a credential. No rule can send a query";
  return text.includes("#") ? "The URL has a fragment" : undefined;
}

/** Returns the slug for a name: lower-case letters and digits, with a hyphen for everything else. */
function slugOf(name: string): string {
  const plain = name.normalize("NFKD").replaceAll(/\p{M}/gu, "").toLowerCase();
  return plain
    .replaceAll(/[^a-z0-9]+/g, "-")
    .replace(/^-/, "")
    .slice(0, 32)
    .replace(/-$/, "");
}

function withoutCollision(entry: ClientEntry, slugs: readonly string[]): ClientEntry {
  if (entry.kind === "left" || slugs.indexOf(entry.slug) === slugs.lastIndexOf(entry.slug)) return entry;
  return left(entry.name, `Another entry would have the slug ${entry.slug}, too`, "Rename one of the two entries.");
}

function left(name: string, reason: string, hint: string): LeftEntry {
  return { kind: "left", name, reason, hint };
}
