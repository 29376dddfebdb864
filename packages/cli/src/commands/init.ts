import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createRequire, findPackageJSON } from "node:module";
import { isAbsolute, join, relative, resolve, sep } from "node:path";
import { pathToFileURL } from "node:url";
import { EncryptedStore, type KeyProvider, Keyring, KeywardError, systemCode } from "@keyward/core";
import { Config } from "../configuration/config.ts";
import { configFileNames, requireOwnPackages } from "../configuration/config-file.ts";
import { filePath } from "../configuration/keyring-file.ts";
import { closeStore, namedStores } from "../configuration/sources.ts";
import { storeName } from "../configuration/store-name.ts";
import type { Context } from "../context.ts";
import { CommandError, ProblemsPrinted } from "../exit-codes.ts";
import { appendLine } from "../files/append-line.ts";
import { writeNewFile } from "../files/new-file.ts";
import { pathExists } from "../files/path-exists.ts";
import { type ErrorResult, errorResult } from "../terminal/output.ts";

/** The options of `keyward init`. */
export interface InitOptions {
  readonly format?: "ts" | "json";
  readonly id?: string;
}

const defaultKeys = "file:production.keyring";
const defaultStore = { name: "sessions", source: "sqlite:sessions.sqlite" };

/** The names and sources that the new configuration file contains. */
interface Answers {
  readonly keys: string;
  readonly stores: Readonly<Record<string, string>>;
}

/** Writes a configuration file, a first keyring, and lines for `.gitignore`, into the working directory. */
export async function init(context: Context, { format, id }: InitOptions): Promise<void> {
  const folder = process.cwd();
  for (const name of configFileNames) {
    if (!(await pathExists(join(folder, name)))) continue;
    throw new CommandError("USAGE", `This folder has the configuration file ${name} already, so nothing was written`, {
      hint: "To add a store or an environment, change `stores` or `environments` of the file in an editor. Or run the command in another folder.",
    });
  }
  const answers = await answersFrom(context);
  requireFitting(answers);
  if (format === "ts" && !(await hasPackage(folder))) {
    throw new CommandError("USAGE", "A TypeScript configuration in this folder cannot import the package keyward", {
      hint: 'Run `npm install keyward`, and give the package.json the `"type": "module"`. Or use `--format json`, which imports nothing.',
    });
  }
  const file = `keyward.config.${format ?? ((await hasPackage(folder)) ? "ts" : "json")}`;
  // Checks the sources before anything is written.
  const config = new Config({ folder, ...answers }, "");
  const keys = await config.keys();
  for (const name of Object.keys(answers.stores)) await closeStore(await config.openStore(name));
  // First of all, so that Git never sees the keyring.
  const ignored = await ignoreFiles(folder, answers);
  const first = await createFirst(keys, id ?? new Date().toISOString().slice(0, 10), Object.keys(answers.stores));
  const text = file.endsWith(".json") ? jsonOf(answers) : typescriptOf(answers);
  await writeNewFile(join(folder, file), text, { mode: 0o644 });
  const lines = [`${file} names the keys and the stores.`, first.text];
  const stores: Record<string, BegunStore> = {};
  for (const [name, source] of Object.entries(answers.stores)) {
    const error = await beginStore(config, keys, name);
    stores[name] = { source, ready: error === undefined, error: error === undefined ? null : errorResult(error) };
    lines.push(
      error === undefined
        ? `The store ${name} is ready.`
        : `The store ${name} is not ready: ${error.message} (${error.code}). ${error.hint}`,
    );
  }
  if (ignored.length > 0) lines.push(`.gitignore has the files that Git must not keep: ${ignored.join(", ")}.`);
  lines.push("Next: `keyward doctor` checks the keys and the stores, and `keyward rotate` replaces the key.");
  context.output.result(lines.join("\n"), {
    file,
    keysSource: answers.keys,
    keyringCreated: first.isCreated,
    primary: first.primary,
    stores,
    gitignoreLines: ignored,
  });
  if (Object.values(stores).some(({ ready }) => !ready)) throw new ProblemsPrinted();
}

/** The result of `keyward init` for one store, as `--json` prints it. */
interface BegunStore {
  readonly source: string;
  readonly ready: boolean;
  /** The error because of which the store is not ready; `null` if the store is ready. */
  readonly error: ErrorResult | null;
}

/** The keyring that `keyward init` found or saved at the source of the keys. */
interface FirstKeyring {
  readonly text: string;
  readonly isCreated: boolean;
  /** `null` if the keyring exists already, because such a keyring is not loaded. */
  readonly primary: string | null;
}

async function answersFrom(context: Context): Promise<Answers> {
  const { operator } = context;
  const { options, env } = await context.told();
  const ask = async (question: string, fallback: string) =>
    operator.isPresent && !options.yes ? await operator.ask(question, fallback) : fallback;
  const keys = (options.keys ?? env["KEYWARD_KEYS"] ?? (await ask("The source of the keys:", defaultKeys))).trim();
  if (options.store.length > 0) {
    const stores = namedStores({ options, env: {}, config: undefined, path: "" }, []);
    return { keys, stores: Object.fromEntries(stores.map(({ name, source = "" }) => [name, source.trim()])) };
  }
  const name = (await ask("The name of the store:", defaultStore.name)).trim();
  if (!storeName.test(name)) {
    throw new CommandError("USAGE", "The name of the store is not valid", {
      hint: "A name begins with a letter, and has letters, digits, - and _ after it.",
    });
  }
  return { keys, stores: { [name]: (await ask("The source of the store:", `sqlite:${name}.sqlite`)).trim() } };
}

/** Checks that no source has a password, because the file will be readable in a repository, and that no store is in memory. */
function requireFitting({ keys, stores }: Answers): void {
  for (const [place, variable, source] of [
    ["keys", "KEYWARD_KEYS", keys],
    ...Object.entries(stores).map(([name, text]) => [`store ${name}`, `KEYWARD_STORE_${name.toUpperCase()}`, text]),
  ]) {
    // The password itself may contain any character.
    if (!/\/\/[^@]*:.*@/s.test(source ?? "")) continue;
    throw new CommandError(
      "USAGE",
      `The source of the ${place} has a password, which must not be in a configuration file`,
      {
        hint: `Set the environment variable ${variable} instead, or write a keyward.config.ts that reads the source from an environment variable.`,
      },
    );
  }
  const inMemory = Object.entries(stores).find(([, source]) => /^(memory:|sqlite::memory:)/.test(source));
  if (inMemory === undefined) return;
  throw new CommandError(
    "USAGE",
    `The store ${inMemory[0]} keeps its records in the memory of a process, where no command can read them`,
    {
      hint: "Name a store that the application and the command can share, such as `sqlite:sessions.sqlite`.",
    },
  );
}

async function createFirst(keys: KeyProvider, id: string, stores: readonly string[]): Promise<FirstKeyring> {
  if (keys.create !== undefined) {
    try {
      await keys.create(Keyring.generate(id).withStores(stores));
      const text = `The keyring has the key "${id}". Without the keyring, the records are lost, so back the keyring up: keyward keyring export FILE`;
      return { text, isCreated: true, primary: id };
    } catch (error) {
      if (!(error instanceof KeywardError) || error.code !== "KEYRING_CONFLICT") throw error;
      return { text: "The keyring exists already, and was not changed.", isCreated: false, primary: null };
    }
  }
  const { primary } = await keys.load();
  return { text: `The source of the keys has the primary "${primary}".`, isCreated: false, primary };
}

/**
 * Writes the check record of a store, as the first write of an application would. Later commands refuse a store without a
 * check record, because its source may be misspelt. Returns the error of a store that is not ready.
 */
async function beginStore(config: Config, keys: KeyProvider, name: string): Promise<KeywardError | undefined> {
  const store = new EncryptedStore(await config.openStore(name), { keys });
  try {
    // A write of a record that has expired already leaves nothing but the check record.
    await store.set(randomUUID(), "", Date.now() - 1);
    return undefined;
  } catch (error) {
    if (!(error instanceof KeywardError)) throw error;
    return error;
  } finally {
    await store.disconnect();
  }
}

function jsonOf(answers: Answers): string {
  return `${JSON.stringify(answers, undefined, 2)}\n`;
}

function typescriptOf({ keys, stores }: Answers): string {
  const lines = Object.entries(stores).map(
    ([name, source]) => `    ${JSON.stringify(name)}: ${JSON.stringify(source)},`,
  );
  return [
    'import { defineConfig } from "keyward";',
    "",
    "export default defineConfig({",
    "  folder: import.meta.dirname,",
    `  keys: ${JSON.stringify(keys)},`,
    "  stores: {",
    ...lines,
    "  },",
    "});",
    "",
  ].join("\n");
}

/**
 * Returns whether `keyward.config.ts` in this folder can import the package `keyward` with `import`, and no other user could
 * have put the package there.
 */
async function hasPackage(folder: string): Promise<boolean> {
  const file = pathToFileURL(join(folder, "keyward.config.ts"));
  try {
    createRequire(file).resolve("keyward");
    await requireOwnPackages(folder);
    const manifest = findPackageJSON(".", file);
    if (manifest === undefined) return true;
    const { type } = JSON.parse(await readFile(manifest, "utf8"));
    // `npm init` writes this type, with which Node.js refuses the `import` of a TypeScript file.
    return type !== "commonjs";
  } catch {
    return false;
  }
}

/** Adds the files with keys and records to `.gitignore`, and returns the lines that were added. */
async function ignoreFiles(folder: string, { keys, stores }: Answers): Promise<readonly string[]> {
  const paths = [filePath(keys), ...Object.values(stores).map(sqlitePath)];
  const inFolder = paths.flatMap((path) => {
    const place = path === undefined ? ".." : relative(folder, resolve(folder, path));
    if (place === ".." || place.startsWith(`..${sep}`) || isAbsolute(place)) return [];
    // In a pattern, these characters have a meaning of their own.
    return [
      `/${place
        .split(sep)
        .join("/")
        .replace(/[\\*?[\]!# ]/g, "\\$&")}*`,
    ];
  });
  const path = join(folder, ".gitignore");
  const before = await readFile(path, "utf8").catch((error: unknown) => {
    if (systemCode(error) === "ENOENT") return "";
    throw new CommandError(
      "USAGE",
      `The file .gitignore cannot be read (${systemCode(error)}), so nothing was written`,
      {
        hint: "Make it a readable file, or remove it.",
      },
    );
  });
  const present = before.split(/\r?\n/);
  const missing = [...new Set(inFolder)].filter((line) => !present.includes(line));
  if (missing.length > 0) {
    const separator = before === "" || before.endsWith("\n") ? "" : "\n";
    await appendLine(path, `${separator}${missing.join("\n")}`, { mode: 0o644 });
  }
  return missing;
}

function sqlitePath(source: string): string | undefined {
  return source.startsWith("sqlite:") ? source.slice("sqlite:".length) : undefined;
}
