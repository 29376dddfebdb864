import { orReport } from "../records/record-errors.ts";
import { serverKey, tokenKey } from "../records/record-keys.ts";
import { serverRecord } from "../records/server-record.ts";
import type { ServerAddress } from "../servers/server-changes.ts";
import type { ServiceStore } from "../store/service-store.ts";

/**
 * The audit records this text instead of a name that does not exist, because a person may have pasted a secret's value
 * as the name.
 */
export const unknownName = "*";

/** Returns the name of a server for the audit: its slug, or `*` if the workspace has no record of the server. */
export async function recordedServer(store: ServiceStore, { workspace, slug }: ServerAddress): Promise<string> {
  const key = serverKey(workspace, slug);
  return (await store.stored([key])).has(key) ? slug : unknownName;
}

/** Returns whether a workspace has a server whose record can be read, and which is not being deleted. */
export async function hasServer(store: ServiceStore, { workspace, slug }: ServerAddress): Promise<boolean> {
  const server = await orReport(
    () => store.read(serverRecord, serverKey(workspace, slug)),
    () => {},
  );
  return server?.value.deleting === false;
}

/**
 * Returns the name of a secret for the audit: its own name, or `*` if the server cannot be read or has no such secret.
 */
export async function recordedSecret(store: ServiceStore, address: ServerAddress, name: string): Promise<string> {
  const read = () => store.read(serverRecord, serverKey(address.workspace, address.slug));
  const server = await orReport(read, () => {});
  return server?.value.secrets.some((secret) => secret.name === name) === true ? name : unknownName;
}

/** Returns the name of a token for the audit: its id, or `*` if the workspace has no record of the token. */
export async function recordedToken(store: ServiceStore, workspace: string, id: string): Promise<string> {
  const key = tokenKey(workspace, id);
  return (await store.stored([key])).has(key) ? id : unknownName;
}
