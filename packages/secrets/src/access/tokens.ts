import { z } from "zod";
import { idField, ownerField, timeField } from "../fields.ts";
import { requireTokensAccepted } from "../installation.ts";
import { PagedList, pageSchemaOf } from "../lists/paged-list.ts";
import type { IssuedToken, Page, PageRequest, TokenInfo } from "../model.ts";
import { newId } from "../records/ids.ts";
import { maxKeepers, maxRotatedKeepers } from "../records/keeper.ts";
import { orReport } from "../records/record-errors.ts";
import { listKey, tokenKey, usedKey } from "../records/record-keys.ts";
import { isEnded, type TokenRecord, tokenRecord } from "../records/token-record.ts";
import { SecretsError } from "../secrets-error.ts";
import type { ServiceContext } from "../store/service-context.ts";
import type { Decision } from "../store/service-store.ts";
import { requireOpenWorkspace } from "../workspaces/open-workspace.ts";
import { requireStillValid } from "./authentication.ts";
import type { Caller } from "./caller.ts";
import { asListed, changeKeepers, isKeeper, keeperOf, readKeepers, withKeeper, withoutKeeper } from "./keepers.ts";
import { LastUses } from "./last-uses.ts";
import { hashOfToken, newTokenText } from "./token-text.ts";

const entrySchema = z.strictObject({ id: idField, owner: ownerField, at: timeField });

const pageSchema = pageSchemaOf(entrySchema);

/** An entry in the list of a workspace's tokens. */
export type TokenEntry = z.infer<typeof entrySchema>;

/** A token whose fields were checked. */
export type CheckedToken = Pick<TokenRecord, "owner" | "role" | "servers" | "tools" | "methods" | "expires">;

/** A token that was made, and its record. */
interface MadeToken {
  readonly token: string;
  readonly record: TokenRecord;
}

/** How a token of an admin or operator is counted, and how that is undone if its creation fails. */
interface Counting {
  readonly count: (record: TokenRecord) => Promise<void>;
  readonly undo: (record: TokenRecord) => Promise<void>;
}

/** What the revocation of many tokens did. */
export interface MassRevocation {
  readonly revoked: number;
  /** The errors of records that cannot be read. The other tokens are revoked. */
  readonly failures: readonly unknown[];
}

/** The tokens of all workspaces, and of the operators under the workspace `service`. */
export class Tokens {
  readonly #context: ServiceContext;

  constructor(context: ServiceContext) {
    this.#context = context;
  }

  /** Returns the list of the tokens of a workspace. */
  listOf(workspace: string): PagedList<TokenEntry> {
    return new PagedList(this.#context.store, listKey({ workspace, of: "tokens" }), pageSchema);
  }

  /**
   * Creates a token. The list names the token before its record exists.
   *
   * @param options.limit the largest number of admins or operators. Default: 100.
   * @throws SecretsError `LIMIT_REACHED` for an admin or operator, if there are `limit` already; `WORKSPACE_NOT_FOUND` if
   * the workspace is being deleted; `TOKEN_REFUSED` if the token of the creator was revoked in the meantime.
   */
  async create(
    workspace: string,
    given: CheckedToken,
    creator: Caller,
    { limit = maxKeepers }: { readonly limit?: number } = {},
  ): Promise<IssuedToken> {
    const { store } = this.#context;
    const count = (record: TokenRecord) =>
      changeKeepers(store, workspace, (keepers) => withKeeper(keepers, keeperOf(record), { limit, now: Date.now() }));
    const undo = ({ id }: TokenRecord) =>
      changeKeepers(store, workspace, (keepers) => keepers.filter((keeper) => keeper.id !== id));
    return issuedToken(await this.#issue(workspace, given, creator, { count, undo }));
  }

  /**
   * Creates a token that is not valid yet: the first operator or the first admin of a workspace. The token becomes
   * valid when the record that lists it is written.
   */
  async createFirst(workspace: string, given: CheckedToken, createdBy: string): Promise<IssuedToken> {
    const made = await this.#listed(workspace, given, createdBy);
    await this.#context.store.create(tokenRecord, tokenKey(workspace, made.record.id), made.record);
    return issuedToken(made);
  }

  /** Returns a page of the tokens of a workspace, or of one owner in it. */
  async list(
    workspace: string,
    { owner, ...page }: PageRequest & { readonly owner?: string | undefined },
  ): Promise<Page<TokenInfo>> {
    const named = (entry: TokenEntry) => owner === undefined || entry.owner === owner;
    return await this.listOf(workspace).page(page, workspace, async (entries) => {
      const keys = entries.filter(named).flatMap(({ id }) => [tokenKey(workspace, id), usedKey(workspace, id)]);
      const { store } = this.#context;
      const [batch, keepers] = await Promise.all([store.readBatch(keys), readKeepers(store, workspace)]);
      return entries.map((entry) => ({
        name: entry.id,
        read: () => {
          const record = named(entry) ? batch.record(tokenRecord, tokenKey(workspace, entry.id))?.value : undefined;
          const listed = record === undefined ? undefined : asListed(record, keepers);
          return listed === undefined ? undefined : tokenInfo(listed, LastUses.in(batch, workspace, entry.id));
        },
      }));
    });
  }

  /**
   * Revokes a token. A token that was revoked before keeps its time.
   *
   * @throws SecretsError `TOKEN_NOT_FOUND`; `LAST_ADMIN` for the last admin of a workspace.
   */
  async revoke(workspace: string, id: string): Promise<TokenInfo> {
    const { store } = this.#context;
    const now = Date.now();
    const token = await this.#require(workspace, id);
    // First, so that the list of admins never names a token that is revoked.
    if (isKeeper(token)) {
      await changeKeepers(store, workspace, (keepers) => withoutKeeper(keepers, { workspace, id, end: now, now }));
    }
    return await this.#change(workspace, id, (current) =>
      current.revoked === undefined ? { ...current, revoked: now } : current,
    );
  }

  /**
   * Creates a token like another one, and lets the other one expire.
   *
   * @throws SecretsError `TOKEN_NOT_FOUND` also for a token that is revoked in the meantime; as {@link Tokens.create}.
   */
  async rotate(workspace: string, id: string, overlapMs: number, creator: Caller): Promise<IssuedToken> {
    const { store } = this.#context;
    const former = await this.#require(workspace, id);
    // The list of admins may say that the token ends sooner: a rotation that was stopped has not written its record.
    const listedFormer = isKeeper(former) ? asListed(former, await readKeepers(store, workspace)) : former;
    if (listedFormer === undefined || isEnded(listedFormer, Date.now())) throw endedToken();
    const { owner, role, servers, tools, methods, expires } = listedFormer;
    const until = Date.now() + overlapMs;
    const end = expires === undefined || expires > until ? until : expires;
    let replaced = keeperOf(former);
    const made = await this.#issue(workspace, { owner, role, servers, tools, methods, expires }, creator, {
      // One change, so that at each moment one of both tokens counts as an admin.
      count: (record) =>
        changeKeepers(store, workspace, (keepers) => {
          const now = Date.now();
          const listed = keepers.find((keeper) => keeper.id === id && (keeper.expires ?? Infinity) > now);
          if (listed === undefined) throw endedToken();
          // Otherwise the new token would not end, although another rotation meanwhile lets the former one end.
          if (listed.expires !== undefined && listed.expires !== expires) throw rotatedMeanwhile();
          replaced = listed;
          const both = withKeeper(keepers, keeperOf(record), { limit: maxRotatedKeepers, now });
          return end === expires ? both : withoutKeeper(both, { workspace, id, end, now });
        }),
      undo: (record) =>
        changeKeepers(store, workspace, (keepers) =>
          keepers.some((keeper) => keeper.id === record.id)
            ? keepers.flatMap((keeper) => {
                if (keeper.id === record.id) return [];
                // The former token stays ended if it was revoked since this rotation let it end.
                return keeper.id === id && keeper.expires === end ? [replaced] : [keeper];
              })
            : keepers,
        ),
    });
    await this.#endFormer(workspace, former, end, made.record);
    return issuedToken(made);
  }

  /** Yields the ids of the tokens of an owner, or of all tokens of a workspace, newest first. */
  async *idsOf(
    workspace: string,
    owner: string | undefined,
    onUnreadable?: (problem: unknown) => void,
  ): AsyncGenerator<readonly string[], void> {
    for await (const page of this.listOf(workspace).pages({ onUnreadable })) {
      const entries = page.map(({ entry }) => entry);
      yield entries.filter((entry) => owner === undefined || entry.owner === owner).map(({ id }) => id);
    }
  }

  /**
   * Revokes every token of a workspace that was created before a time, or after now by a clock that was ahead. Revokes
   * also the last admin.
   */
  async revokeCreatedBefore(workspace: string, time: number): Promise<MassRevocation> {
    const { store } = this.#context;
    const failures: unknown[] = [];
    const now = Date.now();
    let revoked = 0;
    const report = (problem: unknown) => failures.push(problem);
    const pages = this.listOf(workspace).pages({ onUnreadable: report });
    for await (const page of pages) {
      const early = page.filter(({ entry }) => entry.at < time || entry.at > now).map(({ entry }) => entry.id);
      // First, as in the revocation of one token: the list of admins never names a token that is revoked.
      await orReport(async () => {
        const keepers = await readKeepers(store, workspace);
        if (!keepers.some(({ id }) => early.includes(id))) return;
        await changeKeepers(store, workspace, (current) => current.filter(({ id }) => !early.includes(id)));
      }, report);
      for (const id of early) {
        await orReport(async () => {
          const isRevoked = await store.change(
            tokenRecord,
            tokenKey(workspace, id),
            (current): Decision<TokenRecord, boolean> => {
              if (current === undefined || current.revoked !== undefined) return { result: false };
              return { next: { ...current, revoked: now, revision: current.revision + 1 }, result: true };
            },
          );
          if (isRevoked) revoked++;
        }, report);
      }
    }
    return { revoked, failures };
  }

  /** Returns a token; `undefined` if there is none. */
  async find(workspace: string, id: string): Promise<TokenRecord | undefined> {
    return (await this.#context.store.read(tokenRecord, tokenKey(workspace, id)))?.value;
  }

  /**
   * Deletes all tokens of a workspace. Their list stays.
   *
   * @throws the error of a page that cannot be read, after the tokens of the other pages were deleted.
   */
  async removeAll(workspace: string): Promise<void> {
    const failures: unknown[] = [];
    for await (const ids of this.idsOf(workspace, undefined, (problem) => failures.push(problem))) {
      await this.#context.store.remove(ids.flatMap((id) => [tokenKey(workspace, id), usedKey(workspace, id)]));
    }
    if (failures.length > 0) throw failures[0];
  }

  async #issue(workspace: string, given: CheckedToken, creator: Caller, { count, undo }: Counting): Promise<MadeToken> {
    const { store } = this.#context;
    await requireOpenWorkspace(store, workspace);
    const { token, record } = await this.#listed(workspace, given, creator.owner);
    let isStored = false;
    try {
      await store.create(tokenRecord, tokenKey(workspace, record.id), record);
      isStored = true;
      // The deletion of a workspace or the revocation of an owner's tokens may have passed the list before this token was
      // in the list. Then the workspace is being deleted now, or the token of the creator is revoked.
      await requireOpenWorkspace(store, workspace);
      await requireStillValid(store, creator);
      await this.listOf(workspace).requireEntry(record);
      if (isKeeper(record)) {
        // Counted last: an admin that a killed process has left in the list could hide that no token can manage the workspace.
        await count(record);
        const isRevoked = (await this.find(workspace, record.id))?.revoked !== undefined;
        if (isRevoked) throw endedToken();
      }
    } catch (error) {
      await this.#discard(workspace, record, undo, isStored).catch((problem: unknown) =>
        this.#context.onProblem(problem),
      );
      throw error;
    }
    return { token, record };
  }

  /** Lets the former token of a rotation expire. */
  async #endFormer(workspace: string, former: TokenRecord, end: number, next: TokenRecord): Promise<void> {
    const { onProblem } = this.#context;
    try {
      await this.#change(workspace, former.id, (current) => {
        if (current.revoked !== undefined) throw endedToken();
        if (!isKeeper(former) && current.expires !== former.expires) throw rotatedMeanwhile();
        return current.expires !== undefined && current.expires <= end ? current : { ...current, expires: end };
      });
    } catch (error) {
      // The list of admins or operators already says when the former token ends.
      if (isKeeper(former)) return onProblem(error);
      if (error instanceof SecretsError) await this.#remove(workspace, next).catch(onProblem);
      throw error;
    }
  }

  /** Changes the record of a token. `change` returns the same record if nothing changes. */
  async #change(workspace: string, id: string, change: (token: TokenRecord) => TokenRecord): Promise<TokenInfo> {
    return await this.#context.store.change(
      tokenRecord,
      tokenKey(workspace, id),
      (current): Decision<TokenRecord, TokenInfo> => {
        if (current === undefined) throw tokenNotFound("does not exist");
        const changed = change(current);
        if (changed === current) return { result: tokenInfo(current, undefined) };
        const next = { ...changed, revision: current.revision + 1 };
        return { next, result: tokenInfo(next, undefined) };
      },
    );
  }

  async #require(workspace: string, id: string): Promise<TokenRecord> {
    const found = await this.find(workspace, id);
    if (found === undefined) throw tokenNotFound("does not exist");
    return found;
  }

  /**
   * Makes a new token, and its record after the list names the token.
   *
   * @throws SecretsError `CLOCK_JUMPED` if the service would refuse the token.
   */
  async #listed(workspace: string, given: CheckedToken, createdBy: string): Promise<MadeToken> {
    const id = newId();
    const token = newTokenText({ workspace, id });
    // The time is first, so that it is before a revocation that the record of the installation does not name yet.
    const created = Date.now();
    const lastRevocation = await requireTokensAccepted(this.#context.store, created);
    const page = await this.listOf(workspace).append({ id, owner: given.owner, at: created });
    const hash = hashOfToken(token).toString("base64url");
    return { token, record: { v: 1, id, page, revision: 0, hash, ...given, created, lastRevocation, createdBy } };
  }

  /**
   * Removes a token whose creation failed, so that nobody can use it.
   *
   * @param isStored whether the store has acknowledged the record. Otherwise the store may still write the record, so
   * the list names the token until the sweep.
   */
  async #discard(
    workspace: string,
    token: TokenRecord,
    undo: (record: TokenRecord) => Promise<void>,
    isStored: boolean,
  ): Promise<void> {
    if (isKeeper(token)) await undo(token);
    if (isStored) await this.#remove(workspace, token);
    else await this.#context.store.remove([tokenKey(workspace, token.id)]);
  }

  /** Removes the record of a token, and then its entry in the list. */
  async #remove(workspace: string, { id, page }: TokenRecord): Promise<void> {
    await this.#context.store.remove([tokenKey(workspace, id)]);
    await this.listOf(workspace).changePage(page, (entry) => (entry.id === id ? undefined : entry));
  }
}

function issuedToken({ token, record }: MadeToken): IssuedToken {
  return { token, info: tokenInfo(record, undefined) };
}

/** Returns what callers see of a token. */
export function tokenInfo(token: TokenRecord, lastUsed: number | undefined): TokenInfo {
  const { id, owner, role, servers, tools, methods, created, createdBy, expires, revoked } = token;
  return { id, owner, role, servers, tools, methods, created, createdBy, expires, revoked, lastUsed };
}

function endedToken(): SecretsError {
  return tokenNotFound("is revoked or has expired");
}

/** Returns the error for a token that another rotation lets end. */
function rotatedMeanwhile(): SecretsError {
  return new SecretsError("SERVICE_BUSY", "Another process is rotating the token", {
    hint: "Repeat the rotation. The new token then ends when the former one does.",
  });
}

/** Returns the error for an id that no token of the workspace has, or for a token that has ended. */
export function tokenNotFound(problem: string): SecretsError {
  return new SecretsError("TOKEN_NOT_FOUND", `The token ${problem}`, {
    hint: "List the tokens with `keyward tokens list`, and correct the id.",
  });
}
