import { KeywardError } from "@keyward/core";
import type { Tokens } from "./access/tokens.ts";
import { installation, serverKey, tokenKey, usedKey, workspaceKey } from "./records/record-keys.ts";
import { type ServerRecord, serverRecord } from "./records/server-record.ts";
import { tokenRecord } from "./records/token-record.ts";
import { workspaceRecord } from "./records/workspace-record.ts";
import { SecretsError } from "./secrets-error.ts";
import { removeGarbage, withoutAbandoned } from "./servers/server-changes.ts";
import type { ServerEntry, Servers } from "./servers/servers.ts";
import type { ServiceContext } from "./store/service-context.ts";
import type { Decision } from "./store/service-store.ts";
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
  /** Stops the sweep after the call in progress. */
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

  constructor(parts: SweepParts, { signal, now = Date.now(), abandonedAfterMs }: SweepOptions) {
    this.#parts = parts;
    this.#now = now;
    this.#abandonedAfterMs = abandonedAfterMs;
    this.#signal = signal;
  }

  /** Sweeps the installation and each workspace. */
  async run(): Promise<SweepReport> {
    const { workspaces } = this.#parts;
    await this.#whole(() => this.#sweepTokens(installation));
    await this.#whole(() => this.#removeAudit(undefined, defaultRetentionDays));
    for await (const page of workspaces.list().pages()) {
      for (const { page: number, entry } of page) {
        this.#signal?.throwIfAborted();
        await this.#whole(() => this.#sweepWorkspace(number, entry));
      }
    }
    return { removed: this.#removed, expiring: this.#expiring };
  }

  async #sweepWorkspace(page: number, entry: WorkspaceEntry): Promise<void> {
    const { workspaces, context } = this.#parts;
    const { id } = entry;
    const record = await context.store.read(workspaceRecord, workspaceKey(id));
    if (record === undefined) return await this.#sweepDeleted(page, entry);
    if (record.value.deleting) return await workspaces.finishIfDeleting(id);
    await this.#whole(() => this.#sweepServers(id));
    await this.#whole(() => this.#sweepTokens(id));
    await this.#removeAudit(id, record.value.retentionDays);
  }

  /** Does a part of the sweep. A record that cannot be read is reported, and does not keep the other parts from the sweep. */
  async #whole(sweep: () => Promise<void>): Promise<void> {
    try {
      await sweep();
    } catch (error) {
      const isUnavailable = error instanceof KeywardError && error.code === "STORE_UNAVAILABLE";
      const isOfRecord =
        error instanceof SecretsError ? error.code !== "AUDIT_UNAVAILABLE" : error instanceof KeywardError;
      if (isUnavailable || !isOfRecord) throw error;
      this.#parts.context.onProblem(error);
    }
  }

  /** Removes what is left of a workspace that was deleted, or whose creation was not finished. */
  async #sweepDeleted(page: number, { id, at, deleted }: WorkspaceEntry): Promise<void> {
    const { workspaces } = this.#parts;
    // A process that was halted may have created something after the deletion.
    if (this.#now - (deleted?.at ?? at) < dayMs) return;
    await workspaces.removeContents(id);
    await workspaces.removeLists(id);
    const retentionDays = deleted?.retentionDays ?? 0;
    await this.#removeAudit(id, retentionDays);
    // The entry leads to the audit of the workspace, which is kept for its time.
    if (deleted !== undefined && this.#now - deleted.at < retentionDays * dayMs) return;
    await workspaces.list().changePage(page, (other) => (other.id === id ? undefined : other));
    this.#removed++;
  }

  async #removeAudit(workspace: string | undefined, retentionDays: number): Promise<void> {
    await this.#parts.context.audit.removeBefore(workspace, this.#now - retentionDays * dayMs);
  }

  async #sweepServers(workspace: string): Promise<void> {
    const { servers, context } = this.#parts;
    for await (const page of servers.listOf(workspace).pages()) {
      this.#signal?.throwIfAborted();
      const batch = await context.store.readBatch(page.map(({ entry }) => serverKey(workspace, entry.slug)));
      const gone = new Set<string>();
      for (const { entry } of page) {
        await this.#whole(async () => {
          const server = batch.record(serverRecord, serverKey(workspace, entry.slug))?.value;
          if (server?.id === entry.id) return await this.#sweepServer(workspace, server);
          if (this.#now - (entry.deleted?.at ?? entry.at) < dayMs) return;
          await servers.removeForGood({ workspace, slug: entry.slug }, entry);
          gone.add(entry.id);
        });
      }
      await this.#removeEntries(page, gone, (number, isGone) =>
        servers.listOf(workspace).changePage(number, (entry) => (isGone(entry) ? undefined : entry)),
      );
    }
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
    for await (const page of tokens.listOf(workspace).pages()) {
      this.#signal?.throwIfAborted();
      const batch = await context.store.readBatch(page.map(({ entry }) => tokenKey(workspace, entry.id)));
      const gone = new Set<string>();
      for (const { entry } of page) {
        const token = batch.record(tokenRecord, tokenKey(workspace, entry.id))?.value;
        const ended = token === undefined ? entry.at : (token.revoked ?? token.expires);
        const keptMs = token === undefined ? dayMs : endedTokenKeptMs;
        if (ended !== undefined && this.#now - ended >= keptMs) gone.add(entry.id);
      }
      await context.store.remove([...gone].flatMap((id) => [tokenKey(workspace, id), usedKey(workspace, id)]));
      await this.#removeEntries(page, gone, (number, isGone) =>
        tokens.listOf(workspace).changePage(number, (entry) => (isGone(entry) ? undefined : entry)),
      );
    }
  }

  async #removeEntries(
    page: readonly { readonly page: number }[],
    gone: ReadonlySet<string>,
    remove: (number: number, isGone: (entry: Pick<ServerEntry, "id">) => boolean) => Promise<void>,
  ): Promise<void> {
    const [first] = page;
    if (first === undefined || gone.size === 0) return;
    await remove(first.page, ({ id }) => gone.has(id));
    this.#removed += gone.size;
  }
}
