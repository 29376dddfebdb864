import { z } from "zod";
import type { Page, PageRequest } from "../model.ts";
import type { RecordKind } from "../records/record-kind.ts";
import { SecretsError } from "../secrets-error.ts";
import type { Decision, ServiceStore } from "../store/service-store.ts";

/** The largest number of entries of a page. */
const pageSize = 500;
/** The largest number of pages that are read in one call to the store. */
const pagesAtOnce = 8;
/** The largest number of pages that one call for a page of items reads, if most entries are left out. */
const maxPagesOfCall = 64;
const defaultLimit = 50;
const maxLimit = 100;

const headSchema = z.strictObject({ v: z.literal(1), last: z.int().min(0) });
type Head = z.infer<typeof headSchema>;
const headKind: RecordKind<Head> = { name: "head of a list", schema: headSchema };

/** An entry of a list with its number in the page, which grows. */
interface Numbered<Entry> {
  readonly n: number;
  readonly entry: Entry;
}

interface ListPage<Entry> {
  readonly v: 1;
  /** The number of the next entry. A page is full when `next` is the size of a page, even if entries were removed. */
  readonly next: number;
  readonly entries: readonly Numbered<Entry>[];
}

/** An entry with its place in the list. */
export interface ListedEntry<Entry> {
  readonly page: number;
  readonly n: number;
  readonly entry: Entry;
}

/**
 * A list of any length in pages of at most 500 entries. An entry is appended to the last page. An entry is in the list
 * before what it names is created, and stays until after what it names was deleted. So the list may name what does not
 * exist, and never lacks what exists.
 */
export class PagedList<Entry extends { readonly id: string }> {
  readonly #store: ServiceStore;
  readonly #prefix: string;
  readonly #pageKind: RecordKind<ListPage<Entry>>;

  /** @param prefix what the keys of the pages begin with, from `listKey`. */
  constructor(store: ServiceStore, prefix: string, entry: z.ZodType<Entry>) {
    this.#store = store;
    this.#prefix = prefix;
    const schema: z.ZodType<ListPage<Entry>> = z.strictObject({
      v: z.literal(1),
      next: z.int().min(0).max(pageSize),
      entries: z
        .array(
          z.strictObject({
            n: z
              .int()
              .min(0)
              .max(pageSize - 1),
            entry,
          }),
        )
        .max(pageSize),
    });
    this.#pageKind = { name: "page of a list", schema };
  }

  /**
   * Appends an entry. Resolves to the number of its page when a reader of the list finds the entry.
   *
   * @param require called with the entries of the last page, before the entry is appended. Throws to refuse the entry.
   */
  async append(entry: Entry, require: (entries: readonly Entry[]) => void = () => {}): Promise<number> {
    let page = (await this.#last()) ?? 0;
    for (;;) {
      const isAppended = await this.#store.change(
        this.#pageKind,
        this.#keyOf(page),
        (current): Decision<ListPage<Entry>, boolean> => {
          const { next, entries } = current ?? { next: 0, entries: [] };
          // The former attempt was made after all, and other entries followed.
          if (entries.some((numbered) => numbered.entry.id === entry.id)) return { result: true };
          require(entries.map((numbered) => numbered.entry));
          if (next >= pageSize) return { result: false };
          return { next: { v: 1, next: next + 1, entries: [...entries, { n: next, entry }] }, result: true };
        },
      );
      // A page that another process has added need not be named by the head yet.
      if (isAppended) {
        await this.#raiseHead(page);
        return page;
      }
      page++;
    }
  }

  /** Replaces or removes entries of one page. `change` returns `undefined` for an entry to remove. */
  async changePage(page: number, change: (entry: Entry) => Entry | undefined): Promise<void> {
    await this.#store.change(this.#pageKind, this.#keyOf(page), (current) => {
      if (current === undefined) return { result: undefined };
      const entries = current.entries.flatMap(({ n, entry }) => {
        const changed = change(entry);
        return changed === undefined ? [] : [{ n, entry: changed }];
      });
      const isSame =
        entries.length === current.entries.length &&
        entries.every(({ entry }, index) => entry === current.entries[index]?.entry);
      return isSame ? { result: undefined } : { next: { ...current, entries }, result: undefined };
    });
  }

  /** Yields the entries of the list page by page, newest first. */
  async *pages(from = Number.POSITIVE_INFINITY): AsyncGenerator<readonly ListedEntry<Entry>[], void> {
    const added = await this.#added();
    for (let high = Math.min(added, from); high >= 0; high -= pagesAtOnce) {
      const numbers = Array.from({ length: Math.min(pagesAtOnce, high + 1) }, (_, index) => high - index);
      const batch = await this.#store.readBatch(numbers.map((page) => this.#keyOf(page)));
      for (const page of numbers) {
        const record = batch.record(this.#pageKind, this.#keyOf(page));
        yield (record?.value.entries ?? []).map(({ n, entry }) => ({ page, n, entry })).reverse();
      }
    }
  }

  /**
   * Returns a page of items, newest first.
   *
   * @param owner what the list belongs to. A cursor of another list is refused.
   * @param resolve returns the item of each entry, in the order of the entries; `undefined` for an entry to leave out.
   * @throws SecretsError `FIELD_INVALID` for an invalid limit or cursor.
   */
  async page<Item>(
    { cursor, limit = defaultLimit }: PageRequest,
    owner: string,
    resolve: (entries: readonly Entry[]) => Promise<readonly (Item | undefined)[]>,
  ): Promise<Page<Item>> {
    if (!Number.isSafeInteger(limit) || limit < 1 || limit > maxLimit) throw invalidLimit();
    const start = cursor === undefined ? undefined : readCursor(cursor, owner);
    const items: Item[] = [];
    let pagesRead = 0;
    let place: { readonly page: number; readonly n: number } | undefined;
    for await (const page of this.pages(start?.page)) {
      const left = page.filter(({ page: number, n }) => start === undefined || number < start.page || n < start.n);
      for (let at = 0; at < left.length; ) {
        const wanted = left.slice(at, at + limit - items.length);
        const resolved = await resolve(wanted.map(({ entry }) => entry));
        at += wanted.length;
        place = wanted.at(-1) ?? place;
        items.push(...resolved.filter((item) => item !== undefined));
        if (items.length >= limit) {
          const isLast = at >= left.length && place?.page === 0;
          return { items, next: isLast || place === undefined ? undefined : cursorOf(owner, place) };
        }
      }
      pagesRead++;
      const [newest] = page;
      if (pagesRead >= maxPagesOfCall && newest !== undefined && newest.page > 0) {
        return { items, next: cursorOf(owner, { page: newest.page, n: 0 }) };
      }
    }
    return { items, next: undefined };
  }

  /** Deletes all pages, and then the head. */
  async removeAll(): Promise<void> {
    const added = await this.#added();
    for (let page = 0; page <= added; page += 100) {
      const count = Math.min(100, added + 1 - page);
      await this.#store.remove(Array.from({ length: count }, (_, index) => this.#keyOf(page + index)));
    }
    await this.#store.remove([`${this.#prefix}/head`]);
  }

  /** Returns the number of the last page; `undefined` for an empty list. */
  async #last(): Promise<number | undefined> {
    return (await this.#store.read(headKind, `${this.#prefix}/head`))?.value.last;
  }

  /** Returns the number of the page that a process may have added before it was killed: the head does not name it yet. */
  async #added(): Promise<number> {
    return ((await this.#last()) ?? -1) + 1;
  }

  async #raiseHead(page: number): Promise<void> {
    await this.#store.change(
      headKind,
      `${this.#prefix}/head`,
      (current): Decision<Head, undefined> =>
        current !== undefined && current.last >= page
          ? { result: undefined }
          : { next: { v: 1, last: page }, result: undefined },
    );
  }

  #keyOf(page: number): string {
    return `${this.#prefix}/${page}`;
  }
}

const cursorPattern = /^([A-Za-z0-9 ]{1,64}) (\d{1,9}) (\d{1,3})$/;

function cursorOf(owner: string, { page, n }: { readonly page: number; readonly n: number }): string {
  return Buffer.from(`${owner} ${page} ${n}`).toString("base64url");
}

function readCursor(cursor: string, owner: string): { readonly page: number; readonly n: number } {
  const found = cursor.length > 128 ? null : cursorPattern.exec(Buffer.from(cursor, "base64url").toString("latin1"));
  if (found === null || found[1] !== owner) {
    throw new SecretsError("FIELD_INVALID", "The cursor does not belong to this list", {
      hint: "Pass the `next` of the previous page, or omit the cursor to begin with the first page.",
    });
  }
  return { page: Number(found[2]), n: Number(found[3]) };
}

function invalidLimit(): SecretsError {
  return new SecretsError("FIELD_INVALID", `The limit of a page is not an integer between 1 and ${maxLimit}`, {
    hint: `Pass a limit between 1 and ${maxLimit}, or omit it for ${defaultLimit}.`,
  });
}
