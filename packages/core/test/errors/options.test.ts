import { describe, expect, it } from "vitest";
import { type OptionNames, requireAmount, requireOptions } from "../../src/index.ts";

interface Options {
  readonly one?: number;
  readonly two?: string;
}
const known: OptionNames<Options> = { one: true, two: true };

describe("requireAmount", () => {
  it.each([NaN, Infinity, -Infinity, -1, 0, 1.5, 2 ** 31, 2 ** 53, "5", null, undefined, {}, 5n])(
    "refuses %s as a duration, with an error that names the option, the unit and the bounds",
    (given) => {
      expect(() => requireAmount("waitMs", given, "milliseconds")).toThrow(
        expect.objectContaining({
          code: "VALUE_INVALID",
          message: expect.stringMatching(
            /^waitMs is not an integer between 1 and 1073741824 \(in milliseconds\), but /,
          ),
        }),
      );
    },
  );

  it("returns a value that is within the bounds or equal to one of the bounds", () => {
    expect(requireAmount("waitMs", 0, "milliseconds", { least: 0 })).toBe(0);
    expect(requireAmount("waitMs", 2 ** 30, "milliseconds")).toBe(2 ** 30);
    expect(requireAmount("maxBytes", 2 ** 40, "bytes")).toBe(2 ** 40);
    expect(requireAmount("retries", 3, "attempts", { most: 3 })).toBe(3);
  });
});

describe("requireOptions", () => {
  it("returns the options if every option is known", () => {
    const options: Options = { one: 1 };
    expect(requireOptions("it", options, known)).toBe(options);
  });

  it.each([
    ["ones", { ones: 1 }],
    ["__proto__", JSON.parse('{"__proto__": 1}')],
    ["toString", { toString: 1 }],
  ])(
    "refuses the unknown option %s, with an error that names this option and lists the known options",
    (name, given: object) => {
      expect(() => requireOptions("it", given, known)).toThrow(
        expect.objectContaining({
          code: "VALUE_INVALID",
          message: `it has no option "${name}"`,
          hint: expect.stringContaining("one, two"),
        }),
      );
    },
  );

  it.each([
    ["null", "null"],
    ["a number", "5"],
    ["a text", '"text"'],
    ["an array", "[]"],
  ])("refuses %s instead of an object of options", (_, json) => {
    expect(() => requireOptions("it", JSON.parse(json), known)).toThrow(
      expect.objectContaining({ code: "VALUE_INVALID", message: "The options of it are not an object" }),
    );
  });
});
