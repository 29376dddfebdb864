import type { ListedPage, ListPage } from "@keyward/admin/client";
import type { Context } from "../context.ts";
import { CommandError } from "../exit-codes.ts";

/** How many items a list command prints. */
export interface ListOptions {
  /** The maximum number of items. Default: 1,000. */
  readonly limit?: number;
}

/** The items of a list, newest first. */
export interface Listed<Item> {
  readonly items: readonly Item[];
  /** False if the service has more items than the limit. */
  readonly complete: boolean;
}

const pageSize = 100;
/** The maximum number of empty pages. A page is empty if a filter excludes all items that the service has read for the page. */
const mostEmptyPages = 1_000;
/** The maximum number of items that a command prints without `--limit`. */
export const defaultLimit = 1_000;

/** Reads the pages of a list up to a limit. Prints a notice on stderr if there may be more items. */
export async function listAll<Item>(
  { signal, output }: Pick<Context, "signal" | "output">,
  readPage: (page: ListPage) => Promise<ListedPage<Item>>,
  { limit = defaultLimit }: ListOptions,
): Promise<Listed<Item>> {
  const items: Item[] = [];
  const unreadable: string[] = [];
  let cursor: string | undefined;
  let emptyPages = 0;
  do {
    signal.throwIfAborted();
    const page = await readPage({ limit: Math.min(pageSize, limit - items.length), cursor });
    if (page.items.length === 0 && page.next !== null) emptyPages++;
    if (emptyPages > mostEmptyPages) {
      throw new CommandError("USAGE", "The service sends pages without items, and never the last page", {
        hint: "Check the URL of the service, and that the command and the service have one release.",
      });
    }
    items.push(...page.items);
    unreadable.push(...page.unreadable);
    cursor = page.next ?? undefined;
  } while (cursor !== undefined && items.length < limit);
  if (unreadable.length > 0) {
    output.notice(
      `${unreadable.length} items cannot be read: ${unreadable.join(", ")}. Let an operator look at the log of the service, and restore the records from a backup.`,
    );
  }
  const isComplete = cursor === undefined;
  if (!isComplete) {
    output.notice(
      `The list has only the ${items.length} newest items, and there may be more. To list more, raise \`--limit\`.`,
    );
  }
  return { items: items.slice(0, limit), complete: isComplete };
}
