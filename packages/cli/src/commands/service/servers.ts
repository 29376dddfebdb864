import type { Server } from "@keyward/admin/client";
import type { Context } from "../../context.ts";
import { serverResult } from "../../results/service-results.ts";
import { adminAccess } from "../../service/admin-access.ts";
import { type ListOptions, listAll } from "../../service/listed.ts";
import { table } from "../../terminal/output.ts";
import { dayOf } from "../../terminal/times.ts";

/** What the flags of `keyward servers set` change. */
export interface ServerFlags {
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
  { kind }: { readonly kind?: Server["kind"] },
): Promise<void> {
  const { client } = await adminAccess(context);
  const server = await client.createServer({ slug, url, kind });
  context.output.progress(`Set its secrets: \`keyward secrets set ${server.slug} <NAME>\`.`);
  context.output.result(`The server ${server.slug} is added: ${server.url}`, { server: serverResult(server) });
}

/** Lists the servers of the workspace, newest first. */
export async function listServers(context: Context, options: ListOptions): Promise<void> {
  const { client } = await adminAccess(context);
  const { items, complete } = await listAll(context, (page) => client.listServers(page), options);
  const text =
    items.length === 0
      ? "The workspace has no servers. Add one: keyward servers add <slug> <url>"
      : table(items.map((server) => [server.slug, server.kind, server.url, shownSecrets(server), shownState(server)]));
  context.output.result(text, { servers: items.map(serverResult), complete });
}

/** Shows a server. */
export async function showServer(context: Context, slug: string): Promise<void> {
  const { client } = await adminAccess(context);
  const server = await client.getServer(slug);
  context.output.result(shown(server), { server: serverResult(server) });
}

/** Changes the URL, the kind or the state of a server. */
export async function setServer(context: Context, slug: string, flags: ServerFlags): Promise<void> {
  const { client } = await adminAccess(context);
  const { url, kind, enable, disable, ifRevision } = flags;
  const disabled = disable === true ? true : enable === true ? false : undefined;
  const former = url === undefined ? undefined : await client.getServer(slug);
  const server = await client.updateServer(slug, { url, kind, disabled }, { ifRevision });
  if (former !== undefined && server.secretCount > 0 && originOf(former.url) !== originOf(server.url)) {
    context.output.notice(
      "The URL has another origin, so calls cannot use the values until each of them is set again: `keyward secrets set`.",
    );
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
    `The server ${slug} is removed with its secrets. This cannot be undone.`,
    "nothing was removed",
  );
  await client.deleteServer(slug, { ifRevision });
  context.output.result(`The server ${slug} is removed.`, { server: slug, removed: true });
}

function shown(server: Server): string {
  return table([
    ["server", server.slug],
    ["url", server.url],
    ["kind", server.kind],
    ["secrets", String(server.secretCount)],
    ["revision", String(server.revision)],
    ["created", dayOf(server.created)],
    ["state", shownState(server) || "enabled"],
  ]);
}

function shownSecrets({ secretCount }: Server): string {
  return secretCount === 1 ? "1 secret" : `${secretCount} secrets`;
}

function shownState({ disabled, deleting }: Server): string {
  if (deleting) return "being deleted";
  return disabled ? "disabled" : "";
}

function originOf(url: string): string {
  return URL.canParse(url) ? new URL(url).origin : "";
}
