import type { Stats } from "node:fs";
import { accessSync, chmodSync, closeSync, constants, fchmodSync, fchownSync, lstatSync, openSync } from "node:fs";
import { setTimeout as wait } from "node:timers/promises";
import { KeywardError } from "../errors/errors.ts";
import { isOwnedBy, systemCode } from "./private-file.ts";

const lockWaitMs = 10_000;
const lockRetryMs = 20;
const sqliteBusy = 5;

/**
 * Runs `work` while no other process holds the lock at `path`, and returns its result. The lock is a lock of SQLite on an
 * empty file. The operating system releases it when a process ends, even a killed one, so a lock never becomes stale.
 *
 * @param path the lock file. It is created if it is missing, and stays afterwards.
 * @param guarded the status of the file that the lock protects; `undefined` if it does not exist yet. Only users who may
 * write that file can use the lock.
 * @param shownAs the name of the protected file in error messages.
 * @throws KeywardError `KEYRING_CONFLICT` if another process holds the lock for 10 seconds; `PROVIDER_UNAVAILABLE` if
 * `path` is a symbolic link, not an empty file, or belongs to another user. Errors of the file system are passed on.
 * @example
 * const status = await stat("keyring.json");
 * await whileLocked("keyring.json.lock", status, "keyring.json", () => replaceFile("keyring.json", text, status));
 */
export async function whileLocked<Result>(
  path: string,
  guarded: Stats | undefined,
  shownAs: string,
  work: () => Promise<Result>,
): Promise<Result> {
  const { DatabaseSync } = await import("node:sqlite");
  prepareLock(path, guarded, shownAs);
  const database = new DatabaseSync(path);
  try {
    const deadlineMs = performance.now() + lockWaitMs;
    while (!tryLock(database)) {
      if (performance.now() > deadlineMs) {
        throw new KeywardError("KEYRING_CONFLICT", `${shownAs} is being changed by another process`, {
          hint: "Wait for it, load the ring again, and repeat the change.",
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
 * Makes the lock file, or checks the one that is there: who can read it can hold the lock. In one turn of the event loop
 * and without opening an existing file, since POSIX drops a process's lock when it closes any descriptor of the file.
 */
function prepareLock(path: string, guarded: Stats | undefined, shownAs: string): void {
  const mode = ((guarded?.mode ?? 0) & 0o020) === 0 ? 0o600 : 0o660;
  if (lstatSync(path, { throwIfNoEntry: false }) === undefined && createLock(path, guarded, mode)) return;
  const found = lstatSync(path);
  const problem = problemOf(found, guarded);
  if (problem !== undefined) {
    throw new KeywardError(
      "PROVIDER_UNAVAILABLE",
      `${shownAs} cannot be locked: the file beside it, .lock, ${problem}`,
      {
        hint: "Find out who made the .lock file. Remove it while no process changes the keyring, and try again.",
      },
    );
  }
  if ((found.mode & 0o777 & ~mode) !== 0) chmodSync(path, mode);
  accessSync(path, constants.R_OK | constants.W_OK);
}

/** Whether this call made it. */
function createLock(path: string, guarded: Stats | undefined, mode: number): boolean {
  let file: number;
  try {
    file = openSync(path, "wx", 0o600);
  } catch (error) {
    if (systemCode(error) === "EEXIST") return false;
    throw error;
  }
  try {
    // Where root makes it, the owner of the guarded file must be able to lock as well.
    if (guarded !== undefined && process.geteuid?.() === 0) fchownSync(file, guarded.uid, guarded.gid);
    fchmodSync(file, mode);
  } finally {
    closeSync(file);
  }
  return true;
}

function problemOf(found: Stats, guarded: Stats | undefined): string | undefined {
  if (found.isSymbolicLink()) return "is a symbolic link";
  if (!found.isFile() || found.size > 0) return "is no empty file";
  const trusted = guarded === undefined ? isOwnedBy(found) : isOwnedBy(found, guarded.uid);
  // Members of a group that may write the file make the lock for one another.
  if (trusted || (guarded !== undefined && (guarded.mode & 0o020) !== 0 && found.gid === guarded.gid)) return undefined;
  return "belongs to another user";
}

function tryLock(database: { exec(statement: string): void }): boolean {
  try {
    // With a journal in memory, a full disk keeps no process from locking: nothing is ever written to the file.
    database.exec("PRAGMA journal_mode = MEMORY; BEGIN EXCLUSIVE");
    return true;
  } catch (error) {
    if (error instanceof Error && "errcode" in error && error.errcode === sqliteBusy) return false;
    throw error;
  }
}
