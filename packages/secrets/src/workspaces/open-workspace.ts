import { installation, workspaceKey } from "../records/record-keys.ts";
import { workspaceRecord } from "../records/workspace-record.ts";
import { SecretsError } from "../secrets-error.ts";
import type { ServiceStore } from "../store/service-store.ts";

/**
 * Checks that a workspace exists and is not being deleted. Call this function before and after a record is created in a
 * workspace. Then either the deletion finds the new record in its list, or the second check finds that the workspace is
 * being deleted.
 *
 * @throws SecretsError `WORKSPACE_NOT_FOUND`.
 */
export async function requireOpenWorkspace(store: ServiceStore, workspace: string): Promise<void> {
  if (workspace === installation) return;
  const record = await store.read(workspaceRecord, workspaceKey(workspace));
  if (record === undefined || record.value.deleting) throw workspaceNotFound();
}

/** Returns the error for a workspace that does not exist or is being deleted. */
export function workspaceNotFound(): SecretsError {
  return new SecretsError("WORKSPACE_NOT_FOUND", "There is no such workspace", {
    hint: "List the workspaces with `keyward workspaces list`, and correct the name.",
  });
}

/** Returns the error for the record of the installation or of a workspace that someone has removed. */
export function missingRecord(what: string, effect: string): SecretsError {
  return new SecretsError(
    "RECORD_MISSING",
    `The record of the ${what} is missing, although it was not deleted. ${effect}`,
    {
      hint: "Someone who can write to the store removed the record, or the store lost it. Find out who, and restore the store from a backup.",
    },
  );
}
