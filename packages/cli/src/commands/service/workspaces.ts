import type { Context } from "../../context.ts";
import { tokenResult, workspaceResult } from "../../results/service-results.ts";
import { adminAccess } from "../../service/admin-access.ts";
import { type ListOptions, listAll } from "../../service/listed.ts";
import { table } from "../../terminal/output.ts";
import { dayOf } from "../../terminal/times.ts";

/** Creates a workspace, and prints the token of its first admin. */
export async function createWorkspace(
  context: Context,
  name: string,
  { owner }: { readonly owner: string },
): Promise<void> {
  const { client, url } = await adminAccess(context);
  const { workspace, admin } = await client.createWorkspace({ name, adminOwner: owner });
  context.output.progress(
    `The workspace ${workspace.name} has the admin ${owner}. The token is printed once. Its holder runs \`keyward login --url ${url}\`.`,
  );
  context.output.result(admin.token, {
    workspace: workspaceResult(workspace),
    token: admin.token,
    info: tokenResult(admin.info),
  });
}

/** Lists the workspaces, newest first. */
export async function listWorkspaces(context: Context, options: ListOptions): Promise<void> {
  const { client } = await adminAccess(context);
  const { items, complete } = await listAll(context, (page) => client.listWorkspaces(page), options);
  const rows = items.map(({ name, id, created, retentionDays, revision, deleting }) => [
    name,
    id,
    dayOf(created),
    `${retentionDays} days`,
    `revision ${revision}`,
    deleting ? "being deleted" : "",
  ]);
  const text =
    items.length === 0 ? "There are no workspaces." : table([["name", "id", "created", "kept", "", ""], ...rows]);
  context.output.result(text, { workspaces: items.map(workspaceResult), complete });
}

/** Deletes a workspace with its servers, secrets and tokens. */
export async function deleteWorkspace(
  context: Context,
  name: string,
  { ifRevision }: { readonly ifRevision?: number },
): Promise<void> {
  const { client } = await adminAccess(context);
  await context.operator.confirm(
    `The workspace ${name} would be deleted with its servers, secrets and tokens, which cannot be undone.`,
    "nothing was deleted",
  );
  await client.deleteWorkspace(name, { ifRevision });
  context.output.result(`The workspace ${name} is deleted.`, { workspace: name, deleted: true });
}
