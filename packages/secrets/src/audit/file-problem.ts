/**
 * Why the audit file cannot be used. Thrown in the worker thread, which imports no other package.
 *
 * - `refused`: the file is not an audit file, or it was changed by another program.
 * - `unavailable`: the file cannot be read or written now.
 */
export class FileProblem extends Error {
  override readonly name = "FileProblem";
  readonly kind: "refused" | "unavailable";
  /** An instruction for the person who reads the error. */
  readonly hint: string;

  constructor(kind: "refused" | "unavailable", message: string, hint: string, options?: { readonly cause: unknown }) {
    super(message, options);
    this.kind = kind;
    this.hint = hint;
  }
}

/** Thrown to roll back a transaction whose names, chains or workspaces are not in the file as its batch expects. */
export class MissingNames extends Error {
  readonly tags: readonly string[];

  constructor(tags: readonly string[]) {
    super("Names are missing in the dictionary");
    this.tags = tags;
  }
}

/** Primary result codes of SQLite. */
const primaryCodes = {
  busy: 5,
  locked: 6,
  readOnly: 8,
  ioError: 10,
  corrupt: 11,
  full: 13,
  cannotOpen: 14,
  notADatabase: 26,
};

/**
 * Returns a FileProblem for an error of SQLite or of the file system, with a hint for the person who repairs the file.
 */
export function describeProblem(path: string, error: unknown): FileProblem {
  if (error instanceof FileProblem) return error;
  const unavailable = (message: string, hint: string) =>
    new FileProblem("unavailable", message, hint, { cause: error });
  switch (codeOf(error)) {
    case primaryCodes.corrupt:
    case primaryCodes.notADatabase:
      return new FileProblem(
        "refused",
        `${path} is damaged`,
        "Stop every process that uses the file. Copy the file together with its `-wal` and `-shm`, then restore a backup.",
        { cause: error },
      );
    case primaryCodes.busy:
    case primaryCodes.locked:
      return unavailable(
        `Another process keeps ${path} locked`,
        "Find the process that holds a long transaction on the file, and end that transaction. Do not remove the files " +
          "`-wal` and `-shm` beside the file, because they hold the last entries.",
      );
    case primaryCodes.full:
    case "ENOSPC":
    case "EDQUOT":
      return unavailable(
        `There is no space left for ${path}`,
        "Free space on the disk of the file, raise the quota of its user or the option `maxBytes`, or remove old entries by a shorter retention. Do not remove the files `-wal` and `-shm` " +
          "beside the file, because they hold the last entries.",
      );
    case primaryCodes.readOnly:
    case primaryCodes.cannotOpen:
    case "EACCES":
    case "EPERM":
    case "EROFS":
      return unavailable(
        `${path} cannot be opened for writing`,
        "Give the user of this process permission to read and write the file, its `-wal` and its `-shm`, and to write to " +
          "its folder. If the file system is mounted read-only, mount it for writing.",
      );
    case primaryCodes.ioError:
      return unavailable(
        `The disk failed while reading or writing ${path}`,
        "Copy the file together with its `-wal` to another disk. Then look for errors of this disk in the system's log.",
      );
    default:
      return unavailable(
        `SQLite could not read or write ${path}`,
        "Check the disk, and the permissions of the file and of its folder. The property `cause` has SQLite's message.",
      );
  }
}

/** Returns whether an error says that another connection has the file locked. */
export function isBusy(error: unknown): boolean {
  const code = codeOf(error);
  return code === primaryCodes.busy || code === primaryCodes.locked;
}

function codeOf(error: unknown): number | string | undefined {
  if (!(error instanceof Error)) return undefined;
  if ("errcode" in error && typeof error.errcode === "number") return error.errcode & 0xff;
  return "code" in error && typeof error.code === "string" ? error.code : undefined;
}
