import type { Stats } from "node:fs";
import { lstat, readdir } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { isOwnedBy } from "@keyward/core";
import type { Config } from "../../configuration/config.ts";
import { auditPath } from "../../service/local-service.ts";
import { sqlitePath } from "../../service/used-stores.ts";
import { type Finding, good, problem } from "./finding.ts";

const ownFolder = ".keyward";

/**
 * Checks that only the user of the service can use the files of the service, and that this user can write to the stores.
 * Looks at all files of a folder `.keyward`, and elsewhere at those that the configuration names.
 */
export async function checkFiles(config: Config): Promise<readonly Finding[]> {
  const audit = auditPath(config);
  const folder = dirname(audit);
  const isOwnFolder = basename(folder) === ownFolder;
  const names = await readdir(folder).catch(() => []);
  const stores = [audit, sqlitePath(config, "service")].filter((path) => path !== undefined);
  const beside = isOwnFolder ? names.filter((name) => name !== ".gitignore").map((name) => join(folder, name)) : [];
  const findings: Finding[] = [];
  for (const path of new Set([folder, ...stores, ...keyringPaths(config), ...beside])) {
    const status = await lstat(path).catch(() => undefined);
    // That a file is missing is a problem of its store or of the keys.
    if (status === undefined || process.platform === "win32") continue;
    const mistake = mistakeOf(status, path === folder, isOwnFolder, stores.includes(path));
    if (mistake === undefined) continue;
    const hint =
      mistake === "mode"
        ? `\`chmod ${path === folder ? "700" : "600"} ${path}\``
        : `Find out who made it. Put ${path === folder ? "a folder" : "the file itself"} of the user of the service in its place.`;
    const shown = mistake === "mode" ? modeProblem(status, path) : `${path} is a link, or belongs to another user`;
    findings.push(problem("files", shown, hint));
  }
  // A stopped command may have left the tokens in an unfinished file.
  for (const name of names.filter((one) => one.startsWith("first-tokens-"))) {
    const hint = "Delete the file after its tokens were used: keep them in a password manager.";
    const message = `${join(folder, name)} has the first tokens`;
    findings.push({ level: "warning", subject: "files", message, hint, code: null });
  }
  return findings.length > 0 ? findings : [good("files", `only you can use the files of ${folder}`)];
}

function mistakeOf(
  status: Stats,
  isFolder: boolean,
  isOwnFolder: boolean,
  isStore: boolean,
): "mode" | "place" | undefined {
  const isPlain = isFolder ? status.isDirectory() : status.isFile();
  if (!isPlain || !isOwnedBy(status)) return "place";
  // The folder of a configuration may have other files, which others may read, and never write.
  const forbidden = isFolder && !isOwnFolder ? 0o022 : 0o077;
  const needed = isFolder ? 0o700 : isStore ? 0o600 : 0o400;
  return (status.mode & forbidden) !== 0 || (status.mode & needed) !== needed ? "mode" : undefined;
}

function modeProblem({ mode }: Stats, path: string): string {
  return (mode & 0o077) === 0 ? `the service cannot write to ${path}` : `other users may read or change ${path}`;
}

/** Returns the path of a keyring in a file. */
function keyringPaths(config: Config): readonly string[] {
  const { keys } = config.settings;
  const source = typeof keys === "string" ? keys.trim() : "";
  return source.startsWith("file:") ? [config.pathOf(source.slice("file:".length))] : [];
}
