import type { VaultAuth, VaultConnectionOptions } from "@keyward/keys-vault";
import { invalidSource, type KeySourceAddress } from "./key-source-address.ts";

/**
 * How to reach Vault and who the process is, from the parameters `address`, `namespace`, `auth`, `role`, `username` and
 * `authMount`. What is secret is read from variables, at each login anew: `VAULT_TOKEN`, `VAULT_SECRET_ID`,
 * `VAULT_PASSWORD`; `VAULT_ROLE_ID` where there is no `role`.
 */
export function vaultConnectionFrom(
  address: KeySourceAddress,
  env: Readonly<Record<string, string | undefined>>,
): Pick<VaultConnectionOptions, "address" | "namespace" | "auth"> {
  return { ...address.texts("address", "namespace"), auth: authFrom(address, env) };
}

function authFrom(address: KeySourceAddress, env: Readonly<Record<string, string | undefined>>): VaultAuth {
  const method = address.text("auth") ?? "token";
  switch (method) {
    case "token":
      return { method };
    case "approle": {
      const roleId = required(address.text("role") ?? env["VAULT_ROLE_ID"], "role", "VAULT_ROLE_ID");
      const secretId = env["VAULT_SECRET_ID"] === undefined ? {} : { secretId: () => env["VAULT_SECRET_ID"] ?? "" };
      return { method, roleId, ...secretId, ...mountFrom(address) };
    }
    case "kubernetes":
      return { method, role: required(address.text("role"), "role"), ...mountFrom(address) };
    case "userpass": {
      const username = required(address.text("username"), "username");
      return { method, username, password: () => env["VAULT_PASSWORD"] ?? "", ...mountFrom(address) };
    }
    default:
      throw invalidSource(
        "has a parameter auth that is no method",
        "It is one of token, approle, kubernetes, userpass; token where it is left out.",
      );
  }
}

function mountFrom(address: KeySourceAddress): { readonly mount?: string } {
  const mount = address.text("authMount");
  return mount === undefined ? {} : { mount };
}

/** @param variable where it may stand as well. */
function required(value: string | undefined, name: string, variable?: string): string {
  if (value !== undefined && value !== "") return value;
  if (variable === undefined) throw invalidSource(`has no parameter ${name}`, `Add it: &${name}=….`);
  throw invalidSource(
    `has no parameter ${name}, and ${variable} is not set`,
    `Add it, &${name}=…, or set ${variable}.`,
  );
}
