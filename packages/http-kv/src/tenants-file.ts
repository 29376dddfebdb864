import { type Stats, statSync } from "node:fs";
import { lstat, open, readFile, realpath, rm, stat } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { KeywardError, replaceFile, systemCode } from "@keyward/core";
import { type ApiKeyEntry, requireEntry, type TenantSource } from "./api-keys.ts";
import { field } from "./protocol.ts";

const lockPatienceMs = 5_000;
const lockPauseMs = 20;

/**
 * API keys from a JSON file, which `keyward-kv tenants` writes. The file is looked at with every request and read again
 * when it has changed, so that a revocation has effect at once. A file that is missing or broken lets nobody in.
 */
export function fileTenants(path: string): TenantSource {
  let looked: string | undefined;
  // Requests that arrive in one turn of the event loop share one look at the file.
  const look = () => {
    if (looked !== undefined) return looked;
    setImmediate(() => {
      looked = undefined;
    });
    looked = versionOf(path);
    return looked;
  };
  let read: { readonly version: string; readonly entries: Promise<ReadonlyMap<string, ApiKeyEntry>> } | undefined;
  return {
    async find(id) {
      const version = look();
      if (read?.version !== version) {
        const entries = readTenants(path).then((list) => new Map(list.map((entry) => [entry.id, entry])));
        const reading = { version, entries };
        read = reading;
        entries.catch(() => {
          if (read === reading) read = undefined;
        });
      }
      return (await read.entries).get(id);
    },
  };
}

/**
 * The entries of the file; none where there is no file.
 *
 * @throws KeywardError `STORE_INVALID` for a file that holds something else, `STORE_UNAVAILABLE` for one that cannot be
 * read.
 */
export async function readTenants(path: string): Promise<readonly ApiKeyEntry[]> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if (systemCode(error) === "ENOENT") return [];
    throw new KeywardError(
      "STORE_UNAVAILABLE",
      `${path} cannot be read (${systemCode(error)}), so no API key is good`,
      {
        hint: "Let the user that the server runs as read the file.",
      },
    );
  }
  try {
    const document: unknown = JSON.parse(text);
    const keys = field(document, "keys");
    if (field(document, "keyward-kv") === 1 && Array.isArray(keys)) return keys.map(requireEntry);
  } catch {
    // What the parser says would quote the file.
  }
  throw unusable(path, "is not a list of API keys", "STORE_INVALID");
}

/**
 * Changes the file in one step, one process at a time: readers find the old list or the new one. A symbolic link stays,
 * and what it points to is changed; mode and owner of the file stay as well.
 *
 * @throws KeywardError as {@link readTenants}; `STORE_UNAVAILABLE` while another process holds the lock, and for a file
 * that cannot be replaced as it is.
 */
export async function changeTenants(
  path: string,
  change: (entries: readonly ApiKeyEntry[]) => readonly ApiKeyEntry[],
): Promise<void> {
  const file = await fileAt(path);
  const lock = `${file}.lock`;
  await acquire(lock);
  try {
    const keys = change(await readTenants(file));
    const before = await statusOf(file);
    // The other names would go on showing the old list, to a server that reads one of them.
    if (before !== undefined && before.nlink > 1) throw unchanged(path, "has more than one name (hard links)");
    await replaceFile(file, `${JSON.stringify({ "keyward-kv": 1, keys }, undefined, 2)}\n`, before);
  } catch (error) {
    if (error instanceof KeywardError) throw error;
    throw unchanged(path, `cannot be replaced (${systemCode(error)})`, error);
  } finally {
    await rm(lock, { force: true });
  }
}

/** The file itself, where the path is a symbolic link. */
async function fileAt(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch (error) {
    const isLink = await lstat(path).then(
      (found) => found.isSymbolicLink(),
      () => false,
    );
    if (systemCode(error) === "ENOENT" && !isLink) return path;
    const what = isLink ? "is a symbolic link to what is not there" : `cannot be read (${systemCode(error)})`;
    throw unchanged(path, what, error);
  }
}

async function statusOf(file: string): Promise<Stats | undefined> {
  return await stat(file).catch((error: unknown) => {
    if (systemCode(error) === "ENOENT") return undefined;
    throw error;
  });
}

async function acquire(lock: string): Promise<void> {
  const deadline = performance.now() + lockPatienceMs;
  for (;;) {
    try {
      await (await open(lock, "wx", 0o600)).close();
      return;
    } catch (error) {
      if (systemCode(error) !== "EEXIST") throw unusable(lock, "cannot be made", "STORE_UNAVAILABLE");
      if (performance.now() > deadline) {
        throw new KeywardError("STORE_UNAVAILABLE", `${lock} has been there for ${lockPatienceMs} ms`, {
          hint: "Another process is changing the list, or was killed while it did: if so, remove the file.",
        });
      }
    }
    await sleep(lockPauseMs);
  }
}

/** Changes with the file: a rename makes another inode. */
function versionOf(path: string): string {
  try {
    const found = statSync(path, { throwIfNoEntry: false });
    return found === undefined ? "none" : `${found.ino}.${found.size}.${found.mtimeMs}.${found.ctimeMs}`;
  } catch {
    return "none";
  }
}

function unchanged(path: string, what: string, cause?: unknown): KeywardError {
  return new KeywardError("STORE_UNAVAILABLE", `${path} ${what}, so no API key was added or revoked`, {
    hint: "Name the file itself, and run this as its owner or as root, who can keep its owner and mode.",
    cause,
  });
}

function unusable(path: string, what: string, code: "STORE_INVALID" | "STORE_UNAVAILABLE"): KeywardError {
  return new KeywardError(code, `${path} ${what}`, {
    hint: "keyward-kv tenants makes and changes the file. Until it is whole again, nobody is let in.",
  });
}
