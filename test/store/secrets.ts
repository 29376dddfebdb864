import { inspect } from "node:util";
import { exportKeyring, type Keyring } from "@keyward/core";
import { expect } from "vitest";

/** The prefix of every value in these tests. Errors and logs must not show values, so they are searched for this prefix. */
export const marker = "s3cr3t-";

const markerShapes = [
  marker,
  Buffer.from(marker).toString("hex"),
  Buffer.from(marker).toString("base64url").slice(0, 8),
];

/** Matches the header and 60 characters of the body of an envelope, which is more than an error message may show. */
const wholeEnvelope = /kw1[.:][\w-]{1,32}[.:][\w-]{60}/;

const guarded = new Set<string>();

/** Returns the material of a keyring's keys, in each encoding in which an error could show it. */
export function materialOf(ring: Keyring): string[] {
  const document: { readonly keys: readonly { readonly material: string }[] } = JSON.parse(exportKeyring(ring));
  return document.keys.flatMap(({ material }) => {
    const bytes = Buffer.from(material, "base64url");
    return (["base64url", "base64", "hex"] as const).map((encoding) => bytes.toString(encoding));
  });
}

/** Makes {@link expectNoSecrets} search for the material of this keyring's keys too. */
export function guardMaterial<Ring extends Keyring>(ring: Ring): Ring {
  for (const text of materialOf(ring)) guarded.add(text);
  return ring;
}

/** Fails if a log of this thing could show a value, key material or an envelope. */
export function expectNoSecrets(thing: unknown): void {
  const causes: unknown[] = [thing];
  for (let error = thing; error instanceof Error && error.cause !== undefined; error = error.cause) {
    causes.push(error.cause);
  }
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
