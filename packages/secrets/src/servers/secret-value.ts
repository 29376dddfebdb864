import { invalidField } from "../field-checks.ts";
import { valueBytes } from "../fields.ts";
import type { InjectionRule } from "../model.ts";

/**
 * Checks the value of a secret, and returns the value. No error repeats the value.
 *
 * @throws SecretsError `FIELD_INVALID` for a value of fewer than 8 or more than 8,192 bytes, with a control character, or
 * with white space at either end, which HTTP would remove.
 */
export function requireSecretValue(given: unknown): string {
  const { least, most } = valueBytes;
  if (typeof given !== "string" || !given.isWellFormed()) throw invalidField("value", "a text");
  const bytes = given.length > most ? most + 1 : Buffer.byteLength(given);
  if (bytes < least || bytes > most) throw invalidField("value", `${least} to ${most.toLocaleString("en")} bytes long`);
  if (/[\p{Cc}]/u.test(given)) {
    throw invalidField("value", "a text without control characters, such as the end of a line");
  }
  if (given !== given.trim()) throw invalidField("value", "a text without white space at either end");
  return given;
}

/** Returns whether a value can be the `user:password` of the rule `basic`. */
export function isPair(value: string): boolean {
  return value.includes(":");
}

/**
 * Checks that a value can be sent by a rule.
 *
 * @param pair what {@link isPair} returns for the value.
 * @throws SecretsError `FIELD_INVALID` for a value without a colon and the rule `basic`.
 */
export function requirePair(pair: boolean, rule: InjectionRule): void {
  if (rule.kind === "basic" && !pair) {
    throw invalidField("value", "of the form `user:password`, because the rule is `basic`");
  }
}

/**
 * Checks that name and value are not swapped. The name is shown and recorded, so a value in its place would be revealed.
 *
 * @throws SecretsError `FIELD_INVALID` if the value looks like the name of a variable, and the name like a random value.
 */
export function requireUnswapped(name: string, value: string): void {
  const isLikeName = /^[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+$/.test(value);
  const isLikeValue = name.length >= 16 && /[a-z]/.test(name) && /\d/.test(name);
  if (isLikeName && isLikeValue) {
    throw invalidField("name", "the name of the secret: name and value seem to be swapped");
  }
}
