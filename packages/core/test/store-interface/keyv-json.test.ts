import fc from "fast-check";
import { KeyvJsonSerializer } from "keyv";
import { describe, expect, it } from "vitest";
import { keyvJson } from "../../src/store-interface/keyv-json.ts";

const keyvs = new KeyvJsonSerializer();

/** Strings around what Keyv marks, and with what may stand around a value. */
const text = fc.oneof(
  fc.string({ unit: "binary" }),
  fc.stringMatching(/^(:|:base64:|:bigint:|\\u003a|"|,|\[|\s){0,4}[a-z0-9]{0,4}$/),
);

class Celsius {
  readonly degrees = 21;
}

const { value } = fc.letrec<{ value: unknown }>((tie) => ({
  value: fc.oneof(
    { depthSize: "small", withCrossShrink: true },
    text,
    fc.double(),
    fc.boolean(),
    fc.constantFrom(null, undefined),
    fc.bigInt(),
    fc.uint8Array({ maxLength: 8 }),
    fc.uint8Array({ maxLength: 8 }).map((bytes) => Buffer.from(bytes)),
    fc.date({ noInvalidDate: true }),
    fc.constantFrom(new Map([["a", 1]]), new Set([1]), new Celsius(), Object("boxed"), Object(1), Symbol("s"), () => 1),
    fc.constant(Object.defineProperty({}, "toJSON", { value: () => ":hidden" })),
    fc.array(tie("value"), { maxLength: 4 }),
    fc.array(tie("value"), { maxLength: 2 }).map((items) => Object.assign(items, { toJSON: () => "not asked for" })),
    fc.dictionary(text, tie("value"), { maxKeys: 4 }),
    fc.dictionary(text, tie("value"), { maxKeys: 2 }).map((fields) => ({ ...fields, toJSON: () => fields })),
  ),
}));

/** JSON that others wrote: white space, and colons that are escaped. */
const foreign = fc
  .tuple(fc.json({ stringUnit: fc.constantFrom(":", "a", "\\", '"', ",") }), fc.constantFrom(0, 1, "\t"), fc.boolean())
  .map(([json, space, escaped]) => {
    const spaced = JSON.stringify(JSON.parse(json), null, space);
    return escaped ? spaced.replaceAll('":', '"\\u003A').replaceAll(/"\\u003A(?=\s)/g, '":') : spaced;
  })
  .filter((json) => {
    try {
      return JSON.parse(json) !== undefined;
    } catch {
      return false;
    }
  });

describe("Keyv's JSON", () => {
  it("writes what Keyv writes", () => {
    fc.assert(
      fc.property(value, (any) => {
        expect(keyvJson.stringify({ value: any })).toBe(keyvs.stringify({ value: any }));
      }),
      { numRuns: 2_000 },
    );
  });

  it("reads what Keyv reads", () => {
    fc.assert(
      fc.property(value, (any) => {
        const written = keyvs.stringify({ value: any });
        expect(keyvJson.parse(written)).toStrictEqual(keyvs.parse(written));
      }),
      { numRuns: 2_000 },
    );
  });

  it("reads what others wrote as Keyv does", () => {
    fc.assert(
      fc.property(foreign, (json) => {
        expect(keyvJson.parse(json)).toStrictEqual(keyvs.parse(json));
      }),
      { numRuns: 2_000 },
    );
  });

  it.each([
    '":bigint:1"',
    ' ":a"',
    '{"a": ":a"}',
    '{"a":\n":base64:aGk="}',
    '[":a"]',
    '[1 , ":a"]',
    '"\\u003aa"',
    '{"a":"\\u003Abigint:7"}',
  ])("takes the mark off in %s", (json) => {
    expect(keyvJson.parse(json)).toStrictEqual(keyvs.parse(json));
    expect(keyvJson.parse(json)).not.toStrictEqual(JSON.parse(json));
  });

  it("refuses what Keyv refuses", () => {
    for (const broken of ["", "{", '{"value":}', "undefined"])
      expect(() => keyvJson.parse(broken)).toThrow(SyntaxError);
  });
});
