import { hkdfSync } from "node:crypto";
import fc from "fast-check";
import { expect, it } from "vitest";
import { HkdfKey } from "../../src/envelope/hkdf.ts";

it("HkdfKey derives the same keys as the HKDF of Node.js", () => {
  const material = fc.uint8Array({ minLength: 1, maxLength: 100 });
  const info = fc.string({ unit: "grapheme", maxLength: 1_000 });
  fc.assert(
    fc.property(material, info, (bytes, text) => {
      expect(new HkdfKey(bytes).derive(text)).toEqual(Buffer.from(hkdfSync("sha256", bytes, "", text, 32)));
    }),
  );
});

it("HkdfKey derives several keys from the same material", () => {
  const key = new HkdfKey(Buffer.alloc(32, 7));
  expect(key.derive("a")).toEqual(new HkdfKey(Buffer.alloc(32, 7)).derive("a"));
  expect(key.derive("a")).not.toEqual(key.derive("b"));
});
