import type { RecordAddress } from "@keyward/core";

// The keys and scopes of the records, which docs/secrets-service.md lists. Keys contain only ids, slugs and numbers,
// because whoever reads the store sees them. Names, owners and URLs are in encrypted values.

/** The Keyv namespace of the records of the secrets service. */
export const serviceNamespace = "keyward-service";

/**
 * Used in keys instead of the id of a workspace, for records of the installation. No workspace has this id, because ids
 * have 12 characters.
 */
export const installation = "service";

/** The key of the one record about the installation. */
export const serviceKey = "service";

/** Returns the key of the record of a workspace. */
export function workspaceKey(workspace: string): string {
  return `workspace/${workspace}`;
}

/** Returns the key of the record of a token. `workspace` is {@link installation} for the token of an operator. */
export function tokenKey(workspace: string, token: string): string {
  return `token/${workspace}/${token}`;
}

/** Returns the key of the record of a server. */
export function serverKey(workspace: string, slug: string): string {
  return `server/${workspace}/${slug}`;
}

/** Returns the key of the record of one value of a secret. */
export function valueKey(workspace: string, server: string, value: number): string {
  return `value/${workspace}/${server}/${value}`;
}

/** Returns the key of the record of the last use of a token or a server. */
export function usedKey(workspace: string, id: string): string {
  return `used/${workspace}/${id}`;
}

/** Returns the prefix of the keys of a list's records. Each page of the list is one record. */
export function listKey(
  list: "workspaces" | { readonly workspace: string; readonly of: "servers" | "tokens" },
): string {
  return list === "workspaces" ? "list/workspaces" : `list/${list.workspace}/${list.of}`;
}

const id = "[a-z0-9]{12}";
const owner = `(${id}|${installation})`;
const inInstallation = /^(?:service|session\/.+|list\/workspaces\/(?:head|\d+))$/;
const inWorkspace = new RegExp(
  `^(?:workspace/(${id})|token/${owner}/${id}|server/(${id})/[a-z0-9-]+|used/${owner}/${id}|list/${owner}/(?:servers|tokens)/(?:head|\\d+))$`,
);
const ofServer = new RegExp(`^value/(${id})/(${id})/\\d+$`);

/** A record of a workspace, token, server or value, with the parts of its key. */
export interface AddressedRecord {
  readonly key: string;
  readonly kind: "workspace" | "token" | "server" | "value";
  /** The id of the workspace, or {@link installation}. */
  readonly workspace: string;
  /** The id of the token, the slug of the server, or the id of the server of a value. "" for a workspace. */
  readonly name: string;
  /** The number of the value. "" for another record. */
  readonly value: string;
}

/** Returns the workspace, token, server or value whose record has a key; `undefined` for the key of another record. */
export function addressedRecord(key: string): AddressedRecord | undefined {
  if (scopeOfServiceRecord({ namespace: serviceNamespace, key }) === undefined) return undefined;
  const [kind, workspace = "", name = "", value = ""] = key.split("/");
  if (kind !== "workspace" && kind !== "token" && kind !== "server" && kind !== "value") return undefined;
  return { key, kind, workspace, name, value };
}

/**
 * Returns the scope of a record of the secrets service; `undefined` for a record that is not of the service. Pass this
 * function as the option `scope` of a store. Each workspace has separate keys, and so do the values of each server.
 *
 * @example
 * console.log(scopeOfServiceRecord({ namespace: "keyward-service", key: "service" })); // service
 */
export function scopeOfServiceRecord({ namespace, key }: RecordAddress): string | undefined {
  if (namespace !== serviceNamespace) return undefined;
  if (inInstallation.test(key)) return "service";
  const value = ofServer.exec(key);
  if (value !== null) return `${value[1]}/value/${value[2]}`;
  const found = inWorkspace.exec(key);
  const workspace = found?.slice(1).find((group) => group !== undefined);
  return workspace === undefined ? undefined : `${workspace}/config`;
}
