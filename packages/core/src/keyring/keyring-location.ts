import { constants } from "node:fs";
import { access, readFile, realpath } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { KeywardError } from "../errors/errors.ts";
import { requireOptions } from "../errors/options.ts";
import { whileLocked } from "../files/file-lock.ts";
import { type FoundFile, hintForWriting, readSmallFile, replaceFile, systemCode } from "../files/private-file.ts";
import { hasReservedSpace, type ReservedSpace } from "../store-interface/store-capabilities.ts";
import { wrapRejection } from "../store-interface/wrapped-store.ts";

/**
 * The system's error codes for a file that this process is not allowed to change. Freeing disk space or trying again
 * does not help.
 */
const readOnlyCodes: ReadonlySet<string> = new Set(["EROFS", "EACCES", "EPERM", "EBUSY"]);

/**
 * A place that stores a keyring as text, such as a file or a key in the reserved space of a store. The text is a
 * keyring document, or a wrapped (encrypted) keyring.
 */
export interface KeyringLocation {
  /**
   * Reads the stored text; `undefined` if nothing is stored.
   *
   * @throws KeywardError `STORE_UNAVAILABLE` or `PROVIDER_UNAVAILABLE` if the text cannot be read.
   */
  read(options?: { readonly signal?: AbortSignal | undefined }): Promise<string | undefined>;
  /**
   * Replaces the stored text with `next`, but only if the stored text is still `expected`. If `expected` is
   * `undefined`, writes `next` only if no text is stored.
   *
   * @returns true if `next` was written; false if the stored text is not `expected`.
   * @throws KeywardError
   * - `STORE_UNAVAILABLE` or `PROVIDER_UNAVAILABLE` if the text cannot be written;
   * - `PROVIDER_READ_ONLY` if this process cannot write to the location.
   */
  replace(expected: string | undefined, next: string): Promise<boolean>;
  /**
   * Checks that {@link KeyringLocation.replace} can write to the location, but writes nothing. Absent if nothing but a
   * real write can show whether this process may write.
   *
   * @throws KeywardError `PROVIDER_READ_ONLY` if this process cannot write to the location.
   */
  requireWritable?(): Promise<void>;
}

/**
 * Returns a location in the reserved space of a store, which also contains the records that the keyring encrypts. The
 * application cannot reach the reserved space: not with any key, not with `clear`, and not by iteration.
 *
 * @param name The name of the location, if several keyrings are in one store. Default: the location without a name.
 * @throws KeywardError `STORE_INVALID` for a store without a reserved space.
 * @example
 * const keys = wrappedKeys(wrapper, storeLocation(store, "production"));
 * await keys.create(Keyring.generate("2026-11"));
 */
export function storeLocation(store: ReservedSpace, name?: string): KeyringLocation {
  if (!hasReservedSpace(store)) {
    throw new KeywardError(
      "STORE_INVALID",
      "A keyring can be stored only in the reserved space of a store, and this store has none",
      {
        hint: "Use a store that has the method `reserved()`, such as the stores of Keyward. If your store has no such method, store the keyring in a file with `fileLocation(path)`.",
      },
    );
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
        // Some stores return a text as bytes. Such a store replaces the text only if the expected value is these bytes.
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
 * Returns a location in a file.
 *
 * - The new text is written to a file beside the existing file, synced to the disk and renamed over the existing file.
 *   A reader sees either the old text or the new text.
 * - An existing file keeps its owner and mode. A new file can be read only by its owner.
 * - If the path is a symbolic link, the file that the link leads to is replaced.
 * - A writer changes the file only while it holds a lock of the operating system on `<file>.lock`. This empty lock file
 *   remains after the write. Only users who may write the keyring file can open the lock file.
 *
 * Give write access to the folder only to users who may change the keyring.
 *
 * @param options.shownAs The name of the file in error messages. Default: "The file" and its path.
 * @example
 * const keys = wrappedKeys(wrapper, fileLocation("production.wrapped"));
 * await keys.create(Keyring.generate("2026-11"));
 */
export function fileLocation(path: string, options: { readonly shownAs?: string } = {}): KeyringLocation {
  const { shownAs = `The file ${JSON.stringify(path)}` } = requireOptions("fileLocation", options, { shownAs: true });

  /**
   * Returns the error `PROVIDER_UNAVAILABLE`. The error has no `cause`: the system's error would show the path of the
   * file, which `shownAs` may replace on purpose.
   */
  function unavailable(problem: string, error: unknown, hint: string): KeywardError {
    if (error instanceof KeywardError) return error;
    return new KeywardError("PROVIDER_UNAVAILABLE", `${shownAs} cannot be ${problem} (${systemCode(error)})`, { hint });
  }

  function notWritten(error: unknown): KeywardError {
    const hint = hintForWriting(error) ?? "Check the path and the disk, and repeat the call.";
    const failed = unavailable("written", error, hint);
    if (failed === error || !readOnlyCodes.has(systemCode(error))) return failed;
    return new KeywardError("PROVIDER_READ_ONLY", failed.message, { hint });
  }

  async function replace(expected: string | undefined, next: string): Promise<boolean> {
    const target = await targetOf(path);
    await access(dirname(target), constants.W_OK);
    // Compare before locking, too, so that a call that replaces nothing creates no lock file.
    const before = await readFileAt(target, shownAs);
    if (before?.text !== expected) return false;
    const lock = {
      guarded: before?.status,
      shownAs,
      codes: { held: "KEYRING_CONFLICT", unusable: "PROVIDER_UNAVAILABLE" },
    } as const;
    return await whileLocked(`${target}.lock`, lock, async () => {
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
        throw unavailable("read", error, "Check that the file exists and that this process may read it.");
      }
    },
    async replace(expected, next) {
      try {
        return await replace(expected, next);
      } catch (error) {
        throw notWritten(error);
      }
    },
    async requireWritable() {
      try {
        const target = await targetOf(path);
        await access(dirname(target), constants.W_OK);
        if (await isMountPoint(target)) throw Object.assign(new Error("A mount point"), { code: "EBUSY" });
      } catch (error) {
        throw notWritten(error);
      }
    },
  };
}

/**
 * Returns whether a file is a mount point, as a single file mounted into a container is. No file can be renamed over a
 * mount point. Always returns false on systems other than Linux.
 */
async function isMountPoint(path: string): Promise<boolean> {
  const mounts = await readFile("/proc/self/mountinfo", "utf8").catch(() => "");
  return mounts.split("\n").some((line) => {
    const mountPoint = line.split(" ")[4] ?? "";
    return (
      mountPoint.replace(/\\(\d{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8))) === path
    );
  });
}

/**
 * Follows the symbolic links of a path, and returns the path of the file that they lead to. The file need not exist.
 */
async function targetOf(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch (error) {
    if (systemCode(error) !== "ENOENT") throw error;
    return join(await realpath(dirname(path)), basename(path));
  }
}

async function readFileAt(path: string, shownAs: string): Promise<FoundFile | undefined> {
  const found = await readSmallFile(path, { followsLink: true });
  if (found !== "unfit") return found;
  throw new KeywardError("KEYRING_INVALID", `${shownAs} is not a regular file of at most 1 MiB`, {
    hint: "Give the path of a regular file that contains only the keyring.",
  });
}
