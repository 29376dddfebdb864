import type { AdminClient, Server } from "@keyward/admin/client";
import type { Context } from "../../context.ts";
import { CommandError } from "../../exit-codes.ts";
import { serverResult } from "../../results/service-results.ts";
import { adminAccess } from "../../service/admin-access.ts";
import { allowanceNote, callPath } from "../../service/call-address.ts";
import { type HeaderFlags, headersOf } from "../../service/header-flags.ts";
import { type ListOptions, listAll } from "../../service/listed.ts";
import { shownSince } from "../../terminal/durations.ts";
import { oneLine, table } from "../../terminal/output.ts";
import { dayOf } from "../../terminal/times.ts";

/** What the flags of `keyward servers set` change. */
export interface ServerFlags extends HeaderFlags {
  readonly url?: string;
  readonly kind?: Server["kind"];
  /** True for `--disable`. */
  readonly disable?: boolean;
  /** True for `--enable`. */
  readonly enable?: boolean;
  readonly ifRevision?: number;
}

/** Adds a server to the workspace. */
export async function addServer(
  context: Context,
  slug: string,
  url: string,
  { kind, ...headers }: { readonly kind?: Server["kind"] } & HeaderFlags,
): Promise<void> {
  const { client } = await adminAccess(context);
  const server = await client.createServer({ slug, url, kind, ...headersOf(headers) });
  const other = kind === undefined ? ` For another HTTP API: \`keyward servers set ${server.slug} --kind http\`.` : "";
  context.output.progress(`Callers reach the server at ${shownTarget(server)} of the gateway.${other}`);
  context.output.progress(`Set its secrets: \`keyward secrets set ${server.slug} <NAME>\`.`);
  await printAllowance(context, server);
  context.output.result(`The server ${server.slug} (${server.kind}) is added: ${server.url}`, {
    server: serverResult(server),
  });
}

/** Lists the servers of the workspace, newest first. */
export async function listServers(context: Context, options: ListOptions): Promise<void> {
  const { client } = await adminAccess(context);
  const { items, complete } = await listAll(context, (page) => client.listServers(page), options);
  const text =
    items.length === 0
      ? "The workspace has no servers. Add one: keyward servers add <slug> <url>"
      : table(items.map(rowOf));
  context.output.result(text, { servers: items.map(serverResult), complete });
}

/** Shows a server. */
export async function showServer(context: Context, slug: string): Promise<void> {
  const { client } = await adminAccess(context);
  const server = await client.getServer(slug);
  context.output.result(shown(server), { server: serverResult(server) });
}

/** Changes the URL, the kind, the headers or the state of a server. */
export async function setServer(context: Context, slug: string, flags: ServerFlags): Promise<void> {
  const { url, kind, enable, disable, ifRevision } = flags;
  const disabled = disable === true ? true : enable === true ? false : undefined;
  const change = { url, kind, ...headersOf(flags), disabled };
  if (Object.values(change).every((changed) => changed === undefined)) {
    throw new CommandError("USAGE", "The command line has nothing to change", {
      hint: "Pass one of --url, --kind, --enable, --disable and the flags of headers. `keyward servers show` shows the server.",
    });
  }
  const { client } = await adminAccess(context);
  const server = await client.updateServer(slug, change, { ifRevision });
  if (url !== undefined) {
    if (server.secretCount > 0) await printUnusable(context, client, server);
    await printAllowance(context, server);
  }
  context.output.result(`${shown(server)}\nThe change takes effect on the next call.`, {
    server: serverResult(server),
  });
}

/** Removes a server with its secrets. */
export async function removeServer(
  context: Context,
  slug: string,
  { ifRevision }: { readonly ifRevision?: number },
): Promise<void> {
  const { client } = await adminAccess(context);
  await context.operator.confirm(
    `The server ${slug} would be removed with its secrets, which cannot be undone.`,
    "nothing was removed",
  );
  await client.deleteServer(slug, { ifRevision });
  context.output.result(`The server ${slug} is removed.`, { server: slug, removed: true });
}

function rowOf(server: Server): readonly string[] {
  const { slug, kind, url, state } = server;
  const { since, lastError } = state;
  const isSince = isCalled(server) && since !== null;
  return [
    slug,
    kind,
    url,
    shownSecrets(server),
    isSince ? `${state.status} for ${shownSince(Date.parse(since))}` : shownState(server),
    lastError === null ? "" : `last error ${shownSince(Date.parse(lastError.at))} ago: ${lastError.reason}`,
  ];
}

function shown(server: Server): string {
  const { lastError } = server.state;
  return table([
    ["server", server.slug],
    ["url", server.url],
    ["kind", server.kind],
    ["calls", shownTarget(server)],
    ["forward headers", server.forwardHeaders.join(", ") || "none"],
    ["relay headers", server.relayHeaders.join(", ") || "none"],
    ["secrets", String(server.secretCount)],
    ["revision", String(server.revision)],
    ["created", dayOf(server.created)],
    ["state", shownLongState(server)],
    ...(lastError === null ? [] : [["last error", `${lastError.at}  ${lastError.reason}`]]),
  ]);
}

/** Returns the path at the gateway at which callers reach a server. For an HTTP API, callers append a path. */
function shownTarget({ slug, kind }: Server): string {
  return kind === "mcp" ? callPath(slug, kind) : `${callPath(slug, kind)}<path>`;
}

/** Prints which values calls cannot use, because each was set for another origin than the URL of the server has now. */
async function printUnusable({ output }: Context, client: AdminClient, { slug }: Server): Promise<void> {
  const { secrets } = await client.listSecrets(slug);
  const names = secrets.filter(({ unusable }) => unusable === "origin-changed").map(({ name }) => name);
  if (names.length === 0) return;
  output.notice(
    `Calls cannot use these values, because each was set for another origin than the URL has now: ${names.join(", ")}. Set each of them again with \`keyward secrets set\`, or set the former URL again.`,
  );
}

/** Prints a note if the gateway refuses calls to a server, always or without the flag `--allow-address`. */
async function printAllowance({ output }: Context, { url }: Server): Promise<void> {
  const note = await allowanceNote(url);
  if (note !== undefined) output.notice(oneLine(note));
}

function shownSecrets({ secretCount }: Server): string {
  return secretCount === 1 ? "1 secret" : `${secretCount} secrets`;
}

function shownLongState(server: Server): string {
  const { status, since } = server.state;
  if (!isCalled(server)) return shownState(server);
  return since === null ? "unknown until this process of the service calls the server" : `${status} since ${since}`;
}

function shownState({ disabled, deleting, state }: Server): string {
  if (deleting) return "being deleted";
  return disabled ? "disabled" : state.status;
}

function isCalled({ disabled, deleting }: Server): boolean {
  return !disabled && !deleting;
}
