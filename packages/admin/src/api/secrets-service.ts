import type { SecretsAdmin } from "@keyward/secrets";

/** The methods of `SecretsAdmin` that the admin API calls. */
export type SecretsService = Pick<
  SecretsAdmin,
  | "authenticate"
  | "census"
  | "createServer"
  | "createToken"
  | "createWorkspace"
  | "deleteAllSecrets"
  | "deleteSecret"
  | "deleteServer"
  | "deleteWorkspace"
  | "explainCall"
  | "findCall"
  | "getServer"
  | "getWorkspace"
  | "listCalls"
  | "listChanges"
  | "listSecrets"
  | "listServers"
  | "listTokens"
  | "listWorkspaces"
  | "ready"
  | "revokeToken"
  | "revokeTokensOf"
  | "rotateToken"
  | "rotationStatus"
  | "setInjection"
  | "setSecret"
  | "updateServer"
  | "whoAmI"
>;
