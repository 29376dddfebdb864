import { randomBytes } from "node:crypto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { shapeOf } from "../../src/envelope/value-shape.ts";

const hex = (bytes: number) => randomBytes(bytes).toString("hex");
const base64 = (bytes: number) => randomBytes(bytes).toString("base64");

describe("shapeOf", () => {
  it.each([
    [`${hex(12)}:${hex(16)}:${hex(77)}`, "hex(12 bytes):hex(16 bytes):hex(bytes)"],
    [hex(100), "hex(bytes)"],
    [JSON.stringify({ iv: base64(12), tag: base64(16), data: "x" }), "JSON object { data, iv, tag }"],
    [JSON.stringify({ alice: 1, iv: 2, "bob@example.com": 3 }), "JSON object { iv, 2 other fields }"],
    ["[1,2]", "JSON list"],
    ['"text"', "JSON that is not an object"],
    ["Fe26.2**aa*bb*cc**dd*ee", "iron"],
    [`U2FsdGVkX1${base64(40)}`, "base64 of Salted__ (CryptoJS or openssl enc)"],
    ["the plain text of a user", "text, up to 32 long"],
    ["", "text, up to 1 long"],
    ["alice:secret", "text, up to 16 long"],
    ["{broken", "text, up to 8 long"],
    ["kw1.k1.AAAA", "envelope"],
    [Buffer.from("kw1:k1:x"), "envelope"],
    [Buffer.from([255, 0, 1]), "bytes, up to 4 long"],
    [Buffer.concat([Buffer.from("Salted__"), Buffer.alloc(8, 0xff)]), "bytes that begin with Salted__ (openssl enc)"],
  ])("describes %j as %s", (stored, shape) => {
    expect(shapeOf(stored)).toBe(shape);
  });

  it("returns the same shape for all records of one format", () => {
    const shapes = new Set<string>();
    for (let length = 20; length < 60; length++) shapes.add(shapeOf(`${hex(16)}:${hex(16)}:${hex(length * 3 + 1)}`));
    expect([...shapes]).toEqual(["hex(16 bytes):hex(16 bytes):hex(bytes)"]);
  });

  it("returns the same shape for texts that differ only in characters of the same kind", () => {
    const part = fc.stringMatching(/^[g-z]{3,40}$/);
    fc.assert(
      fc.property(
        fc.array(part, { minLength: 1, maxLength: 6 }),
        fc.constantFrom(":", ".", " ", "|"),
        (parts, joint) => {
          const text = parts.join(joint);
          expect(shapeOf(text)).toBe(shapeOf(text.replace(/[g-z]/g, (letter) => (letter === "q" ? "w" : "q"))));
        },
      ),
    );
    fc.assert(
      fc.property(fc.string(), fc.string(), (name, content) => {
        const shown = shapeOf(JSON.stringify({ [`name ${name}`]: content, "other name": content }));
        expect(["JSON object { 2 other fields }", "JSON object { 1 other field }"]).toContain(shown);
      }),
    );
  });
});
