import { type Stats, statSync } from "node:fs";
import { lstat, readFile, realpath, stat } from "node:fs/promises";
import { KeywardError, replaceFile, systemCode, whileLocked } from "@keyward/core";
import { type ApiKeyEntry, createApiKey, type NewApiKey, requireEntry, type TenantSource } from "./api-keys.ts";
import { field } from "./protocol.ts";

/** A file of API keys. A server reads the file as its {@link TenantSource}, and `keyward-kv tenants` changes the file. */
export interface TenantsFile extends TenantSource {
  /**
   * Returns the entries of all API keys, including revoked ones. Returns an empty list if the file is missing.
   *
   * @throws KeywardError `STORE_INVALID` if the file is not a file of API keys; `STORE_UNAVAILABLE` if it cannot be read.
   */
  list(): Promise<readonly ApiKeyEntry[]>;
  /**
   * Makes an API key as `createApiKey` does, and adds its entry to the file. If the file is missing, makes the file, which
   * only its owner can read.
   *
   * @throws KeywardError `VALUE_INVALID` for an invalid tenant, namespace, scope or expiry; `STORE_INVALID` and
   * `STORE_UNAVAILABLE` if the file cannot be read or changed.
   */
  add(options: NewApiKey): Promise<{ readonly apiKey: string; readonly entry: ApiKeyEntry }>;
  /**
   * Revokes the API key with this id. Running servers refuse the API key at once.
   *
   * @throws KeywardError `VALUE_INVALID` if the file has no API key with this id; `STORE_INVALID` and `STORE_UNAVAILABLE`
   * if the file cannot be read or changed.
   */
  revoke(id: string): Promise<void>;
}

/**
 * Returns a source of API keys for a server: the JSON file that `keyward-kv tenants` writes. At each request, the source
 * checks whether the file has changed, and reads a changed file again. So a revocation takes effect at once. While the
 * file is missing or invalid, every API key is refused.
 *
 * @example
 * const handler = createKvHandler({ store: new MemoryStore(), tenants: fileTenants("tenants.json") });
 */
export function fileTenants(path: string): TenantsFile {
  let checked: string | undefined;
  // Requests that arrive in one turn of the event loop share one check of the file.
  const check = () => {
    if (checked !== undefined) return checked;
    setImmediate(() => {
      checked = undefined;
    });
    checked = versionOf(path);
    return checked;
  };
  let read: { readonly version: string; readonly entries: Promise<ReadonlyMap<string, ApiKeyEntry>> } | undefined;
  return {
    async find(id) {
      const version = check();
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
    list: () => readTenants(path),
    async add(options) {
      const made = createApiKey(options);
      await changeTenants(path, (entries) => [...entries, made.entry]);
      return made;
    },
    async revoke(id) {
      await changeTenants(path, (entries) => {
        if (!entries.some((entry) => entry.id === id)) {
          // The text may be a whole API key, which is a secret, so the message does not repeat it.
          const problem = id.startsWith("kv_")
            ? "An API key was passed, and only its id is needed"
            : "The file has no API key with this id";
          throw new KeywardError("VALUE_INVALID", problem, {
            hint:
              "Pass the id of the API key, which `keyward-kv tenants list` shows: the 12 characters between kv_ and the " +
              "next underscore of the API key.",
          });
        }
        return entries.map((entry) => (entry.id === id ? { ...entry, revoked: entry.revoked ?? Date.now() } : entry));
      });
    },
  };
}

/**
 * Reads the entries of a file of API keys. Returns an empty list if the file is missing.
 *
 * @throws KeywardError `STORE_INVALID` if the file is not a file of API keys; `STORE_UNAVAILABLE` if it cannot be read.
 */
export async function readTenants(path: string): Promise<readonly ApiKeyEntry[]> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if (systemCode(error) === "ENOENT") return [];
    throw new KeywardError(
      "STORE_UNAVAILABLE",
      `The file of API keys, ${path}, cannot be read (${systemCode(error)}), so every API key is refused`,
      { hint: "Check that the path is the path of a file, and that the user who runs keyward-kv may read the file." },
    );
  }
  try {
    const document: unknown = JSON.parse(text);
    const keys = field(document, "keys");
    if (field(document, "keyward-kv") === 1 && Array.isArray(keys)) return keys.map(requireEntry);
  } catch {
    // The error is dropped: the parser's message quotes the file.
  }
  throw new KeywardError("STORE_INVALID", `The file ${path} is not a file of API keys, so every API key is refused`, {
    hint: "Check the path. If it is correct, restore the file from a backup. If there is no backup, pass the path of a new file, and make new API keys in it with `keyward-kv tenants add`.",
  });
}

/**
 * Changes a file of API keys in one step, so that a server reads either the old list or the new list. Only one process
 * at a time changes the file. The file keeps its mode and owner. If the path is a symbolic link, the link stays and the
 * file that it points to is changed.
 *
 * @param change returns the new entries. This function is called twice: before the file is locked, and while it is
 * locked.
 * @throws KeywardError like {@link readTenants}; `STORE_UNAVAILABLE` if another process holds the lock for 10 seconds,
 * or if the file cannot be replaced by a file with the same mode and owner; an error that `change` throws.
 */
export async function changeTenants(
  path: string,
  change: (entries: readonly ApiKeyEntry[]) => readonly ApiKeyEntry[],
): Promise<void> {
  const file = await fileAt(path);
  try {
    // Checked before as well, so that a change that is refused leaves no lock file.
    const guarded = await replaceableStatus(file, path);
    change(await readTenants(file));
    const codes = { held: "STORE_UNAVAILABLE", unusable: "STORE_UNAVAILABLE" } as const;
    await whileLocked(`${file}.lock`, { guarded, shownAs: path, codes }, async () => {
      const keys = change(await readTenants(file));
      const before = await replaceableStatus(file, path);
      await replaceFile(file, `${JSON.stringify({ "keyward-kv": 1, keys }, undefined, 2)}\n`, before);
    });
  } catch (error) {
    if (error instanceof KeywardError) throw error;
    throw notChanged(path, `cannot be replaced (${systemCode(error)})`, error);
  }
}

/** Returns the path with its symbolic links resolved, or the path unchanged if there is no file. */
async function fileAt(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch (error) {
    const isLink = await lstat(path).then(
      (found) => found.isSymbolicLink(),
      () => false,
    );
    if (systemCode(error) === "ENOENT" && !isLink) return path;
    const problem = isLink ? "is a symbolic link to a missing file" : `cannot be read (${systemCode(error)})`;
    throw notChanged(path, problem, error);
  }
}

/**
 * Returns the status of the file, or `undefined` if the file is missing. Rejects if the file has several names (hard
 * links), because a change replaces the file under only one of them.
 */
async function replaceableStatus(file: string, path: string): Promise<Stats | undefined> {
  const status = await stat(file).catch((error: unknown) => {
    if (systemCode(error) === "ENOENT") return undefined;
    throw error;
  });
  // A server that reads the file under another of its names would continue to see the old list.
  if (status !== undefined && status.nlink > 1)
    throw notChanged(
      path,
      "has more than one name (hard links)",
      undefined,
      "Copy the file, and pass the path of the copy to the server and to this command. A change would replace the file under only one of its names, and the server may read the file under another name.",
    );
  return status;
}

/** Returns a text that differs after each change of the file. A replaced file has another inode. */
function versionOf(path: string): string {
  try {
    const found = statSync(path, { throwIfNoEntry: false });
    return found === undefined ? "none" : `${found.ino}.${found.size}.${found.mtimeMs}.${found.ctimeMs}`;
  } catch {
    return "none";
  }
}

function notChanged(
  path: string,
  problem: string,
  cause?: unknown,
  hint = "If the path is a symbolic link, pass the path of the file itself. Otherwise, run the command as the owner of the file or as root, because the file must keep its owner and mode.",
): KeywardError {
  return new KeywardError(
    "STORE_UNAVAILABLE",
    `The file of API keys, ${path}, ${problem}, so no API key was added or revoked`,
    { hint, cause },
  );
}
