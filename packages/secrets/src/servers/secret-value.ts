import { invalidField } from "../field-checks.ts";
import { brokenValueRule, isSwapped } from "../fields.ts";
import type { InjectionRule } from "../model.ts";

/**
 * Checks the value of a secret, and returns the value. No error repeats the value.
 *
 * @throws SecretsError `FIELD_INVALID` if the value has fewer than 8 or more than 8,192 bytes, has a control character, or
 * begins or ends with white space. HTTP would remove the white space.
 */
export function requireSecretValue(given: unknown): string {
  const rule = brokenValueRule(given);
  if (rule !== undefined || typeof given !== "string") throw invalidField("value", rule ?? "a text");
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
  if (isSwapped(name, value)) throw invalidField("name", "the name of the secret: name and value seem to be swapped");
}
