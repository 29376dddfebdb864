import { z } from "zod";
import type { Page, PageRequest } from "../model.ts";
import { isOfRecord, orReport } from "../records/record-errors.ts";
import type { RecordKind } from "../records/record-kind.ts";
import { SecretsError } from "../secrets-error.ts";
import type { Decision, ReadBatch, ServiceStore } from "../store/service-store.ts";

/** The largest number of entries of a page. */
const pageSize = 500;
/** The largest number of pages that are read in one call to the store. */
const pagesAtOnce = 8;
/** The largest number of list pages that one call of {@link PagedList.page} reads, even if it finds few items. */
const maxPagesOfCall = 64;
const defaultLimit = 50;
const maxLimit = 100;

const headSchema = z.strictObject({ v: z.literal(1), last: z.int().min(0) });
type Head = z.infer<typeof headSchema>;
const headKind: RecordKind<Head> = { name: "head of a list", schema: headSchema };

/** An entry of a list with its number in the page. A later entry has a higher number. */
interface Numbered<Entry> {
  readonly n: number;
  readonly entry: Entry;
}

/** The record of one page of a list. */
export interface ListPage<Entry> {
  readonly v: 1;
  /** The number of the next entry. A page is full when `next` is the size of a page, even if entries were removed. */
  readonly next: number;
  readonly entries: readonly Numbered<Entry>[];
}

/** Returns the schema of the pages of a list, from the schema of its entries. Call it once for each kind of list. */
export function pageSchemaOf<Entry>(entry: z.ZodType<Entry>): z.ZodType<ListPage<Entry>> {
  const n = z
    .int()
    .min(0)
    .max(pageSize - 1);
  return z.strictObject({
    v: z.literal(1),
    next: z.int().min(0).max(pageSize),
    entries: z.array(z.strictObject({ n, entry })).max(pageSize),
  });
}

/** The item that an entry of a list refers to. */
export interface Resolved<Item> {
  /** The name to show for the item if its record cannot be read. */
  readonly name: string;
  /** Returns the item, or `undefined` if the page must not contain the item. Throws if the record of the item cannot be read. */
  readonly read: () => Item | undefined;
}

/** An entry with the number of its page, and its number in the page. */
export interface ListedEntry<Entry> {
  readonly page: number;
  readonly n: number;
  readonly entry: Entry;
}

/**
 * A list of any length in pages of at most 500 entries. An entry is appended to the last page. An entry is added before
 * its item is created, and removed after its item was deleted. So an entry may be without an item, but no item is
 * without an entry.
 */
export class PagedList<Entry extends { readonly id: string }> {
  readonly #store: ServiceStore;
  readonly #prefix: string;
  readonly #pageSchema: z.ZodType<ListPage<Entry>>;

  /**
   * @param prefix what the keys of the pages begin with, from `listKey`.
   * @param pageSchema from {@link pageSchemaOf}.
   */
  constructor(store: ServiceStore, prefix: string, pageSchema: z.ZodType<ListPage<Entry>>) {
    this.#store = store;
    this.#prefix = prefix;
    this.#pageSchema = pageSchema;
  }

  /**
   * Appends an entry, and returns the number of its page. From then on, readers of the list find the entry.
   *
   * @param require called with the entries of the last page, before the entry is appended. Throws to refuse the entry.
   */
  async append(entry: Entry, require: (entries: readonly Entry[]) => void = () => {}): Promise<number> {
    const ignore = () => {};
    let page = (await orReport(() => this.#last(), ignore)) ?? 0;
    while (!(await this.#appendTo(page, entry, require))) page++;
    // A walk finds the page also if the head cannot be changed.
    await orReport(() => this.#raiseHead(page), ignore);
    return page;
  }

  /** Appends an entry to a page. Returns false, without a change, if the page is full or cannot be read. */
  async #appendTo(page: number, entry: Entry, require: (entries: readonly Entry[]) => void): Promise<boolean> {
    try {
      return await this.#store.change(
        this.#kindOf(page),
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
    } catch (error) {
      if (isOfRecord(error) && (await this.#stateOf(page)) === "unreadable") return false;
      throw error;
    }
  }

  /** Replaces or removes entries of one page. `change` returns `undefined` for an entry to remove. */
  async changePage(page: number, change: (entry: Entry) => Entry | undefined): Promise<void> {
    await this.#store.change(this.#kindOf(page), this.#keyOf(page), (current) => {
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

  /**
   * Checks that a page still has an entry. A sweep removes the entry of a creation that takes longer than a day.
   * Accepts an entry that is marked as deleted, because another caller may already have deleted the new item.
   *
   * @throws SecretsError `SERVICE_BUSY` if the page has no such entry.
   */
  async requireEntry({ page, id }: { readonly page: number; readonly id: string }): Promise<void> {
    if ((await this.entryOf({ page, id })) === undefined) throw entryRemoved();
  }

  /** Returns the entry of a page with an id; `undefined` if there is none. */
  async entryOf({ page, id }: { readonly page: number; readonly id: string }): Promise<Entry | undefined> {
    const record = await this.#store.read(this.#kindOf(page), this.#keyOf(page));
    return record?.value.entries.find(({ entry }) => entry.id === id)?.entry;
  }

  /** Puts an entry that was removed back into its page. */
  async restore({ page, n, entry }: ListedEntry<Entry>): Promise<void> {
    await this.#store.change(this.#kindOf(page), this.#keyOf(page), (current): Decision<ListPage<Entry>, undefined> => {
      const { next, entries } = current ?? { next: n + 1, entries: [] };
      if (entries.some((other) => other.n === n)) return { result: undefined };
      const all = [...entries, { n, entry }].sort((first, second) => first.n - second.n);
      return { next: { v: 1, next, entries: all }, result: undefined };
    });
  }

  /**
   * Yields the entries of the list page by page, newest first.
   *
   * @param options.onUnreadable called with the error and the number of each page that cannot be read, which is then
   * left out. Called without a number if the head of the list cannot be read. Default: throws the error.
   * @param options.onMissing called with the number of each page that the head counts, but that is not stored. Default:
   * does nothing.
   */
  async *pages({
    from = Number.POSITIVE_INFINITY,
    onUnreadable,
    onMissing = () => {},
  }: {
    readonly from?: number | undefined;
    readonly onUnreadable?: ((problem: unknown, page?: number) => void) | undefined;
    readonly onMissing?: ((page: number) => void) | undefined;
  } = {}): AsyncGenerator<readonly ListedEntry<Entry>[], void> {
    const added = await this.#added(onUnreadable);
    for (let high = Math.min(added, from); high >= 0; high -= pagesAtOnce) {
      const numbers = Array.from({ length: Math.min(pagesAtOnce, high + 1) }, (_, index) => high - index);
      const batch = await this.#store.readBatch(numbers.map((page) => this.#keyOf(page)));
      for (const page of numbers) {
        yield this.#entriesOf(batch, page, onUnreadable, page < added ? onMissing : undefined);
      }
    }
  }

  /**
   * Returns a page of items, newest first.
   *
   * @param owner the id of the list's workspace, or the name of the list. Each cursor contains it, so a cursor of
   * another list is refused.
   * @param resolve returns the item of each entry, in the order of the entries.
   * @throws SecretsError `FIELD_INVALID` for an invalid limit or cursor.
   */
  async page<Item>(
    { cursor, limit = defaultLimit }: PageRequest,
    owner: string,
    resolve: (entries: readonly Entry[]) => Promise<readonly Resolved<Item>[]>,
  ): Promise<Page<Item>> {
    if (!Number.isSafeInteger(limit) || limit < 1 || limit > maxLimit) throw invalidLimit();
    const start = cursor === undefined ? undefined : readCursor(cursor, owner);
    const items: Item[] = [];
    const unreadable: string[] = [];
    const onUnreadable = (_: unknown, page?: number) => {
      if (page !== undefined) unreadable.push(`all entries of page ${page} of the list`);
    };
    let pagesRead = 0;
    for await (const page of this.pages({ from: start?.page, onUnreadable })) {
      const left = page.filter(({ page: number, n }) => start === undefined || number < start.page || n < start.n);
      // Few entries first, and more if most of them are left out: a short page must not cost many reads.
      for (let at = 0, atOnce = limit - items.length; at < left.length; atOnce = Math.min(maxLimit, atOnce * 2)) {
        const wanted = left.slice(at, at + atOnce);
        const resolved = await resolve(wanted.map(({ entry }) => entry));
        for (const { name, read } of resolved) {
          const place = left[at++];
          const item = readable(read, name, unreadable);
          if (item !== undefined) items.push(item);
          if (items.length < limit || place === undefined) continue;
          const isLast = at >= left.length && place.page === 0;
          return { items, unreadable, next: isLast ? undefined : cursorOf(owner, place) };
        }
      }
      pagesRead++;
      const [newest] = page;
      if (pagesRead >= maxPagesOfCall && newest !== undefined && newest.page > 0) {
        return { items, unreadable, next: cursorOf(owner, { page: newest.page, n: 0 }) };
      }
    }
    return { items, unreadable, next: undefined };
  }

  #entriesOf(
    batch: ReadBatch,
    page: number,
    onUnreadable: ((problem: unknown, page?: number) => void) | undefined,
    onMissing: ((page: number) => void) | undefined,
  ): readonly ListedEntry<Entry>[] {
    try {
      const record = batch.record(this.#kindOf(page), this.#keyOf(page));
      if (record === undefined) onMissing?.(page);
      return (record?.value.entries ?? []).map(({ n, entry }) => ({ page, n, entry })).reverse();
    } catch (error) {
      if (onUnreadable === undefined || !isOfRecord(error)) throw error;
      onUnreadable(error, page);
      return [];
    }
  }

  /** Returns whether the list has more than `count` entries. */
  async hasMoreThan(count: number): Promise<boolean> {
    let found = 0;
    for await (const page of this.pages()) {
      found += page.length;
      if (found > count) return true;
    }
    return false;
  }

  /** Returns whether the list has a head. */
  async isBegun(): Promise<boolean> {
    return (await this.#last()) !== undefined;
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

  /**
   * Returns the number after that of the last page. Also looks for pages that the head does not count: a process may
   * have been killed after it added a page, and someone may have removed, damaged or put back the head.
   */
  async #added(onUnreadable?: (problem: unknown) => void): Promise<number> {
    const last = onUnreadable === undefined ? await this.#last() : await orReport(() => this.#last(), onUnreadable);
    let page = (last ?? -1) + 1;
    while ((await this.#stateOf(page)) !== "missing") page++;
    return page;
  }

  async #stateOf(page: number): Promise<"missing" | "readable" | "unreadable"> {
    const batch = await this.#store.readBatch([this.#keyOf(page)]);
    const exists = () => batch.record(this.#kindOf(page), this.#keyOf(page)) !== undefined;
    const found = await orReport(exists, () => {});
    if (found === undefined) return "unreadable";
    return found ? "readable" : "missing";
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

  /** `next` only grows, so a page with a lower `next` than one that was read before was put back by someone. */
  #kindOf(page: number): RecordKind<ListPage<Entry>> {
    const identity = `list ${this.#keyOf(page)}`;
    return {
      name: "page of a list",
      schema: this.#pageSchema,
      revisionOf: ({ next }) => ({ identity, revision: next }),
    };
  }
}

/** Reads an item. Adds the item to `unreadable` if its record cannot be read, so that one record does not hide the others. */
function readable<Item>(read: () => Item | undefined, name: string, unreadable: string[]): Item | undefined {
  try {
    return read();
  } catch (error) {
    if (!isOfRecord(error)) throw error;
    unreadable.push(name);
    return undefined;
  }
}

function entryRemoved(): SecretsError {
  return new SecretsError("SERVICE_BUSY", "The creation took longer than a day, so its entry in the list was removed", {
    hint: "Repeat the call. If the process was not halted for a day, check the clock of every machine that runs the service.",
  });
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
