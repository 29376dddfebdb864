import { spawnSync } from "node:child_process";
import { randomInt } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseEnv } from "node:util";
import { expect, it, onTestFinished } from "vitest";
import { envVariables } from "../src/service/env-file.ts";

it.each([
  ["A=b", "b", 1],
  ["\n# remark\n  export A=b", "b", 3],
  ["A='b # c\\n$d'", "b # c\\n$d", 1],
  ['A="b # c"', "b # c", 1],
  ["A=b  # remark", "b", 1],
  ["A=b==\r\n", "b==", 1],
])("reads %j as Node.js does", (text, value, line) => {
  expect(envVariables(text)).toEqual([{ name: "A", value, line }]);
  expect(parseEnv(text)).toEqual({ A: value });
});

it.each([
  ["A=secret#tail", /Line 1 .*#/],
  ['A="secret\\"tail"', /Line 1/],
  ['A="secret\\n"', /Line 1/],
  ["A=secret$HOME", /Line 1/],
  ["A=secret\nA=other", /Line 2 .*second time/],
  ['A="secret\nB=x', /Line 1 .*does not end/],
  ["A='secret\nline'", /Line 1 .*does not end/],
  ["A='secret'tail", /Line 1 .*more text/],
  ["A=secret tail", /Line 1 .*more text/],
  ["\nA: secret", /Line 2 .*NAME=value/],
  ["A = secret", /Line 1 .*NAME=value/],
  ["1A=secret", /Line 1/],
  ["secret", /Line 1/],
  ["A=secret\rB=x", /Line 1 .*carriage return/],
  ["#x\rA=secret", /Line 1 .*carriage return/],
  ["A=`secret`", /Line 1/],
  ["A=", /Line 1 .*empty/],
  ["KEY='begin'\nsecret==", /Line 2 .*= only/],
  ["secret===", /Line 1 .*= only/],
  ["secret='='", /Line 1 .*= only/],
  ...Array.from(";&|<>(){}~", (sign): [string, RegExp] => [`A=secret${sign}tail`, /Line 1 .*without quotes/]),
  ["A=~/secret", /Line 1 .*without quotes/],
])("refuses %j with an error that contains the number of the line, but not the value", (text, message) => {
  expect(() => envVariables(text)).toThrow(message);
  expect(() => envVariables(text)).not.toThrow(/secret/);
});

const parts = Array.from("AB==''\"\"#  \\$\n\r`xx\t:;&|<>()~{},*?[]!%^@-", String).concat("export ", "\n");

/** Returns random texts that are accepted, each with its variables. */
function accepted(): readonly { readonly text: string; readonly read: Record<string, string> }[] {
  return Array.from({ length: 100_000 }).flatMap(() => {
    const start = randomInt(2) === 0 ? "A=" : "";
    const text = start + Array.from({ length: 2 + randomInt(10) }, () => parts[randomInt(parts.length)]).join("");
    try {
      const read = Object.fromEntries(envVariables(text).map(({ name, value }) => [name, value]));
      return Object.keys(read).length === 0 ? [] : [{ text, read }];
    } catch {
      return [];
    }
  });
}

it("reads each text that it accepts as Node.js does", () => {
  const texts = accepted();
  for (const { text, read } of texts) {
    // Node.js 24 reads an indented remark after another remark as a variable whose name begins with #.
    const names = Object.entries(parseEnv(text)).filter(([name]) => !name.startsWith("#"));
    expect({ text, read }).toEqual({ text, read: Object.fromEntries(names) });
  }
  expect(texts.length).toBeGreaterThan(100);
});

const shells = ["sh", "bash"].filter((shell) => spawnSync(shell, ["-c", ":"]).status === 0);

it.each(shells)("reads each text that it accepts as %s does", (shell) => {
  const texts = accepted()
    .filter(({ read }) => Object.keys(read).every((name) => /^[AB]+$/.test(name) && name.length === 1))
    // A shell keeps the carriage return at the end of a line.
    .filter(({ text }) => !text.includes("\r"));
  expect(texts.length).toBeGreaterThan(100);
  const script = texts.map(({ text }) => `unset A B\n${text}\nprintf '%s\\0' "\${A-}" "\${B-}"\n`).join("");
  const folder = mkdtempSync(join(tmpdir(), "keyward-env-"));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const { stdout, stderr } = spawnSync(shell, { input: script, cwd: folder, encoding: "utf8", maxBuffer: 2 ** 26 });
  expect(stderr).toBe("");
  const printed = stdout.split("\0");
  const found = texts.map(({ text }, index) => ({ text, A: printed[2 * index], B: printed[2 * index + 1] }));
  expect(found).toEqual(texts.map(({ text, read }) => ({ text, A: read["A"] ?? "", B: read["B"] ?? "" })));
});
