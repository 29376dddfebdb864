import { readFile } from "node:fs/promises";
import { KeywardError, type OptionNames, requireOptions, systemCode } from "@keyward/core";

/** Authentication to Vault with an existing token. */
export interface TokenAuth {
  /** Name of the login method. */
  readonly method: "token";
  /**
   * The token, or a function that returns the token. The function is called at each login, so that a revoked token can be
   * replaced without a restart. Default: the environment variable `VAULT_TOKEN`.
   */
  readonly token?: string | (() => string | Promise<string>);
}

/** Authentication to Vault with the login method AppRole. */
export interface AppRoleAuth {
  /** Name of the login method. */
  readonly method: "approle";
  /** Role id of the AppRole that the process logs in with. */
  readonly roleId: string;
  /**
   * Secret id, or a function that returns the secret id. The function is called at each login. Omit `secretId` if the
   * role does not require a secret id.
   */
  readonly secretId?: string | (() => string | Promise<string>);
  /** Path in Vault at which the login method is mounted. Default: `approle`. */
  readonly mount?: string;
}

/** Authentication to Vault with the service account of a Kubernetes pod. */
export interface KubernetesAuth {
  /** Name of the login method. */
  readonly method: "kubernetes";
  /** Name of the Vault role that the process logs in with. */
  readonly role: string;
  /**
   * Path of the file with the service account's token. The file is read at each login. Default:
   * `/var/run/secrets/kubernetes.io/serviceaccount/token`.
   */
  readonly jwtPath?: string;
  /** Path in Vault at which the login method is mounted. Default: `kubernetes`. */
  readonly mount?: string;
}

/** Authentication to Vault with a user name and a password. */
export interface UserpassAuth {
  /** Name of the login method. */
  readonly method: "userpass";
  /** User name. */
  readonly username: string;
  /** Password, or a function that returns the password. The function is called at each login. */
  readonly password: string | (() => string | Promise<string>);
  /** Path in Vault at which the login method is mounted. Default: `userpass`. */
  readonly mount?: string;
}

/** The method by which a process authenticates to Vault, and the credentials for this method. */
export type VaultAuth = TokenAuth | AppRoleAuth | KubernetesAuth | UserpassAuth;

/** Credentials for Vault: an existing token, or the login request that gets a token. */
export type Credentials =
  | { readonly token: string; readonly login?: undefined }
  | { readonly login: LoginRequest; readonly token?: undefined };

/** A login request to Vault: its path and its body. */
export interface LoginRequest {
  readonly path: string;
  readonly body: Readonly<Record<string, string>>;
  /** True if Vault locks the user or role out for a time after a few logins with wrong credentials. */
  readonly locksOut: boolean;
}

const tokenNames: OptionNames<TokenAuth> = { method: true, token: true };
const appRoleNames: OptionNames<AppRoleAuth> = { method: true, roleId: true, secretId: true, mount: true };
const kubernetesNames: OptionNames<KubernetesAuth> = { method: true, role: true, jwtPath: true, mount: true };
const userpassNames: OptionNames<UserpassAuth> = { method: true, username: true, password: true, mount: true };

/**
 * Checks the login method and its settings in the option `auth`.
 *
 * @throws KeywardError `VALUE_INVALID` for an unknown login method, for a setting that the login method does not have,
 * and for a missing `roleId`, `role` or `username`.
 */
export function requireAuth(auth: VaultAuth): void {
  switch (auth.method) {
    case "token":
      requireOptions("auth by token", auth, tokenNames);
      return;
    case "approle":
      requireOptions("auth by approle", auth, appRoleNames);
      requireText("roleId", auth.roleId);
      return;
    case "kubernetes":
      requireOptions("auth by kubernetes", auth, kubernetesNames);
      requireText("role", auth.role);
      return;
    case "userpass":
      requireOptions("auth by userpass", auth, userpassNames);
      requireText("username", auth.username);
      return;
    default:
      throw new KeywardError("VALUE_INVALID", 'The option "auth" for Vault has an unknown method', {
        hint: 'Set `method` in `auth` to "token", "approle", "kubernetes" or "userpass".',
      });
  }
}

function requireText(name: string, value: unknown): void {
  if (typeof value === "string" && value !== "") return;
  throw new KeywardError(
    "VALUE_INVALID",
    `The setting "${name}" in the option "auth" for Vault must be a non-empty string`,
    {
      hint: `Set \`${name}\` in \`auth\`. If its value comes from an environment variable, check that the environment variable is set.`,
    },
  );
}

const serviceAccountToken = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/**
 * Reads the credentials for a login to Vault: from `auth`, from the file with the service account's token, or from
 * `VAULT_TOKEN`.
 *
 * @throws KeywardError `PROVIDER_UNAVAILABLE` if a credential is missing or cannot be read.
 */
export async function readCredentials(
  auth: VaultAuth,
  env: Readonly<Record<string, string | undefined>>,
): Promise<Credentials> {
  switch (auth.method) {
    case "token": {
      const token = await readCredential(auth.token ?? env["VAULT_TOKEN"] ?? "", "a token");
      // Vault would reject such a token as if it had expired, and a line break cannot be sent.
      if (!/^[^\s"'`]*$/.test(token)) {
        throw missing(
          "The Vault token contains quotes or white space",
          "Remove the quotes and the white space from the token.",
        );
      }
      if (token !== "") return { token };
      throw missing(
        "No Vault token is set",
        'Set the environment variable VAULT_TOKEN, or use another login method in `auth`, such as "approle".',
      );
    }
    case "approle": {
      const secretId = auth.secretId === undefined ? undefined : await readCredential(auth.secretId, "a secret id");
      const body = { role_id: auth.roleId, ...(secretId === undefined ? {} : { secret_id: secretId }) };
      return { login: { path: `auth/${auth.mount ?? "approle"}/login`, body, locksOut: true } };
    }
    case "kubernetes": {
      const jwt = await readJwt(auth.jwtPath ?? serviceAccountToken);
      const path = `auth/${auth.mount ?? "kubernetes"}/login`;
      return { login: { path, body: { role: auth.role, jwt }, locksOut: false } };
    }
    case "userpass": {
      const password = await readCredential(auth.password, "a password");
      const path = `auth/${auth.mount ?? "userpass"}/login/${encodeURIComponent(auth.username)}`;
      return { login: { path, body: { password }, locksOut: true } };
    }
  }
}

async function readCredential(source: string | (() => string | Promise<string>), what: string): Promise<string> {
  if (typeof source === "string") return source.trim();
  try {
    return (await source()).trim();
  } catch {
    // The cause is not passed on, because it may show the credential.
    throw missing(
      `The function in \`auth\` that returns ${what} for Vault failed`,
      "Call the function yourself to see its error. The error is not shown here, because it may contain the credential.",
    );
  }
}

async function readJwt(path: string): Promise<string> {
  try {
    return (await readFile(path, "utf8")).trim();
  } catch (error) {
    throw missing(
      `The file with the token of the Kubernetes service account cannot be read (${systemCode(error)})`,
      "Check that the pod mounts the token of its service account (`automountServiceAccountToken`). If the pod mounts the token at another path, set `jwtPath` in `auth` to this path.",
    );
  }
}

function missing(problem: string, hint: string): KeywardError {
  return new KeywardError("PROVIDER_UNAVAILABLE", problem, { hint });
}
