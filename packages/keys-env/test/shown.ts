import { inspect } from "node:util";

/** Returns all that a log could show of a value. */
export function shown(value: unknown): string {
  const text = value instanceof Error ? `${value.message} ${value.stack ?? ""}` : String(value);
  return `${text} ${inspect(value, { depth: Infinity, showHidden: true })} ${JSON.stringify(value)}`;
}

/** Returns the first six characters in a row of the secret that the text shows; `undefined` if it shows none. */
export function leak(text: string, secret: string): string | undefined {
  for (let at = 0; at + 6 <= secret.length; at++) {
    const window = secret.slice(at, at + 6);
    if (text.includes(window)) return window;
  }
  return undefined;
}

/** Returns the reason that a promise was rejected with. */
export async function rejection(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("expected a rejection");
}

/** Returns the parts of a text that may be key material, without the words of a keyring document around them. */
export function secretsIn(text: string): readonly string[] {
  return text.match(/[A-Za-z0-9+/_-]{20,100}/g) ?? [];
}
