import { serverKey, workspaceKey } from "./records/record-keys.ts";
import { serverRecord } from "./records/server-record.ts";
import { workspaceRecord } from "./records/workspace-record.ts";
import type { ServiceStore } from "./store/service-store.ts";
import { type ExpiringSecret, isExpiring, maxReported, type SweepParts } from "./sweep.ts";

/** Returns the secrets of all workspaces that expire within seven days, or have expired: at most 100. Changes nothing. */
export async function findExpiringSecrets(
  { servers, workspaces }: Pick<SweepParts, "servers" | "workspaces">,
  store: ServiceStore,
): Promise<readonly ExpiringSecret[]> {
  const found: ExpiringSecret[] = [];
  const now = Date.now();
  for await (const page of workspaces.list().pages()) {
    for (const { entry } of page) {
      const workspace = (await store.read(workspaceRecord, workspaceKey(entry.id)))?.value;
      if (workspace === undefined || workspace.deleting) continue;
      for await (const listed of servers.listOf(workspace.id).pages()) {
        const batch = await store.readBatch(listed.map(({ entry: { slug } }) => serverKey(workspace.id, slug)));
        for (const { entry: listedServer } of listed) {
          const server = batch.record(serverRecord, serverKey(workspace.id, listedServer.slug))?.value;
          if (server === undefined || server.id !== listedServer.id || server.deleting) continue;
          for (const { name, expires } of server.secrets) {
            if (!isExpiring(expires, now)) continue;
            found.push({ workspace: workspace.id, server: server.slug, name, expires });
            if (found.length >= maxReported) return found;
          }
        }
      }
    }
  }
  return found;
}
