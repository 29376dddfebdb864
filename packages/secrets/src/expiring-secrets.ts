import { orReport } from "./records/record-errors.ts";
import { workspaceKey } from "./records/record-keys.ts";
import { workspaceRecord } from "./records/workspace-record.ts";
import { type ExpiringSecret, isExpiring, maxReported, type SweepParts } from "./sweep.ts";

/**
 * Returns the secrets, of all workspaces, whose values have expired or will expire within seven days: at most 100.
 * Changes nothing. If a record cannot be read, reports the problem to `onProblem` and continues with the other records.
 */
export async function findExpiringSecrets({
  servers,
  workspaces,
  context: { store, onProblem },
}: Pick<SweepParts, "servers" | "workspaces" | "context">): Promise<readonly ExpiringSecret[]> {
  const found: ExpiringSecret[] = [];
  const now = Date.now();
  const addFrom = async (workspace: string) => {
    for await (const page of servers.listOf(workspace).pages({ onUnreadable: onProblem })) {
      const entries = page.map(({ entry }) => entry);
      for (const { server: read } of await servers.read(workspace, entries)) {
        const server = await orReport(read, onProblem);
        if (server === undefined || server.deleting) continue;
        for (const { name, expires } of server.secrets) {
          if (isExpiring(expires, now)) found.push({ workspace, server: server.slug, name, expires });
        }
      }
    }
  };
  for await (const page of workspaces.list().pages({ onUnreadable: onProblem })) {
    for (const { entry } of page) {
      await orReport(async () => {
        const workspace = (await store.read(workspaceRecord, workspaceKey(entry.id)))?.value;
        if (workspace !== undefined && !workspace.deleting) await addFrom(workspace.id);
      }, onProblem);
      if (found.length >= maxReported) return found.slice(0, maxReported);
    }
  }
  return found;
}
