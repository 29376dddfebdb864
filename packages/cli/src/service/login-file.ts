import { constants } from "node:fs";
import { mkdir, open, rm } from "node:fs/promises";
import { homedir, userInfo } from "node:os";
import { dirname, join } from "node:path";
import { isOwnedBy, replaceFile, systemCode } from "@keyward/core";
import { CommandError } from "../exit-codes.ts";

/** The URL of a service, and a token for it. */
export interface Login {
  readonly url: string;
  readonly token: string;
}

type Environment = Readonly<Record<string, string | undefined>>;

const maxBytes = 65_536;

/** Returns the path of the file that `keyward login` writes. */
export function loginPath(env: Environment): string {
  const folder = env["XDG_CONFIG_HOME"];
  // The specification of this variable says that a relative path is ignored.
  const base = folder?.startsWith("/") === true ? folder : join(homeFolder(env), ".config");
  return join(base, "keyward", "login.json");
}

/** Returns the home folder. Ignores an empty or relative HOME, which would put the token into the folder of the process. */
function homeFolder({ HOME: home }: Environment): string {
  return home?.startsWith("/") === true || process.platform === "win32" ? (home ?? homedir()) : userInfo().homedir;
}

/** Writes a login to a file that only its owner can read. Replaces a former login. */
export async function writeLogin(path: string, { url, token }: Login): Promise<void> {
  try {
    await mkdir(dirname(path), { recursive: true, mode: 0o700 });
    await replaceFile(path, `${JSON.stringify({ version: 1, url, token })}\n`);
  } catch (error) {
    throw new CommandError("USAGE", `The login cannot be written to ${path} (${systemCode(error)})`, {
      hint: "Make the folder writable for you. Or set the environment variables KEYWARD_URL and KEYWARD_TOKEN instead.",
    });
  }
}

/** Removes a stored login. Returns false if there was none. */
export async function removeLogin(path: string): Promise<boolean> {
  try {
    await rm(path);
    return true;
  } catch (error) {
    if (systemCode(error) === "ENOENT") return false;
    throw new CommandError("USAGE", `The login at ${path} cannot be removed (${systemCode(error)})`, {
      hint: "Remove the file yourself, and revoke its token if others could read the file.",
    });
  }
}

/**
 * Reads a stored login. Returns `undefined` if there is none.
 *
 * @throws CommandError `USAGE` if other users can read the file, or if its content is not a login.
 */
export async function readLogin(path: string): Promise<Login | undefined> {
  let text: string;
  try {
    // Without O_NONBLOCK, a pipe without a writer would never open.
    const file = await open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
    try {
      const status = await file.stat();
      if (process.platform !== "win32" && (!isOwnedBy(status) || (status.mode & 0o077) !== 0)) {
        throw new CommandError("USAGE", `Other users may read or change the login at ${path}`, {
          hint: "Run `keyward logout` and `keyward login`. If others could read the file, revoke its token: `keyward tokens list`, and `keyward tokens revoke` with its id.",
        });
      }
      if (!status.isFile()) throw new CommandError("USAGE", `${path} is not a regular file`, { hint: loginAgain });
      const { buffer, bytesRead } = await file.read({ buffer: Buffer.alloc(maxBytes) });
      text = buffer.toString("utf8", 0, bytesRead);
    } finally {
      await file.close();
    }
  } catch (error) {
    if (error instanceof CommandError) throw error;
    if (systemCode(error) === "ENOENT") return undefined;
    throw new CommandError("USAGE", `The login at ${path} cannot be read (${systemCode(error)})`, { hint: loginAgain });
  }
  const login = parsed(text);
  if (login === undefined) throw new CommandError("USAGE", `The file ${path} is not a login`, { hint: loginAgain });
  return login;
}

const loginAgain = "Run `keyward login` again, which replaces the file.";

function parsed(text: string): Login | undefined {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value !== "object" || value === null || !("url" in value) || !("token" in value)) return undefined;
    const { url, token } = value;
    return typeof url === "string" && typeof token === "string" ? { url, token } : undefined;
  } catch {
    // The error of the parser quotes the file.
    return undefined;
  }
}
