import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { builtinModules } from "node:module";
import { tmpdir } from "node:os";
import { basename, dirname, join, normalize, relative, sep } from "node:path";
import {
  isExportDeclaration,
  isImportDeclaration,
  isNamedImports,
  isStringLiteralLikeNode,
  type Node,
  SyntaxKind,
} from "typescript/unstable/ast";
import { API } from "typescript/unstable/sync";
import { afterAll, describe, expect, it } from "vitest";
import { type Manifest, publishedPackages, readManifest, repository, workspacePackages } from "./workspace.ts";

/** One import or re-export of any kind. */
interface Import {
  readonly specifier: string;
  readonly line: number;
  /** The names that are imported at run time. `undefined` for the whole module. */
  readonly names: readonly string[] | undefined;
}

/** A source file, with its path relative to the root. */
interface Module {
  readonly file: string;
  /** Folder of the package that owns the file. "" for files of the workspace itself. */
  readonly owner: string;
  readonly imports: readonly Import[];
  /** The number of lines. */
  readonly lines: number;
}

interface Workspace {
  readonly modules: readonly Module[];
  readonly manifests: ReadonlyMap<string, Manifest>;
}

/** Reads every module of the compiler's projects, with the compiler's parser. */
function readWorkspace(root: string): Workspace {
  const manifests = new Map(workspacePackages(root).map(({ folder, manifest }) => [folder, manifest]));
  manifests.set("", readManifest(root));
  const configurations = [
    ...publishedPackages(root).map(({ folder }) => join(root, folder, "tsconfig.json")),
    join(root, "tsconfig.checked.json"),
  ];
  const compiler = new API({ cwd: root });
  try {
    const projects = compiler.updateSnapshot({ openProjects: configurations }).getProjects();
    const modules = projects.flatMap((project) =>
      project.rootFiles.map((path): Module => {
        const source = project.program.getSourceFile(path);
        if (source === undefined) throw new Error(`The compiler does not have ${path}`);
        const file = relative(root, path).split(sep).join("/");
        const owner = [...manifests.keys()].find((folder) => folder !== "" && file.startsWith(`${folder}/`)) ?? "";
        const imports = source.imports.filter(isStringLiteralLikeNode).map((specifier) => ({
          specifier: specifier.text,
          line: source.getLineAndCharacterOfPosition(specifier.getStart()).line + 1,
          names: namesAtRunTime(specifier.parent),
        }));
        return { file, owner, imports, lines: source.text.split("\n").length - 1 };
      }),
    );
    return { modules, manifests };
  } finally {
    compiler.close();
  }
}

function namesAtRunTime(declaration: Node): readonly string[] | undefined {
  if (isExportDeclaration(declaration)) return declaration.isTypeOnly ? [] : undefined;
  if (!isImportDeclaration(declaration)) return undefined;
  const clause = declaration.importClause;
  if (clause === undefined) return undefined;
  if (clause.phaseModifier === SyntaxKind.TypeKeyword) return [];
  if (clause.namedBindings !== undefined && !isNamedImports(clause.namedBindings)) return undefined;
  const named = clause.namedBindings?.elements.filter((element) => !element.isTypeOnly) ?? [];
  const names = named.map((element) => (element.propertyName ?? element.name).text);
  return clause.name === undefined ? names : ["default", ...names];
}

const isRelative = (specifier: string) => specifier.startsWith(".") || specifier.startsWith("/");
const packageOf = (specifier: string) =>
  specifier
    .split("/")
    .slice(0, specifier.startsWith("@") ? 2 : 1)
    .join("/");
const isSource = ({ file, owner }: Module) => owner.startsWith("packages/") && file.startsWith(`${owner}/src/`);

const isTest = ({ file, owner }: Module) => owner === "" || file.startsWith(`${owner}/test/`);

/** Returns true if a published package may import another: cli → admin, gateway → secrets, listener → core, and cli → stores,
 * providers → core. */
function mayImport(upper: string, lower: string): boolean {
  if (upper === lower) return true;
  if (lower === "@keyward/contract" || upper === "@keyward/core") return false;
  // keys-from chooses among the providers, so it imports each of them.
  if (upper === "@keyward/keys-from" && lower.startsWith("@keyward/keys-")) return true;
  // stores-from chooses among the stores, and http-kv is one of them.
  if (upper === "@keyward/stores-from" && /^@keyward\/(?:store-|http-kv$)/.test(lower)) return true;
  if (["@keyward/admin", "@keyward/gateway"].includes(upper)) {
    if (["@keyward/secrets", "@keyward/listener"].includes(lower)) return true;
  }
  return lower === "@keyward/core" || upper === "keyward";
}

/** The values of keyv, apart from types, that core may import. */
const keyvAtRunTime = ["Keyv", "KeyvBridgeAdapter", "KeyvJsonSerializer", "KeyvMemoryAdapter", "keyvStorageCapability"];

/** The folders of core. Each may import itself and the folders before it. */
const coreFolders: readonly string[] = [
  "errors",
  "waiting",
  "files",
  "store-interface",
  "envelope",
  "keyring",
  "store",
  "reencryption",
  "rotation",
];

/** Returns the index of a source file's folder in the order of folders. `index.ts` comes after all of them. */
function folderIndex(file: string): number {
  const [folder = "", ...rest] = file.slice("packages/core/src/".length).split("/");
  if (rest.length === 0) return folder === "index.ts" ? coreFolders.length : -1;
  return coreFolders.indexOf(folder);
}

/** Limit that keeps each source of core short enough to be read from top to bottom. */
const maxLinesInCore = 450;

type Rule = (workspace: Workspace) => string[];

/** Makes a rule from a check of one import, which returns the problem with the import, if there is one. */
function onImports(broken: (found: Import, module: Module, workspace: Workspace) => string | undefined): Rule {
  return (workspace) =>
    workspace.modules.flatMap((module) =>
      module.imports.flatMap((found) => {
        const problem = broken(found, module, workspace);
        return problem === undefined ? [] : [`${module.file}:${found.line} ${problem}`];
      }),
    );
}

const rules: Record<string, Rule> = {
  "only the relay of the gateway imports the reader of the values of secrets": onImports(({ specifier }, module) => {
    const isRelay = module.file.startsWith("packages/gateway/src/relay/");
    if (specifier !== "@keyward/secrets/reader" || !isSource(module) || isRelay) return undefined;
    return "imports the reader of secrets' values";
  }),
  "imports run one way: cli → stores, providers → core": onImports(({ specifier }, module, { manifests }) => {
    const own = manifests.get(module.owner)?.name ?? "";
    const imported = packageOf(specifier);
    const isOwn = imported === "keyward" || imported.startsWith("@keyward/");
    if (!isSource(module) || !isOwn || mayImport(own, imported)) return undefined;
    return `${own} may not import ${imported}`;
  }),

  "dependencies in manifests run the same way as imports, and contract is only a dev dependency": ({ manifests }) =>
    [...manifests].flatMap(([folder, { name, dependencies, peerDependencies }]) =>
      Object.keys({ ...dependencies, ...peerDependencies })
        .filter((needed) => folder.startsWith("packages/") && needed.startsWith("@keyward/"))
        .filter((needed) => !mayImport(name, needed))
        .map((needed) => `${folder}/package.json: ${name} may not depend on ${needed}`),
    ),

  "core imports types from keyv, and at run time only a few values": onImports(({ specifier, names }, module) => {
    if (!isSource(module) || module.owner !== "packages/core" || packageOf(specifier) !== "keyv") return undefined;
    const others = names?.filter((name) => !keyvAtRunTime.includes(name)) ?? ["everything"];
    return others.length === 0 ? undefined : `core imports ${others.join(", ")} from keyv`;
  }),

  [`imports in core run one way: ${coreFolders.join(" < ")}`]: onImports(({ specifier }, module) => {
    if (!isSource(module) || module.owner !== "packages/core" || !isRelative(specifier)) return undefined;
    const target = normalize(join(dirname(module.file), specifier));
    return folderIndex(target) > folderIndex(module.file) ? `may not import ${target}` : undefined;
  }),

  "every source of core is in a folder": ({ modules }) =>
    modules
      .filter((module) => isSource(module) && module.owner === "packages/core" && folderIndex(module.file) < 0)
      .map(({ file }) => `${file} is in none of the folders ${coreFolders.join(", ")}`),

  [`no source of core has more than ${maxLinesInCore} lines`]: ({ modules }) =>
    modules
      .filter((module) => isSource(module) && module.owner === "packages/core" && module.lines > maxLinesInCore)
      .map(({ file, lines }) => `${file} has ${lines} lines`),

  "no package imports a file of another package by its path": onImports(({ specifier }, module, { manifests }) => {
    const imported = packageOf(specifier);
    if (imported.startsWith("@keyward/")) {
      if (specifier === imported) return undefined;
      const exported = [...manifests.values()].find(({ name }) => name === imported)?.exports ?? {};
      const entry = `.${specifier.slice(imported.length)}`;
      return Object.hasOwn(exported, entry) ? undefined : `${specifier} is not what ${imported} exports`;
    }
    // The bench measures the envelope, which core does not export.
    if (!isRelative(specifier) || module.owner === "bench") return undefined;
    const target = normalize(join(dirname(module.file), specifier));
    const home = isSource(module) ? `${module.owner}/src/` : `${module.owner}/`;
    const leaves = isSource(module) ? !target.startsWith(home) : /^packages\//.test(target) && !target.startsWith(home);
    return leaves ? `${specifier} leaves ${home}` : undefined;
  }),

  "every imported package is declared": onImports(({ specifier }, module, { manifests }) => {
    if (isRelative(specifier) || specifier.startsWith("node:") || builtinModules.includes(specifier)) return undefined;
    const manifest = manifests.get(module.owner);
    // Published sources have no dev dependencies. Only tests share those of the root.
    const declared = {
      ...manifest?.dependencies,
      ...(isSource(module) ? manifest?.peerDependencies : manifest?.devDependencies),
      ...(isTest(module) ? manifests.get("")?.devDependencies : {}),
    };
    const imported = packageOf(specifier);
    return imported === manifest?.name || Object.hasOwn(declared, imported)
      ? undefined
      : `${imported} is not in the dependencies of ${manifest?.name}`;
  }),

  "Node's modules are imported with the prefix node:": onImports(({ specifier }) =>
    builtinModules.includes(specifier) && !specifier.startsWith("node:") ? `${specifier} lacks node:` : undefined,
  ),

  "file names describe the content of the files": ({ modules }) =>
    modules
      .filter(({ file }) =>
        /(?:^|[-._])(?:utils?|helpers?|common|shared|misc|managers?)(?:[-._]|$)/i.test(basename(file)),
      )
      .map(({ file }) => `${file} has a name that does not describe its content`),

  "sources do not import each other in a circle": ({ modules }) => {
    const imports = new Map(
      modules
        .filter(isSource)
        .map(({ file, imports }) => [
          file,
          imports.flatMap(({ specifier }) =>
            isRelative(specifier) ? [normalize(join(dirname(file), specifier))] : [],
          ),
        ]),
    );
    const done = new Set<string>();
    const cycles: string[] = [];
    const visit = (file: string, path: readonly string[]) => {
      if (path.includes(file)) cycles.push([...path.slice(path.indexOf(file)), file].join(" → "));
      if (done.has(file) || path.includes(file)) return;
      for (const next of imports.get(file) ?? []) visit(next, [...path, file]);
      done.add(file);
    };
    for (const file of imports.keys()) visit(file, []);
    return cycles;
  },
};

describe("the workspace", () => {
  const workspace = readWorkspace(repository);

  it("has sources, tests and imports, and the check finds them", () => {
    const files = workspace.modules.map(({ file }) => file);
    expect(files).toContain("packages/core/src/index.ts");
    expect(files).toContain("test/architecture.test.ts");
    expect(workspace.modules.flatMap(({ imports }) => imports).length).toBeGreaterThan(0);
  });

  it.each(Object.entries(rules))("follows the rule: %s", (_, rule) => {
    expect(rule(workspace)).toEqual([]);
  });
});

describe("the rules", () => {
  const folder = mkdtempSync(join(tmpdir(), "keyward-architecture-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  const sound = {
    "package.json": `{ "name": "workspace", "devDependencies": { "vitest": "1", "@keyward/store": "1", "@keyward/contract": "1" } }`,
    "tsconfig.checked.json": `{ "include": ["packages/*/test", "bench"] }`,
    "packages/core/package.json": `{ "name": "@keyward/core", "peerDependencies": { "keyv": "1" } }`,
    "packages/core/src/index.ts": `import { createHash } from "node:crypto"; import { Keyv, type KeyvOptions } from "keyv"; import "./errors/a.ts";`,
    "packages/core/src/errors/a.ts": `export const a = 1;`,
    "packages/core/test/a.test.ts": `import "vitest"; import "@keyward/store"; import "@keyward/contract"; import "../src/errors/a.ts";`,
    "packages/store/package.json": `{ "name": "@keyward/store", "peerDependencies": { "@keyward/core": "1" } }`,
    "packages/store/src/index.ts": `export type { Keyring } from "@keyward/core";`,
    "packages/contract/package.json": `{ "name": "@keyward/contract", "dependencies": {} }`,
    "packages/cli/package.json": `{ "name": "keyward", "dependencies": { "@keyward/store": "1", "@keyward/core": "1" } }`,
    "packages/cli/src/index.ts": `import "@keyward/store"; import "@keyward/core";`,
    "bench/package.json": `{ "name": "bench", "devDependencies": { "jose": "1" } }`,
    "bench/src/main.ts": `import "jose"; import "../../packages/core/src/errors/a.ts";`,
  };

  function breaches(changed: Record<string, string>): string[] {
    const root = mkdtempSync(join(folder, "workspace-"));
    const files: Record<string, string> = { ...sound, ...changed };
    for (const owner of ["core", "store", "contract", "cli"]) {
      files[`packages/${owner}/tsconfig.json`] = `{ "include": ["src"] }`;
    }
    for (const [file, content] of Object.entries(files)) {
      mkdirSync(dirname(join(root, file)), { recursive: true });
      writeFileSync(join(root, file), content);
    }
    const workspace = readWorkspace(root);
    return Object.values(rules).flatMap((rule) => rule(workspace));
  }

  it("accept a workspace that follows the rules", () => {
    expect(breaches({})).toEqual([]);
  });

  it.each([
    ["packages/core/src/errors/a.ts", `import "@keyward/store";`, "@keyward/core may not import @keyward/store"],
    [
      "packages/core/src/errors/a.ts",
      `export type { X } from "@keyward/store";`,
      "@keyward/core may not import @keyward/store",
    ],
    [
      "packages/core/src/errors/a.ts",
      `type X = import("@keyward/store").X;`,
      "@keyward/core may not import @keyward/store",
    ],
    [
      "packages/core/src/errors/a.ts",
      `\n\nawait import("keyward");`,
      "packages/core/src/errors/a.ts:3 @keyward/core may not",
    ],
    ["packages/store/src/a.ts", `import "@keyward/contract";`, "@keyward/store may not import @keyward/contract"],
    ["packages/cli/src/index.ts", `import "@keyward/contract";`, "keyward may not import @keyward/contract"],
    ["packages/store/src/a.ts", `import "keyward";`, "@keyward/store may not import keyward"],
    ["packages/cli/src/index.ts", `import "@keyward/secrets/reader";`, "imports the reader of secrets' values"],
    [
      "packages/store/package.json",
      `{ "name": "@keyward/store", "dependencies": { "@keyward/core": "1", "@keyward/contract": "1" } }`,
      "@keyward/store may not depend on @keyward/contract",
    ],
    [
      "packages/core/src/errors/a.ts",
      `import { KeyvSerializer } from "keyv";`,
      "core imports KeyvSerializer from keyv",
    ],
    ["packages/core/src/errors/a.ts", `import { KeyvX as Keyv } from "keyv";`, "core imports KeyvX from keyv"],
    ["packages/core/src/errors/a.ts", `import Keyv from "keyv";`, "core imports default from keyv"],
    ["packages/core/src/errors/a.ts", `import * as keyv from "keyv";`, "core imports everything from keyv"],
    ["packages/core/src/errors/a.ts", `export { Keyv } from "keyv";`, "core imports everything from keyv"],
    ["packages/store/src/index.ts", `import "../../core/src/a.ts";`, "leaves packages/store/src/"],
    ["packages/store/src/index.ts", `import "../package.json";`, "leaves packages/store/src/"],
    ["packages/core/test/a.test.ts", `import "../../store/src/index.ts";`, "leaves packages/core/"],
    ["packages/store/src/index.ts", `import "@keyward/core/src/a.ts";`, "is not what @keyward/core exports"],
    [
      "packages/store/src/index.ts",
      `import type { Keyv } from "keyv";`,
      "keyv is not in the dependencies of @keyward/store",
    ],
    ["packages/core/src/errors/a.ts", `import "vitest";`, "vitest is not in the dependencies of @keyward/core"],
    ["packages/core/src/errors/a.ts", `import "@scope/name/deep";`, "@scope/name is not in the dependencies"],
    ["bench/src/main.ts", `import "iron";`, "iron is not in the dependencies of bench"],
    ["bench/src/main.ts", `import "vitest";`, "vitest is not in the dependencies of bench"],
    ["packages/core/src/errors/a.ts", `import "fs/promises";`, "fs/promises lacks node:"],
    ["packages/core/src/utils.ts", "", "packages/core/src/utils.ts has a name"],
    ["packages/core/test/test-helpers.ts", "", "packages/core/test/test-helpers.ts has a name"],
    [
      "packages/core/src/errors/a.ts",
      `import "../index.ts";`,
      "packages/core/src/index.ts → packages/core/src/errors/a.ts → packages/core/src/index.ts",
    ],
    [
      "packages/core/src/errors/a.ts",
      `import type { A } from "./a.ts";`,
      "packages/core/src/errors/a.ts → packages/core/src/errors/a.ts",
    ],
    ["packages/core/src/errors/a.ts", `import "../store/b.ts";`, "a.ts:1 may not import packages/core/src/store/b.ts"],
    ["packages/core/src/errors/a.ts", `import "../index.ts";`, "a.ts:1 may not import packages/core/src/index.ts"],
    ["packages/core/src/errors/a.ts", "\n".repeat(451), "packages/core/src/errors/a.ts has 451 lines"],
    ["packages/core/src/a.ts", "", "packages/core/src/a.ts is in none of the folders"],
    ["packages/core/src/cache/a.ts", "", "packages/core/src/cache/a.ts is in none of the folders"],
  ])("report that the file %s breaks a rule if it contains %j", (file, content, expected) => {
    expect(breaches({ [file]: content })).toEqual(expect.arrayContaining([expect.stringContaining(expected)]));
  });
});
