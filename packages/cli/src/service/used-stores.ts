import { stat } from "node:fs/promises";
import { hasReservedSpace, type KeyProvider, systemCode, type WrappableStore } from "@keyward/core";
import { auditAnchor, exportAudit } from "@keyward/secrets";
import type { Config } from "../configuration/config.ts";
import { closeStore } from "../configuration/sources.ts";
import { gatewayStoreNames } from "../configuration/store-name.ts";
import type { Context } from "../context.ts";
import { CommandError } from "../exit-codes.ts";

/** Which of the two stores of a service a process with a keyring has used before. */
export interface UsedStores {
  readonly service: boolean;
  readonly audit: boolean;
}

/** Looks at the two stores of a service without making a file, a schema or a record. */
export async function usedStores({ env }: Pick<Context, "env">, config: Config): Promise<UsedStores> {
  const used = { service: false, audit: false };
  for (const name of gatewayStoreNames) {
    const path = sqlitePath(config, name);
    // Opening a missing file creates it, and opening an empty one makes it a database.
    if (path !== undefined && !(await hasContent(path))) continue;
    const store = await config.openStore(name, env);
    try {
      used[name] = await isUsed(store);
    } finally {
      await closeStore(store);
    }
  }
  return used;
}

/** Returns the path of the SQLite file of a store; `undefined` for another kind of store. */
export function sqlitePath(config: Config, name: (typeof gatewayStoreNames)[number]): string | undefined {
  const source = config.sourceOf(name);
  return source.startsWith("sqlite:") ? config.pathOf(source.slice("sqlite:".length)) : undefined;
}

/**
 * Returns whether a process with a keyring has used a store. The first read of a process writes no record. The heartbeat of a
 * running process does not count: the process writes it also into a store that was lost meanwhile.
 */
async function isUsed(store: WrappableStore): Promise<boolean> {
  if (!hasReservedSpace(store)) return false;
  let cursor: string | undefined;
  do {
    const page = await store.reserved().scan({ limit: 100, ...(cursor === undefined ? {} : { cursor }) });
    if (page.entries.some(({ key }) => !key.startsWith("replica/"))) return true;
    cursor = page.cursor;
  } while (cursor !== undefined);
  return false;
}

/**
 * Returns whether an audit has nothing but the beginning of an initialization, as after a stopped `keyward gateway init`.
 * Returns false if retention has removed entries, because the audit had more entries before.
 */
export async function hasOnlyBegun(file: { readonly path: string; readonly keys: KeyProvider }): Promise<boolean> {
  const { heads } = await auditAnchor(file);
  let left = heads.reduce((sum, { sequence }) => sum + sequence, 0);
  for await (const entry of exportAudit(file)) {
    if (entry.kind === "change" && entry.action !== "service.initialize") return false;
    if (entry.kind === "outcome" && entry.outcome === "done") return false;
    left--;
  }
  // Another process may have appended entries since the heads were read.
  return left <= 0;
}

/** Returns whether an audit that was used has chains of entries. Without them, someone has emptied the file. */
export async function hasChains(file: { readonly path: string; readonly keys: KeyProvider }): Promise<boolean> {
  return (await auditAnchor(file)).heads.length > 0;
}

/** The error for a service that has an audit, and whose store has no service. */
export function lostStore(config: Config, auditPath: string): CommandError {
  const path = sqlitePath(config, "service");
  return new CommandError("USAGE", `The audit has entries, and the store has no secrets service${at(path)}`, {
    hint:
      "Restore the backup of the store. Check that its volume is mounted, and that `gateway.store` of the configuration " +
      "names the right store. If `keyward gateway init` was stopped, run `keyward gateway init` again. To begin a new " +
      `service, move ${auditPath} away, and then run \`keyward gateway init\`.`,
  });
}

/** The error for a service that has a store, and whose audit is empty. */
export function lostAudit(auditPath: string): CommandError {
  return new CommandError("USAGE", `The store has a service, and its audit is empty: ${auditPath}`, {
    hint:
      "Restore the backup of the audit. Check that its volume is mounted, and that `gateway.audit` of the configuration " +
      "names the right file. To go on without the former entries, start once with `keyward gateway start --new-audit`.",
  });
}

/** The error for a service that was not set up. */
export function notSetUp(config: Config): CommandError {
  return new CommandError("USAGE", `No secrets service was set up in the store${at(sqlitePath(config, "service"))}`, {
    hint: "Check that `gateway.store` of the configuration names the right store, or restore a backup. For a new service, run `keyward gateway init`.",
  });
}

function at(path: string | undefined): string {
  return path === undefined ? "" : `: ${path}`;
}

/** Returns whether a file has content. A path that cannot be read counts: opening the file says why. */
export async function hasContent(path: string): Promise<boolean> {
  try {
    const status = await stat(path);
    return !status.isFile() || status.size > 0;
  } catch (error) {
    return systemCode(error) !== "ENOENT";
  }
}
