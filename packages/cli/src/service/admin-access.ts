import { AdminApiError, AdminClient } from "@keyward/admin/client";
import type { Context } from "../context.ts";
import { CommandError } from "../exit-codes.ts";
import { type Login, loginPath, readLogin } from "./login-file.ts";

/** A client of the admin API, and the URL of the service. */
export interface AdminAccess {
  readonly client: AdminClient;
  readonly url: string;
}

/**
 * Returns a client for the service that `KEYWARD_URL` and `KEYWARD_TOKEN` name, or that `keyward login` has stored.
 *
 * @throws CommandError `USAGE` if there is no login, if only one of the variables is set, or if the URL is invalid.
 */
export async function adminAccess({ env }: Context): Promise<AdminAccess> {
  const login = variablesOf(env) ?? (await readLogin(loginPath(env)));
  if (login === undefined) {
    throw new CommandError("USAGE", "You are not logged in", {
      hint: "Run `keyward login`, or set the environment variables KEYWARD_URL and KEYWARD_TOKEN.",
    });
  }
  return { client: clientOf(login), url: login.url.replace(/\/+$/, "") };
}

/**
 * Returns a client of the admin API.
 *
 * @throws CommandError `USAGE` if the URL or the token is invalid.
 */
export function clientOf({ url, token }: Login): AdminClient {
  try {
    sendNoLoopbackToProxy(url);
    return new AdminClient({ url, token });
  } catch (error) {
    if (!(error instanceof AdminApiError) || error.code !== "OPTION_INVALID") throw error;
    const message = error.message
      .replace('The option "url" of AdminClient', "The URL of the service")
      .replace('The option "token" of AdminClient', "The text of the token");
    throw new CommandError("USAGE", message, { hint: error.hint });
  }
}

/**
 * Checks the URL of a service.
 *
 * @throws CommandError `USAGE` if the URL is invalid.
 */
export function requireUrl(url: string): void {
  clientOf({ url, token: "kwt_none" });
}

/** Sends plain HTTP to this machine without the proxy of the environment (`NODE_USE_ENV_PROXY`), which could read the token. */
function sendNoLoopbackToProxy(url: string): void {
  if (!URL.canParse(url) || new URL(url).protocol !== "http:") return;
  const excepted = process.env["no_proxy"] ?? process.env["NO_PROXY"] ?? "";
  process.env["no_proxy"] = `${excepted},${new URL(url).hostname}`;
}

function variablesOf(env: Context["env"]): Login | undefined {
  const [url = "", token = ""] = [env["KEYWARD_URL"]?.trim(), env["KEYWARD_TOKEN"]?.trim()];
  if (url !== "" && token !== "") return { url, token };
  if (url === "" && token === "") return undefined;
  const [set, missing] = url === "" ? ["KEYWARD_TOKEN", "KEYWARD_URL"] : ["KEYWARD_URL", "KEYWARD_TOKEN"];
  // A token of one service must not be sent to another one.
  throw new CommandError("USAGE", `The environment variable ${set} is set, and ${missing} is not`, {
    hint: `Set ${missing} too, or unset ${set} to use the login of \`keyward login\`.`,
  });
}
