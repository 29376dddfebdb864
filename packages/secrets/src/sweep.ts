import { asListed, readKeepers } from "./access/keepers.ts";
import type { TokenEntry, Tokens } from "./access/tokens.ts";
import type { ListedEntry, PagedList } from "./lists/paged-list.ts";
import { orReport } from "./records/record-errors.ts";
import { installation, serverKey, tokenKey, usedKey, workspaceKey } from "./records/record-keys.ts";
import { type ServerRecord, serverRecord } from "./records/server-record.ts";
import { tokenRecord } from "./records/token-record.ts";
import { workspaceRecord } from "./records/workspace-record.ts";
import { removeGarbage, withoutAbandoned } from "./servers/server-changes.ts";
import type { ServerEntry, Servers } from "./servers/servers.ts";
import type { ServiceContext } from "./store/service-context.ts";
import type { Decision, ReadBatch } from "./store/service-store.ts";
import { clockJumped, mayRemove } from "./sweep-clock.ts";
import { missingRecord } from "./workspaces/open-workspace.ts";
import { defaultRetentionDays, type WorkspaceEntry, type Workspaces } from "./workspaces/workspaces.ts";

const dayMs = 24 * 3_600_000;
/** How long the record of a token that has ended is kept. */
const endedTokenKeptMs = 30 * dayMs;
/** How long before its expiry a secret is reported. */
const warnedBeforeMs = 7 * dayMs;

/** A secret that expires soon, or has expired. */
export interface ExpiringSecret {
  /** The id of the workspace. */
  readonly workspace: string;
  /** The slug of the server. */
  readonly server: string;
  /** The name of the secret. */
  readonly name: string;
  /** When the value expires, in milliseconds since the epoch. */
  readonly expires: number;
}

/** What a sweep has done. */
export interface SweepReport {
  /** The number of list entries and records of ended tokens, deleted servers and deleted workspaces that were removed. */
  readonly removed: number;
  /** The secrets that expire within seven days, or have expired. At most 100. */
  readonly expiring: readonly ExpiringSecret[];
}

/** The options of a sweep. */
export interface SweepOptions {
  /** When aborted, stops the sweep, which then only ends its current call to the store. */
  readonly signal?: AbortSignal | undefined;
  /** The time that counts as now, in milliseconds since the epoch. Default: the time. */
  readonly now?: number | undefined;
  /** How old a value that no secret points to must be, in milliseconds. Default: one minute. */
  readonly abandonedAfterMs?: number | undefined;
}

/** The most secrets that are reported. */
export const maxReported = 100;

/** Returns whether a value has expired, or expires soon enough to be reported. */
export function isExpiring(expires: number | undefined, now: number): expires is number {
  return expires !== undefined && expires - now <= warnedBeforeMs;
}

/** The parts of the service that a sweep works on. */
export interface SweepParts {
  readonly context: ServiceContext;
  readonly tokens: Tokens;
  readonly servers: Servers;
  readonly workspaces: Workspaces;
}

/** Finishes what ended processes have begun, and removes what nobody needs any longer. Runs beside all other calls. */
export class Sweep {
  readonly #parts: SweepParts;
  readonly #now: number;
  readonly #abandonedAfterMs: number | undefined;
  readonly #signal: AbortSignal | undefined;
  readonly #expiring: ExpiringSecret[] = [];
  #removed = 0;
  #mayRemove = false;

  constructor(parts: SweepParts, { signal, now = Date.now(), abandonedAfterMs }: SweepOptions) {
    this.#parts = parts;
    this.#now = now;
    this.#abandonedAfterMs = abandonedAfterMs;
    this.#signal = signal;
  }

  /** Sweeps the installation and each workspace. */
  async run(): Promise<SweepReport> {
    const { workspaces, context } = this.#parts;
    this.#mayRemove = await mayRemove(context.store, this.#now);
    if (!this.#mayRemove) context.onProblem(clockJumped(this.#now));
    await this.#whole(() => this.#sweepTokens(installation));
    await this.#whole(() => this.#removeAudit(undefined, defaultRetentionDays));
    for await (const page of workspaces.list().pages({ onUnreadable: context.onProblem })) {
      for (const listed of page) {
        this.#signal?.throwIfAborted();
        await this.#whole(() => this.#sweepWorkspace(listed));
      }
    }
    return { removed: this.#removed, expiring: this.#expiring };
  }

  async #sweepWorkspace(listed: ListedEntry<WorkspaceEntry>): Promise<void> {
    const { workspaces, context } = this.#parts;
    const { id, deleted } = listed.entry;
    const record = await context.store.read(workspaceRecord, workspaceKey(id));
    if (record === undefined) {
      return deleted === undefined
        ? await this.#sweepMissing(listed)
        : await this.#sweepDeleted(listed.page, id, deleted);
    }
    // Someone has put the record back after the deletion, or a process was killed during the deletion.
    if (deleted !== undefined) return await workspaces.discardPutBack(id);
    if (record.value.deleting) return await workspaces.finishIfDeleting(id);
    await this.#whole(() => this.#sweepServers(id));
    await this.#whole(() => this.#sweepTokens(id));
    await this.#removeAudit(id, record.value.retentionDays);
  }

  /** Does a part of the sweep. A record that cannot be read is reported, and does not keep the other parts from the sweep. */
  async #whole<Result>(sweep: () => Promise<Result>): Promise<Result | undefined> {
    return await orReport(sweep, this.#parts.context.onProblem);
  }

  /** Removes what is left of a workspace that was deleted. */
  async #sweepDeleted(page: number, id: string, deleted: { readonly at: number; readonly retentionDays: number }) {
    const { workspaces } = this.#parts;
    // A process that was halted may have created something after the deletion.
    if (!this.#isPast(deleted.at, dayMs)) return;
    const isRemoved = await this.#whole(async () => {
      await workspaces.removeContents(id);
      await workspaces.removeLists(id);
      return true;
    });
    await this.#removeAudit(id, deleted.retentionDays);
    if (isRemoved !== true) return;
    // The entry leads to the audit of the workspace, which is kept for its time, and whose own clock may be a day behind.
    if (!this.#isPast(deleted.at, (deleted.retentionDays + 2) * dayMs)) return;
    await workspaces.removeEntry(page, id);
    this.#removed++;
  }

  /**
   * Removes what is left of a workspace whose creation was not finished: the token of its first admin, and the entry. A
   * workspace that has more was finished, so someone else removed its record: everything stays.
   */
  async #sweepMissing(listed: ListedEntry<WorkspaceEntry>): Promise<void> {
    const { workspaces, tokens, context } = this.#parts;
    const { id, name, at } = listed.entry;
    if (!this.#isPast(at, dayMs)) return;
    if (await workspaces.hasContents(id))
      throw missingRecord(`workspace ${name}`, "Nothing of the workspace was removed.");
    await workspaces.removeEntry(listed.page, id);
    if ((await context.store.read(workspaceRecord, workspaceKey(id))) !== undefined) {
      return await workspaces.list().restore(listed);
    }
    await tokens.removeAll(id);
    await workspaces.removeLists(id);
    this.#removed++;
  }

  /** Returns whether something is old enough to be removed. */
  #isPast(since: number, keptMs: number): boolean {
    return this.#mayRemove && this.#now - since >= keptMs;
  }

  async #removeAudit(workspace: string | undefined, retentionDays: number): Promise<void> {
    if (!this.#mayRemove) return;
    await this.#parts.context.audit.removeBefore(workspace, this.#now - retentionDays * dayMs);
  }

  async #sweepServers(workspace: string): Promise<void> {
    const { servers, context } = this.#parts;
    const list = servers.listOf(workspace);
    const isOf = ({ id, slug }: ServerEntry, batch: ReadBatch) =>
      batch.record(serverRecord, serverKey(workspace, slug))?.value.id === id;
    const keyOf = ({ slug }: ServerEntry) => serverKey(workspace, slug);
    for await (const page of list.pages({ onUnreadable: context.onProblem })) {
      this.#signal?.throwIfAborted();
      const read = await servers.read(
        workspace,
        page.map(({ entry }) => entry),
      );
      const gone: ListedEntry<ServerEntry>[] = [];
      const lost: string[] = [];
      for (const [index, listed] of page.entries()) {
        const { entry } = listed;
        await this.#whole(async () => {
          const server = read[index]?.server();
          // Someone has put the record back after the deletion.
          const isPutBack = server?.deleting === false && entry.deleted !== undefined;
          if (isPutBack) return void (await servers.removeForGood({ workspace, slug: entry.slug }, entry));
          if (server !== undefined) return await this.#sweepServer(workspace, server);
          if (!this.#isPast(entry.deleted?.at ?? entry.at, dayMs)) return;
          await this.#requireNotReplaced(workspace, entry);
          if (!(await servers.removeForGood({ workspace, slug: entry.slug }, entry))) lost.push(entry.id);
          gone.push(listed);
        });
      }
      // Before their entries: another server has the slug of such a server now, or its creation was not finished.
      await servers.removeValues(workspace, lost);
      await this.#removeEntries(list, gone, keyOf, isOf);
    }
  }

  /**
   * Checks that someone has not put the record of a former server in the place of a server, whose values would then be removed.
   *
   * @throws SecretsError `RECORD_MISSING` if the record under the slug is of a server that no list names, or that was deleted.
   */
  async #requireNotReplaced(workspace: string, { slug, deleted }: ServerEntry): Promise<void> {
    if (deleted !== undefined) return;
    const { servers, context } = this.#parts;
    const other = (await context.store.read(serverRecord, serverKey(workspace, slug)))?.value;
    if (other === undefined) return;
    const listed = await servers.listOf(workspace).entryOf(other);
    if (listed !== undefined && listed.deleted === undefined) return;
    throw missingRecord(
      `server ${slug}`,
      "The record of another server is in its place. Its values stay in the store.",
    );
  }

  async #sweepServer(workspace: string, server: ServerRecord): Promise<void> {
    const { servers, context } = this.#parts;
    const address = { workspace, slug: server.slug };
    if (server.deleting) return await servers.finishIfDeleting(address);
    for (const { name, expires } of server.secrets) {
      if (!isExpiring(expires, this.#now)) continue;
      if (this.#expiring.length < maxReported) this.#expiring.push({ workspace, server: server.slug, name, expires });
    }
    if (server.pending.length === 0 && server.garbage.length === 0) return;
    await context.store.change(
      serverRecord,
      serverKey(workspace, server.slug),
      (current): Decision<ServerRecord, undefined> => {
        if (current?.id !== server.id) return { result: undefined };
        const next = withoutAbandoned(current, this.#now, this.#abandonedAfterMs);
        return next === current ? { result: undefined } : { next, result: undefined };
      },
    );
    await removeGarbage(context, address, this.#now);
  }

  async #sweepTokens(workspace: string): Promise<void> {
    const { tokens, context } = this.#parts;
    const list = tokens.listOf(workspace);
    const keepers = await readKeepers(context.store, workspace);
    const keyOf = ({ id }: TokenEntry) => tokenKey(workspace, id);
    const isOf = (entry: TokenEntry, batch: ReadBatch) => batch.record(tokenRecord, keyOf(entry)) !== undefined;
    for await (const page of list.pages({ onUnreadable: context.onProblem })) {
      this.#signal?.throwIfAborted();
      const batch = await context.store.readBatch(page.map(({ entry }) => keyOf(entry)));
      const gone: ListedEntry<TokenEntry>[] = [];
      const ended: string[] = [];
      for (const listed of page) {
        await this.#whole(async () => {
          const token = batch.record(tokenRecord, keyOf(listed.entry))?.value;
          const isCounted = token !== undefined && asListed(token, keepers) !== undefined;
          const end = isCounted ? (token.revoked ?? token.expires) : listed.entry.at;
          if (end === undefined || !this.#isPast(end, token === undefined ? dayMs : endedTokenKeptMs)) return;
          gone.push(listed);
          if (token !== undefined) ended.push(token.id);
        });
      }
      await context.store.remove(ended.flatMap((id) => [tokenKey(workspace, id), usedKey(workspace, id)]));
      await this.#removeEntries(list, gone, keyOf, isOf);
    }
  }

  /**
   * Removes entries of one page without a record. A creation that was halted for a day may store its record at the same
   * time: it looks for its entry afterwards, and this sweep looks for the record after the entry was removed.
   */
  async #removeEntries<Entry extends { readonly id: string }>(
    list: PagedList<Entry>,
    gone: readonly ListedEntry<Entry>[],
    keyOf: (entry: Entry) => string,
    isOf: (entry: Entry, batch: ReadBatch) => boolean,
  ): Promise<void> {
    const [first] = gone;
    if (first === undefined) return;
    const ids = new Set(gone.map(({ entry }) => entry.id));
    await list.changePage(first.page, (entry) => (ids.has(entry.id) ? undefined : entry));
    const batch = await this.#parts.context.store.readBatch(gone.map(({ entry }) => keyOf(entry)));
    for (const listed of gone) {
      if (isOf(listed.entry, batch)) await list.restore(listed);
      else this.#removed++;
    }
  }
}
