import { readFile } from "node:fs/promises";
import { KeywardError, type OptionNames, requireOptions } from "@keyward/core";

/** A token that somebody else made: given, or asked for at each login; default the variable `VAULT_TOKEN`. */
export interface TokenAuth {
  /** Which of the methods this is. */
  readonly method: "token";
  /** The token, or what gives it: then one that was revoked can be replaced without a restart. */
  readonly token?: string | (() => string | Promise<string>);
}

/** AppRole. */
export interface AppRoleAuth {
  /** Which of the methods this is. */
  readonly method: "approle";
  /** Which role. */
  readonly roleId: string;
  /** Its secret id, or what gives it; absent where the role is bound without one. */
  readonly secretId?: string | (() => string | Promise<string>);
  /** Where the method is mounted; default "approle". */
  readonly mount?: string;
}

/** The service account of a pod in Kubernetes. */
export interface KubernetesAuth {
  /** Which of the methods this is. */
  readonly method: "kubernetes";
  /** Which role. */
  readonly role: string;
  /** The file of the account's token, read anew at each login; default where Kubernetes mounts it. */
  readonly jwtPath?: string;
  /** Where the method is mounted; default "kubernetes". */
  readonly mount?: string;
}

/** A name and a password. */
export interface UserpassAuth {
  /** Which of the methods this is. */
  readonly method: "userpass";
  /** Whose. */
  readonly username: string;
  /** The password, or what gives it. */
  readonly password: string | (() => string | Promise<string>);
  /** Where the method is mounted; default "userpass". */
  readonly mount?: string;
}

/** How a process shows Vault who it is. */
export type VaultAuth = TokenAuth | AppRoleAuth | KubernetesAuth | UserpassAuth;

/** What a login needs: a token that is there already, or what is posted to get one. */
export type Credentials =
  | { readonly token: string; readonly login?: undefined }
  | { readonly login: LoginRequest; readonly token?: undefined };

/** One login. */
export interface LoginRequest {
  readonly path: string;
  readonly body: Readonly<Record<string, string>>;
  /** Whether Vault locks this name out for a time, after a few logins with wrong credentials. */
  readonly locksOut: boolean;
}

const tokenNames: OptionNames<TokenAuth> = { method: true, token: true };
const appRoleNames: OptionNames<AppRoleAuth> = { method: true, roleId: true, secretId: true, mount: true };
const kubernetesNames: OptionNames<KubernetesAuth> = { method: true, role: true, jwtPath: true, mount: true };
const userpassNames: OptionNames<UserpassAuth> = { method: true, username: true, password: true, mount: true };

/**
 * @throws KeywardError `VALUE_INVALID` for an unknown method, for a setting that the method does not have, and for one that
 * it lacks.
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
      throw new KeywardError("VALUE_INVALID", "The method of auth is none that this package knows", {
        hint: "It is one of token, approle, kubernetes, userpass.",
      });
  }
}

function requireText(name: string, value: unknown): void {
  if (typeof value === "string" && value !== "") return;
  throw new KeywardError("VALUE_INVALID", `${name} of auth is not a non-empty text`, {
    hint: `Give it. If it comes from a variable, check that the variable is set.`,
  });
}

const serviceAccountToken = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/**
 * Reads what a login needs, anew each time.
 *
 * @throws KeywardError `PROVIDER_UNAVAILABLE` where it is not there.
 */
export async function readCredentials(
  auth: VaultAuth,
  env: Readonly<Record<string, string | undefined>>,
): Promise<Credentials> {
  switch (auth.method) {
    case "token": {
      const token = await given(auth.token ?? env["VAULT_TOKEN"] ?? "", "a token");
      // Vault would answer as if it had ended; and a line break cannot be sent at all.
      if (!/^[^\s"'`]*$/.test(token)) {
        throw missing("The Vault token has quotes or white space in it", "Give the token alone.");
      }
      if (token !== "") return { token };
      throw missing("There is no Vault token", "Set VAULT_TOKEN, or give `auth` another method, such as approle.");
    }
    case "approle": {
      const secretId = auth.secretId === undefined ? undefined : await given(auth.secretId, "a secret id");
      const body = { role_id: auth.roleId, ...(secretId === undefined ? {} : { secret_id: secretId }) };
      return { login: { path: `auth/${auth.mount ?? "approle"}/login`, body, locksOut: true } };
    }
    case "kubernetes": {
      const jwt = await readJwt(auth.jwtPath ?? serviceAccountToken);
      const path = `auth/${auth.mount ?? "kubernetes"}/login`;
      return { login: { path, body: { role: auth.role, jwt }, locksOut: false } };
    }
    case "userpass": {
      const password = await given(auth.password, "a password");
      const path = `auth/${auth.mount ?? "userpass"}/login/${encodeURIComponent(auth.username)}`;
      return { login: { path, body: { password }, locksOut: true } };
    }
  }
}

async function given(source: string | (() => string | Promise<string>), what: string): Promise<string> {
  if (typeof source === "string") return source.trim();
  try {
    return (await source()).trim();
  } catch {
    // The cause may show what it failed to read.
    throw missing(`The function that gives ${what} for Vault failed`, "Call it yourself to see why.");
  }
}

async function readJwt(path: string): Promise<string> {
  try {
    return (await readFile(path, "utf8")).trim();
  } catch (error) {
    const code = error instanceof Error && "code" in error ? String(error.code) : "unknown error";
    throw missing(
      `The token of the service account cannot be read (${code})`,
      "Does the pod mount it (automountServiceAccountToken)? Elsewhere, give jwtPath.",
    );
  }
}

function missing(problem: string, hint: string): KeywardError {
  return new KeywardError("PROVIDER_UNAVAILABLE", problem, { hint });
}
