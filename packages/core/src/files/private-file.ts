import { constants, type Stats } from "node:fs";
import { open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";

const mostBytes = 1024 * 1024;

/** The text of a file, and the result of `stat` when the text was read. */
export interface FoundFile {
  readonly text: string;
  readonly status: Stats;
}

/**
 * Reads a file of at most 1 MiB.
 *
 * @param options.followsLink true if the path may be a symbolic link, as in a mounted secret. If false, a symbolic link
 * is an error.
 * @returns the text and status of the file; `undefined` if there is no file; `"unfit"` for a directory, a pipe, or a
 * file of more than 1 MiB.
 */
export async function readSmallFile(
  path: string,
  options: { readonly followsLink: boolean },
): Promise<FoundFile | "unfit" | undefined> {
  // Without O_NONBLOCK, opening a pipe without a writer never returns.
  const flags = constants.O_RDONLY | constants.O_NONBLOCK | (options.followsLink ? 0 : constants.O_NOFOLLOW);
  const file = await open(path, flags).catch((error: unknown) => {
    if (systemCode(error) === "ENOENT") return undefined;
    throw error;
  });
  if (file === undefined) return undefined;
  try {
    const status = await file.stat();
    if (!status.isFile() || status.size > mostBytes) return "unfit";
    return { text: await file.readFile("utf8"), status };
  } finally {
    await file.close();
  }
}

/**
 * Replaces the text of a file in one step: writes a new file beside `target`, syncs the new file to the disk and
 * renames it to `target`. A reader sees the old text or the new text. If a link is at `target` or at the path of the
 * new file, the link is replaced and never followed. Errors of the file system are thrown unchanged.
 *
 * @param before the result of `stat` for the existing file. The new file gets the same owner and mode. Without
 * `before`, only the user of this process can read the new file.
 * @example
 * await replaceFile("state.json", JSON.stringify({ revision: 1 }));
 */
export async function replaceFile(target: string, text: string, before?: Stats): Promise<void> {
  // The temporary file always has this name: if the process is killed here, the next change removes the file. The flag
  // "wx" fails if the file exists, so it opens no file of another user and follows no link.
  const temporary = `${target}.new`;
  await rm(temporary, { force: true });
  const file = await open(temporary, "wx", 0o600);
  try {
    try {
      if (before !== undefined) {
        const { uid, gid } = await file.stat();
        // The readers of the old file must be able to read the new file. Failing here is better than an unreadable
        // keyring.
        if (before.uid !== uid || before.gid !== gid) await file.chown(before.uid, before.gid);
        await file.chmod(before.mode & 0o777);
      }
      await file.writeFile(text);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, target);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  await syncDirectory(dirname(target));
}

async function syncDirectory(path: string): Promise<void> {
  // Windows cannot open a directory, and does not need to sync it.
  if (process.platform === "win32") return;
  const directory = await open(path, "r");
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

/**
 * Returns whether the owner of a file is the user of this process, root, or one of the user ids `others`. On Windows,
 * always returns true.
 *
 * @example
 * await writeFile("state.json", "{}");
 * if (!isOwnedBy(await stat("state.json"))) throw new Error("Another user owns state.json");
 */
export function isOwnedBy({ uid }: Stats, ...others: readonly number[]): boolean {
  const own = process.geteuid?.();
  return own === undefined || uid === own || uid === 0 || others.includes(uid);
}

/**
 * Returns the code of a system error, such as ENOENT; "unknown error" if the error has no code. Show this code instead
 * of the message of the system error, because that message contains the path of the file.
 *
 * @example
 * await readFile("missing.json").catch((error: unknown) => console.error(systemCode(error))); // ENOENT
 */
export function systemCode(error: unknown): string {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : "unknown error";
}

/**
 * Returns the hint for an error of the file system that occurred while a file was written. Returns `undefined` if there
 * is no hint for the system code of the error, such as ENOSPC.
 */
export function hintForWriting(error: unknown): string | undefined {
  switch (systemCode(error)) {
    case "EROFS":
      return "The file is mounted read-only, as secrets usually are. Change the secret or volume that is mounted there.";
    case "ENOSPC":
    case "EDQUOT":
      return "Make room on the disk of the file, and try again. The file is unchanged.";
    case "EACCES":
    case "EPERM":
      return "Give the user of this process write permission on the folder and the files in it, and try again.";
    case "EBUSY":
      return "The file is itself a mount, which cannot be replaced. Mount the folder that contains the file, and not the file itself.";
    case "ENOENT":
    case "ENOTDIR":
      return "Check the path, and create the folder of the file.";
    default:
      return undefined;
  }
}
