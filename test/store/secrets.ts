import { inspect } from "node:util";
import { exportKeyring, type Keyring } from "@keyward/core";
import { expect } from "vitest";

/** A beginning that every value in these tests has, so that it can be looked for where no value may be. */
export const marker = "s3cr3t-";

const markerShapes = [
  marker,
  Buffer.from(marker).toString("hex"),
  Buffer.from(marker).toString("base64url").slice(0, 8),
];

/** Header and more of the body than any message has a reason to quote. */
const wholeEnvelope = /kw1[.:][\w-]{1,32}[.:][\w-]{60}/;

const material = new Set<string>();

/** Has the material of a ring's keys looked for in everything that is shown from now on. */
export function guardMaterial<Ring extends Keyring>(ring: Ring): Ring {
  const document: unknown = JSON.parse(exportKeyring(ring));
  for (const found of JSON.stringify(document).matchAll(/"material":"([\w-]+)"/g)) {
    const encoded = found[1] ?? "";
    const bytes = Buffer.from(encoded, "base64url");
    for (const form of ["base64url", "base64", "hex"] as const) material.add(bytes.toString(form));
  }
  return ring;
}

/** Fails if anything that a log could make of this thing holds a value, key material or an envelope. */
export function expectNoSecrets(thing: unknown): void {
  const causes: unknown[] = [thing];
  for (let at = thing; at instanceof Error && at.cause !== undefined; at = at.cause) causes.push(at.cause);
  const shown = causes.flatMap((one) => [
    inspect(one, { depth: Number.POSITIVE_INFINITY, showHidden: true, maxArrayLength: null, maxStringLength: null }),
    JSON.stringify(one) ?? "",
    String(one),
    one instanceof Error ? `${one.stack} ${one.message}` : "",
  ]);
  for (const text of shown) {
    for (const shape of markerShapes) expect(text.includes(shape), `a value is shown in: ${text}`).toBe(false);
    expect(wholeEnvelope.test(text), `an envelope is shown in: ${text}`).toBe(false);
    for (const key of material) expect(text.includes(key), "key material is shown").toBe(false);
  }
}
