import type { Tokens } from "./access/tokens.ts";
import type { PagedList } from "./lists/paged-list.ts";
import { orReport } from "./records/record-errors.ts";
import { type AddressedRecord, addressedRecord, installation, serverKey } from "./records/record-keys.ts";
import type { RecordKind } from "./records/record-kind.ts";
import { type ServerRecord, serverRecord, valueKeysOf } from "./records/server-record.ts";
import { tokenRecord } from "./records/token-record.ts";
import { workspaceRecord } from "./records/workspace-record.ts";
import type { CheckedRecords } from "./records-report.ts";
import type { ServerEntry, Servers } from "./servers/servers.ts";
import type { ServiceStore } from "./store/service-store.ts";
import type { Workspaces } from "./workspaces/workspaces.ts";

/** The parts of the service whose lists a check of all records follows. */
export interface RecordsCheckParts {
  readonly store: ServiceStore;
  readonly tokens: Tokens;
  readonly servers: Servers;
  readonly workspaces: Workspaces;
}

/** What a check of all records has done before it looks for records that nothing names. */
export interface FollowedLists {
  /** The keys of the records that lists name. Grows with each check below. */
  readonly named: ReadonlySet<string>;
  readonly found: CheckedRecords;
  readonly signal: AbortSignal | undefined;
  /** Checks the servers and tokens that the lists of a workspace name. */
  readonly checkContents: (workspace: string, where: string) => Promise<void>;
  /** Checks the values of a server. */
  readonly checkValues: (workspace: string, server: ServerRecord, where: string) => Promise<void>;
}

/** The servers of a workspace that are known by their id. */
interface KnownServers {
  readonly entries: ReadonlyMap<string, ServerEntry>;
  /** The servers that no list names. */
  readonly unlisted: ReadonlyMap<string, ServerRecord>;
  /** False if a page of the list cannot be read, so that `entries` may lack a server. */
  readonly isWhole: boolean;
}

/**
 * Finds records that are stored, although no list and no other record names them: someone has removed a list, or a page of
 * one. A list names a record before the record is created. So a record that was not named is looked up in its list again.
 */
export class UnlistedRecords {
  readonly #parts: RecordsCheckParts;
  readonly #lists: FollowedLists;
  /** How people call each workspace, by its id. */
  readonly #places = new Map<string, string>([[installation, "the operators"]]);

  constructor(parts: RecordsCheckParts, lists: FollowedLists) {
    this.#parts = parts;
    this.#lists = lists;
  }

  /** Scans the store, and reports the records that nothing names. */
  async check(): Promise<void> {
    const unnamed = await this.#unnamed();
    if (unnamed.size === 0) return;
    await this.#nameWorkspaces();
    for (const record of unnamed.values()) {
      if (record.kind === "workspace") await this.#checkWorkspace(record);
    }
    const byWorkspace = Map.groupBy(unnamed.values(), ({ workspace }) => workspace);
    for (const [workspace, records] of byWorkspace) await this.#checkContents(workspace, records);
  }

  /** Returns the records that no list has named so far, by their keys. A scan may return a record twice. */
  async #unnamed(): Promise<ReadonlyMap<string, AddressedRecord>> {
    const unnamed = new Map<string, AddressedRecord>();
    for await (const keys of this.#parts.store.keys()) {
      this.#lists.signal?.throwIfAborted();
      for (const key of keys) {
        const record = this.#lists.named.has(key) ? undefined : addressedRecord(key);
        if (record !== undefined) unnamed.set(key, record);
      }
    }
    return unnamed;
  }

  async #nameWorkspaces(): Promise<void> {
    for await (const page of this.#parts.workspaces.list().pages({ onUnreadable: () => {} })) {
      for (const { entry } of page) this.#places.set(entry.id, `the workspace ${entry.name}`);
    }
  }

  /** Checks a workspace that no list has named, and then what the lists of this workspace name. */
  async #checkWorkspace({ key, workspace: id }: AddressedRecord): Promise<void> {
    const { store, workspaces } = this.#parts;
    const { found } = this.#lists;
    const isOpen = await found.guarded(`the workspace ${id}`, async () => {
      const workspace = found.count(await store.read(workspaceRecord, key))?.value;
      // The workspace was deleted since the scan.
      if (workspace === undefined) return false;
      const where = `the workspace ${workspace.name}`;
      this.#places.set(id, where);
      if (await this.#isUnlisted(workspaces.list(), workspaceRecord, key, workspace)) found.unlisted(where);
      return !workspace.deleting;
    });
    const where = this.#places.get(id) ?? `the workspace ${id}`;
    this.#places.set(id, where);
    if (isOpen !== false) await this.#lists.checkContents(id, where);
  }

  /** Checks records of a workspace that no list has named. */
  async #checkContents(workspace: string, records: readonly AddressedRecord[]): Promise<void> {
    const { found, named, checkContents } = this.#lists;
    let where = this.#places.get(workspace);
    if (where === undefined) {
      // A sweep that was killed may leave the token of the first admin of a workspace whose creation was not finished.
      if (records.length === 1 && records[0]?.kind === "token") return;
      where = `the workspace ${workspace}`;
      found.missing(where);
      await checkContents(workspace, where);
    }
    const unnamed = records.filter(({ key }) => !named.has(key));
    const of = (kind: AddressedRecord["kind"]) => unnamed.filter((record) => record.kind === kind);
    for (const token of of("token")) await this.#checkToken(token, where);
    const unlisted = new Map<string, ServerRecord>();
    for (const each of of("server")) {
      const server = await this.#checkServer(each, where);
      if (server !== undefined) unlisted.set(server.id, server);
    }
    await this.#checkValues(workspace, of("value"), unlisted, where);
  }

  async #checkToken({ key, workspace, name }: AddressedRecord, where: string): Promise<void> {
    const { store, tokens } = this.#parts;
    const { found } = this.#lists;
    const what = `the token ${name} of ${where}`;
    await found.guarded(what, async () => {
      const token = found.count(await store.read(tokenRecord, key))?.value;
      if (token === undefined) return;
      if (await this.#isUnlisted(tokens.listOf(workspace), tokenRecord, key, token)) found.unlisted(what);
    });
  }

  /** Checks a server with its values, and returns the server if it is stored. */
  async #checkServer({ key, workspace, name }: AddressedRecord, where: string): Promise<ServerRecord | undefined> {
    const { store, servers } = this.#parts;
    const { found, checkValues } = this.#lists;
    const what = `the server ${name} of ${where}`;
    return await found.guarded(what, async () => {
      const server = found.count(await store.read(serverRecord, key))?.value;
      if (server === undefined) return undefined;
      if (await this.#isUnlisted(servers.listOf(workspace), serverRecord, key, server)) found.unlisted(what);
      if (!server.deleting) await checkValues(workspace, server, where);
      return server;
    });
  }

  /** Checks values that no server has named when the server was read. */
  async #checkValues(
    workspace: string,
    values: readonly AddressedRecord[],
    unlisted: ReadonlyMap<string, ServerRecord>,
    where: string,
  ): Promise<void> {
    if (values.length === 0) return;
    const entries = new Map<string, ServerEntry>();
    let isWhole = true;
    const onUnreadable = () => {
      isWhole = false;
    };
    for await (const page of this.#parts.servers.listOf(workspace).pages({ onUnreadable })) {
      for (const { entry } of page) entries.set(entry.id, entry);
    }
    for (const [server, own] of Map.groupBy(values, ({ name }) => name)) {
      await this.#checkValuesOf(server, own, { entries, unlisted, isWhole }, where);
    }
  }

  /** Checks such values of one server. Its record is read again, because it names a value before the value is stored. */
  async #checkValuesOf(
    id: string,
    values: readonly AddressedRecord[],
    { entries, unlisted, isWhole }: KnownServers,
    where: string,
  ): Promise<void> {
    const { found } = this.#lists;
    const { store } = this.#parts;
    const entry = entries.get(id);
    const slug = entry?.slug ?? unlisted.get(id)?.slug;
    if (slug === undefined) {
      const isStored = (await store.stored(values.map(({ key }) => key))).size > 0;
      if (isWhole && isStored) found.missing(`the server with the id ${id} of ${where}, which has values,`);
      return;
    }
    const [first] = values;
    // The sweep removes the values of a deleted server a day later.
    if (first === undefined || entry?.deleted !== undefined) return;
    const read = () => store.read(serverRecord, serverKey(first.workspace, slug));
    const server = (await orReport(read, () => {}))?.value;
    // Without its record, the server is reported already.
    if (server?.id !== id || server.deleting) return;
    const named = valueKeysOf(server, first.workspace);
    const left = values.filter(({ key }) => !named.includes(key));
    const stored = await store.stored(left.map(({ key }) => key));
    for (const { key, value } of left) {
      if (stored.has(key)) found.unlisted(`the value ${value} of the server ${slug} of ${where}`);
    }
  }

  /** Returns whether a record is stored, and its list does not name it. A page that cannot be read is reported already. */
  async #isUnlisted<
    Stored extends { readonly id: string; readonly page: number },
    Entry extends { readonly id: string },
  >(list: PagedList<Entry>, kind: RecordKind<Stored>, key: string, { page, id }: Stored): Promise<boolean> {
    const isListed = await orReport(
      async () => (await list.entryOf({ page, id })) !== undefined,
      () => {},
    );
    // A sweep or a deletion may have removed the record and then its entry.
    return isListed === false && (await this.#parts.store.read(kind, key))?.value.id === id;
  }
}
