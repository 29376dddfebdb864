import { randomBytes } from "node:crypto";
import { open, readFile, rename, rm, stat } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { KeywardError } from "@keyward/core";
import { type ApiKeyEntry, requireEntry, type TenantSource } from "./api-keys.ts";
import { field } from "./protocol.ts";

const lockPatienceMs = 5_000;
const lockPauseMs = 20;

/**
 * API keys from a JSON file, which `keyward-kv tenants` writes. The file is looked at with every request and read again
 * when it has changed, so that a revocation has effect at once. A file that is missing or broken lets nobody in.
 */
export function fileTenants(path: string): TenantSource {
  let read: { readonly version: string; readonly entries: Promise<ReadonlyMap<string, ApiKeyEntry>> } | undefined;
  return {
    async find(id) {
      const version = await versionOf(path);
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
    if (field(error, "code") === "ENOENT") return [];
    throw unusable(path, "cannot be read", "STORE_UNAVAILABLE");
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
 * Changes the file in one step, one process at a time: readers find the old list or the new one.
 *
 * @throws KeywardError as {@link readTenants}; `STORE_UNAVAILABLE` while another process holds the lock.
 */
export async function changeTenants(
  path: string,
  change: (entries: readonly ApiKeyEntry[]) => readonly ApiKeyEntry[],
): Promise<void> {
  const lock = `${path}.lock`;
  await acquire(lock);
  const draft = `${path}.${randomBytes(6).toString("hex")}`;
  try {
    const keys = change(await readTenants(path));
    const file = await open(draft, "wx", 0o600);
    try {
      await file.writeFile(`${JSON.stringify({ "keyward-kv": 1, keys }, undefined, 2)}\n`);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(draft, path);
  } finally {
    await rm(draft, { force: true });
    await rm(lock, { force: true });
  }
}

async function acquire(lock: string): Promise<void> {
  const deadline = performance.now() + lockPatienceMs;
  for (;;) {
    try {
      await (await open(lock, "wx", 0o600)).close();
      return;
    } catch (error) {
      if (field(error, "code") !== "EEXIST") throw unusable(lock, "cannot be made", "STORE_UNAVAILABLE");
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
async function versionOf(path: string): Promise<string> {
  try {
    const { ino, size, mtimeNs, ctimeNs } = await stat(path, { bigint: true });
    return `${ino}.${size}.${mtimeNs}.${ctimeNs}`;
  } catch {
    return "none";
  }
}

function unusable(path: string, what: string, code: "STORE_INVALID" | "STORE_UNAVAILABLE"): KeywardError {
  return new KeywardError(code, `${path} ${what}`, {
    hint: "keyward-kv tenants makes and changes the file. Until it is whole again, nobody is let in.",
  });
}
