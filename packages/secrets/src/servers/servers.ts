import { z } from "zod";
import { idField, slugField, timeField } from "../fields.ts";
import { PagedList, pageSchemaOf } from "../lists/paged-list.ts";
import type { ChangeCondition, Page, PageRequest, ServerInfo, ServerKind } from "../model.ts";
import { newId } from "../records/ids.ts";
import { isOfRecord } from "../records/record-errors.ts";
import { addressedRecord, listKey, serverKey, usedKey, valueKey } from "../records/record-keys.ts";
import { type ServerRecord, serverRecord, valueKeysOf } from "../records/server-record.ts";
import { SecretsError } from "../secrets-error.ts";
import type { ServiceContext } from "../store/service-context.ts";
import type { Decision, ServiceStore } from "../store/service-store.ts";
import { missingRecord, requireOpenWorkspace } from "../workspaces/open-workspace.ts";
import { changeServer, requireServer, type ServerAddress, serverNotFound } from "./server-changes.ts";

const entrySchema = z.strictObject({
  slug: slugField,
  id: idField,
  at: timeField,
  /**
   * Set when the record of the server was stored. If the record is missing and `deleted` is not set, the service did
   * not delete the record.
   */
  stored: z.literal(true).optional(),
  /** Set when the server was deleted: the time, and the highest number of a value that may be stored. */
  deleted: z.strictObject({ at: timeField, values: z.int().min(0) }).optional(),
});

const pageSchema = pageSchemaOf(entrySchema);

/**
 * An entry in the list of a workspace's servers. The entry refers to the server with this slug only if their ids are
 * equal.
 */
export type ServerEntry = z.infer<typeof entrySchema>;

/** Returns the list of the servers of a workspace. */
export function serverListOf(store: ServiceStore, workspace: string): PagedList<ServerEntry> {
  return new PagedList(store, listKey({ workspace, of: "servers" }), pageSchema);
}

const valuesAtOnce = 500;

/** A server to add to a workspace. */
export interface NewServer {
  /** 1 to 32 lower-case letters and digits, with single hyphens inside. */
  readonly slug: string;
  /** An absolute URL without a user, a password, a query and a fragment. */
  readonly url: string;
  /** Default: `mcp`. */
  readonly kind?: ServerKind | undefined;
  /** Headers of callers that the gateway forwards, at most 20. Default: none besides those that it always forwards. */
  readonly forwardHeaders?: readonly string[] | undefined;
  /** Headers of the server that the gateway relays, at most 20. Default: none besides those that it always relays. */
  readonly relayHeaders?: readonly string[] | undefined;
}

/** What can be changed about a server. */
export interface ServerChange {
  /** The new URL. Default: the URL does not change. */
  readonly url?: string | undefined;
  /** The new kind. Default: the kind does not change. */
  readonly kind?: ServerKind | undefined;
  /** The new list of headers of callers that the gateway forwards. Default: the list does not change. */
  readonly forwardHeaders?: readonly string[] | undefined;
  /** The new list of headers of the server that the gateway relays. Default: the list does not change. */
  readonly relayHeaders?: readonly string[] | undefined;
  /** True to refuse calls to the server, false to allow them. Default: no change. */
  readonly disabled?: boolean | undefined;
}

/** The servers of all workspaces. */
export class Servers {
  readonly #context: ServiceContext;

  constructor(context: ServiceContext) {
    this.#context = context;
  }

  /** Returns the list of the servers of a workspace. */
  listOf(workspace: string): PagedList<ServerEntry> {
    return serverListOf(this.#context.store, workspace);
  }

  /**
   * Creates a server. First adds the server to the list, then stores its record.
   *
   * @throws SecretsError `SERVER_EXISTS`; `WORKSPACE_NOT_FOUND` if the workspace is being deleted.
   */
  async create(
    workspace: string,
    { slug, url, kind, forwardHeaders = [], relayHeaders = [] }: NewServer & { readonly kind: ServerKind },
    createdBy: string,
  ): Promise<ServerInfo> {
    const { store } = this.#context;
    const key = serverKey(workspace, slug);
    await requireOpenWorkspace(store, workspace);
    const existing = await store.read(serverRecord, key);
    // A deletion that was not finished is finished first.
    if (existing?.value.deleting === true) await this.#finishDeletion(workspace, existing.value);
    else if (existing !== undefined) throw serverExists(slug);
    const now = Date.now();
    const id = newId();
    const list = this.listOf(workspace);
    const page = await list.append({ slug, id, at: now });
    const server: ServerRecord = {
      v: 1,
      id,
      page,
      slug,
      url,
      kind,
      forwardHeaders: [...forwardHeaders],
      relayHeaders: [...relayHeaders],
      disabled: false,
      deleting: false,
      revision: 0,
      created: now,
      createdBy,
      values: 0,
      secrets: [],
      pending: [],
      garbage: [],
    };
    // Another process may have changed the new server before this process learns that the server was created.
    if ((await store.create(serverRecord, key, server)) || (await store.read(serverRecord, key))?.value.id === id) {
      try {
        await requireOpenWorkspace(store, workspace);
        await list.changePage(page, (entry) => (entry.id === id ? { ...entry, stored: true } : entry));
        await list.requireEntry({ page, id });
        return serverInfo(server);
      } catch (error) {
        await this.removeForGood({ workspace, slug }, { id, slug, at: now });
        throw error;
      }
    }
    await list.changePage(page, (entry) => (entry.id === id && entry.deleted === undefined ? undefined : entry));
    throw serverExists(slug);
  }

  /**
   * Returns a server.
   *
   * @throws SecretsError `SERVER_NOT_FOUND`.
   */
  async get({ workspace, slug }: ServerAddress): Promise<ServerInfo> {
    const record = await this.#context.store.read(serverRecord, serverKey(workspace, slug));
    return serverInfo(requireServer(record?.value));
  }

  /**
   * Checks that a workspace has every server of a list.
   *
   * @throws SecretsError `SERVER_NOT_FOUND`, whose message contains the positions of the missing servers in the list,
   * from 1.
   */
  async requireAll(workspace: string, slugs: readonly string[]): Promise<void> {
    const batch = await this.#context.store.readBatch(slugs.map((slug) => serverKey(workspace, slug)));
    const missing = slugs.flatMap((slug, index) => {
      const found = batch.record(serverRecord, serverKey(workspace, slug))?.value;
      return found === undefined || found.deleting ? [index + 1] : [];
    });
    if (missing.length > 0) throw serverNotFound(missing);
  }

  /** Returns a page of the servers of a workspace. */
  async list(workspace: string, page: PageRequest): Promise<Page<ServerInfo>> {
    return await this.listOf(workspace).page(page, workspace, async (entries) =>
      (await this.read(workspace, entries)).map(({ entry, server }) => ({
        name: entry.slug,
        read: () => {
          const found = server();
          return found === undefined ? undefined : serverInfo(found);
        },
      })),
    );
  }

  /**
   * Reads the servers that entries of the list refer to. For each entry, returns a function `server`, which returns the
   * record of the server. The function returns `undefined` if the server was deleted, or if its creation was not
   * finished. It throws `RECORD_MISSING` if someone else has deleted the record, or the errors of `ReadBatch.record`.
   */
  async read(
    workspace: string,
    entries: readonly ServerEntry[],
  ): Promise<readonly { readonly entry: ServerEntry; readonly server: () => ServerRecord | undefined }[]> {
    const batch = await this.#context.store.readBatch(entries.map(({ slug }) => serverKey(workspace, slug)));
    const recordOf = ({ slug }: ServerEntry) => batch.record(serverRecord, serverKey(workspace, slug))?.value;
    const missing = await this.#missing(workspace, entries, recordOf);
    return entries.map((entry) => ({
      entry,
      server: () => {
        const found = recordOf(entry);
        if (found === undefined && missing.has(entry.id)) {
          throw missingRecord(`server ${entry.slug}`, "Its values stay in the store.");
        }
        return found?.id === entry.id ? found : undefined;
      },
    }));
  }

  /** Returns the ids of the servers whose record is missing, although the list still says that they exist. */
  async #missing(
    workspace: string,
    entries: readonly ServerEntry[],
    recordOf: (entry: ServerEntry) => ServerRecord | undefined,
  ): Promise<ReadonlySet<string>> {
    const missing = new Set<string>();
    for (const entry of entries) {
      if (entry.stored !== true || entry.deleted !== undefined) continue;
      try {
        if (recordOf(entry) === undefined) missing.add(entry.id);
      } catch (error) {
        // Reported when the record of this server is used.
        if (!isOfRecord(error)) throw error;
      }
    }
    if (missing.size === 0) return missing;
    // Another process may have deleted the server since the entry was read.
    const current = new Set<string>();
    for await (const page of this.listOf(workspace).pages({ onUnreadable: () => {} })) {
      for (const { entry } of page) if (missing.has(entry.id) && entry.deleted === undefined) current.add(entry.id);
    }
    return current;
  }

  /**
   * Changes a server. If the origin of its URL changes, calls cannot use its values until the values are set again.
   *
   * @throws the errors of {@link changeServer}.
   */
  async update(address: ServerAddress, change: ServerChange, condition: ChangeCondition): Promise<ServerInfo> {
    return await changeServer(this.#context, address, condition, (server): Decision<ServerRecord, ServerInfo> => {
      const next: ServerRecord = {
        ...server,
        url: change.url ?? server.url,
        kind: change.kind ?? server.kind,
        forwardHeaders: [...(change.forwardHeaders ?? server.forwardHeaders)],
        relayHeaders: [...(change.relayHeaders ?? server.relayHeaders)],
        disabled: change.disabled ?? server.disabled,
        revision: server.revision + 1,
      };
      return { next, result: serverInfo(next) };
    });
  }

  /**
   * Deletes a server with its values, and returns its last revision. The gateway refuses calls as soon as
   * the deletion begins. One day later, the sweep deletes the values again, because a paused process may have stored one.
   *
   * @throws the errors of {@link changeServer}.
   */
  async delete(address: ServerAddress, condition: ChangeCondition): Promise<number> {
    const server = await changeServer(
      this.#context,
      address,
      condition,
      (current): Decision<ServerRecord, ServerRecord> => {
        const next: ServerRecord = { ...current, deleting: true, revision: current.revision + 1 };
        return { next, result: next };
      },
    );
    await this.#finishDeletion(address.workspace, server);
    return server.revision;
  }

  /** Finishes the deletion of a server that is marked as `deleting`. Several processes may do so at once. */
  async #finishDeletion(workspace: string, server: ServerRecord): Promise<void> {
    const { store } = this.#context;
    const { id, slug, page, values } = server;
    await store.remove(valueKeysOf(server, workspace));
    await store.remove([usedKey(workspace, id)]);
    const deleted = { at: Date.now(), values };
    await this.listOf(workspace).changePage(page, (entry) =>
      entry.id === id && entry.deleted === undefined ? { ...entry, deleted } : entry,
    );
    await store.delete(serverRecord, serverKey(workspace, slug), (current) => current.id === id && current.deleting);
  }

  /**
   * Deletes a server in any state, with every value that it may have. Used for the deletion of a workspace, and by the
   * sweep a day after a deletion. Returns false if the record of the server is missing, so that its values are unknown:
   * {@link Servers.removeValues} finds them.
   */
  async removeForGood({ workspace, slug }: ServerAddress, { id, deleted }: ServerEntry): Promise<boolean> {
    const { store } = this.#context;
    // No change can hand out the number of a further value from here on.
    const own = await store.change(
      serverRecord,
      serverKey(workspace, slug),
      (current): Decision<ServerRecord, ServerRecord | undefined> => {
        if (current?.id !== id) return { result: undefined };
        if (current.deleting) return { result: current };
        const next: ServerRecord = { ...current, deleting: true, revision: current.revision + 1 };
        return { next, result: next };
      },
    );
    // The entry names the values before the record is deleted, so that a process that is killed leaves none over.
    if (own !== undefined) await this.#finishDeletion(workspace, own);
    const last = Math.max(own?.values ?? 0, deleted?.values ?? 0);
    for (let first = 1; first <= last; first += valuesAtOnce) {
      const count = Math.min(valuesAtOnce, last + 1 - first);
      await store.remove(Array.from({ length: count }, (_, index) => valueKey(workspace, id, first + index)));
    }
    await store.remove([usedKey(workspace, id)]);
    return own !== undefined || deleted !== undefined;
  }

  /**
   * Finds and deletes all values of the servers with these ids, in one scan of the store. If the store cannot be
   * scanned, the values stay stored, but no call can use them.
   */
  async removeValues(workspace: string, ids: readonly string[]): Promise<void> {
    const { store } = this.#context;
    if (ids.length === 0 || !store.isScannable) return;
    for await (const keys of store.keys()) {
      const ofServers = keys.filter((key) => {
        const record = addressedRecord(key);
        return record?.kind === "value" && record.workspace === workspace && ids.includes(record.name);
      });
      await store.remove(ofServers);
    }
  }

  /** Finishes the deletion of a server if it was begun. The sweep calls this method. */
  async finishIfDeleting({ workspace, slug }: ServerAddress): Promise<void> {
    const record = await this.#context.store.read(serverRecord, serverKey(workspace, slug));
    if (record?.value.deleting === true) await this.#finishDeletion(workspace, record.value);
  }
}

/** Returns what callers see of a server. */
export function serverInfo(server: ServerRecord): ServerInfo {
  const { id, slug, url, kind, forwardHeaders, relayHeaders, disabled, deleting, revision, created, secrets } = server;
  const settings = { id, slug, url, kind, forwardHeaders, relayHeaders, disabled };
  return { ...settings, revision, created, secretCount: secrets.length, deleting };
}

/** Returns the error for a new server whose slug another server of the workspace has. */
export function serverExists(slug: string): SecretsError {
  return new SecretsError("SERVER_EXISTS", `The workspace already has a server ${slug}`, {
    hint: `To change it, run \`keyward servers set ${slug}\`. For another server, choose another slug.`,
  });
}
