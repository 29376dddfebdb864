import { randomBytes } from "node:crypto";
import { link, open, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { KeywardError, systemCode } from "@keyward/core";
import { CommandError } from "../exit-codes.ts";
import { pathExists } from "./path-exists.ts";

/** The system's error codes for a file system without hard links, such as exFAT. */
const withoutLinks: ReadonlySet<string> = new Set(["EPERM", "ENOTSUP", "EOPNOTSUPP", "ENOSYS"]);

/**
 * Writes a new file. Never replaces an existing file. The file appears at its path when all of its text is on the disk, so
 * a stopped process leaves no part of the text at the path. It may leave a file `<path>.<random>.unfinished`.
 *
 * @param options.mode the mode of the file. Default: 0600, so that only its owner can read it.
 * @throws KeywardError `KEYRING_CONFLICT` if the path exists; `PROVIDER_UNAVAILABLE` if the file cannot be written;
 * CommandError `USAGE` if its folder does not exist.
 */
export async function writeNewFile(path: string, text: string, { mode = 0o600 } = {}): Promise<void> {
  await writeWhole(path, text, mode, moveToNew);
}

/**
 * Writes a file that only its owner can read, in place of an existing one. A reader sees the former text or the new one.
 *
 * @throws KeywardError `PROVIDER_UNAVAILABLE` if the file cannot be written;
 * CommandError `USAGE` if its folder does not exist. The former file stays in both cases.
 */
export async function overwriteFile(path: string, text: string): Promise<void> {
  await writeWhole(path, text, 0o600, rename);
}

async function writeWhole(
  path: string,
  text: string,
  mode: number,
  move: (unfinished: string, path: string) => Promise<void>,
): Promise<void> {
  // Another process may write a file at the same path.
  const unfinished = `${path}.${randomBytes(6).toString("hex")}.unfinished`;
  try {
    const file = await open(unfinished, "wx", mode);
    try {
      try {
        await file.writeFile(text);
        await file.sync();
      } finally {
        await file.close();
      }
      await move(unfinished, path);
    } finally {
      await rm(unfinished, { force: true });
    }
    await syncFolder(dirname(path));
  } catch (error) {
    if (systemCode(error) === "EEXIST") throw existsAlready(path);
    throw cannotWrite(`The file ${path}`, error);
  }
}

/**
 * Returns the error for a file that cannot be written.
 *
 * @param file what the message calls the file, such as its path.
 */
export function cannotWrite(file: string, error: unknown): KeywardError | CommandError {
  const code = systemCode(error);
  if (code === "ENOENT" || code === "ENOTDIR") {
    return new CommandError("USAGE", `${file} cannot be written, because its folder does not exist`, {
      hint: "Make the folder, or correct the path.",
    });
  }
  if (code === "EISDIR") {
    return new CommandError("USAGE", `${file} cannot be written, because it is a folder`, {
      hint: "Pass the path of a file.",
    });
  }
  return new KeywardError("PROVIDER_UNAVAILABLE", `${file} cannot be written (${code})`, {
    hint: "Check that the folder exists, that you may write to it, and that its disk is not full.",
  });
}

/**
 * Checks that nothing is at a path, before the operator is asked for a passphrase.
 *
 * @throws KeywardError `KEYRING_CONFLICT` if the path exists.
 */
export async function requireNothingAt(path: string): Promise<void> {
  if (await pathExists(path)) throw existsAlready(path);
}

async function moveToNew(unfinished: string, path: string): Promise<void> {
  try {
    // A rename would replace an existing file.
    await link(unfinished, path);
  } catch (error) {
    if (!withoutLinks.has(systemCode(error))) throw error;
    await (await open(path, "wx", 0o600)).close();
    await rename(unfinished, path);
  }
}

async function syncFolder(path: string): Promise<void> {
  // Windows cannot open a folder, and does not need to sync it.
  if (process.platform === "win32") return;
  const folder = await open(path, "r").catch((error: unknown) => {
    // A folder may be writable and not readable.
    if (systemCode(error) === "EACCES") return undefined;
    throw error;
  });
  if (folder === undefined) return;
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

function existsAlready(path: string): KeywardError {
  return new KeywardError("KEYRING_CONFLICT", `The file ${path} exists already, so nothing was written`, {
    hint: "Choose another path. Do not replace a key that records were encrypted with.",
  });
}
