import { constants, type Stats } from "node:fs";
import { access, open, realpath, rename, rm } from "node:fs/promises";
import { dirname } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { exportKeyring, type Keyring, KeywardError } from "@keyward/core";
import { pathForErrors, systemCode } from "./mount.ts";
import { isDocument, readDocument, trim } from "./notation.ts";

const lockWaitMs = 10_000;
const lockRetryMs = 20;
const sqliteBusy = 5;

/**
 * Replaces the keyring document in a file, if it still is `previous`. The new document is written beside the old one and
 * renamed over it, so a reader sees either.
 *
 * @throws KeywardError `KEYRING_CONFLICT` when the file holds another ring, or stayed locked by others;
 * `KEYRING_INVALID` when it holds no keyring document or `next` cannot be saved; `PROVIDER_UNAVAILABLE` when it cannot
 * be read or written.
 */
export async function saveKeyring(path: string, next: Keyring, previous: Keyring): Promise<void> {
  const name = pathForErrors(path);
  if (next.keys.length === 0 || next.scopeName !== undefined) {
    const problem = next.keys.length === 0 ? "has no keys" : "is scoped";
    throw new KeywardError("KEYRING_INVALID", `A ring that ${problem} cannot be saved`, {
      hint: "Save a ring that came from load, changed.",
    });
  }
  try {
    // Where the path is a link, the file it leads to is replaced, and the link stays.
    const target = await realpath(path);
    await access(dirname(target), constants.W_OK);
    // Asked before as well, so that no lock file is left beside what can never be saved to.
    await readRing(target, name);
    await locked(`${target}.lock`, name, () => compareAndSwap(target, name, next, previous));
  } catch (error) {
    if (error instanceof KeywardError) throw error;
    throw new KeywardError("PROVIDER_UNAVAILABLE", `${name} cannot be written (${systemCode(error)})`, {
      // Without the cause, which repeats the path.
      hint: "A mounted secret is read-only: change it where it comes from. Otherwise check the permissions.",
    });
  }
}

async function compareAndSwap(target: string, name: string, next: Keyring, previous: Keyring): Promise<void> {
  const { ring, status } = await readRing(target, name);
  if (exportKeyring(ring) !== exportKeyring(previous)) {
    throw new KeywardError("KEYRING_CONFLICT", `${name} holds another ring than the one that was changed`, {
      hint: "Load the ring again, repeat the change on it, and save that.",
    });
  }
  await replaceFile(target, `${exportKeyring(next)}\n`, status);
}

async function readRing(target: string, name: string): Promise<{ readonly ring: Keyring; readonly status: Stats }> {
  const file = await open(target, constants.O_RDONLY | constants.O_NONBLOCK);
  try {
    const status = await file.stat();
    const text = status.isFile() ? trim(await file.readFile("utf8")) : "";
    if (isDocument(text)) return { ring: readDocument(text, name), status };
  } finally {
    await file.close();
  }
  throw new KeywardError("KEYRING_INVALID", `${name} holds no keyring document, so no ring can be saved there`, {
    hint: "Write exportKeyring(ring) into a file first, and load from that.",
  });
}

async function replaceFile(target: string, text: string, { mode, uid, gid }: Stats): Promise<void> {
  // One name, since the lock is held: what a killed process left there is gone with the next change.
  const temporary = `${target}.new`;
  await rm(temporary, { force: true });
  const file = await open(temporary, "wx", 0o600);
  try {
    try {
      const { uid: ownUid, gid: ownGid } = await file.stat();
      // Whoever could read the old file must be able to read the new one; better no save than an unreadable ring.
      if (uid !== ownUid || gid !== ownGid) await file.chown(uid, gid);
      await file.chmod(mode & 0o777);
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

/**
 * Runs `work` while this process alone holds the lock. The lock is SQLite's on an empty database: the operating system
 * takes it back from a process that ends, however it ends, so none is ever stale.
 */
async function locked(path: string, name: string, work: () => Promise<void>): Promise<void> {
  const { DatabaseSync } = await import("node:sqlite");
  const database = new DatabaseSync(path);
  try {
    const deadlineMs = performance.now() + lockWaitMs;
    while (!tryLock(database)) {
      if (performance.now() > deadlineMs) {
        throw new KeywardError("KEYRING_CONFLICT", `${name} is being changed by another process`, {
          hint: "Wait for it, load the ring again, and repeat the change.",
        });
      }
      await wait(lockRetryMs);
    }
    await work();
  } finally {
    database.close();
  }
}

function tryLock(database: { exec(statement: string): void }): boolean {
  try {
    database.exec("BEGIN EXCLUSIVE");
    return true;
  } catch (error) {
    if (error instanceof Error && "errcode" in error && error.errcode === sqliteBusy) return false;
    throw error;
  }
}
