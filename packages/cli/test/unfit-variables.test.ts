import { expect, it } from "vitest";
import { unfitVariables } from "../src/service/unfit-variables.ts";

const value = "user:password-of-a-test";
const variables = (...names: readonly string[]) => names.map((name) => ({ name, value }));

it("judges a variable by the rule that its secret has, and not by its name", () => {
  const existing = [
    { name: "Host", injection: { kind: "bearer" } },
    { name: "PAIR", injection: { kind: "header", header: "X-Pair" } },
  ] as const;
  expect(unfitVariables(variables("Host", "PAIR"), existing)).toEqual([]);
  expect(unfitVariables(variables("authorization", "x-pair"), existing)).toEqual([
    "authorization: the secret Host sets the same header",
    "x-pair: the secret PAIR sets the same header",
  ]);
});

it("refuses two variables of one header, and a value without a colon for the rule basic", () => {
  expect(unfitVariables(variables("KEY", "key"), [])).toEqual(["key: the secret KEY sets the same header"]);
  const existing = [{ name: "PAIR", injection: { kind: "basic" } }] as const;
  expect(unfitVariables([{ name: "PAIR", value: "a-value-of-a-test" }], existing)).toEqual([
    "PAIR: the value must be of the form `user:password`, because the rule is `basic`",
  ]);
  expect(unfitVariables(variables("PAIR"), existing)).toEqual([]);
});

it("refuses more secrets than a server may have", () => {
  const names = Array.from({ length: 101 }, (_, index) => `KEY_${index}`);
  expect(unfitVariables(variables(...names), [])).toEqual(["the server would have more than 100 secrets"]);
  expect(unfitVariables(variables(...names.slice(1)), [])).toEqual([]);
});

it("refuses a name that has the text of a token, and does not repeat the name", () => {
  const name = `kwt_service_abcdefghijkl_${"a1".repeat(24)}b`;
  expect(unfitVariables(variables(name), [])).toEqual(["a variable whose name has a token"]);
});
