import { constants } from "node:fs";
import { access, readFile, realpath } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { KeywardError } from "../errors/errors.ts";
import { requireOptions } from "../errors/options.ts";
import { whileLocked } from "../files/file-lock.ts";
import { type FoundFile, hintForWriting, readSmallFile, replaceFile, systemCode } from "../files/private-file.ts";
import { hasReservedSpace, type ReservedSpace } from "../store-interface/capabilities.ts";
import { wrapRejection } from "../store-interface/inner-store.ts";

/** What the system says where a file cannot be changed from here, whatever is done on its disk. */
const readOnlyCodes: ReadonlySet<string> = new Set(["EROFS", "EACCES", "EPERM", "EBUSY"]);

/** Where a keyring lies as text: wrapped, or as a document. */
export interface KeyringLocation {
  /**
   * What lies there; `undefined` where nothing does.
   *
   * @throws KeywardError `STORE_UNAVAILABLE` or `PROVIDER_UNAVAILABLE` when it cannot be read.
   */
  read(options?: { readonly signal?: AbortSignal | undefined }): Promise<string | undefined>;
  /**
   * Writes `next` if what lies there is still `expected` (`undefined`: nothing), and says whether it did.
   *
   * @throws KeywardError `STORE_UNAVAILABLE` or `PROVIDER_UNAVAILABLE` when it cannot be written; `PROVIDER_READ_ONLY` when
   * it cannot be changed from here.
   */
  replace(expected: string | undefined, next: string): Promise<boolean>;
  /**
   * Checks that {@link KeyringLocation.replace} can write, and writes nothing. Absent where that cannot be told before.
   *
   * @throws KeywardError `PROVIDER_READ_ONLY`.
   */
  requireWritable?(): Promise<void>;
}

/**
 * A place in the reserved space of a store, beside the records that the ring seals: no user key, clear or iteration
 * reaches it.
 *
 * @param name Tells several rings in one store apart.
 * @throws KeywardError `STORE_INVALID` for a store without a reserved space.
 */
export function storeLocation(store: ReservedSpace, name?: string): KeyringLocation {
  if (!hasReservedSpace(store)) {
    throw new KeywardError("STORE_INVALID", "This store has no reserved space for a keyring to lie in", {
      hint: "Use a store that has reserved(), or fileLocation(path).",
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
 * Writers take turns by an operating system's lock on `<file>.lock`, an empty file that stays, and that only those can
 * open who may write the file. Let nobody write to the folder who may not change the keyring.
 *
 * @param options.shownAs What errors call the file, where the path itself should not be repeated.
 */
export function fileLocation(path: string, options: { readonly shownAs?: string } = {}): KeyringLocation {
  const { shownAs = `The file ${JSON.stringify(path)}` } = requireOptions("fileLocation", options, { shownAs: true });

  /** The error without its cause, which repeats the path. */
  function unavailable(problem: string, error: unknown, hint: string): KeywardError {
    if (error instanceof KeywardError) return error;
    return new KeywardError("PROVIDER_UNAVAILABLE", `${shownAs} cannot be ${problem} (${systemCode(error)})`, { hint });
  }

  function notWritten(error: unknown): KeywardError {
    const hint = hintForWriting(error) ?? "Check the path and the disk, and try again.";
    const failed = unavailable("written", error, hint);
    if (failed === error || !readOnlyCodes.has(systemCode(error))) return failed;
    return new KeywardError("PROVIDER_READ_ONLY", failed.message, { hint });
  }

  async function replace(expected: string | undefined, next: string): Promise<boolean> {
    const target = await whereItLeads(path);
    await access(dirname(target), constants.W_OK);
    // Asked before as well, so that no lock file is left beside what is not replaced.
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
        throw unavailable("read", error, "Check that it is there and that this process may read it.");
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
        const target = await whereItLeads(path);
        await access(dirname(target), constants.W_OK);
        if (await isMountPoint(target)) throw Object.assign(new Error("A mount point"), { code: "EBUSY" });
      } catch (error) {
        throw notWritten(error);
      }
    },
  };
}

/** Whether a file is a mount of its own, over which no other can be renamed. Only Linux says so. */
async function isMountPoint(path: string): Promise<boolean> {
  const mounts = await readFile("/proc/self/mountinfo", "utf8").catch(() => "");
  return mounts.split("\n").some((line) => {
    const at = line.split(" ")[4] ?? "";
    return at.replace(/\\(\d{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8))) === path;
  });
}

async function whereItLeads(path: string): Promise<string> {
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
  throw new KeywardError("KEYRING_INVALID", `${shownAs} is no file of at most 1 MiB`, {
    hint: "A keyring lies in a regular file of its own.",
  });
}
