import { inspect } from "node:util";

/** Everything that a log could show of a value. */
export function shown(value: unknown): string {
  const text = value instanceof Error ? `${value.message} ${value.stack ?? ""}` : String(value);
  return `${text} ${inspect(value, { depth: Infinity, showHidden: true })} ${JSON.stringify(value)}`;
}

/** The first stretch of six characters of the secret that the text shows. */
export function leak(text: string, secret: string): string | undefined {
  for (let at = 0; at + 6 <= secret.length; at++) {
    const window = secret.slice(at, at + 6);
    if (text.includes(window)) return window;
  }
  return undefined;
}

/** What a promise was rejected with. */
export async function rejection(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("expected a rejection");
}

/** The stretches of a text that may be key material, and not the words of a keyring document around it. */
export function secretsIn(text: string): readonly string[] {
  return text.match(/[A-Za-z0-9+/_-]{20,100}/g) ?? [];
}
