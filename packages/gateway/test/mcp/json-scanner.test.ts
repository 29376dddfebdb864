import fc from "fast-check";
import { expect, it } from "vitest";
import { McpRefusedError } from "../../src/mcp/index.ts";
import { JsonScanner } from "../../src/mcp/json-scanner.ts";

const deep = { maxDepth: 1_000 };

/** Returns whether the scanner takes the bytes for JSON. */
function accepts(bytes: Uint8Array): boolean {
  try {
    const scanner = new JsonScanner(bytes, deep);
    scanner.skip();
    scanner.end();
    return true;
  } catch (error) {
    if (error instanceof McpRefusedError && error.code === "BODY_INVALID") return false;
    throw error;
  }
}

function isJson(bytes: Uint8Array): boolean {
  try {
    // A decoder that keeps the byte order mark, as JSON.parse refuses one.
    JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes));
    return true;
  } catch {
    return false;
  }
}

const json = fc.oneof(
  fc.json({ maxDepth: 6 }),
  fc.jsonValue({ maxDepth: 6, stringUnit: "binary" }).map((value) => JSON.stringify(value, undefined, " \t")),
);

/** Pieces of JSON in any order: most of them are nearly JSON. */
const nearlyJson = fc
  .array(
    fc.constantFrom(
      ...'{}[],:"\\/ \t\r\n0123456789+-.eEu',
      ...["true", "false", "null", "nul", "1e5", "-0", "01", "1.", ".5", "1e", "1E+2", '"a"', '"\\u0041"', '"\\u00g0"'],
      ...['"\\ud800"', '"\\x"', '{"a":1}', "[1,2]", "[1,]", '{"a":1,}', "{}", "[]", "\u0000", "\u001f", "\u007f", "é"],
      ...["\ufeff", "\u00a0", "\u2028", "NaN", "Infinity", "'a'", "//", "/**/"],
    ),
    { maxLength: 12 },
  )
  .map((pieces) => pieces.join(""));

it("JsonScanner accepts the texts that JSON.parse accepts, and no others", () => {
  fc.assert(
    fc.property(fc.oneof(json, nearlyJson), (text) => {
      const bytes = Buffer.from(text);
      expect(accepts(bytes)).toBe(isJson(bytes));
    }),
    { numRuns: 20_000 },
  );
});

it("JsonScanner and JSON.parse agree on JSON in which bytes were changed, removed or added", () => {
  const changes = fc.array(fc.tuple(fc.nat(), fc.nat(255), fc.nat(2)), { minLength: 1, maxLength: 3 });
  fc.assert(
    fc.property(json, changes, (text, edits) => {
      const bytes = [...Buffer.from(text)];
      for (const [position, byte, kind] of edits) {
        const at = position % (bytes.length + 1);
        bytes.splice(at, kind === 0 ? 0 : 1, ...(kind === 1 ? [] : [byte]));
      }
      const changed = Uint8Array.from(bytes);
      expect(accepts(changed)).toBe(isJson(changed));
    }),
    { numRuns: 20_000 },
  );
});

it.each(["{}", '"a"', "1", "-1.5e+10", "[1]"])("JsonScanner refuses each incomplete beginning of %s", (text) => {
  for (let length = 0; length < text.length; length++) {
    const beginning = Buffer.from(text.slice(0, length));
    expect([text.slice(0, length), accepts(beginning)]).toEqual([text.slice(0, length), isJson(beginning)]);
  }
});

it("JsonScanner treats each byte of a string as JSON.parse does", () => {
  for (let byte = 0; byte < 256; byte++) {
    for (const before of ['"', '"a', '"\\', '"\\n', '"\\u004', '"\\u0041']) {
      const bytes = Uint8Array.from([...Buffer.from(before), byte, 0x22]);
      expect([before, byte, accepts(bytes)]).toEqual([before, byte, isJson(bytes)]);
    }
  }
});

it("JsonScanner returns the same members, strings and numbers as JSON.parse", () => {
  const value = fc.oneof(fc.string({ unit: "binary" }), fc.double({ noNaN: true, noDefaultInfinity: true }));
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.string({ unit: "binary" }), value)), (entries) => {
      const text = `{ ${entries.map(([key, item]) => `${JSON.stringify(key)} : ${JSON.stringify(item)}`).join(" , ")} }`;
      const scanner = new JsonScanner(Buffer.from(text), deep);
      const read: [string, unknown][] = [];
      scanner.members((key) => {
        read.push([key, scanner.kind() === "string" ? scanner.string() : scanner.number()]);
      });
      scanner.end();
      expect(read).toEqual(JSON.parse(JSON.stringify(entries.map(([key, item]) => [key, item]))));
    }),
  );
});

it("JsonScanner counts the levels of nested objects and arrays", () => {
  const scan = (text: string) => new JsonScanner(Buffer.from(text), { maxDepth: 3 }).skip();
  scan('[[[1]],{"a":[]}]');
  // Each value ends its level.
  scan("[[],[],[[],[]],{},{}]");
  for (const text of ["[[[[]]]]", '{"a":{"b":{"c":{}}}}', '[{"a":[{}]}]']) {
    expect(() => scan(text)).toThrow(new McpRefusedError("BODY_TOO_DEEP", "The body has more than 3 levels"));
  }
});
