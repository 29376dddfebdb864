import type { Command } from "commander";
import { describe, expect, it } from "vitest";
import { type Page, readPage, readPages } from "../../../test/markdown.ts";
import { repository } from "../../../test/workspace.ts";
import type { Surroundings } from "../src/context.ts";
import { declareCompletion } from "../src/declarations/completion.ts";
import { kvProgramFor } from "../src/kv-program.ts";
import { programFor } from "../src/program.ts";
import { inCommandTerms } from "../src/terminal/command-terms.ts";
import { Results } from "../src/terminal/results.ts";
import { textsIn } from "./hint-texts.ts";

const { stdin, stdout, stderr } = process;
const { signal } = new AbortController();
const surroundings: Omit<Surroundings, "name"> = {
  stdin,
  stdout,
  stderr,
  results: new Results(stdout),
  env: {},
  signal,
  allowStop: () => {},
};
const programs = new Map([
  ["keyward", programFor({ name: "keyward", ...surroundings })],
  ["keyward-kv", kvProgramFor({ name: "keyward-kv", ...surroundings })],
]);
for (const program of programs.values()) await declareCompletion(program, []);

/** Returns the command lines of `keyward` and `keyward-kv` in a text in Markdown, or in the code of a shell block. */
function commandLinesIn(text: string): readonly string[] {
  return [...text.matchAll(/(?:^|[`\s(])(keyward(?:-kv)? [^`\n]*)/gm)].map(([, line = ""]) => line);
}

function commandLinesOf({ blocks, prose }: Page): readonly string[] {
  const shell = blocks.filter(({ info }) => /^(?:sh|console)\b/.test(info)).map(({ code }) => code);
  const inline = prose.flatMap((line) => line.match(/`[^`]+`/g) ?? []);
  return [...shell, ...inline].flatMap(commandLinesIn);
}

/** Returns the command and the flags of a command line that its program does not have. */
function unknownIn(line: string): readonly string[] {
  const [name = "", ...words] = line.split(/ +(?:[#|>]|<(?= )|&&|;)/)[0]?.split(/[\s)]+/) ?? [];
  const program = programs.get(name);
  if (program === undefined) return [name];
  const unknown: string[] = [];
  let command: Command = program;
  let isArgument = false;
  for (const word of words) {
    if (word.startsWith("--")) {
      const flag = word.split("=")[0];
      const flags = [...program.options, ...command.options].flatMap(({ long = "" }) => [long]);
      if (flag !== "--" && flag !== "--help" && !flags.includes(flag ?? "")) unknown.push(word);
      // What comes after a flag may be its value.
      isArgument = true;
    } else if (!isArgument && command.commands.length > 0 && /^[a-z]/.test(word)) {
      const found = command.commands.find((one) => one.name() === word);
      if (found === undefined) return [...unknown, word];
      command = found;
    }
  }
  return unknown;
}

describe("the command lines", () => {
  it("name existing commands and flags on every page", () => {
    const lines = readPages(repository).flatMap((page) => commandLinesOf(page).map((line) => ({ page, line })));
    expect(lines.map(({ page }) => page.file)).toEqual(
      expect.arrayContaining(["README.md", "docs/errors.md", "docs/rotation.md", "docs/guided-rotation.md"]),
    );
    const broken = lines.flatMap(({ page, line }) => unknownIn(line).map((word) => `${page.file}: ${line}: ${word}`));
    expect(broken).toEqual([]);
  });

  it("name existing commands and flags in the messages and hints of the packages", () => {
    const texts = textsIn(
      repository,
      ["core", "http-kv", "keys-aws", "keys-env", "keys-vault", "secrets", "admin"].map((name) => `packages/${name}`),
    );
    const quoted = texts.flatMap(({ text }) => inCommandTerms(text).match(/`[^`]+`/g) ?? []);
    const lines = quoted.flatMap(commandLinesIn);
    expect(lines).toEqual(
      expect.arrayContaining(
        ["keyward rotate", "keyward keyring create", "keyward-kv tenants add"].map((line) =>
          expect.stringContaining(line),
        ),
      ),
    );
    expect(lines.flatMap((line) => unknownIn(line).map((word) => `${line}: ${word}`))).toEqual([]);
    // A flag without its command.
    const flags = quoted.flatMap((one) => /^`(--[a-z-]+)/.exec(one)?.[1] ?? []);
    expect(flags).toContain("--unregistered");
    const known = [...programs.values()].flatMap(flagsOf);
    expect(flags.filter((flag) => !known.includes(flag))).toEqual([]);
  });

  it.each([
    ["keyward rotat --new-key 2026-12", "rotat"],
    ["keyward rotate --newkey 2026-12", "--newkey"],
    ["keyward keyring shw", "shw"],
    ["keyward-kv tenants ad", "ad"],
  ])("are found by this test if a command or flag is unknown: %s", (line, word) => {
    const page = readPage("page.md", `\`${line}\`\n\n\`\`\`sh drill\n${line} # remark\n\`\`\`\n`);
    expect(commandLinesOf(page).flatMap(unknownIn)).toEqual([word, word]);
  });
});

function flagsOf(command: Command): readonly string[] {
  return [...command.options.flatMap(({ long = "" }) => [long]), ...command.commands.flatMap(flagsOf)];
}
