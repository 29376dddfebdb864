import type { VaultAuth, VaultConnectionOptions } from "@keyward/keys-vault";
import { invalidSource, type KeySourceAddress } from "./key-source-address.ts";

/**
 * Returns the options for the connection to Vault, from the parameters `address`, `namespace`, `auth`, `role`,
 * `username` and `authMount` of a source of keys. Secrets are read at each login from the environment variables
 * `VAULT_TOKEN`, `VAULT_SECRET_ID` and `VAULT_PASSWORD`. With `auth=approle`, the parameter `role` may be omitted if
 * `VAULT_ROLE_ID` is set.
 */
export function vaultConnectionFrom(
  address: KeySourceAddress,
  env: Readonly<Record<string, string | undefined>>,
): Pick<VaultConnectionOptions, "address" | "namespace" | "auth"> {
  return { ...address.parameters.texts("address", "namespace"), auth: authFrom(address, env) };
}

function authFrom(address: KeySourceAddress, env: Readonly<Record<string, string | undefined>>): VaultAuth {
  const method = address.parameters.text("auth") ?? "token";
  switch (method) {
    case "token":
      return { method };
    case "approle": {
      const roleId = required(address.parameters.text("role") ?? env["VAULT_ROLE_ID"], "role", "VAULT_ROLE_ID");
      const secretId = env["VAULT_SECRET_ID"] === undefined ? {} : { secretId: () => env["VAULT_SECRET_ID"] ?? "" };
      return { method, roleId, ...secretId, ...mountFrom(address) };
    }
    case "kubernetes":
      return { method, role: required(address.parameters.text("role"), "role"), ...mountFrom(address) };
    case "userpass": {
      const username = required(address.parameters.text("username"), "username");
      return { method, username, password: () => env["VAULT_PASSWORD"] ?? "", ...mountFrom(address) };
    }
    default:
      throw invalidSource(
        'has an unknown login method in the parameter "auth"',
        'Set "auth" to token (the default), approle, kubernetes or userpass.',
      );
  }
}

function mountFrom(address: KeySourceAddress): { readonly mount?: string } {
  const mount = address.parameters.text("authMount");
  return mount === undefined ? {} : { mount };
}

/**
 * Returns the value of the parameter `name`. Throws if the value is missing or empty.
 *
 * @param variable Name of the environment variable that can be set instead of the parameter.
 */
function required(value: string | undefined, name: string, variable?: string): string {
  if (value !== undefined && value !== "") return value;
  if (variable === undefined) throw invalidSource(`has no parameter "${name}"`, `Add the parameter: &${name}=….`);
  throw invalidSource(
    `has no parameter "${name}", and ${variable} is not set`,
    `Add the parameter, &${name}=…, or set ${variable}.`,
  );
}
