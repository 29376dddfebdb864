import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { type Symbol as Named, type Project, SymbolFlags } from "typescript/unstable/sync";
import { afterAll, describe, expect, it } from "vitest";
import { withProject } from "./compiler.ts";
import { readPage } from "./markdown.ts";
import { repository } from "./workspace.ts";

const packagesWithTables = [
  "packages/admin",
  "packages/cli",
  "packages/core",
  "packages/http-kv",
  "packages/keys-aws",
  "packages/keys-env",
  "packages/keys-from",
  "packages/keys-vault",
  "packages/store-redis",
  "packages/store-sqlite",
  "packages/stores-from",
];

/** Core's tools for operators have options too, which pages in `docs` explain. Core's README has tables only of the options that every user passes. */
const checkedInCore = ["CreateKeyvOptions", "EncryptedStoreOptions", "ReplicaOptions"];

/** Returns the options of each exported type whose name ends in `Options`, by the name of the type. */
function optionsOf(packageFolder: string, sources: string): Map<string, string[]> {
  return withProject(packageFolder, (project) => {
    const { checker, program } = project;
    const index = program.getSourceFile(join(packageFolder, "src", "index.ts"));
    const module = index === undefined ? undefined : checker.getSymbolAtLocation(index);
    const exported = module === undefined ? [] : checker.getExportsOfModule(module);
    return new Map(
      exported
        .filter(({ name }) => name.endsWith("Options"))
        .map((symbol) => [symbol.name, optionNames(symbol, sources, project)]),
    );
  });
}

/** Returns the properties of a type, including inherited properties, except properties that another project declares. */
function optionNames(exported: Named, sources: string, { checker }: Project): string[] {
  const symbol = exported.flags & SymbolFlags.Alias ? checker.getAliasedSymbol(exported) : exported;
  const isOurs = ({ declarations }: Named) =>
    declarations.some(({ path }) => {
      const lower = path.toLowerCase();
      return lower.startsWith(`${sources}/`.toLowerCase()) && !lower.includes("/node_modules/");
    });
  return checker
    .getPropertiesOfType(checker.getDeclaredTypeOfSymbol(symbol))
    .filter(isOurs)
    .map(({ name }) => name);
}

/** Returns the options that no row of a table names as code. */
function optionsWithoutRow(options: readonly string[], readme: string): string[] {
  const rows = readPage("README.md", readme).prose.filter((line) => line.startsWith("|"));
  const code = rows.flatMap((row) => [...row.matchAll(/`([^`]+)`/g)].map(([, text = ""]) => text));
  const named = new Set(code.map((text) => /^[\w$]+/.exec(text)?.[0]));
  return options.filter((option) => !named.has(option));
}

describe.each(packagesWithTables)("the README of %s", (folder) => {
  const root = join(repository, folder);
  const readme = readFileSync(join(root, "README.md"), "utf8");
  const types = [...optionsOf(root, join(repository, "packages"))].filter(
    ([type]) => folder !== "packages/core" || checkedInCore.includes(type),
  );

  it("belongs to a package that has options", () => expect(types).not.toEqual([]));

  it.each(types)("has a row for each option of %s", (_, options) => {
    expect(options).not.toEqual([]);
    expect(optionsWithoutRow(options, readme)).toEqual([]);
  });
});

describe("the check of options", () => {
  const folder = mkdtempSync(join(tmpdir(), "keyward-options-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  it("finds the options of an interface, of a type that the interface extends, and of a type alias", () => {
    const files = {
      "tsconfig.json": `{ "compilerOptions": { "module": "nodenext", "types": [], "allowImportingTsExtensions": true, "noEmit": true }, "include": ["src"] }`,
      "package.json": `{ "name": "example", "type": "module" }`,
      "src/index.ts": `export type { AliasOptions, StoreOptions } from "./options.ts";`,
      "src/options.ts": `
        interface Base { inherited?: number }
        export interface StoreOptions extends Base { own?: number }
        export type AliasOptions = Base & { alias?: number };
      `,
    };
    for (const [file, content] of Object.entries(files)) {
      mkdirSync(dirname(join(folder, file)), { recursive: true });
      writeFileSync(join(folder, file), content);
    }
    const found = [...optionsOf(folder, folder)].map(([type, options]) => [type, options.sort()]);
    expect(Object.fromEntries(found)).toEqual({
      AliasOptions: ["alias", "inherited"],
      StoreOptions: ["inherited", "own"],
    });
  });

  it("reports every option that no table row names as code", () => {
    const readme =
      "`prose` is no row.\n\n| option | what |\n|---|---|\n| `row` | and `second: true` |\n| bare | `new Store(inside)` |\n";
    const options = ["prose", "row", "second", "bare", "inside"];
    expect(optionsWithoutRow(options, readme)).toEqual(["prose", "bare", "inside"]);
  });
});
