import type { Stats } from "node:fs";
import {
  accessSync,
  chmodSync,
  chownSync,
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  lstatSync,
  openSync,
} from "node:fs";
import { setTimeout as wait } from "node:timers/promises";
import { KeywardError, type KeywardErrorCode } from "../errors/errors.ts";
import { isOwnedBy, systemCode } from "./private-file.ts";

const lockWaitMs = 10_000;
const lockRetryMs = 20;
const sqliteBusy = 5;

/** Options of {@link whileLocked}. */
export interface FileLockOptions {
  /** The result of `stat` for the file that the lock guards; `undefined` if the file does not exist yet. */
  readonly guarded: Stats | undefined;
  /** Name of the file that the lock guards, for error messages. */
  readonly shownAs: string;
  /** The codes of the errors: `held` if another process holds the lock, `unusable` if the lock file cannot be used. */
  readonly codes: { readonly held: KeywardErrorCode; readonly unusable: KeywardErrorCode };
}

/**
 * Runs `work` while this process holds a lock, so that no other process changes the guarded file in the meantime. The
 * lock is SQLite's lock on an empty lock file. The operating system releases the lock when the process that holds it
 * ends, even by a crash. So a lock never has to be removed by hand.
 *
 * @param path the path of the lock file: an empty file that is kept between calls. Only users that may write the
 * guarded file can open the lock file.
 * @throws KeywardError with the code `codes.held` if another process holds the lock for 10 seconds; with the code
 * `codes.unusable` if the file at `path` is not an empty file of a trusted user, or if this process cannot use it.
 * Errors of the file system are thrown unchanged.
 * @example
 * const codes = { held: "STORE_UNAVAILABLE", unusable: "STORE_UNAVAILABLE" } as const;
 * await whileLocked("state.json.lock", { guarded: undefined, shownAs: "The file state.json", codes }, async () => {
 *   await replaceFile("state.json", JSON.stringify({ revision: 1 }));
 * });
 */
export async function whileLocked<Result>(
  path: string,
  options: FileLockOptions,
  work: () => Promise<Result>,
): Promise<Result> {
  const { DatabaseSync } = await import("node:sqlite");
  prepareLock(path, options);
  const database = new DatabaseSync(path);
  try {
    const deadlineMs = performance.now() + lockWaitMs;
    while (!tryLock(database)) {
      if (performance.now() > deadlineMs) {
        throw new KeywardError(options.codes.held, `${options.shownAs} is being changed by another process`, {
          hint: "Wait until the other process has finished, read the file again, and repeat the change.",
        });
      }
      await wait(lockRetryMs);
    }
    return await work();
  } finally {
    database.close();
  }
}

/**
 * Creates the lock file, or checks the owner and mode of the existing one: any user who can read the lock file could
 * hold the lock.
 *
 * The check is synchronous and does not open the file. On POSIX, a process that closes any descriptor of a file loses
 * its locks on that file.
 */
function prepareLock(path: string, { guarded, shownAs, codes }: FileLockOptions): void {
  const mode = ((guarded?.mode ?? 0) & 0o020) === 0 ? 0o600 : 0o660;
  if (lstatSync(path, { throwIfNoEntry: false }) === undefined && createLock(path, guarded, mode)) return;
  const found = lstatSync(path);
  const problem = problemOf(found, guarded);
  if (problem !== undefined) {
    throw new KeywardError(
      codes.unusable,
      `${shownAs} cannot be locked, because the lock file beside it (.lock) ${problem}`,
      {
        hint: "Find out which program made the .lock file. Make sure that no process is changing the file that the .lock file guards. Then remove the .lock file, and try again.",
      },
    );
  }
  try {
    // Root may have created the lock before the guarded file got its owner.
    if (guarded !== undefined && process.geteuid?.() === 0) chownSync(path, guarded.uid, guarded.gid);
    if ((found.mode & 0o777 & ~mode) !== 0) chmodSync(path, mode);
    accessSync(path, constants.R_OK | constants.W_OK);
  } catch (cause) {
    const problem = `${shownAs} cannot be locked, because this process cannot use the lock file beside it (.lock)`;
    throw new KeywardError(codes.unusable, `${problem} (${systemCode(cause)})`, {
      hint: "Use `chown` to give the .lock file the same owner as the file that it guards, and try again.",
      cause,
    });
  }
}

/** Creates the lock file. Returns false if another process created it first. */
function createLock(path: string, guarded: Stats | undefined, mode: number): boolean {
  let file: number;
  try {
    file = openSync(path, "wx", 0o600);
  } catch (error) {
    if (systemCode(error) === "EEXIST") return false;
    throw error;
  }
  try {
    // If root creates the lock file, the owner of the guarded file must be able to lock as well.
    if (guarded !== undefined && process.geteuid?.() === 0) fchownSync(file, guarded.uid, guarded.gid);
    fchmodSync(file, mode);
  } finally {
    closeSync(file);
  }
  return true;
}

/**
 * Returns the reason why a lock file cannot be trusted, as the end of an error message; `undefined` if it can be
 * trusted.
 */
function problemOf(found: Stats, guarded: Stats | undefined): string | undefined {
  if (found.isSymbolicLink()) return "is a symbolic link";
  if (!found.isFile() || found.size > 0) return "is not an empty file";
  const trusted = guarded === undefined ? isOwnedBy(found) : isOwnedBy(found, guarded.uid);
  // If a group may write the guarded file, any member of the group may have created the lock file for the others.
  if (trusted || (guarded !== undefined && (guarded.mode & 0o020) !== 0 && found.gid === guarded.gid)) return undefined;
  return "belongs to another user";
}

function tryLock(database: { exec(statement: string): void }): boolean {
  try {
    // With the journal in memory, SQLite writes nothing to the file, so locking works on a full disk, too.
    database.exec("PRAGMA journal_mode = MEMORY; BEGIN EXCLUSIVE");
    return true;
  } catch (error) {
    if (error instanceof Error && "errcode" in error && error.errcode === sqliteBusy) return false;
    throw error;
  }
}
