import { setTimeout as sleep } from "node:timers/promises";
import type { KeywardErrorCode } from "@keyward/core";
import { readKeepers } from "./access/keepers.ts";
import type { Tokens } from "./access/tokens.ts";
import type { ListedEntry, PagedList } from "./lists/paged-list.ts";
import { hasValue } from "./reader/value-check.ts";
import { isOfRecord } from "./records/record-errors.ts";
import {
  installation,
  serverKey,
  serviceKey,
  tokenKey,
  usedKey,
  valueKey,
  workspaceKey,
} from "./records/record-keys.ts";
import { type SecretRecord, type ServerRecord, serverRecord } from "./records/server-record.ts";
import { serviceRecord } from "./records/service-record.ts";
import { tokenRecord } from "./records/token-record.ts";
import { usedRecord } from "./records/used-record.ts";
import { workspaceRecord } from "./records/workspace-record.ts";
import type { SecretsErrorCode } from "./secrets-error.ts";
import type { ServerEntry, Servers } from "./servers/servers.ts";
import type { ReadBatch, ServiceStore } from "./store/service-store.ts";
import type { WorkspaceEntry, Workspaces } from "./workspaces/workspaces.ts";

/** The largest number of problems that are returned. */
const maxProblems = 100;
/** The largest number of values in memory at once: 4 MiB. */
const valuesAtOnce = 500;
/** How long an entry without a record may belong to an item that another process is creating. */
const creationMs = 2_000;

interface ListEntry {
  readonly id: string;
  readonly at: number;
  readonly deleted?: unknown;
}

/** A record that cannot be read, or that is missing. */
export interface RecordProblem {
  /** The record, for people, such as "the server github of the workspace main". Never has a value. */
  readonly record: string;
  /** `RECORD_MISSING` for a record that should be stored; otherwise the code of the error. */
  readonly code: KeywardErrorCode | SecretsErrorCode;
}

/** What a check of all records has found. */
export interface RecordsReport {
  /** The number of records that were decrypted, without those about last uses. */
  readonly readable: number;
  /** The number of records that cannot be read, or are missing. */
  readonly problemCount: number;
  /** The first 100 problems. */
  readonly problems: readonly RecordProblem[];
}

/** The parts of the service whose lists a {@link RecordsCheck} follows. */
export interface RecordsCheckParts {
  readonly store: ServiceStore;
  readonly tokens: Tokens;
  readonly servers: Servers;
  readonly workspaces: Workspaces;
}

/**
 * Reads each record that the lists of the service name: workspaces, servers, values and tokens. Changes nothing, and holds
 * a few pages of a list in memory. Runs beside all other calls.
 */
export class RecordsCheck {
  readonly #parts: RecordsCheckParts;
  readonly #signal: AbortSignal | undefined;
  readonly #problems: RecordProblem[] = [];
  #problemCount = 0;
  #readable = 0;

  constructor(parts: RecordsCheckParts, signal: AbortSignal | undefined) {
    this.#parts = parts;
    this.#signal = signal;
  }

  /** Reads all records. Throws only if the store does not answer. */
  async run(): Promise<RecordsReport> {
    const { store, workspaces } = this.#parts;
    const what = "the record of the installation";
    await this.#guarded(what, async () => {
      if (this.#count(await store.read(serviceRecord, serviceKey)) === undefined) this.#missing(what);
    });
    await this.#checkTokens(installation, "the operators");
    await this.#checkList(workspaces.list(), "the list of workspaces", { isNeverNew: true }, async (page) => {
      for (const listed of page) if (listed.entry.deleted === undefined) await this.#checkWorkspace(listed);
    });
    return { readable: this.#readable, problemCount: this.#problemCount, problems: this.#problems };
  }

  async #checkWorkspace(listed: ListedEntry<WorkspaceEntry>): Promise<void> {
    const { store, workspaces } = this.#parts;
    const { entry } = listed;
    const what = `the workspace ${entry.name}`;
    const read = () => store.read(workspaceRecord, workspaceKey(entry.id));
    const isOpen = await this.#guarded(what, async () => {
      const workspace = this.#count(await read())?.value;
      if (workspace !== undefined) return !workspace.deleting;
      const isStored = async () => (await read()) !== undefined;
      if (await this.#isLost(installation, workspaces.list(), listed, isStored)) this.#missing(what);
      return false;
    });
    // The servers and tokens of a damaged workspace may be readable.
    if (isOpen === false) return;
    await this.#checkServers(entry.id, what);
    await this.#checkTokens(entry.id, what);
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
        await this.#guarded(what, async () => {
          const server = this.#ofEntry(entry, batch, workspace);
          if (server !== undefined) found.push(server);
          if (server !== undefined || entry.deleted !== undefined) return;
          const key = serverKey(workspace, entry.slug);
          const isStored = async () => (await store.read(serverRecord, key))?.value.id === entry.id;
          if (await this.#isLost(workspace, list, listed, isStored)) this.#missing(what);
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
    const record = batch.record(serverRecord, serverKey(workspace, entry.slug));
    return record?.value.id === entry.id ? this.#count(record)?.value : undefined;
  }

  async #checkValues(workspace: string, servers: readonly ServerRecord[], where: string): Promise<void> {
    const all = servers.flatMap((server) => server.secrets.map((secret) => ({ server, secret })));
    for (let at = 0; at < all.length; at += valuesAtOnce) {
      const some = all.slice(at, at + valuesAtOnce);
      const keyOf = (server: ServerRecord, { value }: SecretRecord) => valueKey(workspace, server.id, value);
      const batch = await this.#parts.store.readBatch(some.map(({ server, secret }) => keyOf(server, secret)));
      for (const { server, secret } of some) {
        const what = `the value of ${secret.name} of the server ${server.slug} of ${where}`;
        await this.#guarded(what, async () => {
          if (hasValue(batch, keyOf(server, secret), secret)) this.#readable++;
          else if (await this.#isStillNamed(workspace, server, secret)) this.#missing(what);
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
    // Node.js warns of a negative time.
    const leftMs = Math.max(0, Math.min(creationMs, at + creationMs - Date.now()));
    await sleep(leftMs, undefined, { signal: this.#signal });
    if (await isStored()) return false;
    const entry = await list.entryOf({ page, id });
    if (entry === undefined || entry.deleted !== undefined) return false;
    if (workspace === installation) return true;
    const home = await this.#parts.store.read(workspaceRecord, workspaceKey(workspace)).catch((error: unknown) => {
      // The record of the workspace is reported already.
      if (!isOfRecord(error)) throw error;
      return undefined;
    });
    return home?.value.deleting !== true;
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
        await this.#guarded(what, async () => {
          if (reported.has(entry.id)) return;
          const token = this.#count(batch.record(tokenRecord, tokenKey(workspace, entry.id)));
          if (token !== undefined) return;
          const isStored = async () => (await tokens.find(workspace, entry.id)) !== undefined;
          if (await this.#isLost(workspace, list, listed, isStored)) this.#missing(what);
        });
      }
      await this.#checkUsed(page.map(({ entry: { id } }) => [usedKey(workspace, id), `the token ${id} of ${where}`]));
    });
  }

  /** Checks that each valid admin or operator has a token. Returns the ids of the tokens that are missing. */
  async #checkKeepers(workspace: string, where: string): Promise<ReadonlySet<string>> {
    const { store } = this.#parts;
    const reported = new Set<string>();
    // That the record with the keepers cannot be read is reported already.
    const keepers = await readKeepers(store, workspace).catch((error: unknown) => {
      if (!isOfRecord(error)) throw error;
      return [];
    });
    const valid = keepers.filter(({ expires }) => expires === undefined || expires > Date.now());
    const batch = await store.readBatch(valid.map(({ id }) => tokenKey(workspace, id)));
    for (const { id } of valid) {
      try {
        if (batch.record(tokenRecord, tokenKey(workspace, id)) !== undefined) continue;
        reported.add(id);
        this.#missing(`the token ${id} of ${where}`);
      } catch (error) {
        // The list names the same token.
        if (!isOfRecord(error)) throw error;
      }
    }
    return reported;
  }

  /** Checks the records of last uses, which need not be stored. */
  async #checkUsed(uses: readonly (readonly [key: string, of: string])[]): Promise<void> {
    const batch = await this.#parts.store.readBatch(uses.map(([key]) => key));
    for (const [key, of] of uses) {
      await this.#guarded(`the last use of ${of}`, async () => void batch.record(usedRecord, key));
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
    await this.#guarded(what, async () => {
      if (isNeverNew && !(await list.isBegun())) this.#missing(`the head of ${what}`);
      const pages = list.pages({
        onUnreadable: (error, page) => this.#failed(page === undefined ? what : `page ${page} of ${what}`, error),
        onMissing: (page) => this.#missing(`page ${page} of ${what}`),
      });
      for await (const page of pages) {
        this.#signal?.throwIfAborted();
        this.#readable += page.length > 0 ? 1 : 0;
        await check(page);
      }
    });
  }

  #count<Stored>(record: Stored | undefined): Stored | undefined {
    if (record !== undefined) this.#readable++;
    return record;
  }

  /** Does a part of the check. Reports a record that cannot be read, and returns `undefined` then. */
  async #guarded<Result>(what: string, check: () => Promise<Result>): Promise<Result | undefined> {
    try {
      return await check();
    } catch (error) {
      this.#failed(what, error);
      return undefined;
    }
  }

  #failed(record: string, error: unknown): void {
    if (!isOfRecord(error)) throw error;
    this.#report({ record, code: error.code });
  }

  #missing(record: string): void {
    this.#report({ record, code: "RECORD_MISSING" });
  }

  #report(problem: RecordProblem): void {
    this.#problemCount++;
    if (this.#problems.length < maxProblems) this.#problems.push(problem);
  }
}
