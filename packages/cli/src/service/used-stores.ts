import { stat } from "node:fs/promises";
import { hasReservedSpace, type KeyProvider, systemCode, type WrappableStore } from "@keyward/core";
import { auditAnchor, exportAudit } from "@keyward/secrets";
import type { Config } from "../configuration/config.ts";
import { closeStore } from "../configuration/sources.ts";
import { gatewayStoreNames } from "../configuration/store-name.ts";
import type { Context } from "../context.ts";
import { CommandError } from "../exit-codes.ts";

/** For each of the two stores of a service, whether a process with a keyring has used the store before. */
export interface UsedStores {
  readonly service: boolean;
  readonly audit: boolean;
}

/** Returns which of the two stores of a service were used before. Creates no file, schema or record. */
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
 * Returns whether a process with a keyring has written to a store: whether the reserved space has a record other than a
 * heartbeat. A heartbeat proves nothing, because a running process writes it even into a store whose records were lost.
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
 * Returns whether an audit contains only entries of an incomplete initialization, as after an interrupted `keyward gateway init`.
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

/** Returns the error for a service whose audit has entries, but whose store has no service. */
export function lostStore(config: Config, auditPath: string): CommandError {
  const path = sqlitePath(config, "service");
  return new CommandError("USAGE", `The audit has entries, and the store has no secrets service${at(path)}`, {
    hint:
      "Restore the backup of the store. Check that its volume is mounted, and that `gateway.store` of the configuration " +
      "names the right store. If `keyward gateway init` was stopped, run `keyward gateway init` again. To begin a new " +
      `service, move ${auditPath} away, and then run \`keyward gateway init\`.`,
  });
}

/** Returns the error for a service whose store has records, but whose audit is empty. */
export function lostAudit(auditPath: string): CommandError {
  return new CommandError("USAGE", `The store has a service, and its audit is empty: ${auditPath}`, {
    hint:
      "Restore the backup of the audit. Check that its volume is mounted, and that `gateway.audit` of the configuration " +
      "names the right file. To continue without the former entries, start the service once with `keyward gateway start --new-audit`.",
  });
}

/** Returns the error for a service that was not set up. */
export function notSetUp(config: Config): CommandError {
  return new CommandError("USAGE", `No secrets service was set up in the store${at(sqlitePath(config, "service"))}`, {
    hint: "Check that `gateway.store` of the configuration names the right store, or restore a backup. For a new service, run `keyward gateway init`.",
  });
}

function at(path: string | undefined): string {
  return path === undefined ? "" : `: ${path}`;
}

/**
 * Returns whether a file has content. Returns true for a path that cannot be read, because opening the file then reports the
 * reason.
 */
export async function hasContent(path: string): Promise<boolean> {
  try {
    const status = await stat(path);
    return !status.isFile() || status.size > 0;
  } catch (error) {
    return systemCode(error) !== "ENOENT";
  }
}
