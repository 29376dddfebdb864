import type { ChangeListFilter } from "@keyward/admin/client";
import type { Context } from "../../context.ts";
import { changeResult } from "../../results/service-results.ts";
import { adminAccess } from "../../service/admin-access.ts";
import { type ListOptions, listAll } from "../../service/listed.ts";
import { table } from "../../terminal/output.ts";

/** Lists the changes and who made them, newest first. Prints no value of a secret. */
export async function listChanges(
  context: Context,
  { limit, ...filter }: ListOptions & ChangeListFilter,
): Promise<void> {
  const { client } = await adminAccess(context);
  const options = limit === undefined ? {} : { limit };
  const { items, complete } = await listAll(context, (page) => client.listChanges(filter, page), options);
  const rows = items.map(({ at, caller, action, server, subject, outcome, revision, detail }) => [
    at,
    caller.owner,
    action,
    [server, subject].filter((part) => part !== null).join(" "),
    detail ?? "",
    outcome,
    revision === null ? "" : `revision ${revision}`,
  ]);
  context.output.result(items.length === 0 ? "There are no such changes." : table(rows), {
    changes: items.map(changeResult),
    complete,
  });
}
