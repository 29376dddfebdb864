import type { ChangeListFilter, ListPage } from "@keyward/admin/client";
import type { Context } from "../../context.ts";
import { changeResult } from "../../results/service-results.ts";
import { adminAccess } from "../../service/admin-access.ts";
import { type ListOptions, listAll } from "../../service/listed.ts";
import { table } from "../../terminal/output.ts";

/** Lists who changed what, newest first. Never a value. */
export async function listChanges(
  context: Context,
  { limit, ...filter }: ListOptions & ChangeListFilter,
): Promise<void> {
  const { client } = await adminAccess(context);
  const options = limit === undefined ? {} : { limit };
  const unreadable: string[] = [];
  const readPage = async (request: ListPage) => {
    const page = await client.listChanges(filter, request);
    unreadable.push(...page.unreadable);
    return page;
  };
  const { items, complete } = await listAll(context, readPage, options);
  if (unreadable.length > 0) {
    const ids = unreadable.join(", ");
    context.output.notice(
      `The audit has changes that cannot be read: ${ids}. Let an operator run \`keyward audit verify\`.`,
    );
  }
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
