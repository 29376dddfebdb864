import { type ServiceState, serviceState } from "./installation.ts";
import { installation, scopeOfServiceRecord, serviceKey, serviceNamespace } from "./records/record-keys.ts";
import type { ServiceStore } from "./store/service-store.ts";
import { missingRecord } from "./workspaces/open-workspace.ts";
import type { Workspaces } from "./workspaces/workspaces.ts";

/**
 * Returns the state of the service in a store. Scans the keys of the store unless the service is initialized, so that a store
 * whose service was used never counts as new: someone may have removed the record of the installation, or have put back the
 * record from the time of the initialization.
 *
 * @throws SecretsError `RECORD_MISSING` if the service was used before; KeywardError `STORE_NOT_SCANNABLE`.
 */
export async function requireNotLost(store: ServiceStore, workspaces: Workspaces): Promise<ServiceState> {
  const state = await serviceState(store);
  if (state === "initialized" || !(await wasUsed(store, workspaces))) return state;
  // Another process may have finished the initialization since the state was read.
  const now = await serviceState(store);
  if (now !== "initialized") throw missingRecord("installation", "Nothing was changed.");
  return now;
}

/** Returns whether a store has a record that no initialization makes before it is finished. */
async function wasUsed(store: ServiceStore, workspaces: Workspaces): Promise<boolean> {
  const keys = new Set<string>();
  for await (const page of store.keys()) {
    for (const key of page) if (isOfService(key)) keys.add(key);
  }
  if (keys.size === 0) return false;
  // Each initialization makes the record of the installation first.
  if ((await serviceState(store)) === "new") return true;
  // Read after the keys: a workspace is in the list before its first record is stored.
  const made = new Set<string>([installation]);
  for await (const page of workspaces.list().pages()) {
    for (const { entry } of page) {
      if (entry.claim === undefined) return true;
      made.add(entry.id);
    }
  }
  const admins = new Set<string>();
  for (const key of keys) {
    const [kind, workspace = "", of] = key.split("/");
    if (kind === "list" && (workspace === "workspaces" || (of === "tokens" && made.has(workspace)))) continue;
    if (kind === "workspace" && made.has(workspace)) continue;
    // Each interrupted initialization leaves an operator, and a workspace with one admin.
    const isFirst = kind === "token" && made.has(workspace) && (workspace === installation || !admins.has(workspace));
    if (!isFirst) return true;
    admins.add(workspace);
  }
  return false;
}

function isOfService(key: string): boolean {
  return key !== serviceKey && scopeOfServiceRecord({ namespace: serviceNamespace, key }) !== undefined;
}
