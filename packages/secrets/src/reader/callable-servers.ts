import { orReport } from "../records/record-errors.ts";
import { serverKey } from "../records/record-keys.ts";
import { serverRecord } from "../records/server-record.ts";
import { serverListOf } from "../servers/servers.ts";
import type { ServiceStore } from "../store/service-store.ts";

/** A server that a token may call. */
export interface CallableServer {
  readonly id: string;
  readonly slug: string;
  /** Grows with each change of the server. */
  readonly revision: number;
}

/**
 * Returns the MCP servers of a workspace that are in the scope of the token and not disabled, sorted by slug: at most
 * `most`. If a record cannot be read, reports the problem to `onProblem`, and leaves out its server.
 */
export async function callableServers(
  store: ServiceStore,
  {
    workspace,
    servers: scope,
  }: { readonly workspace: { readonly id: string }; readonly servers: readonly string[] | undefined },
  { most, onProblem }: { readonly most: number; readonly onProblem: (problem: unknown) => void },
): Promise<readonly CallableServer[]> {
  const slugs = new Set<string>();
  for await (const page of serverListOf(store, workspace.id).pages({ onUnreadable: onProblem })) {
    for (const { entry } of page) {
      if (entry.deleted === undefined && (scope === undefined || scope.includes(entry.slug))) slugs.add(entry.slug);
    }
  }
  const wanted = [...slugs].sort();
  const batch = await store.readJointly(wanted.map((slug) => serverKey(workspace.id, slug)));
  const found: CallableServer[] = [];
  for (const slug of wanted) {
    const read = () => batch.record(serverRecord, serverKey(workspace.id, slug))?.value;
    const server = await orReport(read, onProblem);
    if (server === undefined || server.kind !== "mcp" || server.deleting || server.disabled) continue;
    found.push({ id: server.id, slug, revision: server.revision });
    if (found.length >= most) break;
  }
  return found;
}
