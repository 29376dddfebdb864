import { closeSync, existsSync, lstatSync, openSync, readSync, realpathSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { headerOf, requireAuditFormat, restoreHint, setUpSchema } from "./audit-schema.ts";
import { FileProblem } from "./file-problem.ts";

/** How an audit file is opened. */
export interface AuditFileOptions {
  readonly path: string;
  /** Whether a missing file is created. */
  readonly create: boolean;
  /** How long a call waits for a lock of another process, in milliseconds. */
  readonly busyTimeoutMs: number;
  /** The largest size of the file, without its `-wal`. `undefined` for no bound but the disk. */
  readonly maxBytes: number | undefined;
}

/** An open audit file, and its path with symbolic links resolved. */
export interface OpenAuditFile {
  readonly database: DatabaseSync;
  readonly location: string;
}

/**
 * Opens an audit file. A missing or empty file becomes a new audit file with mode 0600. A file with other content is
 * refused. A file is also refused if another user created it empty, or created a file beside it. Nothing is written to a
 * refused file.
 *
 * @throws FileProblem if the file is refused. Errors of SQLite and of the file system are thrown unchanged.
 */
export function openAuditFile({ path, create, busyTimeoutMs, maxBytes }: AuditFileOptions): OpenAuditFile {
  const location = prepareFile(resolve(path), create);
  const database = new DatabaseSync(location, { timeout: busyTimeoutMs, enableForeignKeyConstraints: false });
  try {
    // The schema may have been planted, so it may not call functions. Deleted content is overwritten with zeros.
    database.exec("PRAGMA trusted_schema = OFF; PRAGMA secure_delete = ON; PRAGMA cell_size_check = ON");
    setUpSchema(location, database);
    database.exec("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL");
    if (maxBytes !== undefined) {
      const pageBytes = Number(database.prepare("PRAGMA page_size").get()?.["page_size"]);
      database.exec(`PRAGMA max_page_count = ${Math.max(1, Math.floor(maxBytes / pageBytes))}`);
    }
    // Checked again, because SQLite has now opened or created the files beside the database.
    requireOwnCompanions(location);
    return { database, location };
  } catch (error) {
    database.close();
    throw error;
  }
}

function prepareFile(path: string, create: boolean): string {
  const status = statSync(path, { throwIfNoEntry: false });
  if (status === undefined) {
    if (lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() === true) {
      throw new FileProblem(
        "refused",
        `${path} is a symbolic link to a file that does not exist`,
        "If the target of the link is on a file system that is not mounted, mount that file system. Otherwise pass the " +
          "path of the file instead of the link.",
      );
    }
    if (!create) {
      throw new FileProblem(
        "unavailable",
        `There is no audit file at ${path}`,
        "Pass the path of the audit file. If the file was moved or removed, put it back, or restore a backup.",
      );
    }
    createPrivate(path);
    // Another process may have created the file first, so the file and its companions are still checked.
    return prepareFile(path, create);
  }
  const location = realpathSync(path);
  if (!status.isFile()) {
    throw new FileProblem("unavailable", `${path} is not a regular file`, "Pass the path of a regular file.");
  }
  requireOwnCompanions(location);
  if (status.size > 0) requireAuditHeader(location);
  else if (!isOwnedBy(status, statSync(dirname(location)).uid)) {
    throw new FileProblem(
      "refused",
      `${location} is an empty file that belongs to another user`,
      "Pass a path in a folder that only the user of this process can write to.",
    );
  }
  return location;
}

/** Refuses files beside the database through which another user could read or forge writes. */
function requireOwnCompanions(location: string): void {
  const { uid, mode } = statSync(location);
  for (const suffix of ["-wal", "-shm", "-journal"]) {
    const status = lstatSync(location + suffix, { throwIfNoEntry: false });
    if (status === undefined) continue;
    if (!status.isFile()) {
      throw new FileProblem(
        "refused",
        `${location}${suffix} is not a regular file`,
        "SQLite creates only regular files at this path. Stop every process that uses the database, then move the link, " +
          "pipe or directory at this path away.",
      );
    }
    // If several users may write to the database, each of them may have created these files.
    if ((mode & 0o022) !== 0 || isOwnedBy(status, uid)) continue;
    throw new FileProblem(
      "refused",
      `${location}${suffix} belongs to another user`,
      "Find out which program created this file. If that program uses the database, keep the file, because it may hold " +
        "the last entries, and change its owner to the owner of the database. Otherwise stop every process that uses " +
        "the database, then move the file away.",
    );
  }
}

function requireAuditHeader(location: string): void {
  // While a process has the file open in WAL mode, only SQLite may read it. POSIX drops all locks that a process holds
  // on a file when the process closes any descriptor of it, including the locks of its other threads.
  if (existsSync(`${location}-shm`)) {
    const database = new DatabaseSync(location, { readOnly: true, timeout: 20 });
    try {
      requireAuditFormat(location, headerOf(database));
    } finally {
      database.close();
    }
    return;
  }
  // SQLite would leave a -wal and a -shm beside a file that is not Keyward's.
  const header = Buffer.alloc(100);
  const file = openSync(location, "r");
  try {
    readSync(file, header, 0, header.length, 0);
  } finally {
    closeSync(file);
  }
  if (header.toString("latin1", 0, 16) !== "SQLite format 3\0") {
    throw new FileProblem("refused", `${location} is not a SQLite database`, restoreHint);
  }
  requireAuditFormat(location, { applicationId: header.readUInt32BE(68), version: header.readUInt32BE(60) });
}

function createPrivate(location: string): void {
  try {
    closeSync(openSync(location, "wx", 0o600));
  } catch (error) {
    const code = error instanceof Error && "code" in error ? error.code : undefined;
    if (code === "EEXIST") return;
    if (code !== "ENOENT") throw error;
    throw new FileProblem(
      "unavailable",
      `${location} cannot be created: its folder does not exist`,
      "If the folder is on a volume that is not mounted, mount the volume. Otherwise create the folder with " +
        `\`mkdir -p ${dirname(location)}\``,
      { cause: error },
    );
  }
}

function isOwnedBy({ uid }: { readonly uid: number }, owner: number): boolean {
  const own = process.geteuid?.();
  return own === undefined || uid === own || uid === 0 || uid === owner;
}
