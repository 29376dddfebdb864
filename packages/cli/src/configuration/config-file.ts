import { constants, type Stats } from "node:fs";
import { lstat, readFile, stat } from "node:fs/promises";
import { registerHooks } from "node:module";
import { homedir } from "node:os";
import { basename, dirname, join, parse, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { isOwnedBy, KeywardError, systemCode } from "@keyward/core";
import { pathExists } from "../files/path-exists.ts";
import { Config } from "./config.ts";
import { requireConfigOptions } from "./config-mistakes.ts";

/** The names that a configuration file may have. A folder may contain only one such file. */
export const configFileNames = ["keyward.config.ts", "keyward.config.js", "keyward.config.json"] as const;

/** Options of {@link loadConfig}: where the search for the configuration file begins, and which environment applies. */
export interface LoadConfigOptions {
  /** The folder in which the search begins. Default: the folder of the process. */
  readonly from?: string;
  /** The name of the environment. Default: `KEYWARD_ENV`, or none. */
  readonly environment?: string;
}

/**
 * Finds the configuration file, and loads it. The search goes upwards from a folder to the first folder with a
 * `package.json` or a `.git`, or to the home directory of the user. A TypeScript or JavaScript file is code, so the file is
 * refused if another user could have changed it.
 *
 * @returns the configuration; `undefined` if there is no file.
 * @throws KeywardError `VALUE_INVALID` if the file has mistakes, if two files are in one folder, or if other users may write
 * to the file or to a folder that was searched.
 */
export async function findConfig({
  from = process.cwd(),
  environment = process.env["KEYWARD_ENV"],
}: LoadConfigOptions = {}): Promise<{ readonly config: Config; readonly path: string } | undefined> {
  const path = await findFile(resolve(from));
  if (path === undefined) return undefined;
  const options = path.endsWith(".json") ? await readJson(path) : await importConfig(path);
  return { config: configOf(options, path, environment), path };
}

/**
 * Returns the configuration in the nearest configuration file, for an application whose configuration is JSON.
 *
 * @throws KeywardError `VALUE_INVALID` if there is no file, and as {@link findConfig}.
 * @example
 * import { writeFile } from "node:fs/promises";
 * import { createKeyv } from "@keyward/core";
 * import { loadConfig } from "keyward";
 *
 * const content = { keys: "env:APP_ENCRYPTION_KEY", stores: { sessions: "memory:" } };
 * await writeFile("keyward.config.json", JSON.stringify(content));
 * const config = await loadConfig();
 * const sessions = createKeyv({ ...(await config.store("sessions")), namespace: "sessions" });
 */
export async function loadConfig(options: LoadConfigOptions = {}): Promise<Config> {
  const found = await findConfig(options);
  if (found !== undefined) return found.config;
  throw new KeywardError("VALUE_INVALID", "No configuration file was found", {
    hint: "Make one with `keyward init`, or run the program in a folder below the folder of keyward.config.json.",
  });
}

async function findFile(from: string): Promise<string | undefined> {
  const passed: string[] = [];
  for (let folder = from; ; folder = dirname(folder)) {
    passed.push(folder);
    const found: string[] = [];
    for (const name of configFileNames) if (await pathExists(join(folder, name))) found.push(join(folder, name));
    const [path, other] = found;
    if (path !== undefined) {
      if (other !== undefined) {
        throw invalid(
          folder,
          `The folder has both ${basename(path)} and ${basename(other)}`,
          "Remove one of the two files.",
        );
      }
      await requireOwn(path, passed);
      return path;
    }
    const isLast = folder === homedir() || folder === parse(folder).root;
    if (isLast || (await pathExists(join(folder, "package.json"))) || (await pathExists(join(folder, ".git"))))
      return undefined;
  }
}

/**
 * Checks that only this user and root may change the packages that a file in this folder can import. Node.js looks for
 * packages in every folder above, even above the folders that are searched for a configuration file.
 */
export async function requireOwnPackages(folder: string): Promise<void> {
  if (process.platform === "win32") return;
  for (let above = folder; ; above = dirname(above)) {
    for (const name of ["node_modules", "package.json"]) {
      const place = join(above, name);
      const status = await stat(place).catch(() => undefined);
      if (status === undefined || (isOwnedBy(status) && !mayOthersWrite(status))) continue;
      throw invalid(
        place,
        "Other users may change the packages that a configuration file here can import",
        "Use keyward.config.json, which imports nothing, or work in a folder whose parent folders only you and root can change.",
      );
    }
    if (above === parse(above).root) return;
  }
}

/** Checks that only this user and root may change the configuration file and the folders that were searched. */
async function requireOwn(path: string, folders: readonly string[]): Promise<void> {
  if (process.platform === "win32") return;
  // A link may lead to a file in another folder, which others may replace.
  if ((await lstat(path)).isSymbolicLink()) {
    throw invalid(path, "The configuration file is a symbolic link", "Put the file itself into the folder.");
  }
  if (!(await lstat(path)).isFile()) {
    throw invalid(path, "The configuration file is not a regular file", "Put a regular file at this path.");
  }
  for (const place of [path, ...folders]) {
    const status = await stat(place);
    const hint = `The configuration is code that runs with your keys. If ${place} is yours, remove the write permission of other users: \`chmod go-w\`. Otherwise do not trust the configuration: run the command in another folder.`;
    if (!isOwnedBy(status)) throw invalid(place, "Another user owns the configuration file or its folder", hint);
    if (mayOthersWrite(status))
      throw invalid(place, "Other users may write to the configuration file or its folder", hint);
  }
}

/** Returns whether other users may write to a file or a folder. */
export function mayOthersWrite({ mode, uid, gid }: Stats): boolean {
  if ((mode & constants.S_IWOTH) !== 0) return true;
  // On many systems each user has a group of their own with the same number, and may let this group write.
  return (mode & constants.S_IWGRP) !== 0 && gid !== uid;
}

async function readJson(path: string): Promise<unknown> {
  const text = await readFile(path, "utf8").catch((error: unknown) => {
    throw invalid(
      path,
      `The configuration file cannot be read (${systemCode(error)})`,
      "Make the file readable for you.",
    );
  });
  try {
    const options: unknown = JSON.parse(text.replace(/^\uFEFF/, ""));
    if (typeof options !== "object" || options === null || Array.isArray(options)) return options;
    return { folder: dirname(path), ...options };
  } catch (error) {
    const place = /\(line \d+ column \d+\)/.exec(error instanceof Error ? error.message : "")?.[0] ?? "";
    throw invalid(path, `The configuration file is not JSON ${place}`.trim(), "Correct the file at this place.");
  }
}

async function importConfig(path: string): Promise<unknown> {
  await requireOwnPackages(dirname(path));
  let module: { readonly default?: unknown };
  const hooks = readAsModule(pathToFileURL(path).href);
  try {
    module = await import(pathToFileURL(path).href);
  } catch (cause) {
    if (cause instanceof KeywardError) throw named(path, cause);
    throw invalid(path, `The configuration file cannot be loaded: ${reasonOf(cause)}`, hintFor(cause));
  } finally {
    hooks.deregister();
  }
  return module.default;
}

/**
 * Makes Node.js read a TypeScript file as an ES module, and ignore the `type` in package.json. `npm init` writes `commonjs`
 * there, and without a `type` Node.js prints a warning.
 */
function readAsModule(url: string): { deregister(): void } {
  return registerHooks({
    resolve: (specifier, context, next) => {
      const found = next(specifier, context);
      return found.url === url && url.endsWith(".ts") ? { ...found, format: "module-typescript" } : found;
    },
  });
}

function configOf(options: unknown, path: string, environment: string | undefined): Config {
  try {
    if (options === undefined) {
      throw invalid(
        path,
        "The configuration file has no default export",
        "Write `export default defineConfig({ … })`.",
      );
    }
    // The file may have made its Config with another copy of this package, whose keys this copy could not use.
    return new Config(requireConfigOptions(isConfig(options) ? options.options : options), environment ?? "");
  } catch (error) {
    throw error instanceof KeywardError ? named(path, error) : error;
  }
}

function isConfig(options: unknown): options is Pick<Config, "options"> {
  return typeof options === "object" && options !== null && "settings" in options && "options" in options;
}

function named(path: string, { code, message, hint, cause }: KeywardError): KeywardError {
  return message.startsWith(path)
    ? new KeywardError(code, message, { hint, cause })
    : new KeywardError(code, `${path}: ${message}`, { hint, cause });
}

function reasonOf(cause: unknown): string {
  const isMissing = cause instanceof Error && systemCode(cause) === "ERR_MODULE_NOT_FOUND";
  if (isMissing) return cause.message.split("\n")[0]?.replace(/ imported from .*/, "") ?? "";
  if (cause instanceof SyntaxError) return "it has a syntax error";
  return cause instanceof Error ? `${cause.name} was thrown` : "a value was thrown";
}

function hintFor(cause: unknown): string {
  return cause instanceof Error && /Cannot find package 'keyward'/.test(cause.message)
    ? "Install the package in the folder of the file: `npm install keyward`. Or use keyward.config.json, which imports nothing."
    : "Run the file with `node`, which shows the place of the error.";
}

function invalid(path: string, problem: string, hint: string): KeywardError {
  return new KeywardError("VALUE_INVALID", `${path}: ${problem}`, { hint });
}
