import { expect, it } from "vitest";
import { unfitVariables } from "../src/service/unfit-variables.ts";

const value = "user:password-of-a-test";
const variables = (...names: readonly string[]) => names.map((name, index) => ({ name, value, line: index + 1 }));

it("unfitVariables checks the header of an existing secret's rule, and not the variable's name", () => {
  const existing = [
    { name: "Host", injection: { kind: "bearer" } },
    { name: "PAIR", injection: { kind: "header", header: "X-Pair" } },
  ] as const;
  expect(unfitVariables(variables("Host", "PAIR"), existing)).toEqual([]);
  expect(unfitVariables(variables("authorization", "x-pair"), existing)).toEqual([
    "Line 1: the secret Host sets the same header",
    "Line 2: the secret PAIR sets the same header",
  ]);
});

it("unfitVariables refuses two variables for the same header, and a value without a colon for the rule basic", () => {
  expect(unfitVariables(variables("KEY", "key"), [])).toEqual(["Line 2: line 1 sets the same header"]);
  const existing = [{ name: "PAIR", injection: { kind: "basic" } }] as const;
  expect(unfitVariables([{ name: "PAIR", value: "a-value-of-a-test", line: 7 }], existing)).toEqual([
    "Line 7: the value must be of the form `user:password`, because the rule is `basic`",
  ]);
  expect(unfitVariables(variables("PAIR"), existing)).toEqual([]);
});

it("unfitVariables refuses more secrets than a server may have", () => {
  const names = Array.from({ length: 101 }, (_, index) => `KEY_${index}`);
  expect(unfitVariables(variables(...names), [])).toEqual(["the server would have more than 100 secrets"]);
  expect(unfitVariables(variables(...names.slice(1)), [])).toEqual([]);
});

it("unfitVariables repeats no name, because a name may be a token or a part of a value", () => {
  const token = `kwt_service_abcdefghijkl_${"a1".repeat(24)}b`;
  expect(unfitVariables(variables(token), [])).toEqual(["Line 1: the name contains a token"]);
  const names = ["c2VjcmV0cGFydA", "Connection", `long${"x".repeat(128)}`];
  const given = [...variables(...names), { name: "sEcr3tValueInTheName", value: "API_KEY", line: 4 }];
  const reasons = unfitVariables([...given, { name: "c2hvcnQ", value: "short", line: 5 }], []);
  expect(reasons.map((reason) => reason.slice(0, 25))).toEqual([
    "Line 2: no value can be s",
    "Line 3: the name must be ",
    "Line 4: the name and the ",
    "Line 5: the value must be",
  ]);
  expect(reasons.join()).not.toMatch(/c2|Connection|longx|sEcr3t/);
});
