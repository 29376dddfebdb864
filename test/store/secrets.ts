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

const guarded = new Set<string>();

/** Every text that would give away the material of a ring's keys. */
export function materialOf(ring: Keyring): string[] {
  const document: { readonly keys: readonly { readonly material: string }[] } = JSON.parse(exportKeyring(ring));
  return document.keys.flatMap(({ material }) => {
    const bytes = Buffer.from(material, "base64url");
    return (["base64url", "base64", "hex"] as const).map((encoding) => bytes.toString(encoding));
  });
}

/** Has the material of a ring's keys looked for in everything that is shown from now on. */
export function guardMaterial<Ring extends Keyring>(ring: Ring): Ring {
  for (const text of materialOf(ring)) guarded.add(text);
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
    for (const key of guarded) expect(text.includes(key), "key material is shown").toBe(false);
  }
}
