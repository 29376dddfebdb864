import { readdirSync, readFileSync } from "node:fs";
import { join, relative, sep } from "node:path";
import { describe, expect, it } from "vitest";
import { repository } from "./workspace.ts";

const ownName = "test/assertions.test.ts";

/** Patterns that no assertion may have, each with the reason. */
const refused = [
  {
    name: "the assertion accepts any error, even a mistake in the test: expect a code",
    pattern:
      /(?<!\.not)\s*\.toThrow(?:Error)?\(\s*(?:(?:Keyward|Type|Range)?Error\s*,?\s*)?\)|\.rejects\s*\.(?:toBeInstanceOf|toBeDefined|toBeTruthy|toThrowError)\(/g,
  },
  {
    name: "nothing waits for the assertion on a promise: write await",
    pattern:
      /^[ \t]*(?:void )?(?:expect\.poll\(|vi\.waitFor\(|expect\((?:(?!;\n)[\s\S])*?\)\s*\.(?:rejects|resolves)\b)/gm,
  },
];

const impatient =
  "vi.waitFor stops after a second, which is too short on a busy machine: pass a timeout, or use expect.poll";

/** Returns the positions of calls of `vi.waitFor` that have only one argument. */
function impatientCalls(text: string): number[] {
  return [...text.matchAll(/\bvi\.waitFor\(/g)].flatMap(({ 0: call, index }) => {
    let depth = 1;
    let quote: string | undefined;
    for (let at = index + call.length; depth > 0 && at < text.length; at++) {
      const character = text.charAt(at);
      if (character === "\\") at++;
      else if (quote !== undefined) quote = character === quote ? undefined : quote;
      else if (`"'\``.includes(character)) quote = character;
      else if ("([{".includes(character)) depth++;
      else if (")]}".includes(character)) depth--;
      else if (character === "," && depth === 1) return [];
    }
    return [index];
  });
}

function breachesIn(text: string): string[] {
  const found = refused.flatMap(({ name, pattern }) =>
    [...text.matchAll(pattern)].map(({ index }) => ({ index, name })),
  );
  const calls = impatientCalls(text).map((index) => ({ index, name: impatient }));
  return [...found, ...calls].map(({ index, name }) => `line ${text.slice(0, index).split("\n").length}: ${name}`);
}

describe("the assertions of all tests", () => {
  it("name the error that they expect, and wait long enough for a busy machine", () => {
    const files = ["test", "packages", "bench", "examples"].flatMap((folder) =>
      readdirSync(join(repository, folder), { recursive: true, withFileTypes: true })
        .filter((entry) => entry.isFile() && entry.name.endsWith(".ts"))
        .map((entry) => relative(repository, join(entry.parentPath, entry.name)).split(sep).join("/"))
        .filter((file) => !/(?:^|\/)(?:node_modules|dist)\//.test(file) && file !== ownName),
    );
    expect(files.filter((file) => file.endsWith(".test.ts")).length).toBeGreaterThan(50);
    const breaches = files.flatMap((file) =>
      breachesIn(readFileSync(join(repository, file), "utf8")).map((breach) => `${file}, ${breach}`),
    );
    expect(breaches).toEqual([]);
  });
});

describe("the check of assertions", () => {
  it.each([
    "await expect(call()).rejects.toThrow();",
    "expect(call).toThrow();",
    "expect(call).toThrow(KeywardError);",
    "await expect(call())\n  .rejects.toBeInstanceOf(KeywardError);",
    '  expect(call()).rejects.toMatchObject({ code: "X" });',
    "  expect(\n    call(),\n  ).resolves.toBe(1);",
    "  expect.poll(() => seen).toBe(1);",
    "  vi.waitFor(() => expect(seen).toBe(1), 20_000);",
    "  await vi.waitFor(() => expect(seen).toEqual([1, 2]));",
  ])("reports that %j breaks a rule", (text) => {
    expect(breachesIn(text)).toHaveLength(1);
  });

  it.each([
    'await expect(call()).rejects.toMatchObject({ code: "X" });',
    'expect(call).toThrow("reserved space");',
    "expect(call).not.toThrow();",
    "const rejected = expect(call()).rejects.toMatchObject(refused);",
    "  expect(seen).toBe(1);\n  await expect(call()).resolves.toBe(1);",
    "  return expect.poll(() => seen).toBe(1);",
    "  await vi.waitFor(() => expect(seen).toEqual([1, 2]), 20_000);",
  ])("accepts %j", (text) => {
    expect(breachesIn(text)).toEqual([]);
  });
});
