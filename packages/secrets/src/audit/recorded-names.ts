import { orReport } from "../records/record-errors.ts";
import { serverKey, tokenKey } from "../records/record-keys.ts";
import { serverRecord } from "../records/server-record.ts";
import type { ServerAddress } from "../servers/server-changes.ts";
import type { ServiceStore } from "../store/service-store.ts";

/** What the audit records in the place of a name that nothing has: the name may be a value that a person has pasted. */
export const unknownName = "*";

/** Returns how the audit names a server. */
export async function recordedServer(store: ServiceStore, { workspace, slug }: ServerAddress): Promise<string> {
  const key = serverKey(workspace, slug);
  return (await store.stored([key])).has(key) ? slug : unknownName;
}

/** Returns whether a workspace has a server that can be read, and whose deletion was not begun. */
export async function hasServer(store: ServiceStore, { workspace, slug }: ServerAddress): Promise<boolean> {
  const server = await orReport(
    () => store.read(serverRecord, serverKey(workspace, slug)),
    () => {},
  );
  return server?.value.deleting === false;
}

/** Returns how the audit names a secret of a server. */
export async function recordedSecret(store: ServiceStore, address: ServerAddress, name: string): Promise<string> {
  const read = () => store.read(serverRecord, serverKey(address.workspace, address.slug));
  const server = await orReport(read, () => {});
  return server?.value.secrets.some((secret) => secret.name === name) === true ? name : unknownName;
}

/** Returns how the audit names a token. */
export async function recordedToken(store: ServiceStore, workspace: string, id: string): Promise<string> {
  const key = tokenKey(workspace, id);
  return (await store.stored([key])).has(key) ? id : unknownName;
}
