import { randomInt } from "node:crypto";
import { parseEnv } from "node:util";
import { expect, it } from "vitest";
import { envVariables } from "../src/service/env-file.ts";

it.each([
  ["A=b", "b"],
  ["\n# remark\n  export A=b", "b"],
  ["A='b # c\\n$d'", "b # c\\n$d"],
  ['A="b # c"', "b # c"],
  ["A=b  # remark", "b"],
  ["A=b==\r\n", "b=="],
])("reads %j as Node.js does", (text, value) => {
  expect(envVariables(text)).toEqual([{ name: "A", value }]);
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
])("refuses %j with the number of the line, and without the value", (text, message) => {
  expect(() => envVariables(text)).toThrow(message);
  expect(() => envVariables(text)).not.toThrow(/secret/);
});

it("reads whatever it accepts as Node.js does", () => {
  const parts = ["A", "B", "=", "=", "'", '"', "#", " ", "\\", "$", "\n", "\r", "`", "x", "x", "export ", "\t", ":"];
  let accepted = 0;
  for (let round = 0; round < 50_000; round++) {
    const text = Array.from({ length: 2 + randomInt(10) }, () => parts[randomInt(parts.length)]).join("");
    let read: Record<string, string>;
    try {
      read = Object.fromEntries(envVariables(text).map(({ name, value }) => [name, value]));
    } catch {
      continue;
    }
    if (Object.keys(read).length > 0) accepted++;
    // Node.js 24 reads an indented remark after another remark as a variable whose name begins with #.
    const names = Object.entries(parseEnv(text)).filter(([name]) => !name.startsWith("#"));
    expect({ text, read }).toEqual({ text, read: Object.fromEntries(names) });
  }
  expect(accepted).toBeGreaterThan(100);
});
