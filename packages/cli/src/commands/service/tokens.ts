import type { AdminClient, IssuedToken, Token } from "@keyward/admin/client";
import type { Context } from "../../context.ts";
import { CommandError } from "../../exit-codes.ts";
import { localTokenResult, tokenResult } from "../../results/service-results.ts";
import { adminAccess } from "../../service/admin-access.ts";
import { allMcpPath, callPath, callPathsOf } from "../../service/call-address.ts";
import { type ListOptions, listAll } from "../../service/listed.ts";
import { shownSince } from "../../terminal/durations.ts";
import { oneLine, table } from "../../terminal/output.ts";
import { dayOf, endOf } from "../../terminal/times.ts";

/** An HTTP method of a call. */
export type HttpMethod = "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE";

/** The flags of `keyward tokens create`. */
export interface NewTokenFlags {
  readonly owner: string;
  readonly role: Token["role"];
  readonly servers?: readonly string[];
  readonly tools?: readonly string[];
  readonly methods?: readonly HttpMethod[];
  readonly expires?: string;
}

/** Creates a token and prints it once. */
export async function createToken(context: Context, flags: NewTokenFlags): Promise<void> {
  const { client } = await adminAccess(context);
  const { owner, role, servers, tools, methods, expires } = flags;
  const issued = await client.createToken({
    owner,
    role,
    servers: listOf(servers),
    tools: listOf(tools),
    methods: listOf(methods),
    expires,
  });
  await printIssued(context, client, issued);
}

/** Replaces a token by one of the same owner, role and scopes, and prints the new one once. */
export async function rotateToken(
  context: Context,
  id: string,
  { overlap: overlapMs }: { readonly overlap: number },
): Promise<void> {
  requireId(id);
  const { client } = await adminAccess(context);
  const issued = await client.rotateToken(id, { overlapMs });
  printEnds(context, id, issued, overlapMs);
  await printIssued(context, client, issued);
}

/** Prints when the former token ends, and that the new token expires no later than the former one would have. */
function printEnds({ output }: Context, id: string, { info }: IssuedToken, overlapMs: number): void {
  const end = Date.now() + overlapMs;
  const formerEnd = info.expires === null ? end : Math.min(end, Date.parse(info.expires));
  const isOver =
    overlapMs === 0 ? "is refused from now on" : `ends at ${new Date(formerEnd).toISOString()} at the latest`;
  output.progress(`The former token (id ${id}) ${isOver}.`);
  if (info.expires === null) return;
  output.notice(
    `The new token ends at ${info.expires}, as the former one would have: a rotation does not lengthen the life of a token. If you rotated the former token before, an earlier rotation set this end. Then use the token which that rotation printed, and revoke the one which is printed now. For a longer life, run \`keyward tokens create\`.`,
  );
}

/** Lists the tokens, newest first, without their texts. */
export async function listTokens(
  context: Context,
  { owner, ...options }: ListOptions & { readonly owner?: string },
): Promise<void> {
  const { client } = await adminAccess(context);
  const { items, complete } = await listAll(context, (page) => client.listTokens({ ...page, owner }), options);
  const rows = items.map((token) => [
    token.id,
    token.owner,
    token.role,
    scopesOf(token),
    stateOf(token),
    token.lastUsed === null ? "never used" : `used ${shownSince(Date.parse(token.lastUsed))} ago`,
  ]);
  context.output.result(items.length === 0 ? "There are no such tokens." : table(rows), {
    tokens: items.map(tokenResult),
    complete,
  });
}

/** Revokes a token, or all tokens of an owner. */
export async function revokeTokens(
  context: Context,
  id: string | undefined,
  { owner }: { readonly owner?: string },
): Promise<void> {
  if ((id === undefined) === (owner === undefined)) {
    throw new CommandError("USAGE", "The command revokes one token or all tokens of an owner", {
      hint: "Pass the id of the token, or --owner instead of an id. `keyward tokens list` shows both.",
    });
  }
  if (id !== undefined) requireId(id);
  const { client } = await adminAccess(context);
  if (owner !== undefined && (await isWithoutTokens(context, client, owner))) {
    context.output.result(noTokens, { tokenIds: [] });
    return;
  }
  const what = owner === undefined ? "The token" : `All tokens of ${owner}`;
  await context.operator.confirm(`${what} would be revoked, which cannot be undone.`, "nothing was revoked");
  const tokenIds = owner === undefined ? [(await client.revokeToken(id ?? "")).id] : await client.revokeTokensOf(owner);
  const text = tokenIds.length === 0 ? noTokens : `Revoked: ${tokenIds.join(", ")}`;
  context.output.result(text, { tokenIds });
}

const noTokens = "The owner has no token that is not revoked.";

/** Returns whether an owner has no token to revoke, so that nothing has to be confirmed. */
async function isWithoutTokens(context: Context, client: AdminClient, owner: string): Promise<boolean> {
  const { items, complete } = await listAll(context, (page) => client.listTokens({ ...page, owner }), {});
  return complete && items.every(({ revoked }) => revoked !== null);
}

/** Creates a token with the keyring on this machine, without the admin API, and prints the token once. */
export async function recoverToken(
  context: Context,
  { workspace, owner }: { readonly workspace?: string; readonly owner: string },
): Promise<void> {
  const { withLocalService } = await import("../../service/local-service.ts");
  const { notSetUp } = await import("../../service/used-stores.ts");
  await withLocalService(context, {}, async ({ admin, config }) => {
    // In a store without a service, the token would be in a list and of no use.
    if ((await admin.state()) !== "initialized") throw notSetUp(config);
    const { token, info } = await admin.recoverToken(admin.localOperator(), { workspace, owner });
    const whose = workspace === undefined ? "an operator" : `an admin of the workspace ${workspace}`;
    context.output.progress(`This is the token of ${whose}. It is printed once. The audit has an entry about it.`);
    context.output.result(token, { token, info: localTokenResult(info), urls: [] });
  });
}

async function printIssued({ output }: Context, client: AdminClient, issued: IssuedToken): Promise<void> {
  const { token, info, callUrl } = issued;
  const urls = await urlsFor(client, issued);
  const until = info.expires === null ? "" : `, until ${info.expires}`;
  output.progress(`The token of ${oneLine(info.owner)} (${info.role}, id ${info.id})${until}. It is printed once.`);
  for (const one of urls) output.progress(oneLine(`${labelOf(one, callUrl)}: ${one}`));
  output.result(token, { token, info: tokenResult(info), urls });
}

/** Returns the URLs at which a client calls the servers of a member's token. */
async function urlsFor(client: AdminClient, { info, callUrl }: IssuedToken): Promise<readonly string[]> {
  if (info.role !== "member" || callUrl === null) return [];
  const paths: string[] = info.servers === null ? [...callPathsOf("<server>")] : [];
  for (const slug of info.servers ?? []) paths.push(...(await pathsTo(client, slug)));
  // Each call of an MCP server is a POST.
  const hasPost = info.methods?.includes("POST") ?? true;
  const callsApis = info.tools === null || info.methods !== null;
  const callable = paths.filter((path) => (path.endsWith("/mcp") ? hasPost : callsApis));
  const toMcp = callable.filter((path) => path.endsWith("/mcp"));
  const hasSeveral = info.servers === null || toMcp.length > 1;
  const all = toMcp.length > 0 && hasSeveral ? [allMcpPath, ...callable] : callable;
  return all.map((path) => `${callUrl}${path}`);
}

function labelOf(url: string, callUrl: string | null): string {
  return url === `${callUrl}${allMcpPath}` ? "The URL for a client of all MCP servers" : "The URL for a client";
}

/** Returns the path to a server; for a server that cannot be read, the path for each kind. */
async function pathsTo(client: AdminClient, slug: string): Promise<readonly string[]> {
  try {
    return [callPath(slug, (await client.getServer(slug)).kind)];
  } catch {
    // The token exists already, and would be lost with any error here.
    return callPathsOf(slug);
  }
}

/** Refuses the text of a token where the id of a token belongs. */
function requireId(id: string): void {
  if (!id.startsWith("kwt_")) return;
  throw new CommandError("USAGE", "The command line has the text of a token, and needs the id of the token", {
    hint: "The id is the part between the last two underscores. Revoke this token, because others can see a command line.",
  });
}

/** Returns the list of a flag; `undefined` for a missing flag, because the service refuses an empty list. */
function listOf<Item>(items: readonly Item[] | undefined): Item[] | undefined {
  return items === undefined ? undefined : [...items];
}

function scopesOf({ role, servers, tools, methods }: Token): string {
  if (role !== "member") return "";
  return [
    servers === null ? "all servers" : servers.join(","),
    ...(tools === null ? [] : [`tools ${tools.join(",")}`]),
    ...(methods === null ? [] : [`methods ${methods.join(",")}`]),
  ].join("; ");
}

function stateOf({ revoked, expires }: Token): string {
  if (revoked !== null) return `revoked ${dayOf(revoked)}`;
  if (expires === null) return "valid";
  return Date.parse(expires) <= Date.now() ? `expired ${dayOf(expires)}` : `until ${endOf(expires)}`;
}
