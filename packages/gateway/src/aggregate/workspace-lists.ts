import type { CallableServer, Relay } from "../relay/index.ts";
import type { ServerStates } from "../server-states.ts";
import type { MessageMemory } from "./answer-reader.ts";
import type { CallOrigin } from "./call-origin.ts";
import type { JsonObject } from "./json.ts";
import { type ListedItem, type ListKind, listKinds } from "./listed-items.ts";
import type { Era } from "./messages.ts";
import { ServerConnection } from "./server-connection.ts";
import type { ServerEras } from "./server-eras.ts";
import { type ReadLists, readLists, reasonOf } from "./server-lists.ts";
import type { Turns } from "./turns.ts";

/** The options of {@link WorkspaceLists}. */
export interface WorkspaceListsOptions {
  readonly relay: Pick<Relay, "call">;
  readonly eras: ServerEras;
  /** Records the state of each server. */
  readonly states: ServerStates;
  /** The memory of the messages of all servers. */
  readonly memory: MessageMemory;
  /** The memory of the lists of all tokens. */
  readonly listMemory: MessageMemory;
  /** The id of the workspace. */
  readonly workspace: string;
  readonly tokenId: string;
  /** Limits how many servers are read at once, for all callers together. */
  readonly turns: Turns;
  /** Returns the origin of the latest request of the token. */
  readonly origin: () => CallOrigin;
  /** The protocol of the callers. A server may list other things in another protocol. */
  readonly era: Era;
  /** The capabilities of the callers, which the gateway sends to the servers. Some servers list a tool only for a client with the capability that the tool needs. */
  readonly capabilities: JsonObject;
  /** How long reading all lists of one server may take, in milliseconds. */
  readonly readWithinMs: number;
  /** Called when lists have changed. */
  readonly changed: () => void;
}

/** One server, and what is known of its lists. */
interface ListedServer {
  readonly server: CallableServer;
  lists: ReadonlyMap<ListKind, readonly ListedItem[]>;
  /** The memory that the lists take. */
  bytes: number;
  /** The entries of each list as JSON, for the tools in scope. */
  readonly joined: Map<ListKind, string>;
  /** When the lists were last read, by the clock of `performance.now()`; `undefined` if they were not read since a change. */
  readMs: number | undefined;
  /** True if the lists, or one of them, could not be read. */
  hasFailed: boolean;
  failures: number;
  /** True if the server has said that its lists changed, and they were not read since. */
  isChanged: boolean;
  /** When the lists are read again, by the clock of `performance.now()`. */
  nextMs: number;
  reading: Promise<void> | undefined;
}

/** A page of a list. */
export interface ListPage {
  /** The entries as JSON, with commas between them. */
  readonly entries: Buffer;
  /** The slug of the server with which the next page begins. */
  readonly next: string | undefined;
}

const longestPage = 4 * 1_048_576;
/** The number of cached pages, enough for the first page of each list. When it is exceeded, the cache is emptied. */
const maxPages = 4;
const freshMs = 60_000;
/** The lists of a server that were not read for longer may be those of a server that has ended. */
const longestTrustMs = 120_000;
/** A server may say again and again that its lists changed. */
const pauseMs = 2_000;
const firstRetryMs = 1_000;
const nextRetryMs = 5_000;

/**
 * The lists of all servers that one token may call. Each server is read separately. If a server does not answer, or answers
 * garbage, only its own entries are missing, and it is read again later. The entries of a server are serialized once.
 */
export class WorkspaceLists {
  readonly #options: WorkspaceListsOptions;
  readonly #servers = new Map<string, ListedServer>();
  readonly #versions = new Map<ListKind, number>(listKinds.map((kind) => [kind, 0]));
  readonly #pages = new Map<string, ListPage & { readonly version: number }>();
  readonly #ended = new AbortController();
  /** The sessions at servers that are being ended. */
  readonly #closings = new Set<Promise<void>>();
  #tools: readonly string[] | undefined;

  constructor(options: WorkspaceListsOptions) {
    this.#options = options;
  }

  /** Sets the servers and tools that the token may call. Starts to read the servers whose lists are missing or old. */
  update(servers: readonly CallableServer[], tools: readonly string[] | undefined): void {
    const slugs = new Set(servers.map(({ slug }) => slug));
    for (const { server } of this.#servers.values()) if (!slugs.has(server.slug)) this.#remove(server.slug);
    if (tools?.join("\n") !== this.#tools?.join("\n")) {
      this.#tools = tools;
      for (const { joined } of this.#servers.values()) joined.delete("tools");
      this.#raise("tools");
    }
    for (const server of servers) {
      const known = this.#servers.get(server.slug);
      if (known?.server.id === server.id && known.server.revision === server.revision) continue;
      if (known !== undefined) this.#options.eras.forget(this.#identityOf(server.slug));
      if (known !== undefined && known.server.id !== server.id) this.#remove(server.slug);
      this.#servers.set(server.slug, {
        ...{ lists: new Map(), bytes: 0, joined: new Map(), hasFailed: false },
        // The lists of the same server before a change stay until it was read, or until the next failure.
        ...this.#servers.get(server.slug),
        ...{ server, readMs: undefined, failures: 1, isChanged: false, nextMs: 0, reading: undefined },
      });
    }
    this.readDue();
  }

  /** Starts to read the lists of each server whose lists are old. */
  readDue(): void {
    const nowMs = performance.now();
    for (const listed of this.#servers.values()) {
      if (listed.reading !== undefined || listed.nextMs > nowMs) continue;
      listed.isChanged = false;
      listed.reading = this.#read(listed).finally(() => {
        listed.reading = undefined;
        if (listed.isChanged) this.#readChanged(listed);
      });
    }
  }

  /** Begins to read the lists of a server again, because a call to the server has failed, unless the lists show that already. */
  noteFailedCall(slug: string): void {
    if (this.#servers.get(slug)?.hasFailed === false) this.readAgain(slug);
  }

  /** Begins to read the lists of a server again, because the server has said that they changed. */
  readAgain(slug: string): void {
    const listed = this.#servers.get(slug);
    if (listed === undefined) return;
    // A change during a reading may be missing in what was read.
    listed.isChanged = true;
    if (listed.reading === undefined) this.#readChanged(listed);
  }

  /** Begins to read lists that have changed, at once or when the pause since the last reading is over. */
  #readChanged(listed: ListedServer): void {
    const waitMs = (listed.readMs ?? 0) + pauseMs - performance.now();
    const read = () => {
      if (this.#ended.signal.aborted || this.#servers.get(listed.server.slug) !== listed) return;
      listed.nextMs = 0;
      this.readDue();
    };
    if (listed.readMs === undefined || waitMs <= 0) read();
    else setTimeout(read, waitMs).unref();
  }

  /** Waits until all lists that are missing, old or in doubt were read, but at most `waitMs` milliseconds. */
  async read(waitMs: number, signal: AbortSignal): Promise<void> {
    const nowMs = performance.now();
    const pending = [...this.#servers.values()].flatMap((listed) =>
      listed.reading !== undefined && !isTrusted(listed, nowMs) ? [listed.reading] : [],
    );
    if (pending.length === 0) return;
    const { promise: late, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, waitMs);
    signal.addEventListener("abort", () => resolve(), { once: true });
    await Promise.race([Promise.all(pending), late]);
    clearTimeout(timer);
  }

  /** True if all lists of all servers were read. */
  get isWhole(): boolean {
    return [...this.#servers.values()].every(({ readMs, hasFailed }) => readMs !== undefined && !hasFailed);
  }

  /** Returns a number that grows with each change of a list. */
  version(kind: ListKind): number {
    return this.#versions.get(kind) ?? 0;
  }

  /**
   * Returns a page of a list: the entries as JSON, of one server after another, from the server with a slug on, and the server
   * with which the next page begins. The page is made once for each version of the list.
   */
  page(kind: ListKind, from: string): ListPage {
    const version = this.version(kind);
    const known = this.#pages.get(`${kind} ${from}`);
    if (known?.version === version) return known;
    const parts: string[] = [];
    let length = 0;
    let next: string | undefined;
    for (const { slug, json } of this.#entries(kind, from)) {
      if (length > 0 && length + json.length > longestPage) {
        next = slug;
        break;
      }
      parts.push(json);
      length += json.length;
    }
    const page = { version, next, entries: Buffer.from(parts.join(",")) };
    if (this.#pages.size >= maxPages) this.#pages.clear();
    this.#pages.set(`${kind} ${from}`, page);
    return page;
  }

  /** Yields the entries of a list as JSON, of one server after another, from the server with a slug on. */
  *#entries(kind: ListKind, from: string): Generator<{ readonly slug: string; readonly json: string }> {
    for (const slug of [...this.#servers.keys()].sort()) {
      const listed = this.#servers.get(slug);
      if (slug < from || listed === undefined) continue;
      const json = this.#joined(listed, kind);
      if (json !== "") yield { slug, json };
    }
  }

  /** Returns the entry of a list by its public name. */
  find(kind: ListKind, slug: string, shown: string): ListedItem | undefined {
    return this.#servers
      .get(slug)
      ?.lists.get(kind)
      ?.find(({ publicName }) => publicName === shown);
  }

  /** Cancels the reading of lists, and ends the sessions at servers that were used for it. */
  async close(): Promise<void> {
    const readings = [...this.#servers.values()].map(({ reading }) => reading);
    this.#ended.abort();
    for (const { bytes } of this.#servers.values()) this.#options.listMemory.release(bytes);
    this.#servers.clear();
    await Promise.all([...readings, ...this.#closings]);
  }

  async #read(listed: ListedServer): Promise<void> {
    const { relay, eras, memory, origin, turns, readWithinMs, era, capabilities } = this.#options;
    const { slug } = listed.server;
    await turns.run(this.#options.tokenId, async () => {
      if (this.#ended.signal.aborted) return;
      const connection = new ServerConnection({
        ...{ relay, eras, memory, slug, capabilities },
        ...{ identity: this.#identityOf(slug), prefers: era, openedWithinMs: readWithinMs, signal: this.#ended.signal },
      });
      const signal = AbortSignal.any([this.#ended.signal, AbortSignal.timeout(readWithinMs)]);
      try {
        const read = await readLists(connection, slug, { origin: origin(), signal });
        this.#take(listed, read);
      } catch (error) {
        this.#take(listed, allFailed(reasonOf(error)));
      } finally {
        const closed = connection.close(origin()).catch(() => {});
        this.#closings.add(closed);
        void closed.then(() => this.#closings.delete(closed));
      }
    });
  }

  #take(listed: ListedServer, read: ReadLists): void {
    if (this.#ended.signal.aborted || this.#servers.get(listed.server.slug) !== listed) return;
    this.#note(listed.server, read);
    const { listMemory } = this.#options;
    const hasRoom = listMemory.hasRoomFor(bytesOf(read.lists) - listed.bytes);
    const { lists, failed } = hasRoom ? read : allFailed(undefined);
    listed.hasFailed = failed.size > 0;
    listed.failures = listed.hasFailed ? listed.failures + 1 : 0;
    const nowMs = performance.now();
    listed.nextMs = nowMs + (listed.hasFailed ? retryMs(listed.failures) : freshMs);
    const former = listed.lists;
    const next = new Map(lists);
    // After one failure, entries that are not old stay in the list. The second failure removes them.
    const isKept = listed.failures < 2 && !isOld(listed, nowMs);
    for (const kind of failed.keys()) next.set(kind, isKept ? (former.get(kind) ?? []) : []);
    listed.lists = next;
    listMemory.release(listed.bytes);
    listed.bytes = bytesOf(next);
    listMemory.take(listed.bytes);
    listed.readMs = nowMs;
    for (const kind of listKinds) {
      const before = textOf(former.get(kind));
      if (before === textOf(next.get(kind))) continue;
      listed.joined.delete(kind);
      this.#raise(kind);
    }
  }

  #note({ id, revision }: CallableServer, { failed }: ReadLists): void {
    const { states, workspace } = this.#options;
    const called = { workspace, id, revision };
    const reason = [...failed.values()].find((found) => found !== undefined);
    if (reason !== undefined) states.noteError(called, "failed", reason, "lists");
    else if (failed.size === 0) states.noteReady(called, "lists");
  }

  #joined(listed: ListedServer, kind: ListKind): string {
    const known = listed.joined.get(kind);
    if (known !== undefined) return known;
    const items = listed.lists.get(kind) ?? [];
    const tools = kind === "tools" ? this.#tools : undefined;
    const text = textOf(tools === undefined ? items : items.filter(({ name }) => tools.includes(name)));
    listed.joined.set(kind, text);
    return text;
  }

  #remove(slug: string): void {
    const listed = this.#servers.get(slug);
    this.#servers.delete(slug);
    this.#options.listMemory.release(listed?.bytes ?? 0);
    for (const kind of listKinds) if ((listed?.lists.get(kind)?.length ?? 0) > 0) this.#raise(kind);
  }

  #raise(kind: ListKind): void {
    this.#versions.set(kind, this.version(kind) + 1);
    this.#options.changed();
  }

  #identityOf(slug: string): string {
    return `${this.#options.workspace}/${slug}`;
  }
}

/** Returns false for lists that were not read yet, are old, or could not be read the last time but are still shown. */
function isTrusted(listed: ListedServer, nowMs: number): boolean {
  const isInDoubt = listed.hasFailed && listed.failures < 2;
  return listed.readMs !== undefined && !isOld(listed, nowMs) && !isInDoubt;
}

function isOld({ readMs }: ListedServer, nowMs: number): boolean {
  return readMs !== undefined && nowMs - readMs > longestTrustMs;
}

/** Returns how many milliseconds to wait before the lists of a server are read again after failures in a row. */
function retryMs(failures: number): number {
  return failures < 2 ? firstRetryMs : Math.min(freshMs, nextRetryMs * 2 ** Math.min(4, failures - 2));
}

function allFailed(reason: string | undefined): ReadLists {
  return { lists: new Map(), failed: new Map(listKinds.map((kind) => [kind, reason])) };
}

/** Returns about how many bytes lists take: each entry is kept by itself, in the text of its server, and in a page. */
function bytesOf(lists: ReadonlyMap<ListKind, readonly ListedItem[]>): number {
  return [...lists.values()].flat().reduce((sum, { json }) => sum + 3 * json.length + 200, 0);
}

function textOf(items: readonly ListedItem[] = []): string {
  return items.map(({ json }) => json).join(",");
}
