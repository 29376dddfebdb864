import type { Context } from "../../context.ts";
import { CommandError } from "../../exit-codes.ts";
import { clientOf, requireUrl } from "../../service/admin-access.ts";
import { loginPath, removeLogin, writeLogin } from "../../service/login-file.ts";
import { oneLine } from "../../terminal/output.ts";

/** The options of `keyward login`. */
export interface LoginOptions {
  readonly url?: string;
  /** Only declared so that it can be refused with a hint. */
  readonly token?: string | boolean;
}

const maxTokenBytes = 65_536;
const proposedUrl = "http://127.0.0.1:8490";

/** Asks for the URL of a service and a token, checks them, and stores them in a file that only its owner can read. */
export async function login(context: Context, given: readonly string[], options: LoginOptions): Promise<void> {
  if (options.token !== undefined || given.length > 0 || options.url?.includes("kwt_") === true) throw tokenInFlag();
  const { operator, output, env } = context;
  const url = (
    options.url ?? (operator.isPresent ? await operator.ask("The URL of the service:", proposedUrl) : "")
  ).trim();
  if (url === "") {
    throw new CommandError("USAGE", "The URL of the service is missing", {
      hint: "Pass `--url`, and the token on stdin: `keyward login --url https://keyward.example.com < token.txt`.",
    });
  }
  // Checks the URL before the command asks for the token.
  requireUrl(url);
  const token = (
    operator.isPresent ? await operator.askSecret("The token:") : await context.input(maxTokenBytes)
  ).trim();
  const { owner, role, workspace, expires } = await clientOf({ url, token }).whoAmI();
  const path = loginPath(env);
  await writeLogin(path, { url, token });
  for (const name of ["KEYWARD_URL", "KEYWARD_TOKEN"]) {
    if (env[name]) output.notice(`The environment variable ${name} is set, so the commands do not use this login.`);
  }
  const until = expires === null ? "" : `, until ${expires}`;
  output.result(`You are logged in at ${url} as ${oneLine(owner)} (${role})${until}. ${path} has the token.`, {
    url,
    owner,
    role,
    workspace,
    expiresAtMs: expires === null ? null : Date.parse(expires),
    file: path,
  });
}

/** Removes the login. The token stays valid. */
export async function logout({ output, env }: Context): Promise<void> {
  const file = loginPath(env);
  const removed = await removeLogin(file);
  const text = removed
    ? `The login in ${file} is removed. Its token stays valid until it expires or is revoked.`
    : `There is no login in ${file}.`;
  output.result(text, { file, removed });
}

function tokenInFlag(): CommandError {
  return new CommandError("USAGE", "The command line contains a token, or another word that is not expected there", {
    hint: "Every user of the machine can see a command line, and your shell keeps it. If the word was a token, revoke the token. Then run `keyward login`, which asks for the token, or pass the token on stdin.",
  });
}
