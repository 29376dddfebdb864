import fc from "fast-check";
import { KeyvJsonSerializer } from "keyv";
import { describe, expect, it } from "vitest";
import { keyvJson } from "../../src/store-interface/keyv-json.ts";

const keyvSerializer = new KeyvJsonSerializer();

/** Strings that look like the marks of Keyv, or like the characters around a value. */
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

/** JSON of other programs, with white space and escaped colons. */
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

describe("keyvJson", () => {
  it("writes the same text as Keyv's serializer", () => {
    fc.assert(
      fc.property(value, (any) => {
        expect(keyvJson.stringify({ value: any })).toBe(keyvSerializer.stringify({ value: any }));
      }),
      { numRuns: 2_000 },
    );
  });

  it("reads the same value as Keyv's serializer", () => {
    fc.assert(
      fc.property(value, (any) => {
        const written = keyvSerializer.stringify({ value: any });
        expect(keyvJson.parse(written)).toStrictEqual(keyvSerializer.parse(written));
      }),
      { numRuns: 2_000 },
    );
  });

  it("reads JSON of other programs as Keyv's serializer does", () => {
    fc.assert(
      fc.property(foreign, (json) => {
        expect(keyvJson.parse(json)).toStrictEqual(keyvSerializer.parse(json));
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
  ])("parses %s as Keyv's serializer does, whose marks begin with a colon", (json) => {
    expect(keyvJson.parse(json)).toStrictEqual(keyvSerializer.parse(json));
    expect(keyvJson.parse(json)).not.toStrictEqual(JSON.parse(json));
  });

  it("refuses text that is not JSON", () => {
    for (const broken of ["", "{", '{"value":}', "undefined"])
      expect(() => keyvJson.parse(broken)).toThrow(SyntaxError);
  });
});
