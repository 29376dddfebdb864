export type { VaultConnectionOptions } from "./retrying-vault-connection.ts";
export { type TransitKeysOptions, transitKeys } from "./transit-keys.ts";
export type { AppRoleAuth, KubernetesAuth, TokenAuth, UserpassAuth, VaultAuth } from "./vault-auth.ts";
export { type VaultKeys, type VaultKeysOptions, vaultKeys } from "./vault-keys.ts";
