import type { Right } from "@keyward/secrets";

/**
 * The right that each route of the admin API needs, by the operation id of the route. The compiler refuses a route
 * without an entry, and an entry without a route.
 */
export const routeRights = {
  whoAmI: "whoami",
  createWorkspace: "workspaces.change",
  listWorkspaces: "workspaces.read",
  getWorkspace: "workspaces.read",
  deleteWorkspace: "workspaces.change",
  createServer: "servers.change",
  listServers: "servers.read",
  getServer: "servers.read",
  updateServer: "servers.change",
  deleteServer: "servers.change",
  setSecret: "secrets.change",
  listSecrets: "secrets.read",
  deleteAllSecrets: "secrets.change",
  deleteSecret: "secrets.change",
  setInjection: "secrets.change",
  getInjection: "secrets.read",
  createToken: "tokens.change",
  listTokens: "tokens.read",
  revokeTokensOf: "tokens.change",
  revokeToken: "tokens.change",
  rotateToken: "tokens.change",
  listChanges: "changes.read",
  listCalls: "calls.read",
  getCall: "calls.read",
  explainCall: "calls.explain",
  census: "keys.read",
  rotation: "keys.read",
} as const satisfies Readonly<Record<string, Right>>;

/** The operation id of a route. */
export type OperationId = keyof typeof routeRights;
