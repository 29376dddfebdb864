import { setTimeout as sleep } from "node:timers/promises";
import { readKeepers } from "./access/keepers.ts";
import type { ListedEntry, PagedList } from "./lists/paged-list.ts";
import { hasValue } from "./reader/value-check.ts";
import type { Keeper } from "./records/keeper.ts";
import { isOfRecord, orReport } from "./records/record-errors.ts";
import {
  installation,
  serverKey,
  serviceKey,
  tokenKey,
  usedKey,
  valueKey,
  workspaceKey,
} from "./records/record-keys.ts";
import { type SecretRecord, type ServerRecord, serverRecord, valueKeysOf } from "./records/server-record.ts";
import { serviceRecord } from "./records/service-record.ts";
import { tokenRecord } from "./records/token-record.ts";
import { usedRecord } from "./records/used-record.ts";
import { workspaceRecord } from "./records/workspace-record.ts";
import { CheckedRecords, type RecordsReport } from "./records-report.ts";
import type { ServerEntry } from "./servers/servers.ts";
import type { ReadBatch } from "./store/service-store.ts";
import { type RecordsCheckParts, UnlistedRecords } from "./unlisted-records.ts";
import type { WorkspaceEntry } from "./workspaces/workspaces.ts";

/** The largest number of values in memory at once: 4 MiB. */
const valuesAtOnce = 500;
/** How long an entry without a record may belong to an item that another process is creating. */
const creationMs = 2_000;
/** How long a check waits in total for deletions and sweeps that may be in progress. */
const deletionMs = 10_000;

interface ListEntry {
  readonly id: string;
  readonly at: number;
  readonly deleted?: unknown;
}

/**
 * Reads each record that the lists of the service name: workspaces, servers, values and tokens. Then looks for records that
 * are stored, and that nothing names. Changes nothing, and holds a few pages of a list and the keys of all records in memory.
 * Runs beside all other calls.
 */
export class RecordsCheck {
  readonly #parts: RecordsCheckParts;
  readonly #signal: AbortSignal | undefined;
  readonly #found = new CheckedRecords();
  #deletionLeftMs = deletionMs;
  readonly #named = new Set<string>();

  constructor(parts: RecordsCheckParts, signal: AbortSignal | undefined) {
    this.#parts = parts;
    this.#signal = signal;
  }

  /** Reads all records. Throws only if the store does not answer. */
  async run(): Promise<RecordsReport> {
    const { store, workspaces } = this.#parts;
    const what = "the record of the installation";
    await this.#found.guarded(what, async () => {
      if (this.#found.count(await store.read(serviceRecord, serviceKey)) === undefined) this.#found.missing(what);
    });
    await this.#checkTokens(installation, "the operators");
    await this.#checkList(workspaces.list(), "the list of workspaces", { isNeverNew: true }, async (page) => {
      for (const listed of page) if (listed.entry.deleted === undefined) await this.#checkWorkspace(listed);
      await this.#checkDeletedWorkspaces(page.flatMap(({ entry }) => (entry.deleted === undefined ? [] : [entry])));
    });
    const unlisted = new UnlistedRecords(this.#parts, {
      named: this.#named,
      found: this.#found,
      signal: this.#signal,
      checkContents: (workspace, where) => this.#checkContents(workspace, where),
      checkValues: (workspace, server, where) => this.#checkValues(workspace, [server], where),
    });
    await unlisted.check();
    return this.#found.report();
  }

  async #checkWorkspace(listed: ListedEntry<WorkspaceEntry>): Promise<void> {
    const { store, workspaces } = this.#parts;
    const { entry } = listed;
    const what = `the workspace ${entry.name}`;
    const key = workspaceKey(entry.id);
    this.#named.add(key);
    const read = () => store.read(workspaceRecord, key);
    const isOpen = await this.#found.guarded(what, async () => {
      const workspace = this.#found.count(await read())?.value;
      if (workspace !== undefined) return !workspace.deleting;
      const isStored = async () => (await read()) !== undefined;
      if (await this.#isLost(installation, workspaces.list(), listed, isStored)) this.#found.missing(what);
      return false;
    });
    // The servers and tokens of a damaged workspace may be readable.
    if (isOpen !== false) await this.#checkContents(entry.id, what);
  }

  /** Checks that no record of a deleted workspace was put back. The search for records without a list checks what else it has. */
  async #checkDeletedWorkspaces(entries: readonly WorkspaceEntry[]): Promise<void> {
    const batch = await this.#parts.store.readBatch(entries.map(({ id }) => workspaceKey(id)));
    for (const { id, name } of entries) {
      const what = `the workspace ${name}`;
      await this.#found.guarded(what, async () => {
        if (batch.record(workspaceRecord, workspaceKey(id))?.value.deleting === false) this.#found.putBack(what);
      });
    }
  }

  async #checkContents(workspace: string, where: string): Promise<void> {
    await this.#checkServers(workspace, where);
    await this.#checkTokens(workspace, where);
  }

  async #checkServers(workspace: string, where: string): Promise<void> {
    const { store, servers } = this.#parts;
    const list = servers.listOf(workspace);
    await this.#checkList(list, `the list of servers of ${where}`, { isNeverNew: false }, async (page) => {
      const batch = await store.readBatch(page.map(({ entry }) => serverKey(workspace, entry.slug)));
      const found: ServerRecord[] = [];
      for (const listed of page) {
        const { entry } = listed;
        const what = `the server ${entry.slug} of ${where}`;
        const key = serverKey(workspace, entry.slug);
        await this.#found.guarded(what, async () => {
          const server = this.#ofEntry(entry, batch, workspace);
          if (server !== undefined) found.push(server);
          // A server is marked as being deleted before its entry.
          if (server?.deleting === false && entry.deleted !== undefined) this.#found.putBack(what);
          if (server !== undefined || entry.deleted !== undefined) return;
          const isStored = async () => (await store.read(serverRecord, key))?.value.id === entry.id;
          if (await this.#isLost(workspace, list, listed, isStored)) this.#found.missing(what);
        });
      }
      await this.#checkUsed(found.map(({ id, slug }) => [usedKey(workspace, id), `the server ${slug} of ${where}`]));
      await this.#checkValues(
        workspace,
        found.filter(({ deleting }) => !deleting),
        where,
      );
    });
  }

  /** Returns the server of an entry; `undefined` if there is none, or another server in its place. */
  #ofEntry(entry: ServerEntry, batch: ReadBatch, workspace: string): ServerRecord | undefined {
    const key = serverKey(workspace, entry.slug);
    try {
      const record = batch.record(serverRecord, key);
      if (record?.value.id !== entry.id) return undefined;
      for (const value of valueKeysOf(record.value, workspace)) this.#named.add(value);
      this.#named.add(key);
      return this.#found.count(record)?.value;
    } catch (error) {
      // The problem is reported once, for the entry.
      this.#named.add(key);
      throw error;
    }
  }

  async #checkValues(workspace: string, servers: readonly ServerRecord[], where: string): Promise<void> {
    const all = servers.flatMap((server) => server.secrets.map((secret) => ({ server, secret })));
    for (let at = 0; at < all.length; at += valuesAtOnce) {
      const some = all.slice(at, at + valuesAtOnce);
      const keyOf = (server: ServerRecord, { value }: SecretRecord) => valueKey(workspace, server.id, value);
      const batch = await this.#parts.store.readBatch(some.map(({ server, secret }) => keyOf(server, secret)));
      for (const { server, secret } of some) {
        const what = `the value of ${secret.name} of the server ${server.slug} of ${where}`;
        await this.#found.guarded(what, async () => {
          if (hasValue(batch, keyOf(server, secret), secret)) this.#found.count(secret);
          else if (await this.#isStillNamed(workspace, server, secret)) this.#found.missing(what);
        });
      }
    }
  }

  /** Returns whether a missing value is still needed: another process may have replaced it, or it may have expired. */
  async #isStillNamed(workspace: string, { id, slug }: ServerRecord, secret: SecretRecord): Promise<boolean> {
    if (secret.expires !== undefined && secret.expires <= Date.now()) return false;
    const now = (await this.#parts.store.read(serverRecord, serverKey(workspace, slug)))?.value;
    return now?.id === id && !now.deleting && now.secrets.some(({ value }) => value === secret.value);
  }

  /**
   * Returns whether an entry without a record needs one: another process may have been creating it, or have deleted it
   * since the list was read.
   */
  async #isLost<Entry extends ListEntry>(
    workspace: string,
    list: PagedList<Entry>,
    { page, entry: { id, at } }: ListedEntry<Entry>,
    isStored: () => Promise<boolean>,
  ): Promise<boolean> {
    const isNew = at + creationMs > Date.now();
    // A sweep that runs at the same time removes a record before its entry.
    const waitMs = isNew ? creationMs : Math.min(creationMs, this.#deletionLeftMs);
    if (!isNew) this.#deletionLeftMs -= waitMs;
    await sleep(waitMs, undefined, { signal: this.#signal });
    if (await isStored()) return false;
    const entry = await list.entryOf({ page, id });
    if (entry === undefined || entry.deleted !== undefined) return false;
    return await this.#isOpen(workspace);
  }

  /** Returns whether a workspace was not deleted, and is not being deleted. */
  async #isOpen(workspace: string): Promise<boolean> {
    if (workspace === installation) return true;
    const { store, workspaces } = this.#parts;
    const ignore = () => {};
    // A record that cannot be read is reported already.
    const home = await orReport(() => store.read(workspaceRecord, workspaceKey(workspace)), ignore);
    if (home !== undefined) return !home.value.deleting;
    for await (const page of workspaces.list().pages({ onUnreadable: ignore })) {
      const listed = page.find(({ entry }) => entry.id === workspace);
      if (listed !== undefined) return listed.entry.deleted === undefined;
    }
    return true;
  }

  async #checkTokens(workspace: string, where: string): Promise<void> {
    const { store, tokens } = this.#parts;
    const reported = await this.#checkKeepers(workspace, where);
    const list = tokens.listOf(workspace);
    await this.#checkList(list, `the list of tokens of ${where}`, { isNeverNew: true }, async (page) => {
      const batch = await store.readBatch(page.map(({ entry }) => tokenKey(workspace, entry.id)));
      for (const listed of page) {
        const { entry } = listed;
        const what = `the token ${entry.id} of ${where}`;
        await this.#found.guarded(what, async () => {
          this.#named.add(tokenKey(workspace, entry.id));
          if (reported.has(entry.id)) return;
          const token = this.#found.count(batch.record(tokenRecord, tokenKey(workspace, entry.id)));
          if (token !== undefined) return;
          const isStored = async () => (await tokens.find(workspace, entry.id)) !== undefined;
          if (await this.#isLost(workspace, list, listed, isStored)) this.#found.missing(what);
        });
      }
      await this.#checkUsed(page.map(({ entry: { id } }) => [usedKey(workspace, id), `the token ${id} of ${where}`]));
    });
  }

  /** Checks that each valid admin or operator has a token. Returns the ids of the tokens that are missing. */
  async #checkKeepers(workspace: string, where: string): Promise<ReadonlySet<string>> {
    const { store } = this.#parts;
    const reported = new Set<string>();
    const keepers = await this.#keepers(workspace);
    const valid = keepers.filter(({ expires }) => expires === undefined || expires > Date.now());
    const batch = await store.readBatch(valid.map(({ id }) => tokenKey(workspace, id)));
    for (const { id } of valid) {
      try {
        if (batch.record(tokenRecord, tokenKey(workspace, id)) !== undefined) continue;
        if (!(await this.#isStillKeeper(workspace, id))) continue;
        reported.add(id);
        this.#found.missing(`the token ${id} of ${where}`);
      } catch (error) {
        // The list names the same token.
        if (!isOfRecord(error)) throw error;
      }
    }
    return reported;
  }

  async #keepers(workspace: string): Promise<readonly Keeper[]> {
    // That the record with the keepers cannot be read is reported already.
    return (
      (await orReport(
        () => readKeepers(this.#parts.store, workspace),
        () => {},
      )) ?? []
    );
  }

  /** Returns whether a token is still needed: another process may have deleted the workspace since the keepers were read. */
  async #isStillKeeper(workspace: string, id: string): Promise<boolean> {
    return (await this.#isOpen(workspace)) && (await this.#keepers(workspace)).some((keeper) => keeper.id === id);
  }

  /** Checks the records of last uses, which need not be stored. */
  async #checkUsed(uses: readonly (readonly [key: string, of: string])[]): Promise<void> {
    const batch = await this.#parts.store.readBatch(uses.map(([key]) => key));
    for (const [key, of] of uses) {
      await this.#found.guarded(`the last use of ${of}`, async () => void batch.record(usedRecord, key));
    }
  }

  /**
   * Calls `check` for each page of a list.
   *
   * @param options.isNeverNew true for a list that was begun before this check could find it.
   */
  async #checkList<Entry extends { readonly id: string }>(
    list: PagedList<Entry>,
    what: string,
    { isNeverNew }: { readonly isNeverNew: boolean },
    check: (page: readonly ListedEntry<Entry>[]) => Promise<void>,
  ): Promise<void> {
    await this.#found.guarded(what, async () => {
      if (isNeverNew && !(await list.isBegun())) this.#found.missing(`the head of ${what}`);
      const pages = list.pages({
        onUnreadable: (error, page) => this.#found.failed(page === undefined ? what : `page ${page} of ${what}`, error),
        onMissing: (page) => this.#found.missing(`page ${page} of ${what}`),
      });
      for await (const page of pages) {
        this.#signal?.throwIfAborted();
        if (page.length > 0) this.#found.count(page);
        await check(page);
      }
    });
  }
}
