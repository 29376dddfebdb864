import type { Keeper } from "../records/keeper.ts";
import { installation, serviceKey, workspaceKey } from "../records/record-keys.ts";
import { serviceRecord } from "../records/service-record.ts";
import { isEnded, type TokenRecord } from "../records/token-record.ts";
import { workspaceRecord } from "../records/workspace-record.ts";
import { SecretsError } from "../secrets-error.ts";
import type { ServiceStore } from "../store/service-store.ts";
import { workspaceNotFound } from "../workspaces/open-workspace.ts";
import { notInitialized } from "./not-initialized.ts";

/**
 * Returns whether a token is that of an admin or operator. Such a token is valid only if the list of admins or
 * operators contains it.
 */
export function isKeeper({ role }: Pick<TokenRecord, "role">): boolean {
  return role === "admin" || role === "operator";
}

/** Returns the entry for a token in the list of the tokens of admins or operators. */
export function keeperOf({ id, expires }: Pick<TokenRecord, "id" | "expires">): Keeper {
  return expires === undefined ? { id } : { id, expires };
}

/**
 * Returns the record of a token. If the list of admins or operators has an earlier expiry for the token, the returned
 * record has this expiry. Returns `undefined` for the token of an admin or operator that the list does not contain: its
 * creation was not finished, or someone has put back its record.
 */
export function asListed(token: TokenRecord, keepers: readonly Keeper[]): TokenRecord | undefined {
  if (!isKeeper(token) || isEnded(token, Date.now())) return token;
  const keeper = keepers.find(({ id }) => id === token.id);
  if (keeper?.expires === undefined) return keeper === undefined ? undefined : token;
  return { ...token, expires: Math.min(keeper.expires, token.expires ?? keeper.expires) };
}

/** Returns the admins of a workspace, or the operators for {@link installation}. */
export async function readKeepers(store: ServiceStore, workspace: string): Promise<readonly Keeper[]> {
  const record =
    workspace === installation
      ? (await store.read(serviceRecord, serviceKey))?.value.operators
      : (await store.read(workspaceRecord, workspaceKey(workspace)))?.value.admins;
  return record ?? [];
}

/**
 * Changes the list of admins of a workspace. With {@link installation} instead of a workspace, changes the list of operators.
 *
 * @throws SecretsError `WORKSPACE_NOT_FOUND`, `NOT_INITIALIZED`; the errors of `change` and of `ServiceStore.change`.
 */
export async function changeKeepers(
  store: ServiceStore,
  workspace: string,
  change: (keepers: readonly Keeper[]) => readonly Keeper[],
): Promise<void> {
  if (workspace === installation) {
    return await store.change(serviceRecord, serviceKey, (current) => {
      if (current === undefined) throw notInitialized();
      const operators = change(current.operators);
      if (operators === current.operators) return { result: undefined };
      return { next: { ...current, operators: [...operators], revision: current.revision + 1 }, result: undefined };
    });
  }
  return await store.change(workspaceRecord, workspaceKey(workspace), (current) => {
    if (current === undefined) throw workspaceNotFound();
    const admins = change(current.admins);
    if (admins === current.admins) return { result: undefined };
    return { next: { ...current, admins: [...admins], revision: current.revision + 1 }, result: undefined };
  });
}

/**
 * Returns the list of admins or operators with one more, and without those that have expired.
 *
 * @throws SecretsError `LIMIT_REACHED` if there are `limit` already.
 */
export function withKeeper(
  keepers: readonly Keeper[],
  keeper: Keeper,
  { limit, now }: { readonly limit: number; readonly now: number },
): readonly Keeper[] {
  const lasting = keepers.filter(({ id, expires }) => id !== keeper.id && (expires === undefined || expires > now));
  if (lasting.length >= limit) {
    throw new SecretsError("LIMIT_REACHED", `There are ${limit} tokens of admins or operators already`, {
      hint: "Revoke a token that is not used.",
    });
  }
  return [...lasting, keeper];
}

/**
 * Returns the list of admins or operators in which one of them expires at the time `end`.
 *
 * @throws SecretsError `LAST_ADMIN` if the workspace would have no admin after this time.
 */
export function withoutKeeper(
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
      hint: "First create another token with the role `admin` that expires later than this one.",
    });
  }
  return [...others, { id, expires: end }];
}
