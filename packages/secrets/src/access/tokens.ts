import { z } from "zod";
import { idField, ownerField, timeField } from "../fields.ts";
import { PagedList } from "../lists/paged-list.ts";
import type { IssuedToken, Page, PageRequest, TokenInfo } from "../model.ts";
import { newId } from "../records/ids.ts";
import { installation, listKey, serviceKey, tokenKey, usedKey, workspaceKey } from "../records/record-keys.ts";
import { serviceRecord } from "../records/service-record.ts";
import { type TokenRecord, tokenRecord } from "../records/token-record.ts";
import { workspaceRecord } from "../records/workspace-record.ts";
import { SecretsError } from "../secrets-error.ts";
import type { ServiceContext } from "../store/service-context.ts";
import type { Decision } from "../store/service-store.ts";
import { requireOpenWorkspace, workspaceNotFound } from "../workspaces/open-workspace.ts";
import { isEnded } from "./authentication.ts";
import { LastUses } from "./last-uses.ts";
import { hashOfToken, newTokenText } from "./token-text.ts";

const entrySchema = z.strictObject({ id: idField, owner: ownerField, at: timeField });

/** An entry in the list of a workspace's tokens. */
export type TokenEntry = z.infer<typeof entrySchema>;

/** A token whose fields were checked. */
export type CheckedToken = Pick<TokenRecord, "owner" | "role" | "servers" | "tools" | "methods" | "expires">;

const maxKeepers = 100;

/** A token that can manage a workspace or the installation. */
interface Keeper {
  readonly id: string;
  readonly expires?: number | undefined;
}

/** The tokens of all workspaces, and of the operators under the workspace `service`. */
export class Tokens {
  readonly #context: ServiceContext;

  constructor(context: ServiceContext) {
    this.#context = context;
  }

  /** Returns the list of the tokens of a workspace. */
  listOf(workspace: string): PagedList<TokenEntry> {
    return new PagedList(this.#context.store, listKey({ workspace, of: "tokens" }), entrySchema);
  }

  /**
   * Creates a token. The list names the token before its record exists.
   *
   * @throws SecretsError `LIMIT_REACHED` for an admin or operator, if there are 100 already; `WORKSPACE_NOT_FOUND` if the
   * workspace is being deleted.
   */
  async create(workspace: string, given: CheckedToken, createdBy: string): Promise<IssuedToken> {
    const { store } = this.#context;
    await requireOpenWorkspace(store, workspace);
    const { token, record } = await this.#listed(workspace, given, createdBy);
    let isStored = false;
    try {
      await store.create(tokenRecord, tokenKey(workspace, record.id), record);
      isStored = true;
      // Counted last: an admin that a killed process has left in the list could hide that nobody can manage the workspace.
      if (isKeeper(record)) {
        await this.#changeKeepers(workspace, (keepers) => withKeeper(keepers, record, record.created));
      }
      // The deletion of a workspace may have passed the list before this token was in the list.
      await requireOpenWorkspace(store, workspace);
    } catch (error) {
      await this.#discard(workspace, record, isStored).catch((problem: unknown) => this.#context.onProblem(problem));
      throw error;
    }
    return { token, info: tokenInfo(record, undefined) };
  }

  /** Creates the token of the first admin of a workspace. It is refused until the record of the workspace exists. */
  async createFirst(workspace: string, given: CheckedToken, createdBy: string): Promise<IssuedToken> {
    const { token, record } = await this.#listed(workspace, given, createdBy);
    await this.#context.store.create(tokenRecord, tokenKey(workspace, record.id), record);
    return { token, info: tokenInfo(record, undefined) };
  }

  /** Returns a page of the tokens of a workspace, or of one owner in it. */
  async list(
    workspace: string,
    { owner, ...page }: PageRequest & { readonly owner?: string | undefined },
  ): Promise<Page<TokenInfo>> {
    return await this.listOf(workspace).page(page, workspace, async (entries) => {
      const wanted = entries.filter((entry) => owner === undefined || entry.owner === owner);
      const keys = wanted.flatMap(({ id }) => [tokenKey(workspace, id), usedKey(workspace, id)]);
      const batch = await this.#context.store.readBatch(keys);
      return wanted.map(({ id }) => {
        const record = batch.record(tokenRecord, tokenKey(workspace, id))?.value;
        return record === undefined ? undefined : tokenInfo(record, LastUses.in(batch, workspace, id));
      });
    });
  }

  /**
   * Revokes a token. A token that was revoked before keeps its time.
   *
   * @throws SecretsError `TOKEN_NOT_FOUND`; `LAST_ADMIN` for the last admin of a workspace.
   */
  async revoke(workspace: string, id: string): Promise<TokenInfo> {
    return await this.#end(workspace, id, (token, now) => (token.revoked === undefined ? { revoked: now } : undefined));
  }

  /**
   * Creates a token like another one, and lets the other one expire.
   *
   * @throws SecretsError as {@link Tokens.create} and {@link Tokens.revoke}.
   */
  async rotate(workspace: string, id: string, overlapMs: number, createdBy: string): Promise<IssuedToken> {
    const former = await this.#require(workspace, id);
    if (isEnded(former, Date.now())) throw tokenNotFound("is revoked or has expired, so it cannot be rotated");
    const { owner, role, servers, tools, methods, expires } = former;
    const issued = await this.create(workspace, { owner, role, servers, tools, methods, expires }, createdBy);
    await this.#end(workspace, id, (token, now) => {
      const until = now + overlapMs;
      return token.expires !== undefined && token.expires <= until ? undefined : { expires: until };
    });
    return issued;
  }

  /** Yields the ids of the tokens of an owner, or of all tokens of a workspace, newest first. */
  async *idsOf(workspace: string, owner: string | undefined): AsyncGenerator<readonly string[], void> {
    for await (const page of this.listOf(workspace).pages()) {
      const entries = page.map(({ entry }) => entry);
      yield entries.filter((entry) => owner === undefined || entry.owner === owner).map(({ id }) => id);
    }
  }

  /**
   * Revokes every token of a workspace that was created before a time, also the last admin. Returns the number of tokens
   * that were revoked.
   */
  async revokeCreatedBefore(workspace: string, time: number): Promise<number> {
    const { store } = this.#context;
    let revoked = 0;
    for await (const page of this.listOf(workspace).pages()) {
      const early = page.filter(({ entry }) => entry.at < time).map(({ entry }) => entry.id);
      // First, as in the revocation of one token: the list of admins never names a token that is revoked.
      if (await this.#hasKeepers(workspace, early)) {
        await this.#changeKeepers(workspace, (keepers) => keepers.filter(({ id }) => !early.includes(id)));
      }
      for (const id of early) {
        const isRevoked = await store.change(
          tokenRecord,
          tokenKey(workspace, id),
          (current): Decision<TokenRecord, boolean> => {
            if (current === undefined || current.revoked !== undefined) return { result: false };
            return { next: { ...current, revoked: Date.now(), revision: current.revision + 1 }, result: true };
          },
        );
        if (isRevoked) revoked++;
      }
    }
    return revoked;
  }

  /** Returns a token; `undefined` if there is none. */
  async find(workspace: string, id: string): Promise<TokenRecord | undefined> {
    return (await this.#context.store.read(tokenRecord, tokenKey(workspace, id)))?.value;
  }

  /** Ends a token, now or later. `change` returns `undefined` if the token already ends in time. */
  async #end(
    workspace: string,
    id: string,
    change: (token: TokenRecord, now: number) => Partial<Pick<TokenRecord, "revoked" | "expires">> | undefined,
  ): Promise<TokenInfo> {
    const now = Date.now();
    const token = await this.#require(workspace, id);
    const ending = change(token, now);
    if (ending !== undefined && isKeeper(token)) {
      const end = ending.revoked ?? ending.expires ?? now;
      await this.#changeKeepers(workspace, (keepers) => withoutKeeper(keepers, { workspace, id, end, now }));
    }
    return await this.#context.store.change(
      tokenRecord,
      tokenKey(workspace, id),
      (current): Decision<TokenRecord, TokenInfo> => {
        if (current === undefined) throw tokenNotFound("does not exist");
        const ended = change(current, now);
        if (ended === undefined) return { result: tokenInfo(current, undefined) };
        const next = { ...current, ...ended, revision: current.revision + 1 };
        return { next, result: tokenInfo(next, undefined) };
      },
    );
  }

  async #require(workspace: string, id: string): Promise<TokenRecord> {
    const found = await this.find(workspace, id);
    if (found === undefined) throw tokenNotFound("does not exist");
    return found;
  }

  /** Makes a new token, and its record after the list names the token. */
  async #listed(
    workspace: string,
    given: CheckedToken,
    createdBy: string,
  ): Promise<{ readonly token: string; readonly record: TokenRecord }> {
    const id = newId();
    const token = newTokenText({ workspace, id });
    const created = Date.now();
    const page = await this.listOf(workspace).append({ id, owner: given.owner, at: created });
    const hash = hashOfToken(token).toString("base64url");
    return { token, record: { v: 1, id, page, revision: 0, hash, ...given, created, createdBy } };
  }

  /**
   * Removes a token whose creation failed, so that nobody can use it.
   *
   * @param isStored whether the store has acknowledged the record. Otherwise the store may still write the record, so
   * the list names the token until the sweep.
   */
  async #discard(workspace: string, token: TokenRecord, isStored: boolean): Promise<void> {
    await this.#context.store.remove([tokenKey(workspace, token.id)]);
    if (isKeeper(token)) {
      await this.#changeKeepers(workspace, (keepers) => keepers.filter(({ id }) => id !== token.id));
    }
    if (isStored) {
      await this.listOf(workspace).changePage(token.page, (entry) => (entry.id === token.id ? undefined : entry));
    }
  }

  /** Returns whether one of these tokens is in the list of admins of a workspace, or in the list of operators. */
  async #hasKeepers(workspace: string, ids: readonly string[]): Promise<boolean> {
    const { store } = this.#context;
    const keepers =
      workspace === installation
        ? (await store.read(serviceRecord, serviceKey))?.value.operators
        : (await store.read(workspaceRecord, workspaceKey(workspace)))?.value.admins;
    return keepers?.some(({ id }) => ids.includes(id)) === true;
  }

  /** Changes the list of admins of a workspace, or the list of operators. */
  async #changeKeepers(workspace: string, change: (keepers: readonly Keeper[]) => readonly Keeper[]): Promise<void> {
    const { store } = this.#context;
    if (workspace === installation) {
      await store.change(serviceRecord, serviceKey, (current) => {
        if (current === undefined) throw notInitialized();
        const operators = [...change(current.operators)];
        return { next: { ...current, operators, revision: current.revision + 1 }, result: undefined };
      });
      return;
    }
    await store.change(workspaceRecord, workspaceKey(workspace), (current) => {
      if (current === undefined) throw workspaceNotFound();
      const admins = [...change(current.admins)];
      return { next: { ...current, admins, revision: current.revision + 1 }, result: undefined };
    });
  }
}

/** Returns what callers see of a token. */
export function tokenInfo(token: TokenRecord, lastUsed: number | undefined): TokenInfo {
  const { id, owner, role, servers, tools, methods, created, createdBy, expires, revoked } = token;
  return { id, owner, role, servers, tools, methods, created, createdBy, expires, revoked, lastUsed };
}

/** Returns the error for an installation without its record. */
export function notInitialized(): SecretsError {
  return new SecretsError("NOT_INITIALIZED", "The store has no secrets service", {
    hint: "Run `keyward gateway init` once. If the service was initialized before, check that the store is the right one.",
  });
}

function tokenNotFound(problem: string): SecretsError {
  return new SecretsError("TOKEN_NOT_FOUND", `The token ${problem}`, {
    hint: "List the tokens with `keyward tokens list`, and correct the id.",
  });
}

function isKeeper({ role }: Pick<TokenRecord, "role">): boolean {
  return role === "admin" || role === "operator";
}

function withKeeper(keepers: readonly Keeper[], { id, expires }: TokenRecord, now: number): readonly Keeper[] {
  const lasting = keepers.filter((keeper) => keeper.expires === undefined || keeper.expires > now);
  if (lasting.length >= maxKeepers) {
    throw new SecretsError("LIMIT_REACHED", `There are ${maxKeepers} tokens of admins or operators already`, {
      hint: "Revoke a token that is not used.",
    });
  }
  return [...lasting, expires === undefined ? { id } : { id, expires }];
}

/** Returns the admins or operators after one of them ends at a time. Refuses to leave a workspace without an admin. */
function withoutKeeper(
  keepers: readonly Keeper[],
  {
    workspace,
    id,
    end,
    now,
  }: { readonly workspace: string; readonly id: string; readonly end: number; readonly now: number },
): readonly Keeper[] {
  if (keepers.every((keeper) => keeper.id !== id)) return keepers;
  const others = keepers.filter((keeper) => keeper.id !== id);
  const isLast = others.every(({ expires }) => expires !== undefined && expires <= Math.max(now, end));
  if (workspace !== installation && isLast) {
    throw new SecretsError("LAST_ADMIN", "The workspace would be without an admin", {
      hint: "Create another token with the role `admin` first, which lasts longer than this one.",
    });
  }
  return end <= now ? others : [...others, { id, expires: end }];
}
