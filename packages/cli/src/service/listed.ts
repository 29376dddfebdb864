import type { ListedPage, ListPage } from "@keyward/admin/client";
import type { Context } from "../context.ts";

/** How many items a list command prints. */
export interface ListOptions {
  /** The most items. */
  readonly limit?: number;
}

/** The items of a list, newest first. */
export interface Listed<Item> {
  readonly items: readonly Item[];
  /** False if there are more items than the command was to print. */
  readonly complete: boolean;
}

const pageSize = 100;
/** The most items that a command prints unless `--limit` says otherwise. */
export const defaultLimit = 1_000;

/** Reads the pages of a list up to a limit. Says on stderr if there are more items. */
export async function listAll<Item>(
  { signal, output }: Pick<Context, "signal" | "output">,
  readPage: (page: ListPage) => Promise<ListedPage<Item>>,
  { limit = defaultLimit }: ListOptions,
): Promise<Listed<Item>> {
  const items: Item[] = [];
  let cursor: string | undefined;
  do {
    signal.throwIfAborted();
    const page = await readPage({ limit: Math.min(pageSize, limit - items.length), cursor });
    items.push(...page.items);
    cursor = page.next ?? undefined;
  } while (cursor !== undefined && items.length < limit);
  const isComplete = cursor === undefined;
  if (!isComplete) {
    output.notice(`There may be more than these ${items.length}, which are the newest. For more, raise \`--limit\`.`);
  }
  return { items: items.slice(0, limit), complete: isComplete };
}
