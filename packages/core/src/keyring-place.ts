import { constants, type Stats } from "node:fs";
import { access, open, realpath, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { hasReservedSpace, type ReservedSpace } from "./capabilities.ts";
import { KeywardError } from "./errors.ts";
import { wrapRejection } from "./inner-store.ts";

const lockWaitMs = 10_000;
const lockRetryMs = 20;
const sqliteBusy = 5;
const maxBytes = 1024 * 1024;

/** Where a keyring lies as text: wrapped, or as a document. */
export interface KeyringPlace {
  /**
   * What lies there; `undefined` where nothing does.
   *
   * @throws KeywardError `STORE_UNAVAILABLE` or `PROVIDER_UNAVAILABLE` when it cannot be read.
   */
  read(options?: { readonly signal?: AbortSignal | undefined }): Promise<string | undefined>;
  /**
   * Writes `next` if what lies there is still `expected` (`undefined`: nothing), and says whether it did.
   *
   * @throws KeywardError `STORE_UNAVAILABLE` or `PROVIDER_UNAVAILABLE` when it cannot be written.
   */
  replace(expected: string | undefined, next: string): Promise<boolean>;
}

/**
 * A place in the reserved space of a store, beside the records that the ring seals: no user key, clear or iteration
 * reaches it.
 *
 * @param name Tells several rings in one store apart.
 * @throws KeywardError `STORE_INVALID` for a store without a reserved space.
 */
export function storePlace(store: ReservedSpace, name?: string): KeyringPlace {
  if (!hasReservedSpace(store)) {
    throw new KeywardError("STORE_INVALID", "This store has no reserved space for a keyring to lie in", {
      hint: "Use a store that has reserved(), or filePlace(path).",
    });
  }
  const reserved = store.reserved();
  const key = name === undefined ? "keyring" : `keyring/${name}`;

  return {
    async read() {
      return textOf(await wrapRejection(() => reserved.get(key)));
    },
    async replace(expected, next) {
      return await wrapRejection(async () => {
        if (expected === undefined) return await reserved.replace(key, undefined, next);
        // Some stores give bytes for a text, and compare what they were given byte for byte, type included.
        const stored: unknown = await reserved.get(key);
        if (textOf(stored) !== expected) return false;
        return await reserved.replace(key, stored instanceof Uint8Array ? stored : expected, next);
      });
    },
  };
}

function textOf(stored: unknown): string | undefined {
  if (stored instanceof Uint8Array) return Buffer.from(stored).toString();
  return typeof stored === "string" ? stored : undefined;
}

/**
 * A file. A text is written beside the old one, brought to the disk and renamed over it, so a reader sees either; owner
 * and mode stay, and a new file is its owner's alone. Where the path is a link, the file it leads to is replaced.
 * Writers take turns by an operating system's lock on `<file>.lock`, an empty file that stays.
 *
 * @param options.shownAs What errors call the file, where the path itself should not be repeated.
 */
export function filePlace(path: string, options: { readonly shownAs?: string } = {}): KeyringPlace {
  const { shownAs = `The file ${JSON.stringify(path)}` } = options;

  /** The error without its cause, which repeats the path. */
  function unavailable(problem: string, error: unknown, hint: string): KeywardError {
    if (error instanceof KeywardError) return error;
    return new KeywardError("PROVIDER_UNAVAILABLE", `${shownAs} cannot be ${problem} (${systemCode(error)})`, { hint });
  }

  async function replace(expected: string | undefined, next: string): Promise<boolean> {
    const target = await whereItLeads(path);
    await access(dirname(target), constants.W_OK);
    // Asked before as well, so that no lock file is left beside what is not replaced.
    if ((await readFileAt(target, shownAs))?.text !== expected) return false;
    return await locked(`${target}.lock`, shownAs, async () => {
      const found = await readFileAt(target, shownAs);
      if (found?.text !== expected) return false;
      await replaceFile(target, next, found?.status);
      return true;
    });
  }

  return {
    async read() {
      try {
        return (await readFileAt(path, shownAs))?.text;
      } catch (error) {
        throw unavailable("read", error, "Check that it is there and that this process may read it.");
      }
    },
    async replace(expected, next) {
      try {
        return await replace(expected, next);
      } catch (error) {
        const hint = "A mounted secret is read-only: change it where it comes from. Otherwise check the permissions.";
        throw unavailable("written", error, hint);
      }
    },
  };
}

async function whereItLeads(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch (error) {
    if (systemCode(error) !== "ENOENT") throw error;
    return join(await realpath(dirname(path)), basename(path));
  }
}

async function readFileAt(
  path: string,
  shownAs: string,
): Promise<{ readonly text: string; readonly status: Stats } | undefined> {
  // Without O_NONBLOCK, opening a pipe that nobody writes to never comes back.
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK).catch((error: unknown) => {
    if (systemCode(error) === "ENOENT") return undefined;
    throw error;
  });
  if (file === undefined) return undefined;
  try {
    const status = await file.stat();
    if (status.isFile() && status.size <= maxBytes) return { text: await file.readFile("utf8"), status };
  } finally {
    await file.close();
  }
  throw new KeywardError("KEYRING_INVALID", `${shownAs} is no file of at most ${maxBytes} bytes`, {
    hint: "A keyring lies in a regular file of its own.",
  });
}

async function replaceFile(target: string, text: string, before: Stats | undefined): Promise<void> {
  // One name, since the lock is held: what a killed process left there is gone with the next change.
  const temporary = `${target}.new`;
  await rm(temporary, { force: true });
  const file = await open(temporary, "wx", 0o600);
  try {
    try {
      if (before !== undefined) {
        const { uid, gid } = await file.stat();
        // Whoever could read the old file must be able to read the new one; better no save than an unreadable ring.
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

/**
 * Runs `work` while this process alone holds the lock. The lock is SQLite's on an empty database: the operating system
 * takes it back from a process that ends, however it ends, so none is ever stale.
 */
async function locked<Result>(path: string, shownAs: string, work: () => Promise<Result>): Promise<Result> {
  const { DatabaseSync } = await import("node:sqlite");
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

function tryLock(database: { exec(statement: string): void }): boolean {
  try {
    database.exec("BEGIN EXCLUSIVE");
    return true;
  } catch (error) {
    if (error instanceof Error && "errcode" in error && error.errcode === sqliteBusy) return false;
    throw error;
  }
}

/** The system's word for what went wrong, such as ENOENT. */
function systemCode(error: unknown): string {
  return error instanceof Error && "code" in error && typeof error.code === "string" ? error.code : "unknown error";
}
