import { z } from "zod";
import { requireStillValid } from "../access/authentication.ts";
import type { Caller } from "../access/caller.ts";
import { keeperOf } from "../access/keepers.ts";
import type { CheckedToken, Tokens } from "../access/tokens.ts";
import { idField, slugField, timeField } from "../fields.ts";
import { PagedList, pageSchemaOf } from "../lists/paged-list.ts";
import type { ChangeCondition, IssuedToken, Page, PageRequest, WorkspaceInfo } from "../model.ts";
import { newId } from "../records/ids.ts";
import { orReport } from "../records/record-errors.ts";
import { listKey, workspaceKey } from "../records/record-keys.ts";
import { type WorkspaceRecord, workspaceRecord } from "../records/workspace-record.ts";
import { SecretsError } from "../secrets-error.ts";
import { revisionChanged } from "../servers/server-changes.ts";
import type { Servers } from "../servers/servers.ts";
import type { ServiceContext } from "../store/service-context.ts";
import type { Decision } from "../store/service-store.ts";
import { missingRecord, workspaceNotFound } from "./open-workspace.ts";

const entrySchema = z.strictObject({
  id: idField,
  name: slugField,
  at: timeField,
  /** The number of the claim of the initialization that created the workspace. */
  claim: z.int().min(0).optional(),
  /** Set when the workspace was deleted: the time, and for how long its audit is kept. */
  deleted: z.strictObject({ at: timeField, retentionDays: z.int().min(1) }).optional(),
});

const pageSchema = pageSchemaOf(entrySchema);

/** An entry in the list of workspaces. */
export type WorkspaceEntry = z.infer<typeof entrySchema>;

/** The number of days for which the calls and changes of a new workspace are kept. */
export const defaultRetentionDays = 90;

/** The workspaces of the installation. */
export class Workspaces {
  readonly #context: ServiceContext;
  readonly #tokens: Tokens;
  readonly #servers: Servers;

  constructor(context: ServiceContext, { tokens, servers }: { readonly tokens: Tokens; readonly servers: Servers }) {
    this.#context = context;
    this.#tokens = tokens;
    this.#servers = servers;
  }

  /** Returns the list of all workspaces. */
  list(): PagedList<WorkspaceEntry> {
    return new PagedList(this.#context.store, listKey("workspaces"), pageSchema);
  }

  /**
   * Creates a workspace with its first admin.
   *
   * @param claim the number of the claim of the initialization that creates the workspace. Default: none, for a service
   * that is already initialized.
   * @throws SecretsError `WORKSPACE_EXISTS`; `SERVICE_BUSY` if another process began to create a workspace with this
   * name less than a minute ago.
   */
  async create(
    name: string,
    admin: CheckedToken,
    creator: Caller,
    claim?: number,
  ): Promise<{ readonly workspace: WorkspaceInfo; readonly admin: IssuedToken }> {
    const { store } = this.#context;
    if (await this.exists(name)) throw workspaceExists(name);
    const id = newId();
    const now = Date.now();
    // Two processes that create the same name at once append to the same page.
    const entry = claim === undefined ? { id, name, at: now } : { id, name, at: now, claim };
    const page = await this.list().append(entry, (entries) => {
      const isRecent = (other: WorkspaceEntry) => other.deleted === undefined && now - other.at < 60_000;
      if (entries.some((other) => other.name === name && isRecent(other))) throw beingCreated(name);
    });
    // The record of the workspace is stored last, so no process that is killed leaves a workspace without an admin.
    const first = await this.#tokens.createFirst(id, admin, creator.owner);
    const workspace: WorkspaceRecord = {
      v: 1,
      id,
      page,
      name,
      revision: 0,
      created: now,
      createdBy: creator.owner,
      retentionDays: defaultRetentionDays,
      deleting: false,
      admins: [keeperOf(first.info)],
    };
    await store.create(workspaceRecord, workspaceKey(id), workspace);
    try {
      // If this process was halted for a minute, another one may have created a workspace with this name.
      if (await this.exists(name, id)) throw workspaceExists(name);
      await requireStillValid(store, creator);
      await this.list().requireEntry({ page, id });
    } catch (error) {
      await this.#remove(id, {});
      throw error;
    }
    return { workspace: workspaceInfo(workspace), admin: first };
  }

  /**
   * Returns a workspace.
   *
   * @throws SecretsError `WORKSPACE_NOT_FOUND`.
   */
  async get(name: string): Promise<WorkspaceInfo> {
    return workspaceInfo(await this.require(name));
  }

  /** Returns a page of the workspaces. */
  async page(page: PageRequest): Promise<Page<WorkspaceInfo>> {
    return await this.list().page(page, "workspaces", async (entries) => {
      const batch = await this.#context.store.readBatch(entries.map(({ id }) => workspaceKey(id)));
      return entries.map(({ id, name }) => ({
        name,
        read: () => {
          const workspace = batch.record(workspaceRecord, workspaceKey(id))?.value;
          return workspace === undefined ? undefined : workspaceInfo(workspace);
        },
      }));
    });
  }

  /**
   * Deletes a workspace with its servers, values and tokens, and returns its id. From the first step on, its tokens are
   * refused.
   *
   * @throws SecretsError `WORKSPACE_NOT_FOUND`, `REVISION_CHANGED`.
   */
  async delete(name: string, { ifRevision }: ChangeCondition): Promise<string> {
    const { id } = await this.require(name);
    await this.#remove(id, { ifRevision });
    return id;
  }

  /**
   * Deletes the workspaces that unfinished initializations have created, before the next initialization.
   *
   * @param claim the number of the claim of the next initialization. The workspaces of later claims are kept: another
   * process has taken over the initialization while this process was paused.
   * @throws SecretsError `RECORD_MISSING` if a workspace has a server, or another token than that of its first admin.
   * Then the service was initialized, and someone has removed or replaced its record. Nothing is deleted.
   */
  async removeUnfinished(claim: number): Promise<void> {
    for await (const page of this.list().pages()) {
      for (const { entry } of page) {
        if (entry.deleted === undefined && (await this.hasContents(entry.id))) {
          throw missingRecord("installation", "Nothing was changed.");
        }
      }
    }
    for await (const page of this.list().pages()) {
      for (const { entry, page: number } of page) {
        if (entry.claim !== undefined && entry.claim >= claim) continue;
        const workspace = (await this.#context.store.read(workspaceRecord, workspaceKey(entry.id)))?.value;
        if (workspace !== undefined) await this.#remove(entry.id, {});
        else if (entry.deleted === undefined) await this.#markDeleted(number, entry.id, defaultRetentionDays);
      }
    }
  }

  /** Removes all records of a deleted workspace, except its lists. A store that cannot be scanned keeps them. */
  async #removeUnlisted(id: string): Promise<void> {
    const { store } = this.#context;
    if (!store.isScannable) return;
    const kinds = ["server", "token", "value", "used"];
    for await (const keys of store.keys()) {
      const own = keys.filter((key) => {
        const [kind = "", workspace] = key.split("/");
        return kinds.includes(kind) && workspace === id;
      });
      await store.remove(own);
    }
  }

  async #remove(id: string, { ifRevision }: ChangeCondition): Promise<void> {
    await this.#context.store.change(
      workspaceRecord,
      workspaceKey(id),
      (current): Decision<WorkspaceRecord, undefined> => {
        if (current === undefined) throw workspaceNotFound();
        if (ifRevision !== undefined && ifRevision !== current.revision) throw revisionChanged(current.revision);
        return { next: { ...current, deleting: true, revision: current.revision + 1 }, result: undefined };
      },
    );
    await this.finishIfDeleting(id);
  }

  /** Finishes the deletion of a workspace if it was begun. Several processes may do so at once. */
  async finishIfDeleting(id: string): Promise<void> {
    const { store } = this.#context;
    const workspace = (await store.read(workspaceRecord, workspaceKey(id)))?.value;
    if (workspace?.deleting !== true) return;
    await this.removeContents(id);
    await this.#markDeleted(workspace.page, id, workspace.retentionDays);
    await store.delete(workspaceRecord, workspaceKey(id), ({ deleting }) => deleting);
  }

  /**
   * Deletes the tokens and servers of a workspace that is being deleted. Their lists stay until the sweep a day later,
   * because a process that was halted may still store a record.
   *
   * @throws the error of a record that cannot be read, after the others were deleted.
   */
  async removeContents(id: string): Promise<void> {
    const failures: unknown[] = [];
    const report = (problem: unknown) => failures.push(problem);
    await orReport(() => this.#tokens.removeAll(id), report);
    for await (const page of this.#servers.listOf(id).pages({ onUnreadable: report })) {
      const lost: string[] = [];
      for (const { entry } of page) {
        const address = { workspace: id, slug: entry.slug };
        const isWhole = await orReport(() => this.#servers.removeForGood(address, entry), report);
        if (isWhole === false) lost.push(entry.id);
      }
      await this.#servers.removeValues(id, lost);
    }
    if (failures.length > 0) throw failures[0];
  }

  /** Marks the entry of a workspace as deleted. The entry stays for the sweep and for the retention of the audit. */
  async #markDeleted(page: number, id: string, retentionDays: number): Promise<void> {
    const deleted = { at: Date.now(), retentionDays };
    await this.list().changePage(page, (entry) =>
      entry.id === id && entry.deleted === undefined ? { ...entry, deleted } : entry,
    );
  }

  /** Removes the entry of a workspace from the list of workspaces. */
  async removeEntry(page: number, id: string): Promise<void> {
    await this.list().changePage(page, (entry) => (entry.id === id ? undefined : entry));
  }

  /** Returns whether a workspace has a server, or another token than that of its first admin. */
  async hasContents(id: string): Promise<boolean> {
    return (await this.#tokens.listOf(id).hasMoreThan(1)) || (await this.#servers.listOf(id).hasMoreThan(0));
  }

  /** Deletes a workspace by its id, whatever its name is. */
  async discard(id: string): Promise<void> {
    await this.#remove(id, {});
  }

  /**
   * Deletes a workspace that someone has put back after its deletion. Its lists were removed a day after the deletion, so
   * the store is scanned for its other records. Its own record is deleted last, so that the next sweep can continue.
   */
  async discardPutBack(id: string): Promise<void> {
    await this.#context.store.change(
      workspaceRecord,
      workspaceKey(id),
      (current): Decision<WorkspaceRecord, undefined> => {
        if (current === undefined || current.deleting) return { result: undefined };
        return { next: { ...current, deleting: true, revision: current.revision + 1 }, result: undefined };
      },
    );
    await this.#removeUnlisted(id);
    await this.finishIfDeleting(id);
  }

  /** Deletes the lists of a workspace that was deleted a day ago. */
  async removeLists(id: string): Promise<void> {
    await this.#servers.listOf(id).removeAll();
    await this.#tokens.listOf(id).removeAll();
  }

  /** Returns whether there is a workspace with this name, apart from the one with the id `exceptId`. */
  async exists(name: string, exceptId?: string): Promise<boolean> {
    try {
      await this.require(name, exceptId);
      return true;
    } catch (error) {
      if (error instanceof SecretsError && error.code === "WORKSPACE_NOT_FOUND") return false;
      throw error;
    }
  }

  /**
   * Returns the record of the workspace that is called `name`.
   *
   * @param exceptId the id of a workspace to leave out.
   * @throws SecretsError `WORKSPACE_NOT_FOUND` if there is none, or if the workspace is being deleted. If a page of the
   * list cannot be read, and no other page has the workspace: the error of that page.
   */
  async require(name: string, exceptId?: string): Promise<WorkspaceRecord> {
    const failures: unknown[] = [];
    for await (const page of this.list().pages({ onUnreadable: (problem) => failures.push(problem) })) {
      const named = page.filter(
        ({ entry }) => entry.name === name && entry.deleted === undefined && entry.id !== exceptId,
      );
      const batch = await this.#context.store.readBatch(named.map(({ entry }) => workspaceKey(entry.id)));
      for (const { entry } of named) {
        const found = batch.record(workspaceRecord, workspaceKey(entry.id))?.value;
        if (found !== undefined && !found.deleting) return found;
      }
    }
    throw failures[0] ?? workspaceNotFound();
  }
}

/** Returns what operators see of a workspace. */
export function workspaceInfo({
  id,
  name,
  revision,
  created,
  retentionDays,
  deleting,
}: WorkspaceRecord): WorkspaceInfo {
  return { id, name, revision, created, retentionDays, deleting };
}

function beingCreated(name: string): SecretsError {
  return new SecretsError("SERVICE_BUSY", `Another process is creating the workspace ${name}`, {
    hint: "List the workspaces with `keyward workspaces list`. If there is none with this name, repeat the call in a minute.",
  });
}

function workspaceExists(name: string): SecretsError {
  return new SecretsError("WORKSPACE_EXISTS", `There is already a workspace ${name}`, {
    hint: "Choose another name, or list the workspaces with `keyward workspaces list`.",
  });
}
