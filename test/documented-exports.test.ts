import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { isExportAssignment, isExportDeclaration, isNamedExports, type Node } from "typescript/unstable/ast";
import { ModifierFlags, type Symbol as Named, type Project, SymbolFlags } from "typescript/unstable/sync";
import { afterAll, describe, expect, it } from "vitest";
import { membersOf, withProject } from "./compiler.ts";
import { readPage } from "./markdown.ts";
import { publishedLibraries, repository } from "./workspace.ts";

interface Surface {
  /** The names that the package exports. */
  readonly names: readonly string[];
  /** Exports without a docstring, and statements whose exports cannot be checked, such as `export *`. */
  readonly problems: readonly string[];
}

/** Reads the exports of a package. */
function readSurface(packageFolder: string): Surface {
  return withProject(packageFolder, (project) => {
    const { checker, program } = project;
    const index = program.getSourceFile(join(packageFolder, "src", "index.ts"));
    if (index === undefined) throw new Error(`${packageFolder} has no src/index.ts`);
    const unnamed = index.statements.filter(
      (statement) =>
        isExportAssignment(statement) ||
        (isExportDeclaration(statement) &&
          (statement.exportClause === undefined || !isNamedExports(statement.exportClause))),
    );
    const module = checker.getSymbolAtLocation(index);
    const exported = module === undefined ? [] : checker.getExportsOfModule(module);
    return {
      names: exported.map(({ name }) => name),
      problems: [
        ...unnamed.map((statement) => `src/index.ts: "${statement.getText()}" does not name its exports`),
        ...exported.flatMap((symbol) => undocumented(symbol, packageFolder, project)),
      ],
    };
  });
}

/** Returns the export and its public members that have no docstring. */
function undocumented(exported: Named, packageFolder: string, project: Project): string[] {
  const { checker } = project;
  const symbol = exported.flags & SymbolFlags.Alias ? checker.getAliasedSymbol(exported) : exported;
  const ours = ({ declarations }: Named) =>
    declarations.some(({ path }) => path.toLowerCase().startsWith(`${packageFolder}/src/`.toLowerCase()));
  if (!ours(symbol)) return [];
  const members = membersOf(symbol, checker)
    .filter((member) => ours(member) && isPublic(member, project))
    .map((member): [string, Named] => [
      `${exported.name}.${member.name.replace(/^__constructor$/, "constructor")}`,
      member,
    ]);
  return [[exported.name, symbol] as const, ...members]
    .filter(([, documented]) => checker.getDocumentationCommentOfSymbol(documented).trim() === "")
    .map(([name]) => `${name} has no docstring`);
}

/** Returns true for a member that a user can call or read. Overriding members inherit their docstring and are left out. */
function isPublic(member: Named, project: Project): boolean {
  const nodes = member.declarations.map((declaration) => declaration.resolve(project));
  const hidden = ModifierFlags.Private | ModifierFlags.Protected | ModifierFlags.Override;
  const unnamed =
    /^__(?:#|call$|new$|index$)/.test(member.escapedName) || Boolean(member.flags & SymbolFlags.TypeParameter);
  return !unnamed && nodes.every((node) => node !== undefined && (modifiersOf(node) & hidden) === 0);
}

function modifiersOf(node: Node): number {
  return "modifierFlags" in node && typeof node.modifierFlags === "number" ? node.modifierFlags : 0;
}

/** Returns names that a README does not contain as code. */
function unmentioned(names: readonly string[], readme: string): string[] {
  const { blocks, prose } = readPage("README.md", readme);
  const inline = prose.flatMap((line) => [...line.matchAll(/`([^`]+)`/g)].map(([, code = ""]) => code));
  const words = new Set([...inline, ...blocks.map(({ code }) => code)].flatMap((code) => code.match(/[\w$]+/g) ?? []));
  return names.filter((name) => !words.has(name));
}

describe.each(publishedLibraries(repository).map(({ folder, manifest }) => ({ name: manifest.name, folder })))(
  "the package $name",
  ({ folder }) => {
    const surface = readSurface(join(repository, folder));

    it("exports at least one name", () => expect(surface.names).not.toEqual([]));

    it("has a docstring on every export", () => expect(surface.problems).toEqual([]));

    it("names every export in its README", () => {
      const readme = join(repository, folder, "README.md");
      expect(existsSync(readme), `${folder} has no README.md`).toBe(true);
      expect(unmentioned(surface.names, readFileSync(readme, "utf8"))).toEqual([]);
    });
  },
);

describe("the check of docstrings", () => {
  const folder = mkdtempSync(join(tmpdir(), "keyward-exports-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  function surfaceOf(index: string, other = ""): Surface {
    const root = mkdtempSync(join(folder, "package-"));
    const files = {
      "tsconfig.json": `{ "compilerOptions": { "module": "nodenext", "types": [], "allowImportingTsExtensions": true, "noEmit": true }, "include": ["src"] }`,
      "package.json": `{ "name": "example", "type": "module" }`,
      "src/index.ts": index,
      "src/other.ts": other,
    };
    for (const [file, content] of Object.entries(files)) {
      mkdirSync(dirname(join(root, file)), { recursive: true });
      writeFileSync(join(root, file), content);
    }
    return readSurface(root);
  }

  it("accepts documented exports", () => {
    const other = `
      /** Base. */
      export class Base {
        /** Made of nothing. */
        constructor() {}
        #hidden = 1;
        private alsoHidden = 1;
        /** Says it. */
        method() {}
        /** All. */
        static all() {}
      }
      /** Upper. */
      export class Upper extends Base {
        override method() {}
      }
      /** Failed. */
      export class Failed extends Error {
        override readonly name = "Failed";
      }
      /** A shape. */
      export type Shape = {
        /** A word. */
        word: "a" | "b";
      };
      /** A word. */
      export type Word = "a" | "b";
      /** A number. */
      export const one = 1;
      export interface NotExported { plain: string }
    `;
    const index = `export { Base, Failed, one as uno, type Shape, Upper, type Word } from "./other.ts";`;
    expect(surfaceOf(index, other)).toEqual({
      names: ["Base", "Failed", "uno", "Shape", "Upper", "Word"],
      problems: [],
    });
  });

  it.each([
    ["a function", `export function f() {}`, "f has no docstring"],
    ["a function with a comment", `// What f does.\nexport function f() {}`, "f has no docstring"],
    ["a function with only @throws", `/** @throws Error always */\nexport function f() {}`, "f has no"],
    ["a constant", `export const f = 1;`, "f has no docstring"],
    ["a type", `export type f = 1 | 2;`, "f has no docstring"],
    ["a method", `/** F. */\nexport class f {\n  m() {}\n}`, "f.m has no docstring"],
    ["a static method", `/** F. */\nexport class f {\n  static m() {}\n}`, "f.m has no docstring"],
    ["a property", `/** F. */\nexport class f {\n  readonly p = 1;\n}`, "f.p has no docstring"],
    ["an accessor", `/** F. */\nexport class f {\n  get p() { return 1; }\n}`, "f.p has no docstring"],
    ["a constructor", `/** F. */\nexport class f {\n  constructor(a: string) {}\n}`, "f.constructor has no docstring"],
    ["an option", `/** F. */\nexport interface f {\n  o?: number;\n}`, "f.o has no docstring"],
    ["an option of a type alias", `/** F. */\nexport type f = {\n  o?: number;\n};`, "f.o has no docstring"],
  ])("reports %s without a docstring", (_, other, expected) => {
    expect(surfaceOf(`export { f } from "./other.ts";`, other).problems).toEqual([expect.stringContaining(expected)]);
  });

  it.each([`export * from "./other.ts";`, `export * as all from "./other.ts";`, `export default 1;`])(
    "reports the statement %s, which does not name its exports",
    (index) => {
      const { problems } = surfaceOf(index, `/** F. */\nexport const f = 1;`);
      expect(problems).toEqual(expect.arrayContaining([expect.stringContaining("does not name its exports")]));
    },
  );

  it("reports a name that the README does not contain as code", () => {
    const readme = "# Keys\n\nA seal, `open()` and `keyring.first`.\n\n```ts\nclose();\n```\n";
    expect(unmentioned(["seal", "open", "keyring", "close", "pen"], readme)).toEqual(["seal", "pen"]);
  });
});
