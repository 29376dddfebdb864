import { join } from "node:path";
import { KeywardError } from "@keyward/core";
import { describe, expect, it } from "vitest";
import { withProject } from "./compiler.ts";
import { readPages } from "./markdown.ts";
import { repository } from "./workspace.ts";

/** Returns the codes that a package throws. The compiler reads them from the union type of the codes. */
function codesOf(folder: string, file: string, type: string): string[] {
  const root = join(repository, "packages", folder);
  return withProject(root, ({ checker, program }) => {
    const errors = program.getSourceFile(join(root, "src", file));
    const module = errors === undefined ? undefined : checker.getSymbolAtLocation(errors);
    const code = module === undefined ? undefined : checker.getMemberInModuleExports(module, type);
    const union = code === undefined ? undefined : checker.getDeclaredTypeOfSymbol(code);
    const members = union?.isUnionType() ? (union.getTypes() ?? []) : [];
    return members.flatMap((member) => (member.isStringLiteralType() ? [member.value] : []));
  });
}

/** Returns the text below each heading of the page that is an error code. */
function sectionsOf(prose: readonly string[]): Map<string, string> {
  const sections = new Map<string, string>();
  let code: string | undefined;
  for (const line of prose) {
    const heading = /^#{1,6} (.*)$/.exec(line)?.[1];
    if (heading !== undefined) code = /^[A-Z_]+$/.test(heading) ? heading : undefined;
    if (code !== undefined) sections.set(code, `${sections.get(code) ?? ""}${line}\n`);
  }
  return sections;
}

describe("docs/errors.md", () => {
  const page = readPages(repository).find(({ file }) => file === "docs/errors.md");
  const sections = sectionsOf(page?.prose ?? []);
  const codes = [
    ...codesOf("core", join("errors", "errors.ts"), "KeywardErrorCode"),
    ...codesOf("secrets", "secrets-error.ts", "SecretsErrorCode"),
  ];

  it("has a section for each error code, and no section for a code that no package throws", () => {
    expect(codes).toEqual(expect.arrayContaining(["RECORD_TAMPERED", "SECRET_UNUSABLE"]));
    expect([...sections.keys()].sort()).toEqual([...codes].sort());
  });

  it.each([...sections])(
    'has the parts "What happened", "Do first" and "Never means" in the section of %s',
    (_, text) => {
      const parts = [...text.matchAll(/^- \*\*(.+?):\*\*/gm)].map(([, name]) => name);
      expect(parts).toEqual(["What happened", "Do first", "Never means"]);
    },
  );

  it("lists each code in the table at its beginning", () => {
    const linked = (page?.prose ?? []).flatMap((line) => [...line.matchAll(/\[`([A-Z_]+)`\]\(#[a-z_]+\)/g)]);
    const listed = new Set(linked.map(([, code]) => code));
    expect(codes.filter((code) => !listed.has(code))).toEqual([]);
  });

  it("has an anchor for each link that an error contains", () => {
    const anchors = [...(page?.anchors ?? [])].map((anchor) => `docs/errors.md#${anchor}`);
    expect(codes.map(linkOf).filter((link) => !anchors.includes(link))).toEqual([]);
    expect(linkOf("KEY_IN_USE")).toBe("docs/errors.md#key_in_use");
  });
});

/** Returns the link of an error with this code. The compiler has read the code from a type, so the code is valid. */
function linkOf(code: string): string {
  const error: KeywardError = Reflect.construct(KeywardError, [code, "It failed", { hint: "Repeat it." }]);
  return error.link;
}
