import type { Space } from "./protocol.ts";

/** The part of the server's store that one API key can use: one tenant and one of the tenant's namespaces on the server. */
export interface TenantNamespace {
  readonly tenant: string;
  readonly namespace: string;
}

/**
 * Returns the prefix under which the records in one space of a tenant namespace are stored. The names of tenants and of
 * their namespaces contain no slash, so no prefix is the beginning of another prefix.
 */
export function storagePrefix({ tenant, namespace }: TenantNamespace, space: Space): string {
  return `${tenant}/${namespace}/${space}/`;
}
