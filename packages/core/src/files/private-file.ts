import { constants, type Stats } from "node:fs";
import { open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";

const mostBytes = 1024 * 1024;

/** What was read of a file. */
export interface FoundFile {
  readonly text: string;
  readonly status: Stats;
}

/**
 * Reads a small file; `undefined` where there is none.
 *
 * @param options.followsLink whether the path may be a symbolic link, as it is in a mounted secret.
 * @returns `"unfit"` for a directory, a pipe, or a file of more than 1 MiB.
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
 * Writes a file beside `target`, brings it to the disk and renames it over `target`. A reader sees the old text or the
 * new one, and a link at either path is replaced, never followed. Errors are those of the file system.
 *
 * @param before the file to replace, whose owner and mode the new one gets. Without it, only the owner can read the file.
 */
export async function replaceFile(target: string, text: string, before?: Stats): Promise<void> {
  // One name, so that a process that was killed here leaves one file, which the next change removes. "wx" opens no file
  // that another user made, and follows no link.
  const temporary = `${target}.new`;
  await rm(temporary, { force: true });
  const file = await open(temporary, "wx", 0o600);
  try {
    try {
      if (before !== undefined) {
        const { uid, gid } = await file.stat();
        // Who could read the old file must be able to read the new one: better no save than an unreadable keyring.
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
  // Windows opens no directories, and needs none synced.
  if (process.platform === "win32") return;
  const directory = await open(path, "r");
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

/** Whether a file belongs to this process's user, to root, or to one of the other users given. True on Windows. */
export function isOwnedBy({ uid }: Stats, ...others: readonly number[]): boolean {
  const own = process.geteuid?.();
  return own === undefined || uid === own || uid === 0 || others.includes(uid);
}

/** The system's word for what went wrong, such as ENOENT; "unknown error" where it gave none. Its message repeats the path. */
export function systemCode(error: unknown): string {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : "unknown error";
}

/** What to do when a file cannot be written; `undefined` where the system's word says too little. */
export function hintForWriting(error: unknown): string | undefined {
  switch (systemCode(error)) {
    case "EROFS":
      return "It is mounted read-only, as secrets are: make the change where the mount comes from.";
    case "ENOSPC":
    case "EDQUOT":
      return "Make room on its disk, and try again. The file is as it was.";
    case "EACCES":
    case "EPERM":
      return "Let the user of this process write to the folder and to the files in it, and try again.";
    case "EBUSY":
      return "It is a mount of its own, which cannot be replaced: mount the folder that it is in.";
    case "ENOENT":
    case "ENOTDIR":
      return "Check the path, and make the folder that the file belongs in.";
    default:
      return undefined;
  }
}
