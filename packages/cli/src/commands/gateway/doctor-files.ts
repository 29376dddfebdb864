import type { Stats } from "node:fs";
import { lstat, readdir, realpath, stat } from "node:fs/promises";
import { basename, dirname, join, parse } from "node:path";
import { isOwnedBy, systemCode } from "@keyward/core";
import type { Config } from "../../configuration/config.ts";
import { mayOthersWrite } from "../../configuration/config-file.ts";
import { ignoresAll } from "../../files/git-ignore.ts";
import { isFormerTokenFile, isTokenFile } from "../../service/first-tokens.ts";
import { auditPath } from "../../service/local-service.ts";
import { sqlitePath } from "../../service/used-stores.ts";
import { type Finding, good, problem, warning } from "./finding.ts";

const ownFolder = ".keyward";
/** With this bit in the mode of a folder, only the owner of a file may replace the file. */
const sticky = 0o1000;

/**
 * Checks that only the user of the service can use the files of the service, and that this user can write to the stores.
 * In a folder `.keyward`, checks all files. In another folder, checks only the files that the configuration names. Also checks
 * the folders above.
 *
 * @param keyring the path of the keyring; `undefined` if the keyring is not in a file.
 */
export async function checkFiles(config: Config, keyring: string | undefined): Promise<readonly Finding[]> {
  const audit = auditPath(config);
  const folder = dirname(audit);
  const isOwnFolder = basename(folder) === ownFolder;
  const names = await readdir(folder).catch(() => []);
  const stores = [audit, sqlitePath(config, "service")].filter((path) => path !== undefined);
  const keyrings = keyring === undefined ? [] : await withTarget(keyring, isOwnFolder ? folder : undefined);
  const beside = isOwnFolder ? names.filter((name) => name !== ".gitignore").map((name) => join(folder, name)) : [];
  const findings: Finding[] = [];
  const written = new Set(stores.map(dirname));
  const folders = new Set([...written, ...keyrings.map(dirname)]);
  for (const path of folders) {
    findings.push(...(await checkFolder(path, isOwnFolder && path === folder, written.has(path))));
  }
  for (const path of await foldersAbove(folders)) findings.push(...(await checkAbove(path)));
  for (const path of new Set([...stores, ...keyrings, ...beside])) {
    findings.push(...(await checkFile(path, stores.includes(path), beside.includes(path))));
  }
  if (isOwnFolder && names.length > 0 && !(await ignoresAll(join(folder, ".gitignore")))) {
    // The file may contain other lines, and its last line may have no line end.
    const hint = `\`printf '\\n*\\n' >> ${join(folder, ".gitignore")}\`. If a commit has the keyring already, rotate the keys: \`keyward rotate\`.`;
    findings.push(warning("files", `Git may keep the files of ${folder}`, hint));
  }
  // A stopped command may have left the tokens in an unfinished file.
  for (const name of names.filter((one) => isTokenFile(one, audit) || isFormerTokenFile(one))) {
    const hint = "Delete the file after its tokens were used: keep them in a password manager.";
    findings.push(warning("files", `${join(folder, name)} has the first tokens`, hint));
  }
  return findings.length > 0 ? findings : [good("files", `only you can use the files of ${folder}`)];
}

/** Returns the path of a keyring. If the path is a link outside of the folder of the service, returns the target of the link. */
async function withTarget(path: string, folder: string | undefined): Promise<readonly string[]> {
  const target = await realpath(path).catch(() => path);
  const isLink = await lstat(path).then(
    (status) => status.isSymbolicLink(),
    () => false,
  );
  return isLink && dirname(path) !== folder ? [target] : [path];
}

async function checkFolder(path: string, isOwn: boolean, isWritten: boolean): Promise<readonly Finding[]> {
  const status = await statusOf(path, isOwn ? lstat : stat);
  if (typeof status === "string") {
    const hint =
      "Check that its volume is mounted, or restore a backup. For a new service, run `keyward gateway init`.";
    return [problem("files", `the folder ${path} cannot be used (${status})`, hint)];
  }
  if (process.platform === "win32") return [];
  if (!status.isDirectory() || !isOwnedBy(status)) {
    const hint = "Find out who made it. Replace it by a folder that belongs to the user of the service.";
    return [problem("files", `${path} ${strangeness(status, "a folder")}`, hint)];
  }
  // In a folder with other files, other users may read the files, but must not be able to replace them.
  if (isOwn ? (status.mode & 0o077) !== 0 : mayOthersWrite(status)) {
    const hint = isOwn
      ? `\`chmod 700 ${path}\``
      : `If nobody else needs to write there: \`chmod go-w ${path}\`. Otherwise move the files into a folder of their own.`;
    return [problem("files", `other users may read or change ${path}`, hint)];
  }
  if (!isWritten || (status.mode & 0o700) === 0o700) return [];
  return [problem("files", `the service cannot write to ${path}`, `\`chmod ${isOwn ? "700" : "u+rwx"} ${path}\``)];
}

/**
 * Checks a folder above those of the service, because a user who may rename its entries can replace the folder of the
 * service.
 */
async function checkAbove(path: string): Promise<readonly Finding[]> {
  const status = await statusOf(path, stat);
  if (typeof status === "string" || process.platform === "win32") return [];
  // In a container, the root folder may belong to a user of the host.
  const isStrange = !isOwnedBy(status) && path !== parse(path).root;
  if (!isStrange && (!mayOthersWrite(status) || (status.mode & sticky) !== 0)) return [];
  const hint = isStrange
    ? "Move the service into a folder whose parent folders belong to the user of the service or to root."
    : `If nobody else needs to write there: \`chmod go-w ${path}\`. Otherwise move the service elsewhere.`;
  return [problem("files", `other users may replace what is in ${path}`, hint)];
}

async function checkFile(path: string, isStore: boolean, isBeside: boolean): Promise<readonly Finding[]> {
  const status = await statusOf(path, lstat);
  // The checks of the stores and of the keys report a missing file.
  if (typeof status === "string" || process.platform === "win32") return [];
  const isFolder = isBeside && status.isDirectory();
  if (!(status.isFile() || isFolder) || !isOwnedBy(status)) {
    const hint = "Find out who made it. Replace it by a regular file that belongs to the user of the service.";
    return [problem("files", `${path} ${strangeness(status, "a file")}`, hint)];
  }
  const hint = `\`chmod ${isFolder ? "700" : "600"} ${path}\``;
  if ((status.mode & 0o077) !== 0) return [problem("files", `other users may read or change ${path}`, hint)];
  const needed = isStore ? 0o600 : 0o400;
  if ((status.mode & needed) !== needed) return [problem("files", `the service cannot use ${path}`, hint)];
  if (isFolder || status.nlink === 1) return [];
  const find = `Find its other names with \`find / -xdev -samefile ${path}\`, and remove those that you do not need.`;
  return [warning("files", `${path} has ${status.nlink} names (hard links)`, find)];
}

/** Returns why something is not usable: it is a link, belongs to another user, or is of another kind than expected. */
function strangeness(status: Stats, expected: string): string {
  if (status.isSymbolicLink()) return "is a link";
  if (!isOwnedBy(status)) return "belongs to another user";
  return status.isDirectory() ? "is a folder" : `is not ${expected}`;
}

async function statusOf(path: string, ask: (path: string) => Promise<Stats>): Promise<Stats | string> {
  return await ask(path).catch(systemCode);
}

/** Returns all folders above the given folders: above each path as it is written, and above the path with its links resolved. */
async function foldersAbove(folders: ReadonlySet<string>): Promise<ReadonlySet<string>> {
  const above = new Set<string>();
  for (const folder of folders) {
    for (const path of [folder, await realpath(folder).catch(() => folder)]) {
      for (let at = dirname(path); !folders.has(at); at = dirname(at)) {
        above.add(at);
        if (at === parse(at).root) break;
      }
    }
  }
  return above;
}
